//! The local federation: a hub and two member clusters, east and west, each a whole site, with links that can be cut.
//!
//! Everything real that can be: API servers, controllers, csi-addons, hub and agents with their service accounts'
//! rights. Stand-ins are the storage arrays and the nodes. It lives in one folder, and ends when it is dropped.

mod approvals;
mod diagnosis;
pub mod hub;
pub mod later_claim;
pub mod links;
pub mod moves;
pub mod promotions;
pub mod proof;
pub mod readers;
pub mod reckoning;
pub mod returns;
pub mod service;
mod wishes;
pub mod witness;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::placement::{FailbackSpec, FailoverMode, FailoverSpec, MigrationSpec, ObjectsSpec, TimingSpec};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tls::pki::{Authority, Existing, Validity};
use tls::{Identity, TrustDomain};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::hub::Hub;
use self::links::{Carries, Links, Route};
use self::promotions::Promotions;
use self::witness::Witness;
use crate::application::Application;
use crate::array;
use crate::assets::Assets;
use crate::control_plane::{ControlPlane, Options as ControlPlaneOptions};
use crate::history::Following;
use crate::network::Network;
use crate::programs::Programs;
use crate::site::{self, Site};

pub const EAST: &str = "east";
pub const WEST: &str = "west";
const HUB: &str = "hub";
const THIRD: &str = "third";
const TRUST_DOMAIN: &str = "dr.example";
const CERTIFICATE_DAYS: u32 = 30;

/// How long the slowest part of a federation may take, on a machine that is ten times as slow as ours.
pub const SLOW: Duration = Duration::from_secs(300);

/// On the addresses of a federation nobody else listens, so its ports need not be looked for.
const SESSION_PORT: u16 = 7443;
const PEER_PORT: u16 = 7444;
const GATE_PORT: u16 = 7446;
const MIRROR_PORT: u16 = 7445;
const METRICS_PORT: u16 = 9464;

/// Between two rounds of an append-writer.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);

/// Names the beginning of the folders' paths: folders that would go when their federations end are made there, and stay.
const KEEP: &str = "UNDERSTUDY_KEEP";

/// What the kernel takes for the path of a socket, and the longest that lies under a federation's folder.
const LONGEST_SOCKET_PATH: usize = 107;
const DEEPEST_SOCKET: &str = "east/array/data.sock";

/// Says what is being done, in half a sentence.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// How a federation differs from the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    pub application: Application,
    pub failover: FailoverSpec,
    pub migration: MigrationSpec,
    pub failback: FailbackSpec,
    /// How long a cluster that was lost must be heard again before anything is moved to it.
    pub steady_after: Duration,
    /// Whether StorageClass and VolumeReplicationClass stand at west as well, before anything is restored there.
    pub classes_at_standby: bool,
    /// Whether there is a witness in a third place. The hub stands at west's site then.
    pub witness: bool,
    /// What of the application is copied to west. None: its Deployment stands there as well, stopped.
    pub objects: Vec<ObjectsSpec>,
    pub east_array: array::Settings,
    pub west_array: array::Settings,
    /// Between two rounds of a writer.
    pub write_interval: Duration,
    /// The sites' own network. None: loopback addresses, with relays as links.
    pub network: Option<Arc<Network>>,
    /// Where everything lies, and stays. None: a folder that goes when the federation ends, unless `KEEP` says otherwise.
    pub folder: Option<PathBuf>,
}

impl Options {
    /// Automatic failover with short timings, of an application with so many volumes.
    pub fn short(volumes: usize) -> Options {
        let mut application = Application::named("shop", volumes);
        application.scheduling_interval = scheduling_interval(volumes).to_owned();
        Options {
            application,
            failover: FailoverSpec {
                mode: FailoverMode::Automatic,
                max_data_loss: Some("1m".to_owned()),
                timing: Some(short_timing()),
                ..FailoverSpec::default()
            },
            migration: MigrationSpec::default(),
            failback: FailbackSpec::default(),
            steady_after: Duration::from_secs(1),
            classes_at_standby: true,
            witness: false,
            objects: Vec::new(),
            east_array: array::Settings::default(),
            west_array: array::Settings::default(),
            write_interval: WRITE_INTERVAL,
            network: None,
            folder: None,
        }
    }

    /// The same, with timings for a story in which no site is lost, or which is not about how soon: a machine that stands still
    /// for seconds loses none.
    pub fn unhurried(volumes: usize) -> Options {
        Options::short(volumes).timed(unhurried_timing())
    }

    /// The same, with all the time that a busy machine may need to stop the application after its lease.
    pub fn slow_to_stop(volumes: usize) -> Options {
        Options::short(volumes).timed(TimingSpec { stop: Some("8s".to_owned()), ..short_timing() })
    }

