//! The hub alone, over either protocol: what it holds is bounded in number and in memory, what it drops is counted, and it ends
//! when it is told to.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::federation::service::Service;
use e2e::patience::{PATIENCE, until};
use e2e::programs::Programs;
use serde_json::json;
use tempfile::TempDir;
use tls::pki::{Authority, Existing, Validity};
use tls::{Identity, TrustDomain};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::collector::{Collector, Habit, Protocol, own_address};
use super::ending::Ending;
use super::flood::{HELD, counted, knock, memory};

const TRUST_DOMAIN: &str = "dr.example";
/// Fills every queue.
const ENOUGH: usize = 2 * HELD;
/// Far more than is held.
const FAR_MORE: usize = 4 * HELD;
/// What the memory may have grown by after far more. If it were held, it would be several times this.
const GROWTH: usize = 2 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_holds_no_more_than_its_queues_and_ends_in_time_whatever_the_collector_does() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let hub = hub().await?;
    let story = async |protocol| {
        let mut bench = Bench::lay(&hub, protocol, &[]).await?;
        let usual = bench.end_with_a_good_collector().await?;
        for habit in Habit::BAD {
            bench.ensure_harmless(habit, usual).await.with_context(|| format!("{habit:?}, {protocol:?}"))?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(Box::pin(story(Protocol::Grpc)), Box::pin(story(Protocol::Http))).map(drop)
}

/// A question that the system asks on a thread of its own is not to be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_ends_in_time_while_nobody_says_where_the_collector_is() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().context("making a folder")?;
    let server = own_address().ip();
    let silent = UdpSocket::bind((server, 53)).await.context("listening for questions")?;
    let bench = Bench::lay(&hub().await?, Protocol::Http, &asking(server, folder.path())?).await?;
    bench.start(&[]).await?;
    let usual = Ending::of(&bench.hub).await?;
    bench.start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4317")]).await?;
    timeout(PATIENCE, silent.recv_from(&mut [0; 512])).await.context("where is it?")??;
    let ending = Ending::of(&bench.hub).await?;
    eprintln!("ended in {:?}, usually in {:?}", ending.took, usual.took);
    ending.ensure_hardly_delayed(usual)
}

/// A command line that becomes another one, which asks this server for every name, and a long time.
fn asking(server: IpAddr, folder: &Path) -> Result<Vec<String>> {
    let settings = folder.join("resolv.conf");
    let lines = format!("nameserver {server}\noptions timeout:30 attempts:1\n");
    std::fs::write(&settings, lines).context("writing resolv.conf")?;
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", settings.display());
    Ok(["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec())
}

async fn hub() -> Result<PathBuf> {
    let built = tokio::task::spawn_blocking(|| Programs::ensure(|doing| eprintln!("{doing}")));
    Ok(built.await.context("the build ended")??.hub)
}

/// A hub that nobody else speaks to.
struct Bench {
    hub: Service,
    door: SocketAddr,
    metrics: SocketAddr,
    collector: Collector,
    _folder: TempDir,
}

impl Bench {
    async fn lay(program: &Path, protocol: Protocol, through: &[String]) -> Result<Bench> {
        let collector = Collector::start(protocol).await?;
        let folder = tempfile::tempdir().context("making a folder")?;
        let file = |name: &str| folder.path().join(name);
        issue_identity(&file("identity"))?;
        std::fs::write(file("kubeconfig"), nowhere().to_string()).context("writing the kubeconfig")?;
        std::fs::create_dir(file("journal")).context("making the journal's folder")?;
        let beside = |ports| SocketAddr::new(collector.address.ip(), collector.address.port() + ports);
        let (door, metrics) = (beside(1_000), beside(2_000));
        let named = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
        let hub = Service::new("hub", program, &file("hub.log"), |launch| {
            launch
                .through(through)
                .arguments(["run", "--failure-domain=third"])
                .arguments([format!("--listen={door}"), format!("--metrics-listen={metrics}")])
                .arguments([format!("--trust-domain={TRUST_DOMAIN}"), named("journal", "journal")])
                .arguments([named("cert", "identity/tls.crt"), named("key", "identity/tls.key")])
                .argument(named("ca", "identity/ca.crt"))
                .environment("KUBECONFIG", file("kubeconfig"))
        });
        Ok(Bench { hub, door, metrics, collector, _folder: folder })
    }

    /// The last word of the environment counts.
    async fn start(&self, beside: &[(&str, &str)]) -> Result<()> {
        let environment = self.collector.environment();
        let environment = environment.iter().map(|(name, value)| (*name, value.as_str()));
        self.hub.start_with(&environment.chain(beside.iter().copied()).collect::<Vec<_>>())?;
        until("the hub listens", async || {
            self.hub.still_runs()?;
            Ok(TcpStream::connect(self.door).await.is_ok().then_some(()))
        })
        .await
    }

    async fn end_with_a_good_collector(&self) -> Result<Ending> {
        self.start(&[]).await?;
        knock(self.door, ENOUGH).await?;
        until("the collector takes records", async || {
            Ok((self.collector.taken("understudy-hub", "").records > 0).then_some(()))
        })
        .await?;
        Ending::of(&self.hub).await
    }

    async fn ensure_harmless(&mut self, habit: Habit, usual: Ending) -> Result<()> {
        self.collector.behave(habit).await?;
        self.start(&[]).await?;
        knock(self.door, ENOUGH).await?;
        let before = memory(&self.hub)?;
        knock(self.door, FAR_MORE).await?;
        let grown = memory(&self.hub)?.saturating_sub(before);
        let told = ENOUGH + FAR_MORE;
        // The last strangers may have been told of by now, or not.
        let lost = until("what is not held is counted as lost", async || {
            let lost = counted(self.metrics, "understudy_telemetry_lost_total", r#"signal="logs""#).await?;
            Ok((lost + HELD >= told).then_some(lost))
        })
        .await?;
        let ending = Ending::of(&self.hub).await?;
        let took = ending.took;
        eprintln!("{habit:?}: {lost} of {told} lost, {before} and {grown} more bytes, ended in {took:?}");
        ensure!(grown <= GROWTH, "{before} bytes grew by {grown}");
        ending.ensure_hardly_delayed(usual)
    }
}

fn issue_identity(folder: &Path) -> Result<()> {
    let authority = Authority::create(&TrustDomain::parse(TRUST_DOMAIN)?)?;
    authority.issue(&Identity::Hub, Validity::days(1))?.write(folder, Existing::Keep)?;
    Ok(())
}

/// An API server that is not there: the hub asks it again and again.
fn nowhere() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "default", "user": {}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
    })
}
