//! A child process of the local federation: it dies with its owner, writes to a log file, and can be frozen or killed.
//!
//! Nothing may outlive a test, not even one that was killed with -9. The kernel offers a signal on the death of
//! the parent, which a child can only ask for itself, and asking takes code between fork and exec, which safe Rust
//! has no way to run. So every program is started through `setpriv --pdeathsig KILL` of util-linux, which asks and
//! then becomes the program, with the same process id. A supervisor binary of our own would do it too, but is one
//! more process to lose track of for each child.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How often a waiter looks whether the process has ended.
const EXIT_POLL: Duration = Duration::from_millis(10);
/// How often, and how long, a freeze is awaited; it takes microseconds unless the process is inside the kernel.
const FREEZE_POLL: Duration = Duration::from_millis(1);
const FREEZE_DEADLINE: Duration = Duration::from_secs(30);
/// How much of the end of a log is read for an error message.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// What to start, and where its output goes.
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    /// What becomes the program, such as a tool that enters a network namespace first.
    through: Vec<OsString>,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    directory: Option<PathBuf>,
    log: PathBuf,
}

impl Launch {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Launch {
            name: name.into(),
            through: Vec::new(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            log: log.into(),
        }
    }

    /// Starts the program through this command line, which must become it; the last one given comes first.
    pub fn through<I>(mut self, command_line: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.through.splice(0..0, command_line.into_iter().map(Into::into));
        self
    }

    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn arguments<I>(mut self, arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn environment(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    pub fn spawn(&self) -> Result<Process> {
        let starting = || format!("starting {} ({})", self.name, self.program.display());
        let child = spawn_from_lasting_thread(self.command()?).with_context(starting)?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).with_context(starting)?;
        Ok(Process {
            name: self.name.clone(),
            id,
            life: Mutex::new(Life::Running(child)),
            log: self.log.clone(),
        })
    }

    fn command(&self) -> Result<Command> {
        let log = open_log(&self.log)?;
        let log_of_errors =
            log.try_clone().with_context(|| format!("sharing the log {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(&self.through)
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_of_errors)
            .process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        Ok(command)
    }
}

/// A started process, leader of its own process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: Pid,
    life: Mutex<Life>,
    log: PathBuf,
}

/// A child that is not reaped yet keeps its process id taken, so that signals cannot reach a stranger.
#[derive(Debug)]
enum Life {
    Running(Child),
    Ended(ExitStatus),
}

impl Process {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.id.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How the process ended, or nothing while it runs or is frozen.
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut life = self.life();
        match &mut *life {
            Life::Ended(status) => Some(*status),
            Life::Running(child) => {
                if !has_ended(self.id) {
                    return None;
                }
                let status = self.end(child);
                *life = Life::Ended(status);
                Some(status)
            }
        }
    }

    /// Kills the whole group at once, as a power cut would, and waits until it is gone.
    pub fn kill9(&self) {
        let mut life = self.life();
        if let Life::Running(child) = &mut *life {
            let status = self.end(child);
            *life = Life::Ended(status);
        }
    }

    /// Kills the whole group without waiting for its end: for many processes that are to fall in one moment.
    pub fn cut_power(&self) {
        if let Life::Running(_) = &*self.life() {
            kill_group(&self.name, self.id);
        }
    }

