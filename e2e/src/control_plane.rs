//! One real Kubernetes control plane on an address of its own: etcd, kube-apiserver and, usually, kube-controller-manager.

mod credentials;
mod definitions;
mod manifests;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::codegen::http::Request;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use self::credentials::Credentials;
use crate::assets::Assets;
use crate::process::{Launch, Process, is_port_collision};

/// A control plane is up within seconds; on a machine that builds and tests other things as well it takes longer.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(50);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// How often a start is tried with other ports, when a port that was free is taken a moment later.
const START_ATTEMPTS: u32 = 3;
const TOKEN_SECONDS: i64 = 24 * 60 * 60;
/// API server, etcd and etcd's peers, where nobody else is.
const OWN_PORTS: [u16; 3] = [6443, 2379, 2380];

/// How a control plane differs from the usual one.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its own address.
    pub address: Ipv4Addr,
    /// What its processes are started through, where they live in a network of their own; None: on loopback, where
    /// others may have any port.
    pub entrance: Option<Vec<String>>,
    /// Further flags, which win over ours.
    pub api_server_flags: Vec<String>,
    pub controller_manager_flags: Vec<String>,
    /// Without it nothing but what is written is there, which starts sooner.
    pub controllers: bool,
}

impl Options {
    pub fn at(address: Ipv4Addr) -> Self {
        Options {
            address,
            entrance: None,
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
            controllers: true,
        }
    }

    pub fn without_controllers(self) -> Self {
        Options { controllers: false, ..self }
    }
}

/// A running control plane; it ends when this is dropped.
pub struct ControlPlane {
    name: String,
    layout: Layout,
    client: Client,
    processes: Mutex<Option<Processes>>,
}

impl ControlPlane {
    /// Starts a control plane from nothing, keeping its data and logs in the folder, and waits until it works.
    pub async fn start(assets: &Assets, name: &str, folder: &Path, options: Options) -> Result<ControlPlane> {
        let mut attempt = 1;
        loop {
            let layout = Layout::make(assets, &folder.join(name), &options)?;
            match ControlPlane::start_with(name, layout).await {
                Err(error) if attempt < START_ATTEMPTS && is_port_collision(&error) => attempt += 1,
                outcome => return outcome.with_context(|| format!("starting the control plane {name}")),
            }
        }
    }

