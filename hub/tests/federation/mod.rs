//! A hub's sessions on a real socket, and agents, honest and otherwise, that connect to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::wire::v1::federation_client::FederationClient;
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{ClusterName, FromAgent, Heartbeat, Hello, Nonce};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tempfile::TempDir;
use tls::pki::{Authority, Existing, Validity};
use tls::{ChannelSettings, Credentials, Files, HandshakeLimits, Identity, TrustDomain, dial};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use understudy_hub::sessions::{
    KnownClusters, SessionCounters, SessionEvent, SessionInbox, SessionRefusal, SessionSettings, Sessions,
};

/// Far longer than anything takes here, also on a slow machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn east() -> ClusterName {
    ClusterName::parse("east").expect("a name")
}

pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("dr.example").expect("a trust domain")
}

pub struct TestHub {
    pub folder: TempDir,
    pub authority: Authority,
    pub sessions: Sessions,
    pub counters: Arc<SessionCounters>,
    pub inbox: SessionInbox,
    pub clusters: watch::Sender<KnownClusters>,
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A machine that stands still for seconds ends no connection.
fn patient() -> SessionSettings {
    SessionSettings {
        handshakes: HandshakeLimits { deadline: PATIENCE, ..HandshakeLimits::default() },
        hello: PATIENCE,
        keep_alive_timeout: PATIENCE,
        ..SessionSettings::default()
    }
}

impl TestHub {
    /// Knows cluster `east` by uid `u-east` and `west` by `u-west`.
    pub async fn start() -> Self {
        TestHub::with(patient()).await
    }

    pub async fn with_handshakes(handshakes: HandshakeLimits) -> Self {
        TestHub::with(SessionSettings { handshakes, ..patient() }).await
    }

    /// Gives a new stream so long to say who it is.
    pub async fn with_hello(hello: Duration) -> Self {
        TestHub::with(SessionSettings { hello, ..patient() }).await
    }

    async fn with(settings: SessionSettings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(&trust_domain()).expect("an authority");
        authority.write(&folder.path().join("ca"), Existing::Keep).expect("written");
        let issued = authority.issue(&Identity::Hub, Validity::days(1)).expect("issued");
        issued.write(&folder.path().join("hub"), Existing::Keep).expect("written");
        let credentials = Arc::new(load(&folder.path().join("hub")));

        let known = |uid: &str, name: &str| (uid.to_owned(), ClusterName::parse(name).expect("a name"));
        let (clusters, watched) =
            watch::channel(BTreeMap::from([known("u-east", "east"), known("u-west", "west")]));
        let (sessions, inbox) = Sessions::new(watched);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        tokio::spawn(sessions.clone().serve(listener, credentials, settings, stop.clone()));
        TestHub { folder, authority, counters: sessions.counters(), sessions, inbox, clusters, address, stop }
    }

    /// Issues a certificate for `uid` and loads it, as that cluster's agent would.
    pub fn agent(&self, uid: &str) -> Credentials {
        self.agent_until(uid, Validity::days(1))
    }

    pub fn agent_until(&self, uid: &str, validity: Validity) -> Credentials {
        let identity = Identity::cluster(uid).expect("a uid");
        let folder = self.agent_folder(uid);
        let issued = self.authority.issue(&identity, validity).expect("issued");
        issued.write(&folder, Existing::Replace).expect("written");
        load(&folder)
    }

    pub fn agent_folder(&self, uid: &str) -> PathBuf {
        self.folder.path().join(uid)
    }