    fn timed(mut self, timing: TimingSpec) -> Options {
        self.failover.timing = Some(timing);
        self
    }
}

/// The real sidecar passes five calls a second on, and each volume costs one whenever its interval has passed.
fn scheduling_interval(volumes: usize) -> &'static str {
    match volumes {
        0..=2 => "2s",
        3..=5 => "4s",
        _ => "10s",
    }
}

/// Leases that outlast a busy machine's slowest second.
fn unhurried_timing() -> TimingSpec {
    let span = |text: &str| Some(text.to_owned());
    TimingSpec {
        renew: span("500ms"),
        rpc: span("2s"),
        ttl: span("15s"),
        hold: span("10s"),
        grace: span("1s"),
        stop: span("4s"),
        suspect: span("5s"),
        unreachable: span("10s"),
        ..TimingSpec::default()
    }
}

/// The shortest timing that a user could set for pods with one second of grace.
fn short_timing() -> TimingSpec {
    let span = |text: &str| Some(text.to_owned());
    TimingSpec {
        renew: span("500ms"),
        rpc: span("500ms"),
        ttl: span("3s"),
        hold: span("2s"),
        grace: span("1s"),
        stop: span("4s"),
        // An agent whose API server has not answered for so long is not relied upon any more, on a busy machine too.
        suspect: span("2500ms"),
        unreachable: span("3s"),
        ..TimingSpec::default()
    }
}

/// Short timings need a machine that keeps up. A federation mostly waits once it runs, so that another one may start meanwhile,
/// which keeps two cores busy; more than these are not needed.
static PLACES: Semaphore = Semaphore::const_new(2);
static STARTING: Semaphore = Semaphore::const_new(1);

/// Two member clusters and a hub, seen with one application in them.
pub struct Federation {
    pub options: Options,
    pub links: Arc<Links>,
    pub hub: Arc<Hub>,
    pub witness: Option<Arc<Witness>>,
    pub east: Arc<Site>,
    pub west: Arc<Site>,
    /// What the writers of all applications acknowledged, outside of all clusters.
    pub writes: PathBuf,
    following: Arc<Mutex<Following>>,
    /// Last, as all of the others lie in it.
    ground: Arc<(Folder, SemaphorePermit<'static>)>,
}

/// The moment when a site was lost.
pub struct Loss {
    pub at: Instant,
    /// On the clock that all sites share.
    pub boot_nanoseconds: u64,
    /// When the last of its processes had ended, on the same clock. A write may have been acknowledged between the two.
    pub silent_from: u64,
    /// What is promoted at the other site, from now on.
    pub promotions: Promotions,
}

impl Federation {
    /// Brings everything up from nothing, except the application and its DRPlacement.
    pub async fn start(options: Options, progress: Progress) -> Result<Federation> {
        // Fails when there is one already, which then does as well.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let place = PLACES.acquire().await.context("waiting for another federation to end")?;
        let _starts_alone = STARTING.acquire().await.context("waiting for another federation to start")?;
        let folder = Folder::make(options.folder.as_deref())?;
        folder.ensure_short()?;
        let (programs, assets) = build(progress.clone()).await?;
        let ground = Ground::lay(&options, folder.path(), &programs, &assets)?;
        progress("starting three Kubernetes control planes");
        let [hub, east, west] = ground.control_planes().await?;
        let links = ground.links(&east, &west).await?;
        let witness = Box::pin(ground.witness()).await?;
        progress("starting the hub, and at east and west csi-addons, a storage array, nodes and an agent");
        // On the heap: a thread of a test has a small stack, on which futures within futures take much room.
        let (hub, east, west) = tokio::try_join!(
            Box::pin(ground.hub(hub, witness.as_ref())),
            Box::pin(ground.site(east, WEST, &links, witness.as_ref())),
            Box::pin(ground.site(west, EAST, &links, witness.as_ref()))
        )?;
        let writes = ground.writes();
        let federation = Federation {
            options,
            links: Arc::new(links),
            hub: Arc::new(hub),
            witness: witness.map(Arc::new),
            east: Arc::new(east),
            west: Arc::new(west),
            writes,
            following: Arc::default(),
            ground: Arc::new((folder, place)),
        };
        federation.enrol().await?;
        federation.hub.start().await?;
        Ok(federation)
    }

    /// The same, and the application runs at east, protected, with a copy at west that holds some of its writes.
    pub async fn protected(options: Options, progress: Progress) -> Result<Federation> {
        let federation = Box::pin(Federation::start(options, progress.clone())).await?;
        progress("deploying the application at east");
        federation.deploy().await?;
        progress("asking for its protection");
        federation.protect().await?;
        federation.await_protected().await?;
        Ok(federation)
    }

    pub fn folder(&self) -> &Path {
        self.ground.0.path()
    }

