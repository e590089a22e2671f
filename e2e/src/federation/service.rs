//! One program of the federation that can be killed and started again with the same command line.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::process::{Launch, Process, last_lines};

/// A program by its command line, and the process that it is now, if any.
pub struct Service {
    name: String,
    launch: Launch,
    log: Box<Path>,
    process: Mutex<Option<Process>>,
}

impl Service {
    pub fn new(name: &str, program: &Path, log: &Path, shape: impl FnOnce(Launch) -> Launch) -> Service {
        Service {
            name: name.to_owned(),
            launch: shape(Launch::new(name, program, log)),
            log: log.into(),
            process: Mutex::new(None),
        }
    }

    /// Starts the program, after a kill or over one that still runs.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same with a changed environment, for this one start.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let launch = environment
            .iter()
            .fold(self.launch.clone(), |launch, (name, value)| launch.environment(*name, *value));
        self.replace(&launch)
    }

    /// The same through a command line that becomes it, for this one start.
    pub fn start_through(&self, command_line: &[String]) -> Result<()> {
        self.replace(&self.launch.clone().through(command_line))
    }

    fn replace(&self, launch: &Launch) -> Result<()> {
        self.kill9();
        *self.process() = Some(launch.spawn()?);
        Ok(())
    }

    /// Kills the program and all of its children, and waits until they are gone.
    pub fn kill9(&self) {
        // Dropping a process kills and reaps it.
        self.process().take();
    }

    /// Kills without waiting, for many that are to fall in one moment.
    pub fn cut_power(&self) {
        if let Some(process) = &*self.process() {
            process.cut_power();
        }
    }

    /// Freezes the program: it keeps its connections, and says nothing.
    pub fn stop(&self) -> Result<()> {
        self.running(Process::stop)
    }

    /// Lets a frozen program go on.
    pub fn cont(&self) -> Result<()> {
        self.running(Process::cont)
    }

    /// Asks the program to end, as Kubernetes does, without waiting for it.
    pub fn ask_to_end(&self) -> Result<()> {
        self.running(Process::ask_to_end)
    }

    /// An error when the program has ended of itself, with the end of its log.
    pub fn still_runs(&self) -> Result<()> {
        self.running(Process::still_runs)
    }

    /// How the process ended by itself, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process().as_ref().and_then(Process::exited)
    }

    /// Whether a process runs that has not ended by itself.
    pub fn runs(&self) -> bool {
        self.process().as_ref().is_some_and(|process| process.exited().is_none())
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process().as_ref().map(Process::id)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.log, lines)
    }

    /// All that it has ever said, where a test counts or denies.
    pub fn whole_log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading the log {}", self.log.display()))
    }

    fn running<T>(&self, act: impl FnOnce(&Process) -> Result<T>) -> Result<T> {
        match &*self.process() {
            Some(process) => act(process),
            None => bail!("{} was killed, or never started", self.name),
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
