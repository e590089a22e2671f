//! Connections that are not what they claim to be: the hub refuses each, counts it, says so, and nothing else changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::DRCluster;
use crds::cluster::Liveness;
use crds::conditions::ConditionType;
use e2e::federation::links::Carries;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::{until, within};
use kube::Api;
use kube::api::ListParams;
use proto::wire::v1::federation_client::FederationClient;
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{ClusterName, FromAgent, Heartbeat, Hello, Nonce};
use tls::pki::{Authority, Existing, Validity};
use tls::{ChannelSettings, Credentials, Files, Identity, TrustDomain, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const IN_TIME: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_what_it_claims_is_refused_counted_and_changes_nothing() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(1), say.clone()).await?;
    let intruder = Intruder { federation: &federation };

    say("a certificate of another authority");
    let foreign = Authority::create(&trust_domain()?)?;
    let credentials = intruder.certified(&foreign, "agent-of-west", "foreign")?;
    intruder.is_refused("TlsHandshake", "handshake refused", &credentials, vec![hello(WEST)?]).await?;

    say("a certificate of ours, for a cluster that nobody has enrolled");
    let ours = Authority::read(&federation.folder().join("identities").join("ca"))?;
    let credentials = intruder.certified(&ours, "agent-of-north", "unknown")?;
    let said = "call of an unknown identity refused";
    intruder.is_refused("UnknownIdentity", said, &credentials, vec![hello("north")?]).await?;

    say("west's own certificate, and a Hello in east's name");
    let west = load(&federation.folder().join("identities").join(WEST))?;
    let said = "its message names east";
    intruder.is_refused("ForeignCluster", said, &west, vec![hello(EAST)?]).await?;

    say("west's own certificate and Hello, and then a heartbeat in east's name");
    let words = vec![hello(WEST)?, heartbeat(EAST)?];
    intruder.is_refused("ForeignCluster", said, &west, words).await?;

    say("the federation goes on");
    is_as_before(&federation).await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// Connects over the link that west's agent uses.
struct Intruder<'a> {
    federation: &'a Federation,
}

impl Intruder<'_> {
    fn certified(&self, authority: &Authority, uid: &str, folder: &str) -> Result<Credentials> {
        let folder = self.federation.folder().join("intruders").join(folder);
        let issued = authority.issue(&Identity::cluster(uid)?, Validity::days(1))?;
        issued.write(&folder, Existing::Keep)?;
        // It believes the hub, so that the hub is the one who refuses.
        let ca = self.federation.folder().join("identities").join(WEST).join("ca.crt");
        std::fs::copy(&ca, folder.join("ca.crt")).with_context(|| format!("copying {}", ca.display()))?;
        load(&folder)
    }

    /// Says these words, and is refused with this reason: told, counted once, and logged.
    async fn is_refused(
        &self,
        error_type: &str,
        logged: &str,
        credentials: &Credentials,
        words: Vec<FromAgent>,
    ) -> Result<()> {
        let hub = &self.federation.hub;
        let counted = async || refusals(&self.federation.hub.metrics.to_string(), error_type).await;
        let lines = || hub.service.whole_log().map(|log| log.matches(logged).count());
        let (before, lines_before) = (counted().await?, lines()?);
        if let Ok(mut stream) = self.connect(credentials, words).await {
            let end = timeout(IN_TIME, ends(&mut stream)).await.context("the hub let the stream go on")?;
            ensure!(end.code() == tonic::Code::PermissionDenied, "the stream ended with {end}");
        }
        until(&format!("{error_type} is counted"), async || Ok((counted().await? > before).then_some(())))
            .await?;
        // It is counted first, and logged then.
        until(&format!("the log says {logged:?}"), async || Ok((lines()? > lines_before).then_some(())))
            .await?;
        ensure!(counted().await? == before + 1, "{error_type} was counted more than once");
        let more = lines()? - lines_before;
        ensure!(more == 1, "the log says {logged:?} {more} times more");
        Ok(())
    }

    async fn connect(
        &self,
        credentials: &Credentials,
        words: Vec<FromAgent>,
    ) -> Result<Streaming<HubMessage>> {
        let hub = self.federation.links.address(WEST, "hub", Carries::Session)?.to_string();
        let settings =
            ChannelSettings { connect: IN_TIME, keep_alive_interval: IN_TIME, keep_alive_timeout: IN_TIME };
        let mut client = FederationClient::new(channel(&hub, credentials, &Identity::Hub, settings).await?);
        let (outbound, queue) = mpsc::channel::<AgentMessage>(words.len());
        for word in words {
            outbound.send(word.into()).await?;
        }
        // The sender lives on in the background: a stream that ends by itself proves nothing.
        tokio::spawn(async move { outbound.closed().await });
        Ok(timeout(IN_TIME, client.connect(ReceiverStream::new(queue))).await??.into_inner())
    }
}

