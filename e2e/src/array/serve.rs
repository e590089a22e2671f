//! Stand-in for a storage array: one site's array as a running whole.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Mutex,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{
    calls::CallLog,
    csi_addons::{Driver, VolumeLocks},
    data, mirror, schedule,
    settings::Settings,
    shelf::Shelf,
    wire::{
        identity::identity_server::IdentityServer, replication::controller_server::ControllerServer,
        volumegroup::controller_server::ControllerServer as GroupServer,
    },
};

/// The data plane's socket inside an array's folder.
pub const DATA_SOCKET: &str = "data.sock";

/// How an array is started.
#[derive(Clone, Debug, clap::Args)]
pub struct ArrayOptions {
    /// The site that this array stands at; part of the names of its snapshots
    #[arg(long)]
    pub site: String,
    /// Images, settings, the log of calls and the data plane's socket lie here
    #[arg(long)]
    pub dir: PathBuf,
    /// Where the csi-addons services are served
    #[arg(long)]
    pub socket: PathBuf,
    /// Where the peer's mirror daemon may ask
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where the peer's array is asked, `HOST:PORT`; without it nothing is mirrored
    #[arg(long)]
    pub peer: Option<String>,
    /// The name by which StorageClasses and VolumeReplicationClasses know the driver
    #[arg(long, default_value = crate::nodes::DRIVER)]
    pub driver: String,
}

impl ArrayOptions {
    /// The command line that starts the program `array` with these options.
    pub fn arguments(&self) -> Vec<OsString> {
        let ArrayOptions { site, dir, socket, listen, peer, driver } = self;
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        add("--site", site.into());
        add("--dir", dir.into());
        add("--socket", socket.into());
        add("--listen", listen.to_string().into());
        if let Some(peer) = peer {
            add("--peer", peer.into());
        }
        add("--driver", driver.into());
        arguments
    }
}

/// What all conversations of one array share.
pub struct Site {
    pub name: String,
    pub directory: PathBuf,
    pub shelf: Mutex<Shelf>,
    pub calls: CallLog,
}

/// Runs the array until `stop` comes true or a part of it fails.
pub async fn serve(options: ArrayOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    fs::create_dir_all(&options.dir).with_context(|| format!("creating {}", options.dir.display()))?;
    Settings::read(&options.dir)?;
    let site = Arc::new(Site {
        name: options.site.clone(),
        shelf: Mutex::new(Shelf::open(&options.dir).context("opening the images")?),
        calls: CallLog::open(&options.dir).context("opening the log of calls")?,
        directory: options.dir.clone(),
    });
    let data_socket = listen_on(&options.dir.join(DATA_SOCKET))?;
    let csi_socket = listen_on(&options.socket)?;
    let mirror_socket = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening on {}", options.listen))?;
    let driver = Driver { site: site.clone(), name: options.driver, busy: VolumeLocks::default() };
    let csi_addons = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(ControllerServer::new(driver.clone()))
        .add_service(GroupServer::new(driver))
        .serve_with_incoming(UnixListenerStream::new(csi_socket));
    let follow = async {
        match options.peer {
            Some(peer) => mirror::follow(site.clone(), peer).await,
            None => std::future::pending::<Result<(), io::Error>>().await,
        }
    };
    tokio::select! {
        () = stop => Ok(()),
        ended = csi_addons => ended.context("serving csi-addons"),
        ended = data::serve(site.clone(), data_socket) => ended.context("serving the data plane"),
        ended = mirror::serve(site.clone(), mirror_socket) => ended.context("answering the peer"),
        ended = follow => ended.context("following the peer"),
        ended = schedule::run(site.clone()) => ended.context("taking snapshots"),
    }
}

/// A process that was killed leaves its socket's file behind.
fn listen_on(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the stale {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}
