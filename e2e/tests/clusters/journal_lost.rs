//! The hub's journal is lost: its successor moves nothing, keeps the lease going, and says how to begin anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::cluster::{DRCluster, Liveness};
use crds::conditions::ConditionType;
use crds::operation::OperationKind;
use crds::placement::{DRPlacement, Phase};
use crds::site_state::{DRSiteState, SiteRole};
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW};
use e2e::patience::within;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn without_its_journal_the_hub_moves_nothing_and_adopts_the_application_anew_when_told_to() -> Result<()>
{
    // Hub and agents start at once, on a machine that may be busy.
    let federation = Federation::protected(Options::unhurried(2), progress()).await?;
    let before = Scene::of(&federation).await?;
    lose_the_journal(&federation).await?;
    let asked = needs_a_human(&federation).await?;
    ensure!(
        asked.contains("delete the DRPlacement") && asked.contains("create it anew"),
        "no remedy: {asked}"
    );

    east_is_granted_its_lease(&federation).await?;
    stays("the application runs on at east", WAIT, async || before.goes_on(&federation).await).await?;
    federation.await_further_writes(EAST, 50, SLOW).await?;
    nothing_was_moved(&federation).await?;

    // The remedy, as it is printed.
    federation.placements().delete(&before.placement, &DeleteParams::default()).await?;
    is_gone(&federation, &before.placement).await?;
    federation.protect().await?;
    federation.await_protected().await?;
    let anew = federation.placement().await?;
    let active = anew.status.as_ref().and_then(|status| status.active_cluster.as_deref());
    ensure!(active == Some(EAST), "it was adopted at {active:?}, and runs at east");
    ensure!(condition_of(&anew, ConditionType::Stalled).is_none(), "it still asks for a human");

    before.runs_on(&federation).await?;
    nothing_was_moved(&federation).await?;
    let verdict = federation.verdict(EAST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_journal_the_hub_does_not_replace_a_lost_site() -> Result<()> {
    let federation = Federation::protected(Options::unhurried(2), progress()).await?;
    lose_the_journal(&federation).await?;
    needs_a_human(&federation).await?;
    east_is_granted_its_lease(&federation).await?;

    let loss = federation.lose(EAST)?;
    within(SLOW, "the hub misses east", async || Ok(misses(&federation, EAST).await?.then_some(()))).await?;
    stays("nothing is promoted at west", WAIT * 3 / 2, async || {
        let promoted = loss.promotions.seen();
        ensure!(promoted.is_empty(), "promoted at west: {promoted:?}");
        federation.hub.service.still_runs()?;
        federation.west.agent.still_runs()
    })
    .await?;
    nothing_was_moved(&federation).await?;
    needs_a_human(&federation).await?;
    Ok(())
}

/// W of the federation's timing: (ttl + stop), stretched by what a clock may be wrong, rounded up.
const WAIT: Duration = Duration::from_millis(19_500);
/// Writes come every 20 ms; a stop and a start take the grace of one second at least.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The writer, the array and its disk each may be late as often as a bystander is.
const STALLS_IN_A_WRITE: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Hub and agents are killed, the journal's disk is lost, and all start again.
async fn lose_the_journal(federation: &Federation) -> Result<()> {
    federation.hub.kill9();
    federation.hub.empty_journal()?;
    federation.east.agent.start()?;
    federation.west.agent.start()?;
    federation.hub.start().await
}

/// Waits until the placement says so, in phase and condition, and returns what it says.
async fn needs_a_human(federation: &Federation) -> Result<String> {
    let asks = |placement: &DRPlacement| {
        let phase = placement.status.as_ref().and_then(|status| status.phase);
        phase == Some(Phase::NeedsHuman) && stalled(placement).is_some()
    };
    let placement = federation.await_placement("it needs a human", SLOW, asks).await?;
    stalled(&placement).context("it is not stalled any more")
}

fn stalled(placement: &DRPlacement) -> Option<String> {
    let condition = condition_of(placement, ConditionType::Stalled)?;
    (condition.status == "True" && condition.reason == "NeedsHuman").then(|| condition.message.clone())
}

/// Looks again and again for as long as that, and fails as soon as it is not so.
async fn stays(what: &str, span: Duration, look: impl AsyncFn() -> Result<()>) -> Result<()> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        look().await.with_context(|| format!("this did not stay so for {span:?}: {what}"))?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn is_gone(federation: &Federation, placement: &str) -> Result<()> {
    let gone = within(SLOW, "the DRPlacement is gone", async || {
        Ok(federation.placements().get_opt(placement).await?.is_none().then_some(()))
    });
    match gone.await {
        Ok(()) => Ok(()),
        Err(error) => Err(federation.diagnosis(&format!("{error:#}")).await),
    }
}

async fn misses(federation: &Federation, cluster: &str) -> Result<bool> {
    let clusters: Api<DRCluster> = Api::all(federation.hub.control_plane.client());
    let liveness = clusters.get(cluster).await?.status.and_then(|status| status.liveness);
    Ok(liveness.is_some_and(|liveness| match liveness {
        Liveness::Suspected | Liveness::Lost => true,
        Liveness::Unheard | Liveness::Live => false,
    }))
}

/// No operation but deployments, no VolumeReplication at west, and no call to its array that would make one primary.
async fn nothing_was_moved(federation: &Federation) -> Result<()> {
    let operations = federation.operations().await?;
    let moved: Vec<_> =
        operations.iter().filter(|operation| moves(operation.spec.kind)).map(ResourceExt::name_any).collect();
    ensure!(moved.is_empty(), "something was moved: {moved:?}");

    let kind = GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
    let kind = ApiResource::from_gvk(&kind);
    let client = federation.west.control_plane.client();
    let replications: Api<DynamicObject> =
        Api::namespaced_with(client, &federation.options.application.namespace, &kind);
    let made: Vec<_> =
        replications.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    ensure!(made.is_empty(), "VolumeReplications were made at west: {made:?}");
    let promoted = federation.west.calls()?.iter().any(|call| call.method == "PromoteVolume");
    ensure!(!promoted, "west's array was told to promote");
    Ok(())
}

fn moves(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Deploy | OperationKind::Release => false,
        OperationKind::FailOver
        | OperationKind::Readopt
        | OperationKind::Migrate
        | OperationKind::FailBack
        | OperationKind::Resync => true,
    }
}

async fn east_is_granted_its_lease(federation: &Federation) -> Result<()> {
    let granted = async || Ok(granted_until(federation, EAST).await.ok());
    within(SLOW, "east is granted its lease", granted).await.map(|_| ())
}

/// When the newest lease ends that this hub has granted to the cluster, as its metrics say.
async fn granted_until(federation: &Federation, cluster: &str) -> Result<Timestamp> {
    let told = scrape(&federation.hub.metrics.to_string()).await?;
    let of_cluster = format!("cluster=\"{cluster}\"");
    let line = told
        .lines()
        .find(|line| line.starts_with("understudy_lease_expiry_time_seconds{") && line.contains(&of_cluster));
    let line = line.with_context(|| format!("the hub has granted nothing to {cluster}"))?;
    let seconds = line.rsplit(' ').next().unwrap_or_default();
    let seconds: f64 = seconds.parse().with_context(|| format!("reading {line:?}"))?;
    let since_epoch =
        SignedDuration::try_from_secs_f64(seconds).with_context(|| format!("reading {line:?}"))?;
    Timestamp::from_duration(since_epoch).with_context(|| format!("reading {line:?}"))
}

async fn scrape(metrics: &str) -> Result<String> {
    let mut stream = TcpStream::connect(metrics).await.context("connecting to the hub's metrics")?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(SLOW, stream.read_to_string(&mut answer)).await.context("the metrics did not end")??;
    ensure!(answer.starts_with("HTTP/1.1 200"), "the hub's metrics answered {:?}", answer.lines().next());
    Ok(answer)
}

/// East's pods by their uids, and how often their containers were started again.
async fn pods(federation: &Federation) -> Result<BTreeMap<String, i32>> {
    let client = federation.east.control_plane.client();
    let pods: Api<Pod> = Api::namespaced(client, &federation.options.application.namespace);
    let starts = |pod: &Pod| {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        containers.map(|container| container.restart_count).sum()
    };
    let listed = pods.list(&ListParams::default()).await?;
    Ok(listed.iter().filter_map(|pod| Some((pod.uid()?, starts(pod)))).collect())
}

/// How things stood while all was well.
struct Scene {
    placement: String,
    uid: String,
    pods: BTreeMap<String, i32>,
    writes: usize,
    bystander: Bystander,
}

impl Scene {
    async fn of(federation: &Federation) -> Result<Scene> {
        let placement = federation.placement().await?;
        Ok(Scene {
            placement: placement.name_any(),
            uid: placement.uid().context("a uid")?,
            pods: pods(federation).await?,
            writes: federation.history()?.records().len(),
            bystander: Bystander::start(federation.folder())?,
        })
    }

    /// The longest time since then in which the application acknowledged nothing, and when it began.
    fn longest_pause(&self, federation: &Federation) -> Result<(Duration, Timestamp)> {
        let history = federation.history()?;
        let since: Vec<_> = history.records().iter().skip(self.writes).collect();
        let pauses = since.windows(2).map(|pair| {
            let pause = pair[1].boot_nanoseconds.saturating_sub(pair[0].boot_nanoseconds);
            (Duration::from_nanos(pause), pair[0].written)
        });
        pauses.max().context("nothing was written since")
    }

    /// East is granted its lease by the hub, so it says Holder, its pods are the same, and they write without a pause.
    async fn goes_on(&self, federation: &Federation) -> Result<()> {
        let client = federation.east.control_plane.client();
        let states: Api<DRSiteState> = Api::namespaced(client, &federation.options.application.namespace);
        let role = states.get(&self.uid).await?.spec.role;
        ensure!(role == SiteRole::Holder, "east is {}", role.as_str());
        let (until, now) = (granted_until(federation, EAST).await?, Timestamp::now());
        ensure!(until > now, "the hub's last grant to east ended at {until}, and it is {now}");
        self.runs_on(federation).await
    }

    async fn runs_on(&self, federation: &Federation) -> Result<()> {
        let now = pods(federation).await?;
        ensure!(self.pods == now, "east's pods were {:?}, and are {now:?}", self.pods);
        let (pause, since) = self.longest_pause(federation)?;
        let stall = self.bystander.longest_stall();
        let allowed = LONGEST_PAUSE + stall * STALLS_IN_A_WRITE;
        ensure!(pause < allowed, "no write for {pause:?} from {since} on; a bystander stalled for {stall:?}");
        federation.hub.service.still_runs()?;
        federation.east.agent.still_runs()
    }
}

/// Writes a line to the disk of the array, as often as the application writes: how much later it gets to it is the
/// machine's doing, and nobody else's. It ends with the test.
#[derive(Default)]
struct Bystander {
    longest_milliseconds: Arc<AtomicU64>,
}

impl Bystander {
    fn start(folder: &Path) -> Result<Bystander> {
        let bystander = Bystander::default();
        let longest = Arc::downgrade(&bystander.longest_milliseconds);
        let mut lines = File::create(folder.join("bystander")).context("making the bystander's file")?;
        std::thread::spawn(move || {
            let mut began = Instant::now();
            while let Some(longest) = longest.upgrade() {
                std::thread::sleep(Duration::from_millis(20));
                if let Err(error) = writeln!(lines, "{began:?}") {
                    return eprintln!("the bystander cannot write: {error}");
                }
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                longest.fetch_max(took, Ordering::Relaxed);
                began = Instant::now();
            }
        });
        Ok(bystander)
    }

    fn longest_stall(&self) -> Duration {
        Duration::from_millis(self.longest_milliseconds.load(Ordering::Relaxed))
    }
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
