//! Two arrays and the links between them, and the calls that the csi-addons controller makes.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use e2e::{
    array::{
        ArrayOptions, DATA_SOCKET, DataClient, ImageStatus, Settings,
        wire::{
            identity::identity_client::IdentityClient,
            replication::{
                DemoteVolumeRequest, DisableVolumeReplicationRequest, EnableVolumeReplicationRequest,
                GetVolumeReplicationInfoRequest, GetVolumeReplicationInfoResponse, PromoteVolumeRequest,
                ReplicationSource, ResyncVolumeRequest,
                controller_client::ControllerClient,
                replication_source::{Type, VolumeGroupSource, VolumeSource},
            },
            volumegroup::{
                ControllerGetVolumeGroupRequest, CreateVolumeGroupRequest, DeleteVolumeGroupRequest,
                ModifyVolumeGroupMembershipRequest, VolumeGroup,
                controller_client::ControllerClient as GroupClient,
            },
        },
    },
    nodes::DRIVER,
    relay::Relay,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

pub const VOLUME: &str = "0001-0009-vol-1";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition of the running arrays; it must come true in time.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// East and west, each asking the other over a link of its own.
pub struct Sites {
    pub folder: TempDir,
    pub east: Site,
    pub west: Site,
    /// The way on which west hears of east's snapshots.
    pub west_asks_east: Relay,
    pub east_asks_west: Relay,
}

impl Sites {
    pub async fn start() -> Sites {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (east, west) = (free_address(), free_address());
        let west_asks_east = Relay::start(None, east).await.expect("a link to east");
        let east_asks_west = Relay::start(None, west).await.expect("a link to west");
        let east = Site::start(&folder, "east", east, east_asks_west.address()).await;
        let west = Site::start(&folder, "west", west, west_asks_east.address()).await;
        Sites { folder, east, west, west_asks_east, east_asks_west }
    }

    /// Both sites, with the volume primary at east and its first snapshot at west.
    pub async fn with_mirrored_volume() -> Sites {
        let sites = Sites::start().await;
        sites.east.data().await.create(VOLUME).await.expect("a new image");
        sites.east.become_primary(VOLUME).await.expect("east is primary");
        until("the image appears at west", async || sites.west.status(VOLUME).await).await;
        sites
    }

    pub fn cut(&self) {
        self.west_asks_east.cut();
        self.east_asks_west.cut();
    }

    pub fn heal(&self) {
        self.west_asks_east.heal();
        self.east_asks_west.heal();
    }
}

/// One site's array, and the sidecar's end of its socket.
pub struct Site {
    pub name: &'static str,
    pub directory: PathBuf,
    listen: SocketAddr,
    peer: SocketAddr,
    process: Child,
}

impl Site {
    async fn start(folder: &TempDir, name: &'static str, listen: SocketAddr, peer: SocketAddr) -> Site {
        let directory = folder.path().join(name);
        let process = spawn(name, &directory, listen, peer);
        let site = Site { name, directory, listen, peer, process };
        site.answers().await;
        site
    }