    /// A client configuration that believes the hub and shows the certificate made of `params` by the hub's authority.
    pub fn forger(&self, params: CertificateParams) -> ClientConfig {
        let read =
            |name: &str| std::fs::read_to_string(self.folder.path().join("ca").join(name)).expect("the CA");
        let ca_key = KeyPair::from_pem(&read("ca.key")).expect("the CA's key");
        let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), ca_key).expect("the CA");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = rustls::crypto::ring::default_provider();
        let own = CertifiedKey::from_der(vec![certificate.der().clone()], key.into(), &provider)
            .expect("a fitting key");
        self.showing(Arc::new(SingleCertAndKey::from(own)))
    }

    pub fn showing(&self, own: Arc<dyn ResolvesClientCert>) -> ClientConfig {
        let mut config = (*self.agent("believer").client(&Identity::Hub)).clone();
        config.client_auth_cert_resolver = own;
        config
    }

    pub async fn event(&mut self) -> SessionEvent {
        timeout(PATIENCE, self.inbox.receive()).await.expect("an event in time").expect("an event")
    }

    /// Waits until the refusal is counted; then it must be the only one, and no session may be open.
    pub async fn has_refused(&self, reason: SessionRefusal) {
        eventually(|| self.counters.refusals(reason) > 0).await;
        let all: Vec<_> = SessionRefusal::ALL
            .iter()
            .filter(|one| self.counters.refusals(**one) > 0)
            .map(|one| (one.as_str(), self.counters.refusals(*one)))
            .collect();
        assert_eq!(all, [(reason.as_str(), 1)]);
        eventually(|| self.counters.open() == 0).await;
    }
}

pub fn load(folder: &Path) -> Credentials {
    Credentials::load(Files::in_folder(folder), trust_domain()).expect("credentials")
}

pub async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the condition must come true in time");
}

pub struct AgentStream {
    pub outbound: mpsc::Sender<AgentMessage>,
    pub inbound: Streaming<HubMessage>,
}

impl AgentStream {
    pub async fn say(&self, message: FromAgent) {
        self.outbound.send(message.into()).await.expect("the stream takes it");
    }

    /// What ends the stream; whatever the hub says before is passed over.
    pub async fn end(&mut self) -> Option<Status> {
        loop {
            match timeout(PATIENCE, self.inbound.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

/// Connects and opens a stream; the error says what came instead.
pub async fn open(hub: &TestHub, credentials: &Credentials) -> Result<AgentStream, String> {
    open_with(hub, (*credentials.client(&Identity::Hub)).clone()).await
}

pub async fn open_with(hub: &TestHub, config: ClientConfig) -> Result<AgentStream, String> {
    timeout(PATIENCE, try_open(hub.address, config)).await.map_err(|_| "nothing came".to_owned())?
}

async fn try_open(address: SocketAddr, config: ClientConfig) -> Result<AgentStream, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let tcp = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let name = "understudy.internal".try_into().expect("a server name");
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| text(&error))?;
    let settings =
        ChannelSettings { connect: PATIENCE, keep_alive_interval: PATIENCE, keep_alive_timeout: PATIENCE };
    let channel = dial::over(stream, settings).await.map_err(|error| text(&error))?;
    let (outbound, queue) = mpsc::channel(16);
    let mut client = FederationClient::new(channel);
    let response = client.connect(ReceiverStream::new(queue)).await.map_err(|error| text(&error))?;
    Ok(AgentStream { outbound, inbound: response.into_inner() })
}

pub fn hello(cluster: &str) -> FromAgent {
    let cluster = ClusterName::parse(cluster).expect("a name");
    FromAgent::Hello(Hello { cluster, version: "test".into(), known: Vec::new() })
}

pub fn heartbeat(cluster: &str, nonce: u64) -> FromAgent {
    let cluster = ClusterName::parse(cluster).expect("a name");
    FromAgent::Heartbeat(Heartbeat {
        cluster,
        nonce: Nonce(nonce),
        api_write_age: None,
        renewals: Vec::new(),
        paths: Vec::new(),
    })
}

/// The parameters of an honest certificate of `u-east`, to be spoiled.
pub fn certificate_of_east(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names =
        names.iter().map(|name| SanType::URI((*name).try_into().expect("a URI"))).collect();
    params
}
