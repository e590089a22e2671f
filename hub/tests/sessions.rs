//! Who gets into the hub and as whom, over real sockets; and what one agent can do to the others.

mod federation;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use federation::{
    AgentStream, PATIENCE, TestHub, certificate_of_east, east, eventually, heartbeat, hello, open, open_with,
};
use proto::wire::v1::telemetry_client::TelemetryClient;
use proto::wire::v1::{Signal, TelemetryBatch};
use proto::{
    Action, Command, CommandId, Epoch, FromHub, Mark, Nonce, OperationId, PlacementId, Reply, StepKind, Term,
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tls::pki::{Authority, Existing, Validity};
use tls::{ChannelSettings, HandshakeLimits, Identity};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;
use understudy_hub::sessions::{Delivery, LARGEST_MESSAGE, OUTGOING, SessionEvent, SessionRefusal};

const EAST: &str = "spiffe://dr.example/dr/cluster/u-east";

fn reply(nonce: u64) -> FromHub {
    FromHub::Reply(Reply {
        term: Term(1),
        nonce: Nonce(nonce),
        mark: Mark::default(),
        grants: Vec::new(),
        denials: Vec::new(),
    })
}

fn command() -> FromHub {
    let placement = PlacementId::parse("p-1").expect("an id");
    let operation = OperationId("shop-failover-2".into());
    FromHub::Command(Box::new(Command {
        id: CommandId { placement, operation, step: StepKind::Fence },
        epoch: Epoch(2),
        nonce: Nonce(1),
        lifetime: Duration::from_secs(5),
        action: Action::Fence,
        trace_parent: Some("0".repeat(4000)),
    }))
}

async fn connected(hub: &mut TestHub, uid: &str, name: &str) -> AgentStream {
    let stream = open(hub, &hub.agent(uid)).await.expect("a stream");
    stream.say(hello(name)).await;
    let event = hub.event().await;
    assert!(matches!(&event, SessionEvent::Connected(said) if said.cluster.as_str() == name), "{event:?}");
    stream
}

async fn is_refused(hub: &TestHub, config: rustls::ClientConfig) {
    if let Ok(mut stream) = open_with(hub, config).await {
        panic!("a stream was opened, and ended with {:?}", stream.end().await);
    }
    hub.has_refused(SessionRefusal::TlsHandshake).await;
}

#[tokio::test]
async fn a_known_cluster_speaks_and_is_answered() {
    let mut hub = TestHub::start().await;
    let mut stream = connected(&mut hub, "u-east", "east").await;
    stream.say(heartbeat("east", 7)).await;
    let event = hub.event().await;
    assert!(matches!(&event, SessionEvent::Heartbeat(heard) if heard.nonce == Nonce(7)), "{event:?}");

    assert_eq!(hub.sessions.send(&east(), reply(7)), Delivery::Queued);
    let answer = stream.inbound.message().await.expect("no error").expect("an answer");
    assert_eq!(FromHub::try_from(answer).expect("understood"), reply(7));
    assert_eq!(hub.counters.open(), 1);

    drop(stream);
    assert_eq!(hub.event().await, SessionEvent::Disconnected(east()));
    assert_eq!(hub.sessions.send(&east(), reply(8)), Delivery::NoSession);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let hub = TestHub::start().await;
    let other = Authority::create(&federation::trust_domain()).expect("an authority");
    let identity = Identity::cluster("u-east").expect("a uid");
    let folder = hub.agent_folder("impostor");
    other
        .issue(&identity, Validity::days(1))
        .expect("issued")
        .write(&folder, Existing::Keep)
        .expect("written");
    // It believes the real authority, so that the hub is the one who refuses.
    std::fs::copy(hub.folder.path().join("ca/ca.crt"), folder.join("ca.crt")).expect("copied");
    is_refused(&hub, (*federation::load(&folder).client(&Identity::Hub)).clone()).await;
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// If client authentication were ever off, this test would fail.
#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let hub = TestHub::start().await;
    is_refused(&hub, hub.showing(Arc::new(NoCertificate))).await;
}

#[tokio::test]
async fn the_forgers_tools_make_certificates_that_would_be_accepted_if_they_were_honest() {
    let hub = TestHub::start().await;
    open_with(&hub, hub.forger(certificate_of_east(&[EAST]))).await.expect("a stream");
}

#[tokio::test]
async fn a_certificate_with_two_uris_is_refused() {
    let hub = TestHub::start().await;
    let params = certificate_of_east(&[EAST, "spiffe://dr.example/dr/cluster/u-west"]);
    is_refused(&hub, hub.forger(params)).await;
}

#[tokio::test]
async fn a_certificate_with_a_dns_name_besides_its_uri_is_refused() {
    let hub = TestHub::start().await;
    let mut params = certificate_of_east(&[EAST]);
    params.subject_alt_names.push(SanType::DnsName("east".try_into().expect("a name")));
    is_refused(&hub, hub.forger(params)).await;
}

#[tokio::test]
async fn a_common_name_that_spells_an_identity_counts_for_nothing() {
    let hub = TestHub::start().await;
    let mut params = certificate_of_east(&[]);
    params.distinguished_name.push(DnType::CommonName, EAST);
    is_refused(&hub, hub.forger(params)).await;
}

#[tokio::test]
async fn a_common_name_does_not_speak_against_the_uri() {
    let mut hub = TestHub::start().await;
    let mut params = certificate_of_east(&["spiffe://dr.example/dr/cluster/u-west"]);
    params.distinguished_name.push(DnType::CommonName, EAST);
    let stream = open_with(&hub, hub.forger(params)).await.expect("a stream");
    stream.say(hello("west")).await;
    assert!(matches!(hub.event().await, SessionEvent::Connected(said) if said.cluster.as_str() == "west"));
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_is_refused() {
    let hub = TestHub::start().await;
    is_refused(&hub, hub.forger(certificate_of_east(&["spiffe://dr.example.org/dr/cluster/u-east"]))).await;
}

#[tokio::test]
async fn a_uid_that_begins_like_a_known_one_is_unknown() {
    for uid in ["u-east1", "u-eas"] {
        let hub = TestHub::start().await;
        let Err(refused) = open(&hub, &hub.agent(uid)).await else { panic!("{uid} got in") };
        assert!(refused.contains("no DRCluster"), "{refused}");
        hub.has_refused(SessionRefusal::UnknownIdentity).await;
    }
}

#[tokio::test]
async fn the_hubs_own_certificate_is_no_clusters() {
    let hub = TestHub::start().await;
    let stolen = federation::load(&hub.folder.path().join("hub"));
    is_refused(&hub, (*stolen.client(&Identity::Hub)).clone()).await;
}

#[tokio::test]
async fn a_hub_certificate_is_no_clusters_even_if_it_is_fit_for_clients() {
    let hub = TestHub::start().await;
    let mut params = certificate_of_east(&["spiffe://dr.example/dr/hub"]);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    is_refused(&hub, hub.forger(params)).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let hub = TestHub::start().await;
    let hour = Duration::from_secs(3600);
    let past = Validity { not_before: SystemTime::now() - 2 * hour, not_after: SystemTime::now() - hour };
    is_refused(&hub, (*hub.agent_until("u-east", past).client(&Identity::Hub)).clone()).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let hub = TestHub::start().await;
    let hour = Duration::from_secs(3600);
    let future = Validity { not_before: SystemTime::now() + hour, not_after: SystemTime::now() + 2 * hour };
    is_refused(&hub, (*hub.agent_until("u-east", future).client(&Identity::Hub)).clone()).await;
}

#[tokio::test]
async fn a_hello_that_names_another_cluster_ends_the_stream_and_is_counted() {
    let mut hub = TestHub::start().await;
    let mut stream = open(&hub, &hub.agent("u-east")).await.expect("a stream");
    stream.say(hello("west")).await;
    let end = stream.end().await.expect("a refusal");
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    hub.has_refused(SessionRefusal::ForeignCluster).await;
    // Nothing of it has reached the driver: the next thing it hears is somebody else.
    connected(&mut hub, "u-west", "west").await;
}

#[tokio::test]
async fn a_later_message_that_names_another_cluster_ends_the_stream_and_is_counted() {
    let mut hub = TestHub::start().await;
    let mut stream = connected(&mut hub, "u-east", "east").await;
    stream.say(heartbeat("west", 1)).await;
    assert_eq!(hub.event().await, SessionEvent::Disconnected(east()));
    let end = stream.end().await.expect("a refusal");
    assert!(end.message().contains("east") && end.message().contains("west"), "{end}");
    hub.has_refused(SessionRefusal::ForeignCluster).await;
}

#[tokio::test]
async fn a_newer_session_replaces_the_older_and_is_not_ended_by_its_end() {
    let mut hub = TestHub::start().await;
    let mut older = connected(&mut hub, "u-east", "east").await;
    let mut newer = connected(&mut hub, "u-east", "east").await;
    assert_eq!(older.end().await.expect("an end").code(), Code::Aborted);
    eventually(|| hub.counters.open() == 1).await;

    newer.say(heartbeat("east", 3)).await;
    let event = hub.event().await;
    assert!(matches!(event, SessionEvent::Heartbeat(_)), "{event:?}");
    assert_eq!(hub.sessions.send(&east(), reply(3)), Delivery::Queued);
    let answer = newer.inbound.message().await.expect("no error").expect("an answer");
    assert_eq!(FromHub::try_from(answer).expect("understood"), reply(3));
}

#[tokio::test]
async fn a_stream_that_does_not_say_hello_replaces_nothing_and_ends() {
    // The talking one must have said it by then.
    let mut hub = TestHub::with_hello(Duration::from_secs(3)).await;
    let _talking = connected(&mut hub, "u-east", "east").await;
    let mut silent = open(&hub, &hub.agent("u-east")).await.expect("a stream");
    let end = silent.end().await.expect("an end");
    assert!(end.message().contains("Hello"), "{end}");
    assert_eq!(hub.counters.open(), 1);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_and_is_counted() {
    let mut hub = TestHub::start().await;
    let mut stream = connected(&mut hub, "u-east", "east").await;
    let mut large = proto::wire::v1::AgentMessage::from(hello("east"));
    if let Some(proto::wire::v1::agent_message::Body::Hello(hello)) = &mut large.body {
        hello.version = "x".repeat(LARGEST_MESSAGE + 1);
    }
    stream.outbound.send(large).await.expect("taken");
    assert_eq!(hub.event().await, SessionEvent::Disconnected(east()));
    assert!(stream.end().await.is_some());
    hub.has_refused(SessionRefusal::TooLarge).await;
}

#[tokio::test]
async fn a_message_that_makes_no_sense_is_counted_and_the_stream_goes_on() {
    let mut hub = TestHub::start().await;
    let stream = connected(&mut hub, "u-east", "east").await;
    stream.outbound.send(proto::wire::v1::AgentMessage { body: None }).await.expect("taken");
    stream.say(heartbeat("east", 4)).await;
    let event = hub.event().await;
    assert!(matches!(event, SessionEvent::Heartbeat(_)), "{event:?}");
    assert_eq!(hub.counters.refusals(SessionRefusal::BadMessage), 1);
}

#[tokio::test]
async fn a_flood_of_connections_that_never_speak_stops_nobody() {
    let limits = HandshakeLimits { deadline: Duration::from_secs(60), in_flight: 16 };
    let mut hub = TestHub::with_handshakes(limits).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(TcpStream::connect(hub.address).await.expect("connected"));
    }
    connected(&mut hub, "u-east", "east").await;
    eventually(|| hub.counters.refusals(SessionRefusal::TlsHandshake) >= 84).await;
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_ended_at_the_deadline() {
    let limits = HandshakeLimits { deadline: Duration::from_millis(200), in_flight: 16 };
    let hub = TestHub::with_handshakes(limits).await;
    let mut silent = TcpStream::connect(hub.address).await.expect("connected");
    let read = tokio::time::timeout(federation::PATIENCE, silent.read(&mut [0; 8])).await.expect("an end");
    assert_eq!(read.expect("closed in order"), 0);
    hub.has_refused(SessionRefusal::TlsHandshake).await;
}

#[tokio::test]
async fn a_certificate_renewed_on_disk_is_used_without_a_restart() {
    let mut hub = TestHub::start().await;
    let hour = Duration::from_secs(3600);
    let past = Validity { not_before: SystemTime::now() - 2 * hour, not_after: SystemTime::now() - hour };
    let renew = |hub: &TestHub, validity| {
        let issued = hub.authority.issue(&Identity::Hub, validity).expect("issued");
        issued.write(&hub.folder.path().join("hub"), Existing::Replace).expect("written");
    };
    let agent = hub.agent("u-east");
    renew(&hub, past);
    assert!(open(&hub, &agent).await.is_err(), "the hub still shows its former certificate");
    renew(&hub, Validity::days(1));
    let stream = open(&hub, &agent).await.expect("the renewed certificate is shown");
    stream.say(hello("east")).await;
    assert!(matches!(hub.event().await, SessionEvent::Connected(_)));

    let before = agent.not_after();
    hub.agent_until("u-east", Validity::days(30));
    assert!(agent.not_after() > before, "the agent renews its own as well");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_former_certificate_in_use() {
    let mut hub = TestHub::start().await;
    std::fs::write(hub.folder.path().join("hub/tls.key"), "half a key").expect("written");
    connected(&mut hub, "u-east", "east").await;
}

#[tokio::test]
async fn a_session_ends_when_its_cluster_is_no_longer_known() {
    let mut hub = TestHub::start().await;
    let mut stream = connected(&mut hub, "u-east", "east").await;
    let _west = connected(&mut hub, "u-west", "west").await;
    hub.clusters.send_modify(|known| {
        known.remove("u-east");
    });
    assert_eq!(hub.event().await, SessionEvent::Disconnected(east()));
    assert_eq!(stream.end().await.expect("an end").code(), Code::PermissionDenied);
    assert_eq!(hub.counters.refusals(SessionRefusal::UnknownIdentity), 1);
    eventually(|| hub.counters.open() == 1).await;
}

#[tokio::test]
async fn an_agent_that_does_not_keep_up_loses_replies_first_and_its_session_for_a_command() {
    let mut hub = TestHub::start().await;
    let _slow = connected(&mut hub, "u-east", "east").await;
    // On this thread nothing takes them off the queue while they are sent.
    let deliveries: Vec<_> =
        (0..OUTGOING as u64 + 50).map(|nonce| hub.sessions.send(&east(), reply(nonce))).collect();
    assert_eq!(deliveries.iter().filter(|one| **one == Delivery::Queued).count(), OUTGOING);
    assert_eq!(deliveries.last(), Some(&Delivery::Dropped));
    assert_eq!(hub.counters.open(), 1, "a lost reply is no reason to end a session");
    assert_eq!(hub.sessions.send(&east(), command()), Delivery::Dropped);
    assert_eq!(hub.event().await, SessionEvent::Disconnected(east()));
}

/// One call for an agent's telemetry, and how it is refused.
async fn telemetry_is_refused(hub: &TestHub, uid: &str) -> Code {
    let settings =
        ChannelSettings { connect: PATIENCE, keep_alive_interval: PATIENCE, keep_alive_timeout: PATIENCE };
    let channel = tls::channel(&hub.address.to_string(), &hub.agent(uid), &Identity::Hub, settings).await;
    let batch = TelemetryBatch { signal: Signal::Traces.into(), otlp: Vec::new() };
    let answer = TelemetryClient::new(channel.expect("a connection")).export(batch).await;
    answer.expect_err("a refusal").code()
}

#[tokio::test]
async fn telemetry_is_taken_from_known_clusters_only_and_where_there_is_a_collector() {
    let hub = TestHub::start().await;
    assert_eq!(telemetry_is_refused(&hub, "u-east").await, Code::FailedPrecondition);
    assert_eq!(telemetry_is_refused(&hub, "u-stranger").await, Code::PermissionDenied);
    hub.has_refused(SessionRefusal::UnknownIdentity).await;
}
