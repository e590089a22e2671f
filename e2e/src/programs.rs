//! Finds or builds our own programs: the hub, the agent, and the stand-ins that the local federation runs as processes.
//!
//! They are built by the cargo that runs this process, into the same folder and with the same profile, so that they are
//! those of the sources at hand. Cargo's own lock on that folder keeps processes that start at once from building twice.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::last_lines;

/// A first build takes minutes on two slow cores, and may wait for another one; this much means that something is stuck.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);
const BUILD_POLL: Duration = Duration::from_millis(100);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Where our programs lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub hub: PathBuf,
    pub agent: PathBuf,
    pub array: PathBuf,
    pub nodes: PathBuf,
    pub append_writer: PathBuf,
    pub pause: PathBuf,
    pub gate: PathBuf,
}

impl Programs {
    /// Builds what is not built yet, once per process; says what it does meanwhile. Blocks its thread.
    pub fn ensure(progress: impl Fn(&str)) -> Result<Programs> {
        static BUILT: Mutex<Option<Programs>> = Mutex::new(None);
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(programs) = &*built {
            return Ok(programs.clone());
        }
        let programs = build(&progress)?;
        *built = Some(programs.clone());
        Ok(programs)
    }
}

fn build(progress: &impl Fn(&str)) -> Result<Programs> {
    let workshop = Workshop::of_this_process()?;
    let ours = ["understudy-hub", "understudy-agent", "understudy-gate"];
    workshop.build("the hub, the agent and the gate", workshop.how_ours_are_built(), progress)?;
    let [array, nodes, append_writer, pause] = workshop.stand_ins(progress)?;
    Ok(Programs {
        hub: workshop.product(ours[0])?,
        agent: workshop.product(ours[1])?,
        array,
        nodes,
        append_writer,
        pause,
        gate: workshop.product(ours[2])?,
    })
}

/// The folder that cargo built this process into, and how it did.
struct Workshop {
    products: PathBuf,
    profile: String,
    is_a_test: bool,
}

impl Workshop {
    fn of_this_process() -> Result<Workshop> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut folder = program.parent().context("this program lies in no folder")?;
        // Tests lie one folder deeper than programs.
        let is_a_test = folder.ends_with("deps");
        if is_a_test {
            folder = folder.parent().context("the folder of dependencies has no parent")?;
        }
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("the folder of programs has no name")?;
        // Cargo's one exception to a folder being called as the profile.
        let profile = if name == "debug" { "dev" } else { name };
        Ok(Workshop { products: folder.to_owned(), profile: profile.to_owned(), is_a_test })
    }

    /// A test asks for what the test of everything has built already: a test of each package, for which cargo builds
    /// the package's program as well. Asked for the programs alone, cargo leaves out what only tests depend on, and
    /// with these features of some libraries: it would build half of the workspace once more.
    fn how_ours_are_built(&self) -> &'static [&'static str] {
        if self.is_a_test {
            &["--workspace", "--test", "sessions", "--test", "link", "--test", "leases"]
        } else {
            &[
                "--package",
                "understudy-hub",
                "--package",
                "understudy-agent",
                "--package",
                "understudy-gate",
                "--bins",
            ]
        }
    }

    /// The programs of this very package. Where cargo runs a test it has built them already, and says where.
    fn stand_ins(&self, progress: &impl Fn(&str)) -> Result<[PathBuf; 4]> {
        let names = ["array", "nodes", "append-writer", "pause"];
        let told = names.map(|name| std::env::var_os(format!("CARGO_BIN_EXE_{name}")).map(PathBuf::from));
        if let [Some(array), Some(nodes), Some(append_writer), Some(pause)] = told {
            return Ok([array, nodes, append_writer, pause]);
        }
        self.build(
            "the stand-ins for arrays and nodes",
            &["--package", env!("CARGO_PKG_NAME"), "--bins"],
            progress,
        )?;
        let [array, nodes, append_writer, pause] = names.map(|name| self.product(name));
        Ok([array?, nodes?, append_writer?, pause?])
    }

    fn product(&self, name: &str) -> Result<PathBuf> {
        let program = self.products.join(name);
        if program.is_file() {
            Ok(program)
        } else {
            bail!(
                "cargo has built {name}, but not into {}: start this through cargo",
                self.products.display()
            )
        }
    }

    fn build(&self, what: &str, arguments: &[&str], progress: &impl Fn(&str)) -> Result<()> {
        let doing = format!("building {what}");
        let log = self.products.join("understudy-programs.log");
        let mut cargo = Running::start(self.cargo(arguments, &log)?).with_context(|| doing.clone())?;
        let started = Instant::now();
        let mut said = started;
        loop {
            match cargo.exited().with_context(|| doing.clone())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "{doing} failed ({status}); the end of {}:\n{}",
                    log.display(),
                    last_lines(&log, 20)
                ),
                None => {}
            }
            if started.elapsed() > BUILD_DEADLINE {
                bail!(
                    "{doing}: no end after {BUILD_DEADLINE:?}; the end of {}:\n{}",
                    log.display(),
                    last_lines(&log, 5)
                );
            }
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                progress(&format!(
                    "{doing}: {} s ({})",
                    started.elapsed().as_secs(),
                    last_lines(&log, 1).trim()
                ));
            }
            sleep(BUILD_POLL);
        }
    }

    fn cargo(&self, arguments: &[&str], log: &Path) -> Result<Command> {
        let output = File::create(log).with_context(|| format!("opening the log {}", log.display()))?;
        let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        // A build ends with whoever asked for it, also when that one is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg("build")
            .args(["--profile", &self.profile, "--color", "never"])
            .args(arguments)
            .current_dir(workspace()?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        for (name, _) in std::env::vars_os().filter(|(name, _)| tells_of_the_running_package(name)) {
            command.env_remove(name);
        }
        Ok(command)
    }
}

/// What cargo sets for a program that it runs. Build scripts that look at it would think that something has changed.
fn tells_of_the_running_package(name: &OsString) -> bool {
    let prefixes =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "OUT_DIR"];
    name.to_str().is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::canonicalize(package.join(".."))
        .with_context(|| format!("finding the workspace of {}", package.display()))
}

/// A build that ends when nobody waits for it any more.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Running> {
        let started = command.spawn();
        Ok(Running(started.with_context(|| format!("starting {}", command.get_program().display()))?))
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("asking whether cargo has ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}