    async fn start_with(name: &str, layout: Layout) -> Result<ControlPlane> {
        let client = layout.credentials.client(layout.api, layout.credentials.admin_token()).await?;
        let processes = Processes::start(name, &layout, &client).await?;
        Ok(ControlPlane { name: name.to_owned(), layout, client, processes: Mutex::new(Some(processes)) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of its data and logs.
    pub fn folder(&self) -> &Path {
        &self.layout.folder
    }

    /// What a process of this cluster is started through.
    pub fn entrance(&self) -> &[String] {
        self.layout.options.entrance.as_deref().unwrap_or_default()
    }

    pub fn api_address(&self) -> SocketAddr {
        self.layout.api
    }

    /// The certificate of the authority that the API server's certificate comes from.
    pub fn authority_file(&self) -> PathBuf {
        self.layout.credentials.authority_file()
    }

    /// A client of the administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client of whoever holds the token.
    pub async fn client_as(&self, token: &str) -> Result<Client> {
        self.layout.credentials.client(self.layout.api, token).await
    }

    /// A token of a service account, as the API server issues it.
    pub async fn token(&self, namespace: &str, service_account: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer: TokenRequest = accounts
            .create_subresource("token", service_account, &PostParams::default(), &request)
            .await
            .with_context(|| {
                format!("asking for a token of the service account {namespace}/{service_account}")
            })?;
        let status = answer.status.with_context(|| format!("no token for {namespace}/{service_account}"))?;
        Ok(status.token)
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> &str {
        self.layout.credentials.admin_token()
    }

    /// Writes a kubeconfig for whoever holds the token.
    pub fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        self.layout.credentials.kubeconfig(self.layout.api, token)
    }

    /// Writes a kubeconfig that goes by another address, such as the near end of a relay.
    pub fn kubeconfig_by_way_of(&self, address: SocketAddr, token: &str) -> Result<PathBuf> {
        self.layout.credentials.kubeconfig(address, token)
    }

    /// Applies manifests as the administrator, in order, and waits until the kinds they define are served.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        manifests::apply_yaml(&self.client, yaml)
            .await
            .with_context(|| format!("in the cluster {}", self.name))
    }

    /// Kills all processes in one moment, as a power cut would, and waits until they are gone.
    pub fn kill9(&self) {
        self.cut_power();
        self.processes().take();
    }

    /// Kills all processes without waiting for their end.
    pub fn cut_power(&self) {
        if let Some(processes) = &*self.processes() {
            processes.all().iter().for_each(|process| process.cut_power());
        }
    }

    /// Freezes the API server: it answers nobody, and its connections stay.
    pub fn stop_api(&self) -> Result<()> {
        self.running(|processes| processes.api_server.stop())
    }

    /// Lets a frozen API server go on.
    pub fn cont_api(&self) -> Result<()> {
        self.running(|processes| processes.api_server.cont())
    }

    /// Starts the control plane again with its data and at its addresses; kills what still runs of it.
    pub async fn restart(&self) -> Result<()> {
        self.kill9();
        let started = Processes::start(&self.name, &self.layout, &self.client).await;
        let processes = started.with_context(|| format!("restarting the control plane {}", self.name))?;
        *self.processes() = Some(processes);
        Ok(())
    }

    /// An error when one of the processes has ended of itself, with the end of its log.
    pub fn still_runs(&self) -> Result<()> {
        self.running(Processes::still_run)
    }

    fn running(&self, act: impl FnOnce(&Processes) -> Result<()>) -> Result<()> {
        match &*self.processes() {
            Some(processes) => act(processes),
            None => bail!("the control plane {} was killed", self.name),
        }
    }

    fn processes(&self) -> MutexGuard<'_, Option<Processes>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where everything of a control plane lies, and at which addresses it listens.
#[derive(Debug)]
struct Layout {
    assets: Assets,
    folder: PathBuf,
    options: Options,
    api: SocketAddr,
    etcd: SocketAddr,
    etcd_peer: SocketAddr,
    credentials: Credentials,
}

impl Layout {
    fn make(assets: &Assets, folder: &Path, options: &Options) -> Result<Layout> {
        let data = folder.join("etcd");
        if data.exists() {
            // Left by a start that lost its port: a control plane starts from nothing.
            fs::remove_dir_all(&data).with_context(|| format!("clearing {}", data.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        let [api, etcd, etcd_peer] = match &options.entrance {
            Some(_) => OWN_PORTS.map(|port| SocketAddr::from((options.address, port))),
            None => free_ports(options.address)?,
        };
        Ok(Layout {
            assets: assets.clone(),
            folder: folder.to_owned(),
            options: options.clone(),
            api,
            etcd,
            etcd_peer,
            credentials: Credentials::make(&folder.join("credentials"), options.address)?,
        })
    }

    fn launch(&self, name: &str, component: &str, program: &Path) -> Launch {
        Launch::new(format!("{component} of {name}"), program, self.folder.join(format!("{component}.log")))
            .through(self.options.entrance.iter().flatten())
            // They live for a minute: memory is cheaper than the time in which it is collected while they start.
            .environment("GOGC", "300")
    }

    fn etcd(&self, name: &str) -> Launch {
        let (client, peer) = (format!("http://{}", self.etcd), format!("http://{}", self.etcd_peer));
        self.launch(name, "etcd", &self.assets.etcd).arguments([
            "--name=default".to_owned(),
            format!("--data-dir={}", self.folder.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // A member without peers elects itself: it need not wait long for votes.
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=200".to_owned(),
            // Processes are killed here, but the machine is not: what was written is safe in the page cache.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ])
    }

    fn api_server(&self, name: &str) -> Launch {
        let file = |path: PathBuf| path.display().to_string();
        let credentials = &self.credentials;
        self.launch(name, "kube-apiserver", &self.assets.kube_apiserver)
            .arguments([
                format!("--etcd-servers=http://{}", self.etcd),
                format!("--bind-address={}", self.api.ip()),
                format!("--advertise-address={}", self.api.ip()),
                format!("--secure-port={}", self.api.port()),
                format!("--cert-dir={}", self.folder.join("certificates").display()),
                format!("--tls-cert-file={}", file(credentials.serving_certificate_file())),
                format!("--tls-private-key-file={}", file(credentials.serving_key_file())),
                format!("--service-account-key-file={}", file(credentials.service_account_public_key_file())),
                format!(
                    "--service-account-signing-key-file={}",
                    file(credentials.service_account_key_file())
                ),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--token-auth-file={}", file(credentials.tokens_file())),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                // No kubelet mounts tokens here, and pods need no service account to be accepted.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                // Endpoints refuse loopback addresses, and no pod looks for the API server here.
                "--endpoint-reconciler-type=none".to_owned(),
                "--profiling=false".to_owned(),
            ])
            .arguments(&self.options.api_server_flags)
    }

    fn controller_manager(&self, name: &str) -> Result<Launch> {
        let credentials = &self.credentials;
        let kubeconfig = self.credentials.kubeconfig(self.api, credentials.controller_manager_token())?;
        Ok(self
            .launch(name, "kube-controller-manager", &self.assets.kube_controller_manager)
            .arguments([
                format!("--kubeconfig={}", kubeconfig.display()),
                // It is asked nothing, so it need not listen.
                "--secure-port=0".to_owned(),
                "--leader-elect=false".to_owned(),
                "--use-service-account-credentials=true".to_owned(),
                format!(
                    "--service-account-private-key-file={}",
                    credentials.service_account_key_file().display()
                ),
                format!("--root-ca-file={}", credentials.authority_file().display()),
                "--pvclaimbinder-sync-period=2s".to_owned(),
                "--kube-api-qps=500".to_owned(),
                "--kube-api-burst=500".to_owned(),
                "--profiling=false".to_owned(),
            ])
            .arguments(&self.options.controller_manager_flags))
    }
}

#[derive(Debug)]
struct Processes {
    controller_manager: Option<Process>,
    api_server: Process,
    etcd: Process,
}

impl Processes {
    async fn start(name: &str, layout: &Layout, client: &Client) -> Result<Processes> {
        let started = Instant::now();
        let etcd = layout.etcd(name).spawn()?;
        await_ready("etcd", &[&etcd], async || accepts_connections(layout.etcd).await).await?;
        let api_server = layout.api_server(name).spawn()?;
        await_ready("kube-apiserver", &[&etcd, &api_server], async || says_ready(client).await).await?;
        let api_server_ready = started.elapsed();
        let mut processes = Processes { controller_manager: None, api_server, etcd };
        if !layout.options.controllers {
            return Ok(processes);
        }
        forget_account(client).await?;
        processes.controller_manager = Some(layout.controller_manager(name)?.spawn()?);
        await_ready("kube-controller-manager", &processes.all(), async || has_account(client).await).await?;
        tracing::info!(cluster = name, ?api_server_ready, all_ready = ?started.elapsed(), "a control plane is up");
        Ok(processes)
    }

    fn all(&self) -> Vec<&Process> {
        self.controller_manager.iter().chain([&self.api_server, &self.etcd]).collect()
    }

    fn still_run(&self) -> Result<()> {
        self.all().into_iter().try_for_each(Process::still_runs)
    }
}

/// Asks until the answer is yes; gives up early when one of the processes ends.
async fn await_ready(what: &str, processes: &[&Process], is_ready: impl AsyncFn() -> bool) -> Result<()> {
    let started = Instant::now();
    // What a client logs about an answer that is not there yet would only alarm the reader.
    while !timeout(PROBE_DEADLINE, is_ready().with_subscriber(NoSubscriber::default())).await.unwrap_or(false)
    {
        for process in processes {
            process.still_runs()?;
        }
        if started.elapsed() > READY_DEADLINE {
            let logs: Vec<String> = processes.iter().map(|process| process.log_tail(6)).collect();
            bail!("{what} is not ready after {READY_DEADLINE:?}; the ends of the logs:\n{}", logs.join("\n"));
        }
        sleep(READY_POLL).await;
    }
    Ok(())
}

async fn accepts_connections(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

async fn says_ready(client: &Client) -> bool {
    let request = Request::get("/readyz").body(Vec::new());
    match request {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}

/// The account that the controllers make in every namespace, and make anew when it is missing.
const PROBED_ACCOUNT: (&str, &str) = ("kube-public", "default");

async fn forget_account(client: &Client) -> Result<()> {
    let (namespace, name) = PROBED_ACCOUNT;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match accounts.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting the service account {namespace}/{name}")),
    }
}

async fn has_account(client: &Client) -> bool {
    let (namespace, name) = PROBED_ACCOUNT;
    Api::<ServiceAccount>::namespaced(client.clone(), namespace).get(name).await.is_ok()
}

/// Ports of the address that are free now.
fn free_ports<const COUNT: usize>(address: Ipv4Addr) -> Result<[SocketAddr; COUNT]> {
    let mut ports = [SocketAddr::from((address, 0)); COUNT];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener =
            TcpListener::bind(*port).with_context(|| format!("looking for a free port of {address}"))?;
        *port = listener.local_addr().with_context(|| format!("asking for the port of {address}"))?;
        // Held until all are found, so that no port is found twice.
        held.push(listener);
    }
    Ok(ports)
}
