//! Stands in for a pod's sandbox where its containers share their processes: a namespace of process ids, held by a process
//! that does nothing, as a container runtime makes it. When that one ends, the kernel ends everything in the namespace.
//!
//! It takes the programs `unshare` and `nsenter` of util-linux, and the rights of root.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, geteuid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const LOOK_AGAIN: Duration = Duration::from_millis(2);
const BEGIN_DEADLINE: Duration = Duration::from_secs(10);

/// Dropping it ends everything in it.
pub struct Sandbox {
    /// Waits for the first process, which dies with it.
    keeper: Child,
    first: Pid,
}

impl Sandbox {
    pub async fn begin(pause: &Path) -> anyhow::Result<Sandbox> {
        if !geteuid().is_root() {
            bail!("a pod that shares its processes needs a process namespace: run this as root");
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--mount", "--mount-proc", "--fork"])
            .args(["--kill-child=KILL", "--"])
            .arg(pause)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let keeper = command.spawn().context("making a process namespace")?;
        let id = keeper.id().context("the process namespace ended at once")?;
        let deadline = Instant::now() + BEGIN_DEADLINE;
        while Instant::now() < deadline {
            // Before it is called so, it is still unshare, which has not mounted the namespace's own /proc yet.
            if let Some(first) = child_of(id).filter(|first| is_called(*first, "pause")) {
                return Ok(Sandbox { keeper, first });
            }
            sleep(LOOK_AGAIN).await;
        }
        bail!("the process namespace has no first process after {BEGIN_DEADLINE:?}")
    }

    /// Waits for the end of everything in it.
    pub async fn ended(&mut self) {
        // It has ended, or its end cannot be seen: nothing is left to wait for.
        let _status = self.keeper.wait().await;
    }

    /// The beginning of a command line that runs a program inside.
    pub fn entrance(&self) -> Vec<String> {
        let first = self.first.as_raw_nonzero().to_string();
        ["nsenter", "--target", &first, "--pid", "--mount", "--"].map(str::to_owned).into()
    }
}

/// The one child of a process; `nsenter` and `unshare` have no more.
pub fn child_of(parent: u32) -> Option<Pid> {
    let is_child = |id: &i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
        after.split(' ').nth(1).and_then(|field| field.parse::<u32>().ok()) == Some(parent)
    };
    let entries = fs::read_dir("/proc").ok()?;
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.into_iter().find(is_child).and_then(Pid::from_raw)
}

fn is_called(process: Pid, name: &str) -> bool {
    let path = format!("/proc/{}/comm", process.as_raw_nonzero());
    fs::read_to_string(path).is_ok_and(|found| found.trim() == name)
}