    /// The same federation, seen with another application in it, which is not deployed yet.
    pub fn beside(&self, options: Options) -> Federation {
        Federation {
            options,
            links: Arc::clone(&self.links),
            hub: Arc::clone(&self.hub),
            witness: self.witness.clone(),
            east: Arc::clone(&self.east),
            west: Arc::clone(&self.west),
            writes: self.writes.clone(),
            following: Arc::clone(&self.following),
            ground: Arc::clone(&self.ground),
        }
    }

    pub fn site(&self, name: &str) -> Result<&Site> {
        let sites = [&self.east, &self.west];
        sites
            .into_iter()
            .map(Arc::as_ref)
            .find(|site| site.name == name)
            .with_context(|| format!("there is no site {name}"))
    }

    /// Loses a site as by fire: its links fall silent, without a word of farewell, and every process is killed.
    pub fn lose(&self, name: &str) -> Result<Loss> {
        let site = self.site(name)?;
        let survivor = if name == EAST { &self.west } else { &self.east };
        let promotions =
            Promotions::watch(survivor.control_plane.client(), &self.options.application.namespace);
        self.links.isolate(name)?;
        let (at, boot) = (Instant::now(), boot_nanoseconds());
        site.cut_power();
        Ok(Loss { at, boot_nanoseconds: boot, silent_from: boot_nanoseconds(), promotions })
    }
}

/// Now, on the clock that all sites share.
pub fn boot_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// The programs of the federation: Kubernetes, csi-addons and ours.
async fn build(progress: Progress) -> Result<(Programs, Assets)> {
    let building = tokio::task::spawn_blocking(move || {
        let say = |doing: &str| progress(doing);
        anyhow::Ok((Programs::ensure(say)?, Assets::ensure(say)?))
    });
    building.await.context("the build ended")?
}

/// A folder of the federation's own, or one that was asked for.
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn make(asked: Option<&Path>) -> Result<Folder> {
        match asked {
            None => Folder::unasked(),
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))?;
                let used = fs::read_dir(path)
                    .with_context(|| format!("listing {}", path.display()))?
                    .next()
                    .is_some();
                if used {
                    bail!("the folder {} is not empty: name another, or empty it", path.display());
                }
                Ok(Folder::Kept(
                    fs::canonicalize(path).with_context(|| format!("resolving {}", path.display()))?,
                ))
            }
        }
    }

    fn unasked() -> Result<Folder> {
        let making = "making a folder for the federation";
        let Some(beginning) = std::env::var_os(KEEP) else {
            let made = tempfile::Builder::new().prefix("understudy-").tempdir();
            return Ok(Folder::Temporary(made.context(making)?));
        };
        let beginning = PathBuf::from(beginning);
        let (Some(parent), Some(name)) = (beginning.parent(), beginning.file_name()) else {
            bail!("{KEEP} is {}: name a folder and the beginning of a name in it", beginning.display());
        };
        let made = tempfile::Builder::new().prefix(name).tempdir_in(parent);
        Ok(Folder::Kept(made.with_context(|| format!("{making} in {}", parent.display()))?.keep()))
    }

    fn ensure_short(&self) -> Result<()> {
        let length = self.path().join(DEEPEST_SOCKET).as_os_str().len();
        ensure!(
            length <= LONGEST_SOCKET_PATH,
            "the folder {} is {} characters too long for the sockets in it: name a shorter one",
            self.path().display(),
            length - LONGEST_SOCKET_PATH
        );
        Ok(())
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(folder) => folder,
        }
    }
}

/// What everything is built on: programs, identities and addresses.
struct Ground<'a> {
    options: &'a Options,
    folder: &'a Path,
    programs: &'a Programs,
    assets: &'a Assets,
    addresses: Addresses,
}

impl<'a> Ground<'a> {
    fn lay(
        options: &'a Options,
        folder: &'a Path,
        programs: &'a Programs,
        assets: &'a Assets,
    ) -> Result<Self> {
        let ground = Ground { options, folder, programs, assets, addresses: Addresses::of(options) };
        ground.issue_identities()?;
        Ok(ground)
    }

