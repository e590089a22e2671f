//! Stands in for a member cluster's nodes: kubelets, scheduler, external attacher and provisioner of one site, in one process.
//!
//! The pods that it runs are real processes, the objects that it writes are a kubelet's, and attaching and detaching is
//! decided by the real controller manager. It can be slow, stuck, cut off from its API server while its pods go on, or
//! be restarted cold, when the pods run again before anybody was asked. [`Settings`] says which, at any moment.

mod action;
mod attacher;
mod containers;
mod echo;
mod kubelet;
mod pacing;
mod plan;
mod pod_status;
mod provisioner;
mod registration;
mod sandbox;
mod scheduler;
mod session;
mod settings;
mod view;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::{sync::watch, time::sleep};

pub use plan::{APPEND_WRITER_IMAGE, GATE_IMAGE};
pub use settings::Settings;

use containers::{Launcher, PodRuntime};
use plan::Memory;
use registration::Registration;
use session::Session;

/// The storage driver of the tests, by the name of a real one.
pub const DRIVER: &str = "rook-ceph.rbd.csi.ceph.com";
const PODS: &str = "pods";
const PAUSE_BEFORE_RECONNECTING: Duration = Duration::from_millis(250);

/// What a site's nodes need to know. `command_line` is the way to hand it to the program `nodes`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The cluster's name, which the append-writers put into every record.
    #[arg(long)]
    pub site: String,
    #[arg(long, default_value_t = 2)]
    pub nodes: usize,
    /// The data plane of the site's storage array.
    #[arg(long)]
    pub data_socket: PathBuf,
    /// Where the append-writers repeat their records, outside of the volumes.
    #[arg(long)]
    pub log: PathBuf,
    /// Settings, the memory of bound pods, and the pods' output.
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long, default_value = DRIVER)]
    pub driver: String,
    /// Between two records of an append-writer.
    #[arg(long, default_value_t = 20)]
    pub write_interval_ms: u64,
    /// The program append-writer; by default the one beside this program.
    #[arg(long)]
    pub append_writer: Option<PathBuf>,
    /// The program pause; by default the one beside this program.
    #[arg(long)]
    pub pause: Option<PathBuf>,
    /// The program understudy-gate; by default the one beside this program.
    #[arg(long)]
    pub gate: Option<PathBuf>,
}

impl Arguments {
    pub fn command_line(&self) -> Vec<OsString> {
        let Self {
            kubeconfig,
            site,
            nodes,
            data_socket,
            log,
            dir,
            driver,
            write_interval_ms,
            append_writer,
            pause,
            gate,
        } = self;
        let mut line: Vec<OsString> = Vec::new();
        let mut add = |flag: &str, value: OsString| line.extend([flag.into(), value]);
        add("--kubeconfig", kubeconfig.into());
        add("--site", site.into());
        add("--nodes", nodes.to_string().into());
        add("--data-socket", data_socket.into());
        add("--log", log.into());
        add("--dir", dir.into());
        add("--driver", driver.into());
        add("--write-interval-ms", write_interval_ms.to_string().into());
        for (flag, program) in [("--append-writer", append_writer), ("--pause", pause), ("--gate", gate)] {
            if let Some(program) = program {
                add(flag, program.into());
            }
        }
        line
    }
}

/// Lets nodes that do not run forget their pods, so that they ask the API server what to run.
pub fn forget_pods(directory: &Path) -> anyhow::Result<()> {
    Memory::open(directory).remember(&[])
}

/// Lets nodes that do not run forget what stands between their pods' containers and the application.
pub fn forget_gates(directory: &Path) -> anyhow::Result<()> {
    let memory = Memory::open(directory);
    let mut plans = memory.recall()?;
    for plan in &mut plans {
        plan.first.retain(|container| !container.is_a_gate());
        plan.shares_processes = false;
    }
    memory.remember(&plans.iter().collect::<Vec<_>>())
}

/// Runs the nodes until the process is told to end; pods first, API server second, as after a power failure.
pub async fn run(arguments: Arguments, ended: impl Future<Output = ()>) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.dir)
        .with_context(|| format!("making the folder {}", arguments.dir.display()))?;
    let (settings, following) = settings::follow(arguments.dir.clone())?;
    let memory = Memory::open(&arguments.dir);
    let mut runtime = PodRuntime::restart(launcher(&arguments)?, memory, settings.clone())?;
    tokio::select! {
        () = ended => Ok(()),
        never = serve(&arguments, &mut runtime, settings) => match never {},
        stopped = following => stopped.context("following the settings"),
    }
}

async fn serve(
    arguments: &Arguments,
    runtime: &mut PodRuntime,
    mut settings: watch::Receiver<Settings>,
) -> std::convert::Infallible {
    let registration = Registration::new(&arguments.site, arguments.nodes, &arguments.driver);
    let mut cut_off_settings = settings.clone();
    loop {
        // Both waits fail only when the settings are not followed any more, which ends the process.
        let _ = settings.wait_for(|settings| !settings.cut_off).await;
        let cut_off = cut_off_settings.wait_for(|settings| settings.cut_off);
        tokio::select! {
            // Not one more call once the cut is known.
            biased;
            _ = cut_off => tracing::info!("cut off from the API server; the pods go on"),
            error = converse(arguments, &registration, runtime, settings.clone()) => {
                tracing::warn!(error = format!("{error:#}"), "conversation with the API server ended");
                sleep(PAUSE_BEFORE_RECONNECTING).await;
            }
        }
    }
}

async fn converse(
    arguments: &Arguments,
    registration: &Registration,
    runtime: &mut PodRuntime,
    settings: watch::Receiver<Settings>,
) -> anyhow::Error {
    match Session::open(&arguments.kubeconfig, &arguments.data_socket, registration, settings).await {
        Ok(session) => {
            tracing::info!(nodes = ?registration.nodes, "nodes registered");
            session.run(runtime).await
        }
        Err(error) => error,
    }
}

fn launcher(arguments: &Arguments) -> anyhow::Result<Launcher> {
    let own = std::env::current_exe().context("finding this program")?;
    let or_beside =
        |program: &Option<PathBuf>, name: &str| program.clone().unwrap_or_else(|| own.with_file_name(name));
    Ok(Launcher {
        append_writer: or_beside(&arguments.append_writer, "append-writer"),
        pause: or_beside(&arguments.pause, "pause"),
        gate: or_beside(&arguments.gate, "understudy-gate"),
        data_socket: arguments.data_socket.clone(),
        outside_log: arguments.log.clone(),
        site: arguments.site.clone(),
        write_interval: Duration::from_millis(arguments.write_interval_ms),
        output_directory: arguments.dir.join(PODS),
        volumes_directory: arguments.dir.join("volumes"),
    })
}

/// What the pods of the nodes in this folder have printed, each container in a file of its own; none before the first.
pub fn pod_logs(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join(PODS)).into_iter().flatten();
    files.flatten().map(|file| file.path()).collect()
}
