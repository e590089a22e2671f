//! The processes of the pod: one namespace of process ids, whose first process holds the sandbox.

use std::fs;
use std::io;

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::ending::Process;

/// What every container runtime calls the process that holds a sandbox.
const HOLDS_THE_SANDBOX: &str = "pause";

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("reading {path}")]
    Read {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "this container is its own world, and the gate could not end the others: set shareProcessNamespace: true in the pod's specification"
    )]
    Alone,
    #[error(
        "process 1 here is {0:?}, not the one that holds a pod's sandbox: the gate runs only in a pod with shareProcessNamespace: true"
    )]
    NotASandbox(String),
    #[error("ending process {id}: give the gate's container the capability KILL, and user 0")]
    Kill {
        id: u32,
        #[source]
        source: io::Error,
    },
}

/// A pod's sandbox, which was looked at before anything in it can be ended: elsewhere process 1 is the machine's own.
#[derive(Debug)]
pub struct Sandbox {
    own: u32,
    /// When its first process began: tells it from the sandbox that comes after.
    pub began: u64,
}

impl Sandbox {
    pub fn find() -> Result<Sandbox, SandboxError> {
        let own = std::process::id();
        if own == 1 {
            return Err(SandboxError::Alone);
        }
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(|source| SandboxError::Read { path, source })
        };
        let name = read("/proc/1/comm")?.trim().to_owned();
        if name != HOLDS_THE_SANDBOX {
            return Err(SandboxError::NotASandbox(name));
        }
        let first = parse(1, &read("/proc/1/stat")?).ok_or(SandboxError::NotASandbox(name))?;
        Ok(Sandbox { own, began: first.started })
    }

    /// All but the gate itself and the first one. A process that ends meanwhile is not there.
    pub fn processes(&self) -> Result<Vec<Process>, SandboxError> {
        let read = |source| SandboxError::Read { path: "/proc", source };
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if id == 1 || id == self.own {
                continue;
            }
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok();
            found.extend(stat.and_then(|stat| parse(id, &stat)));
        }
        Ok(found)
    }

    pub fn ask(&self, processes: &[Process]) -> Result<(), SandboxError> {
        processes.iter().try_for_each(|process| signal(process.id, Signal::TERM))
    }

    /// Ends the first process, and with it the kernel ends all others, the gate too. One that does not obey loses
    /// everything around it, again and again.
    pub fn end(&self) -> Result<(), SandboxError> {
        signal(1, Signal::TERM)
    }

    pub fn kill_the_others(&self) -> Result<(), SandboxError> {
        self.processes()?.iter().try_for_each(|process| signal(process.id, Signal::KILL))
    }
}

fn signal(id: u32, signal: Signal) -> Result<(), SandboxError> {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(pid, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => {
            Err(SandboxError::Kill { id, source: error.into() })
        }
        // It has ended by itself.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `7 (a name) S 0 ...`: the name may hold anything, so it is looked for from its end. One that has ended and waits to
/// be reaped is not there any more.
fn parse(id: u32, stat: &str) -> Option<Process> {
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let begins_a_container = fields.next()? == "0";
    // The twenty-second field of all.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process { id, started, begins_a_container })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat =
            "7 (a) S 3 (x) S 0 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 10 18446744073709551615 0";
        let expected = Process { id: 7, started: 4711, begins_a_container: true };
        assert_eq!(parse(7, stat), Some(expected));
        assert_eq!(parse(7, "7 (dead) Z 0 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 0"), None);
        assert_eq!(parse(7, "garbage"), None);
    }

    /// The worst that a gate could do is to end what is not its pod.
    #[test]
    fn what_is_no_sandbox_is_left_alone() {
        assert!(matches!(Sandbox::find(), Err(SandboxError::NotASandbox(_) | SandboxError::Alone)));
    }
}