async fn ends(stream: &mut Streaming<HubMessage>) -> tonic::Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return tonic::Status::ok("the stream ended without a word"),
            Err(status) => return status,
        }
    }
}

fn trust_domain() -> Result<TrustDomain> {
    TrustDomain::parse("dr.example").context("the trust domain of the federation")
}

fn load(folder: &std::path::Path) -> Result<Credentials> {
    Credentials::load(Files::in_folder(folder), trust_domain()?).context("loading a certificate")
}

fn hello(cluster: &str) -> Result<FromAgent> {
    let cluster = ClusterName::parse(cluster)?;
    Ok(FromAgent::Hello(Hello { cluster, version: "intruder".into(), known: Vec::new() }))
}

fn heartbeat(cluster: &str) -> Result<FromAgent> {
    let cluster = ClusterName::parse(cluster)?;
    let (renewals, paths) = (Vec::new(), Vec::new());
    Ok(FromAgent::Heartbeat(Heartbeat { cluster, nonce: Nonce(1), api_write_age: None, renewals, paths }))
}

/// How often the hub says in its metrics that it has refused a stream for this reason.
async fn refusals(metrics: &str, error_type: &str) -> Result<u64> {
    let wanted = format!("error_type=\"{error_type}\"");
    let told = scrape(metrics).await?;
    let line =
        told.lines().find(|line| line.starts_with("understudy_sessions_total{") && line.contains(&wanted));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.map_or(Ok(0), |value| value.parse().with_context(|| format!("reading {line:?}")))
}

async fn scrape(metrics: &str) -> Result<String> {
    let mut stream = TcpStream::connect(metrics).await.context("connecting to the hub's metrics")?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(IN_TIME, stream.read_to_string(&mut answer)).await.context("the metrics did not end")??;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("the hub's metrics answered {:?}", answer.lines().next());
    }
    Ok(answer)
}

async fn is_as_before(federation: &Federation) -> Result<()> {
    let clusters: Api<DRCluster> = Api::all(federation.hub.control_plane.client());
    within(SLOW, "both clusters are live", async || {
        let listed = clusters.list(&ListParams::default()).await?.items;
        let live = |one: &DRCluster| {
            let status = one.status.as_ref();
            status.is_some_and(|it| {
                it.liveness == Some(Liveness::Live) && it.agent_version.as_deref() != Some("intruder")
            })
        };
        Ok((listed.len() == 2 && listed.iter().all(live)).then_some(()))
    })
    .await?;
    federation.await_condition(ConditionType::Ready, "True", SLOW).await?;
    federation.await_condition(ConditionType::FailoverReady, "True", SLOW).await?;
    let operations = federation.operations().await?;
    ensure!(operations.len() == 1, "more than the deployment has happened: {operations:?}");
    let writes = federation.history()?.records().len();
    federation.await_writes(EAST, writes + 50, SLOW).await?;
    let verdict = federation.verdict(EAST).await?;
    ensure!(verdict.holds() && verdict.clusters() == [EAST], "{verdict}");
    Ok(())
}