    /// As when the power fails: no chance to tidy up.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("the array is killed");
    }

    pub async fn start_again(&mut self) {
        self.process = spawn(self.name, &self.directory, self.listen, self.peer);
        self.answers().await;
    }

    async fn answers(&self) {
        until("the array answers", async || DataClient::connect(&self.data_socket()).await.ok()).await;
        until("its driver answers", async || self.endpoint().connect().await.ok()).await;
    }

    pub fn set(&self, settings: &Settings) {
        settings.write(&self.directory).expect("settings are written");
    }

    pub fn data_socket(&self) -> PathBuf {
        self.directory.join(DATA_SOCKET)
    }

    pub async fn data(&self) -> DataClient {
        DataClient::connect(&self.data_socket()).await.expect("the data plane answers")
    }

    pub async fn append(&self, lines: &[&str]) {
        let mut data = self.data().await;
        for line in lines {
            data.append(VOLUME, line).await.expect("a primary takes writes");
        }
        data.detach(VOLUME).await.expect("the pod is gone");
    }

    pub async fn lines(&self) -> Vec<String> {
        self.data().await.read(VOLUME).await.expect("the image is readable")
    }

    pub async fn holds(&self, lines: &[&str]) -> Option<()> {
        (self.data().await.read(VOLUME).await.ok()? == lines).then_some(())
    }

    pub async fn status(&self, handle: &str) -> Option<ImageStatus> {
        self.data().await.status(handle).await.ok()
    }

    pub async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel().await)
    }

    async fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel().await)
    }

    fn endpoint(&self) -> Endpoint {
        let address = format!("unix://{}", self.directory.join("csi-addons.sock").display());
        Endpoint::from_shared(address).expect("a unix address").timeout(PATIENCE)
    }

    async fn channel(&self) -> Channel {
        timeout(PATIENCE, self.endpoint().connect())
            .await
            .expect("no answer in time")
            .expect("csi-addons is served")
    }

    pub async fn enable(&self, handle: &str) -> Result<(), Status> {
        let parameters = HashMap::from([("schedulingInterval".to_owned(), "50ms".to_owned())]);
        let replication_source = source(handle);
        let request = EnableVolumeReplicationRequest { parameters, replication_source, ..Default::default() };
        self.controller().await.enable_volume_replication(request).await.map(drop)
    }

    pub async fn disable(&self, handle: &str) -> Result<(), Status> {
        let replication_source = source(handle);
        let request = DisableVolumeReplicationRequest { replication_source, ..Default::default() };
        self.controller().await.disable_volume_replication(request).await.map(drop)
    }

    pub async fn promote(&self, handle: &str, force: bool) -> Result<(), Status> {
        let replication_source = source(handle);
        let request = PromoteVolumeRequest { force, replication_source, ..Default::default() };
        self.controller().await.promote_volume(request).await.map(drop)
    }

    pub async fn demote(&self, handle: &str) -> Result<(), Status> {
        let replication_source = source(handle);
        let request = DemoteVolumeRequest { replication_source, ..Default::default() };
        self.controller().await.demote_volume(request).await.map(drop)
    }

    pub async fn resync(&self, handle: &str, force: bool) -> Result<bool, Status> {
        let replication_source = source(handle);
        let request = ResyncVolumeRequest { force, replication_source, ..Default::default() };
        self.controller().await.resync_volume(request).await.map(|answer| answer.into_inner().ready)
    }

    pub async fn info(&self, handle: &str) -> Result<GetVolumeReplicationInfoResponse, Status> {
        let replication_source = source(handle);
        let request = GetVolumeReplicationInfoRequest { replication_source, ..Default::default() };
        let answer = self.controller().await.get_volume_replication_info(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn groups(&self) -> GroupClient<Channel> {
        GroupClient::new(self.channel().await)
    }

    /// Its id.
    pub async fn create_group(&self, name: &str, handles: &[&str]) -> Result<String, Status> {
        let volume_ids = handles.iter().map(|&handle| handle.to_owned()).collect();
        let request = CreateVolumeGroupRequest { name: name.to_owned(), volume_ids, ..Default::default() };
        let made = self.groups().await.create_volume_group(request).await?.into_inner();
        Ok(made.volume_group.unwrap_or_default().volume_group_id)
    }

    pub async fn modify_group(&self, id: &str, handles: &[&str]) -> Result<(), Status> {
        let volume_ids = handles.iter().map(|&handle| handle.to_owned()).collect();
        let volume_group_id = id.to_owned();
        let request =
            ModifyVolumeGroupMembershipRequest { volume_group_id, volume_ids, ..Default::default() };
        self.groups().await.modify_volume_group_membership(request).await.map(drop)
    }

    pub async fn delete_group(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeGroupRequest { volume_group_id: id.to_owned(), ..Default::default() };
        self.groups().await.delete_volume_group(request).await.map(drop)
    }

    /// The images of a group.
    pub async fn group(&self, id: &str) -> Result<Vec<String>, Status> {
        let request =
            ControllerGetVolumeGroupRequest { volume_group_id: id.to_owned(), ..Default::default() };
        let found = self.groups().await.controller_get_volume_group(request).await?.into_inner();
        let VolumeGroup { volumes, .. } = found.volume_group.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.volume_id).collect())
    }

    pub async fn last_sync(&self) -> Option<i128> {
        self.last_sync_of(VOLUME).await
    }

    /// The time of the last sync, in nanoseconds.
    pub async fn last_sync_of(&self, handle: &str) -> Option<i128> {
        let time = self.info(handle).await.ok()?.last_sync_time?;
        Some(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
    }

    /// What is told of `handle` as often as this primary of another volume syncs it twice more. For how long a standstill must
    /// be seen, only a volume that is not stalled can tell.
    pub async fn stands_still(&self, handle: &str, other: &str) -> Option<i128> {
        let before = self.last_sync_of(handle).await?;
        for _ in 0..2 {
            let last = until("the other syncs", async || self.last_sync_of(other).await).await;
            until("the other goes on", async || self.last_sync_of(other).await.filter(|now| *now != last))
                .await;
        }
        self.last_sync_of(handle).await.filter(|after| *after == before)
    }

    /// What the controller does for a VolumeReplication that becomes primary.
    pub async fn become_primary(&self, handle: &str) -> Result<(), Status> {
        self.enable(handle).await?;
        match self.promote(handle, false).await {
            Err(status) if status.code() == Code::FailedPrecondition => self.promote(handle, true).await,
            answer => answer,
        }
    }

    /// What the controller does, again and again, for one that is secondary: its readiness.
    pub async fn stay_secondary(&self, handle: &str, auto_resync: bool) -> Result<bool, Status> {
        self.demote(handle).await?;
        self.resync(handle, auto_resync).await
    }
}

fn spawn(name: &str, directory: &Path, listen: SocketAddr, peer: SocketAddr) -> Child {
    let options = ArrayOptions {
        site: name.to_owned(),
        dir: directory.to_owned(),
        socket: directory.join("csi-addons.sock"),
        listen,
        peer: Some(peer.to_string()),
        driver: DRIVER.to_owned(),
    };
    Command::new(env!("CARGO_BIN_EXE_array"))
        .args(options.arguments())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the array starts")
}

/// A loopback address of its own for each array: another test cannot take its port between here and the bind.
fn free_address() -> SocketAddr {
    static GIVEN: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high | 0x40, low, GIVEN.fetch_add(1, Ordering::Relaxed));
    let probe = TcpListener::bind((own, 0)).expect("a free port");
    probe.local_addr().expect("its address")
}

/// The array names its groups by this prefix, and no image.
const GROUP_PREFIX: &str = "group-";

fn source(handle: &str) -> Option<ReplicationSource> {
    if handle.starts_with(GROUP_PREFIX) {
        let group = VolumeGroupSource { volume_group_id: handle.to_owned() };
        return Some(ReplicationSource { r#type: Some(Type::Volumegroup(group)) });
    }
    let volume = VolumeSource { volume_id: handle.to_owned() };
    Some(ReplicationSource { r#type: Some(Type::Volume(volume)) })
}