    /// Freezes the group: it neither runs nor answers, but keeps its connections.
    ///
    /// Returns when every thread of the leader stands. The signal alone only asks: on another core the process
    /// runs on for a moment, and a test that took it for frozen would see it act.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP, "stopping")?;
        let asked = Instant::now();
        while !stands_still(self.id) {
            self.still_runs()?;
            if asked.elapsed() > FREEZE_DEADLINE {
                bail!("{} still runs {FREEZE_DEADLINE:?} after it was told to stop", self.name);
            }
            thread::sleep(FREEZE_POLL);
        }
        Ok(())
    }

    /// Lets a frozen group go on.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT, "continuing")
    }

    /// Asks the process to end, as Kubernetes does, without waiting for it.
    pub fn ask_to_end(&self) -> Result<()> {
        self.signal(Signal::TERM, "terminating")
    }

    /// Asks the process to end, and kills it when it has not by the deadline, which is an error.
    pub async fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.ask_to_end()?;
        if let Some(status) = self.wait(deadline).await {
            return Ok(status);
        }
        self.kill9();
        bail!("{} did not end within {deadline:?} of being asked to, and was killed", self.name)
    }

    /// Waits until the process ends, at most until the deadline.
    pub async fn wait(&self, deadline: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            let status = self.exited();
            if status.is_some() || Instant::now() >= until {
                return status;
            }
            tokio::time::sleep(EXIT_POLL).await;
        }
    }

    /// An error when the process has ended, with the last lines of its log.
    pub fn still_runs(&self) -> Result<()> {
        match self.exited() {
            None => Ok(()),
            Some(status) => Err(anyhow!(
                "{} ended ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                self.log_tail(12)
            )),
        }
    }

    /// The last lines of the log, for error messages.
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.log, lines)
    }

    /// Kills the group and reaps its leader. The leader is still ours to reap, so the group's number is ours too.
    fn end(&self, child: &mut Child) -> ExitStatus {
        kill_group(&self.name, self.id);
        child.wait().unwrap_or_else(|error| {
            tracing::warn!(process = self.name, %error, "a killed process could not be reaped");
            ExitStatus::default()
        })
    }

    fn signal(&self, signal: Signal, doing: &str) -> Result<()> {
        match &*self.life() {
            Life::Ended(status) => bail!("{doing} {}: it has ended already ({status})", self.name),
            Life::Running(_) => {
                kill_process_group(self.id, signal).with_context(|| format!("{doing} {}", self.name))
            }
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn kill_group(name: &str, id: Pid) {
    if let Err(error) = kill_process_group(id, Signal::KILL) {
        tracing::debug!(process = name, %error, "the process group was gone already");
    }
}

/// The last lines of a log file, or why it could not be read.
pub fn last_lines(log: &Path, lines: usize) -> String {
    match read_end(log) {
        Ok(end) => {
            let all: Vec<&str> = end.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(no log: {error})"),
    }
}

/// Whether a process ended because somebody else had taken its port, so that another start may do better.
pub fn is_port_collision(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("address already in use")
}

fn read_end(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

fn open_log(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))
}

/// Whether the child has ended, without reaping it.
fn has_ended(id: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(id), look), Ok(None))
}

/// Whether no thread of a process that was told to stop runs any more. One that is inside the kernel (`D`: it writes,
/// or waits for a child that stopped between fork and exec) meets the signal before it runs a line of its own.
fn stands_still(id: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", id.as_raw_nonzero()));
    threads.is_ok_and(|threads| {
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name stands in brackets and may hold any character; the state is the letter after it.
            let state = status.rsplit_once(") ").and_then(|(_, after)| after.chars().next());
            state.is_none_or(|state| "TtDZX".contains(state))
        })
    })
}

type Birth = (Command, SyncSender<std::io::Result<Child>>);

/// Spawns from a thread that lasts as long as this process: the kernel takes the end of the *thread* that started
/// a child for the death of its parent, and threads of a pool come and go.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    let (answer, answered) = sync_channel(1);
    births().send((command, answer)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    let outcome = answered.recv().context("the thread that starts processes gave no answer")?;
    outcome.map_err(|error| {
        let is_missing = error.kind() == ErrorKind::NotFound;
        let error = anyhow!(error);
        if !is_missing {
            return error;
        }
        error.context(
            "running setpriv, which lets processes die with their owner: install util-linux, and check that the working directory exists",
        )
    })
}