    fn issue_identities(&self) -> Result<()> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).context("the trust domain of the federation")?;
        let authority = Authority::create(&trust_domain)?;
        authority.write(&self.identity("ca"), Existing::Keep)?;
        let whose = [
            (HUB, Identity::Hub),
            (EAST, Identity::cluster(&agent_identity(EAST))?),
            (WEST, Identity::cluster(&agent_identity(WEST))?),
        ];
        for (name, identity) in whose {
            let issued = authority.issue(&identity, Validity::days(CERTIFICATE_DAYS))?;
            issued.write(&self.identity(name), Existing::Keep)?;
        }
        Ok(())
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.folder.join("identities").join(name)
    }

    fn writes(&self) -> PathBuf {
        self.folder.join("writes.jsonl")
    }

    async fn control_planes(&self) -> Result<[ControlPlane; 3]> {
        let start = async |name: &str| {
            let entrance = self.options.network.as_ref().map(|network| network.entrance(name));
            let address = self.addresses.address(name);
            let options = ControlPlaneOptions { entrance, ..ControlPlaneOptions::at(address) };
            ControlPlane::start(self.assets, name, self.folder, options).await
        };
        let (hub, east, west) =
            tokio::try_join!(Box::pin(start(HUB)), Box::pin(start(EAST)), Box::pin(start(WEST)))?;
        Ok([hub, east, west])
    }

    async fn links(&self, east: &ControlPlane, west: &ControlPlane) -> Result<Links> {
        let addresses = &self.addresses;
        let mut routes = Vec::new();
        for (from, to, far) in [(EAST, WEST, west), (WEST, EAST, east)] {
            let mut add = |to, carries, target| routes.push((Route::new(from, to, carries), target));
            add(HUB, Carries::Session, addresses.at(HUB, SESSION_PORT));
            add(to, Carries::Peer, addresses.at(to, PEER_PORT));
            add(to, Carries::Api, far.api_address());
            add(to, Carries::Mirror, addresses.at(to, MIRROR_PORT));
        }
        match &self.options.network {
            Some(network) => Ok(Links::of(network, routes)),
            None => Links::lay(routes).await,
        }
    }

    async fn witness(&self) -> Result<Option<Witness>> {
        if !self.options.witness {
            return Ok(None);
        }
        let options = ControlPlaneOptions::at(self.addresses.address(THIRD)).without_controllers();
        let control_plane = ControlPlane::start(self.assets, THIRD, self.folder, options).await?;
        Witness::install(control_plane).await.map(Some)
    }

    async fn hub(&self, control_plane: ControlPlane, witness: Option<&Witness>) -> Result<Hub> {
        let setting = hub::Setting {
            program: &self.programs.hub,
            folder: &self.folder.join(HUB),
            identity: &self.identity(HUB),
            trust_domain: TRUST_DOMAIN,
            listen: self.addresses.at(HUB, SESSION_PORT),
            metrics: self.addresses.at(HUB, METRICS_PORT),
            steady_after: self.options.steady_after,
            failure_domain: if self.options.witness { "west-site" } else { "hub-site" },
            witness: argument(witness, HUB).await?,
        };
        Hub::install(control_plane, setting).await
    }

    async fn site(
        &self,
        control_plane: ControlPlane,
        other: &str,
        links: &Links,
        witness: Option<&Witness>,
    ) -> Result<Site> {
        let name = control_plane.name().to_owned();
        let array_settings = if name == EAST { &self.options.east_array } else { &self.options.west_array };
        let setting = site::Setting {
            assets: self.assets,
            programs: self.programs,
            folder: &self.folder.join(&name),
            identity: &self.identity(&name),
            trust_domain: TRUST_DOMAIN,
            addresses: site::Addresses {
                peer: self.addresses.at(&name, PEER_PORT),
                gate: self.addresses.at(&name, GATE_PORT),
                mirror: self.addresses.at(&name, MIRROR_PORT),
                metrics: self.addresses.at(&name, METRICS_PORT),
            },
            links,
            other,
            writes: &self.writes(),
            write_interval: self.options.write_interval,
            array_settings,
            witness: argument(witness, &name).await?,
        };
        Site::start(control_plane, setting).await
    }
}

async fn argument(witness: Option<&Witness>, who: &str) -> Result<Option<String>> {
    match witness {
        Some(witness) => witness.argument_for(who).await.map(Some),
        None => Ok(None),
    }
}

/// The uid in an agent's certificate, and in its DRCluster.
fn agent_identity(cluster: &str) -> String {
    format!("agent-of-{cluster}")
}

/// Where the sites are: each in its own network, or on loopback addresses that no other federation on this machine has.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    OwnNetwork,
    Loopback { high: u8, low: u8 },
}

impl Addresses {
    fn of(options: &Options) -> Addresses {
        match options.network {
            Some(_) => Addresses::OwnNetwork,
            None => Addresses::next_on_loopback(),
        }
    }

    /// Processes count from different numbers, and each counts its own federations.
    fn next_on_loopback() -> Addresses {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(5).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let [_, _, high, low] = number.to_be_bytes();
        Addresses::Loopback { high: high % 128 + 64, low }
    }

    fn address(self, site: &str) -> Ipv4Addr {
        let (high, low) = match self {
            Addresses::OwnNetwork => return Network::address(site),
            Addresses::Loopback { high, low } => (high, low),
        };
        let last = match site {
            HUB => 1,
            EAST => 2,
            THIRD => 4,
            _ => 3,
        };
        Ipv4Addr::new(127, high, low, last)
    }

    fn at(self, site: &str, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address(site)), port)
    }
}
