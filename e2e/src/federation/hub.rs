//! The hub of the federation: its own control plane, and the hub program with its service account's rights and no more.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use super::service::Service;
use crate::control_plane::ControlPlane;
use crate::installation::{self, HUB, HUB_ACCOUNT, NAMESPACE};
use crate::patience::until;

/// The hub's place: its cluster, and its program, which can be killed and started again with the same journal and port.
pub struct Hub {
    pub control_plane: ControlPlane,
    pub service: Service,
    /// Where /metrics is served.
    pub metrics: SocketAddr,
    listen: SocketAddr,
    journal: PathBuf,
}

/// What a hub is started from.
pub struct Setting<'a> {
    pub program: &'a Path,
    pub folder: &'a Path,
    pub identity: &'a Path,
    pub trust_domain: &'a str,
    pub listen: SocketAddr,
    pub metrics: SocketAddr,
    /// How long a cluster that was lost must be heard again before anything is moved to it.
    pub steady_after: Duration,
    pub failure_domain: &'a str,
    /// The argument that names the witness, if there is one.
    pub witness: Option<String>,
}

impl Hub {
    /// Installs what the hub needs in its cluster. It does not run yet.
    pub async fn install(control_plane: ControlPlane, setting: Setting<'_>) -> Result<Hub> {
        control_plane
            .apply_yaml(&installation::without_workloads(HUB)?)
            .await
            .context("installing the hub")?;
        let token = control_plane.token(NAMESPACE, HUB_ACCOUNT).await?;
        let kubeconfig = control_plane.kubeconfig(&token)?;
        let journal = setting.folder.join("journal");
        fs::create_dir_all(&journal).with_context(|| format!("making the folder {}", journal.display()))?;
        let file = |flag: &str, name: &str| format!("--{flag}={}", setting.identity.join(name).display());
        let service = Service::new("hub", setting.program, &setting.folder.join("hub.log"), |launch| {
            launch
                .through(control_plane.entrance())
                .argument("run")
                .argument(format!("--listen={}", setting.listen))
                .argument(format!("--metrics-listen={}", setting.metrics))
                .argument(format!("--failure-domain={}", setting.failure_domain))
                .arguments(setting.witness)
                .argument(format!("--trust-domain={}", setting.trust_domain))
                .argument(format!("--journal={}", journal.display()))
                .argument(format!("--steady-after={}", crds::span::format(setting.steady_after)))
                .arguments([file("cert", "tls.crt"), file("key", "tls.key"), file("ca", "ca.crt")])
                .environment("KUBECONFIG", kubeconfig)
        });
        Ok(Hub { control_plane, service, metrics: setting.metrics, listen: setting.listen, journal })
    }

    /// Starts the program with the journal that it has, and waits until agents can connect.
    pub async fn start(&self) -> Result<()> {
        self.start_with(&[]).await
    }

    /// The same with a changed environment, for this one start.
    pub async fn start_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        self.service.start_with(environment)?;
        self.await_listening().await
    }

    /// The same through a command line that becomes it, for this one start.
    pub async fn start_through(&self, command_line: &[String]) -> Result<()> {
        self.service.start_through(command_line)?;
        self.await_listening().await
    }

    async fn await_listening(&self) -> Result<()> {
        until("the hub listens", async || {
            self.service.still_runs()?;
            Ok(TcpStream::connect(self.listen).await.is_ok().then_some(()))
        })
        .await
    }

    pub fn kill9(&self) {
        self.service.kill9();
    }

    pub fn journal(&self) -> &Path {
        &self.journal
    }

    /// Throws the journal away, as a lost disk would. The hub must not run.
    pub fn empty_journal(&self) -> Result<()> {
        let emptying = || format!("emptying the journal {}", self.journal.display());
        fs::remove_dir_all(&self.journal).with_context(emptying)?;
        fs::create_dir_all(&self.journal).with_context(emptying)
    }
}