/// The way to the lasting thread. Its queue holds one request: each caller waits for its answer anyway.
fn births() -> &'static SyncSender<Birth> {
    static BIRTHS: OnceLock<SyncSender<Birth>> = OnceLock::new();
    BIRTHS.get_or_init(|| {
        let (requests, incoming) = sync_channel::<Birth>(1);
        thread::spawn(move || {
            for (mut command, answer) in incoming {
                // A caller that has gone away takes no child with it: the answer is dropped, and must be killed here.
                if let Err(unheard) = answer.send(command.spawn())
                    && let Ok(mut orphan) = unheard.0
                {
                    orphan.kill().ok();
                    orphan.wait().ok();
                }
            }
        });
        requests
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    /// Set for this test program when it is started once more, to own a process and be killed.
    const OWNER_ROLE: &str = "UNDERSTUDY_TEST_OWNER_LOG";

    fn shell(log: &Path, script: &str) -> Launch {
        Launch::new("shell", "sh", log).arguments(["-c", script])
    }

    async fn logged(log: &Path) -> String {
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            let line = last_lines(log, 1);
            if std::fs::metadata(log).is_ok_and(|file| file.len() > 0) && !line.is_empty() {
                return line;
            }
            tokio::time::sleep(EXIT_POLL).await;
        }
        panic!("nothing was logged to {}", log.display());
    }

    fn lives(id: i32) -> bool {
        let id = Pid::from_raw(id).expect("a process id");
        rustix::process::test_kill_process(id).is_ok()
    }

    async fn await_death(id: i32) {
        let started = Instant::now();
        while lives(id) {
            assert!(started.elapsed() < DEADLINE, "process {id} still lives");
            tokio::time::sleep(EXIT_POLL).await;
        }
    }

    #[tokio::test]
    async fn a_process_ends_with_its_status_and_its_output_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let process = shell(&log, "echo out; echo err >&2; exit 3").spawn().expect("a shell");
        let status = process.wait(DEADLINE).await.expect("an end");
        assert_eq!(status.code(), Some(3));
        assert_eq!(last_lines(&log, 2), "out\nerr");
        assert!(format!("{}", process.still_runs().expect_err("it ended")).contains("err"));
    }

    #[tokio::test]
    async fn dropping_a_process_kills_its_children_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let process = shell(&log, "sleep 100 & echo $!; wait").spawn().expect("a shell");
        let child: i32 = logged(&log).await.parse().expect("a process id");
        assert!(lives(child));
        drop(process);
        await_death(child).await;
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_killed_at_the_deadline() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let process =
            shell(&log, "trap '' TERM; echo deaf; while :; do sleep 0.1; done").spawn().expect("a shell");
        logged(&log).await;
        let outcome = process.terminate(Duration::from_millis(100)).await;
        assert!(outcome.is_err());
        assert_eq!(process.exited().and_then(|status| status.signal()), Some(Signal::KILL.as_raw()));
    }

    #[tokio::test]
    async fn a_frozen_process_runs_on_when_it_is_let() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let process =
            shell(&log, "trap 'exit 7' TERM; echo up; while :; do :; done").spawn().expect("a shell");
        logged(&log).await;
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("its state");
        for _ in 0..100 {
            process.stop().expect("a stop");
            assert!(stands_still(process.id), "not frozen: {}", state());
            assert!(process.exited().is_none(), "frozen is not ended");
            process.cont().expect("going on");
        }
        assert_eq!(process.terminate(DEADLINE).await.expect("an end").code(), Some(7));
    }

    /// Starts this very test once more, as the owner of a process, and kills it.
    #[tokio::test]
    async fn a_process_dies_with_an_owner_that_was_killed() {
        if let Some(log) = std::env::var_os(OWNER_ROLE) {
            let _owned = shell(Path::new(&log), "echo $$; sleep 100").spawn().expect("a shell");
            return thread::sleep(DEADLINE);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let this_program = std::env::current_exe().expect("this program");
        let owner = Launch::new("owner", this_program, folder.path().join("owner.log"))
            .arguments(["--exact", "process::tests::a_process_dies_with_an_owner_that_was_killed"])
            .environment(OWNER_ROLE, &log)
            .spawn()
            .expect("an owner");
        let owned: i32 = logged(&log).await.parse().expect("a process id");
        assert!(lives(owned));
        owner.kill9();
        await_death(owned).await;
    }
}
