//! How long a scrape takes of a hub that looks after 1,000 placements of five volumes: over HTTP, optimized. `cargo scrape`
//!
//! Told are the time that went by and the processor's part in it, which neighbours on the machine do not lengthen as much; it
//! decides. The bound is ours, for the whole of a scrape.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::cluster::Liveness;
use crds::conditions::{ConditionType, Reason};
use crds::operation::{DROperationSpec, DROperationStatus, OperationKind, OperationPhase};
use crds::placement::DRPlacementStatus;
use hub_core::decision::{Explanation, Send};
use hub_core::explain::{Figures, OperationView, PlacementView, SiteReport, SyncCost};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use proto::{
    ClusterName, Epoch, Fencing, FromHub, Generation, Grant, Mark, Nonce, OnSilence, OperationId,
    PlacementId, PlacementName, Policy, Reply, Term, Timing, WallTime,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use understudy_hub::metrics::Metrics;
use understudy_telemetry::{Arguments, Health, Service, Telemetry, build, serve};

const PLACEMENTS: usize = 1_000;
const VOLUMES: usize = 5;
/// As docs/metrics.md counts them: its own, its conditions, and those of its volumes.
const SERIES_OF_A_PLACEMENT: usize = 6 + CONDITIONS.len() + 4 * VOLUMES;
const CONDITIONS: [(ConditionType, Reason); 5] = [
    (ConditionType::Ready, Reason::Protected),
    (ConditionType::Available, Reason::WorkloadReady),
    (ConditionType::Protected, Reason::InSync),
    (ConditionType::FailoverReady, Reason::AllChecksPass),
    (ConditionType::AutomaticFailoverArmed, Reason::Armed),
];
const SCRAPES: usize = 100;
/// What a scrape may take.
const BOUND: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    let runtime = Runtime::new().context("starting the runtime")?;
    let (telemetry, metrics) = hub()?;
    let of_none = series(&telemetry.scrape());
    let first = Span::of(|| tell_the_fleet(&metrics))?;
    let again = Span::of(|| tell_the_fleet(&metrics))?;
    let address = listen(&runtime, &telemetry)?;
    let text = scrape(address)?;
    let shown = series(&text) - of_none;
    ensure!(shown == PLACEMENTS * SERIES_OF_A_PLACEMENT, "{shown} series are not as documented");
    let mut spans =
        (0..SCRAPES).map(|_| Span::of(|| scrape(address).map(drop))).collect::<Result<Vec<_>>>()?;

    println!("{PLACEMENTS} placements of {VOLUMES} volumes: {shown} series, {} bytes", text.len());
    println!("taken in: {first}; each once more, as after a change of all: {again}");
    spans.sort_by_key(|span| span.elapsed);
    println!("{SCRAPES} scrapes over HTTP: median {}, worst {}", middle(&spans), spans[SCRAPES - 1]);
    spans.sort_by_key(|span| span.processor);
    let processor = middle(&spans).processor;
    println!("the processor's time: median {processor:.1?}, worst {:.1?}", spans[SCRAPES - 1].processor);
    ensure!(processor <= BOUND, "a scrape takes longer than {BOUND:?}");
    Ok(())
}

/// How long something took, and the processors' time in it, of all threads of this process.
#[derive(Clone, Copy)]
struct Span {
    elapsed: Duration,
    processor: Duration,
}

impl Span {
    fn of(what: impl FnOnce() -> Result<()>) -> Result<Span> {
        let (began, processor) = (Instant::now(), processor_time());
        what()?;
        Ok(Span { elapsed: began.elapsed(), processor: processor_time().saturating_sub(processor) })
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?} ({:.1?} of the processor)", self.elapsed, self.processor)
    }
}

fn middle(sorted: &[Span]) -> Span {
    sorted[sorted.len() / 2]
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn hub() -> Result<(Telemetry, Metrics)> {
    let service = Service { name: "understudy-hub", version: "0", instance: "0".into(), cluster: None };
    let arguments = Arguments { log: "off".into(), ..Arguments::default() };
    let (telemetry, _log) = build(&service, &arguments)?;
    let metrics = Metrics::new(&telemetry.meter());
    metrics.leads(Term(1));
    for name in ["east", "west"] {
        metrics.explain(&Explanation::Site(SiteReport {
            cluster: ClusterName::parse(name)?,
            liveness: Liveness::Live,
            last_heartbeat: Some(WallTime(7_500)),
            version: String::new(),
        }));
    }
    Ok((telemetry, metrics))
}

fn listen(runtime: &Runtime, telemetry: &Telemetry) -> Result<SocketAddr> {
    let (_, health) = watch::channel(Health::ready());
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let (address, serving) = runtime.block_on(serve(free, telemetry, health)).context("listening")?;
    runtime.spawn(serving);
    Ok(address)
}

/// On a connection of its own, until the last byte.
fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    let (_headers, text) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(text.to_owned())
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// What the core explains of each placement when everything of it has changed, and the lease that it is granted.
fn tell_the_fleet(metrics: &Metrics) -> Result<()> {
    let east = ClusterName::parse("east")?;
    for number in 0..PLACEMENTS {
        let id = PlacementId::parse(&format!("0b54c2e8-5f0e-4f5b-9b7e-{number:012}"))?;
        let name = PlacementName::parse("online-shop", &format!("web-frontend-{number}"))?;
        metrics.explain(&deployed(&id, &name)?);
        metrics.explain(&placement(&id, &name, &east)?);
        metrics.sent(&grant(&id, &east), WallTime(10_000));
    }
    Ok(())
}

fn placement(id: &PlacementId, name: &PlacementName, active: &ClusterName) -> Result<Explanation> {
    let claims = || (0..VOLUMES).map(|number| format!("data-of-the-shop-{number}"));
    let cost = SyncCost { bytes: Some(4096), took: Some(Duration::from_millis(1_234)) };
    let since = Time(Timestamp::from_second(0)?);
    let condition = |(kind, reason): (ConditionType, Reason)| Condition {
        type_: kind.as_str().to_owned(),
        status: "True".to_owned(),
        reason: reason.as_str().to_owned(),
        message: "a sentence for humans of the usual length".to_owned(),
        observed_generation: Some(1),
        last_transition_time: since.clone(),
    };
    let status = DRPlacementStatus {
        conditions: CONDITIONS.into_iter().map(condition).collect(),
        ..DRPlacementStatus::default()
    };
    Ok(Explanation::Placement(Box::new(PlacementView {
        id: id.clone(),
        name: name.clone(),
        generation: Generation(1),
        status,
        figures: Figures {
            active: Some(active.clone()),
            expected_loss: Some(Duration::from_secs(30)),
            expected_rto: Duration::from_secs(110),
            last_syncs: claims().map(|claim| (claim, Some(WallTime(5_000)))).collect(),
            last_sync_costs: claims().map(|claim| (claim, cost)).collect(),
            bound: Some(Duration::from_secs(600)),
        },
        waiting: None,
    })))
}

/// Its deployment has ended, so that it has a last move.
fn deployed(id: &PlacementId, name: &PlacementName) -> Result<Explanation> {
    let status = DROperationStatus {
        phase: Some(OperationPhase::Succeeded),
        finished: Some(MicroTime(Timestamp::from_second(100)?)),
        ..DROperationStatus::default()
    };
    let spec = DROperationSpec {
        placement: name.name.clone(),
        kind: OperationKind::Deploy,
        from: None,
        to: Some("east".to_owned()),
        epoch: 1,
    };
    Ok(Explanation::Operation(Box::new(OperationView {
        placement: id.clone(),
        name: name.clone(),
        operation: OperationId(format!("{}-deploy-1", name.name)),
        spec,
        status,
    })))
}

fn grant(placement: &PlacementId, to: &ClusterName) -> Send {
    let policy = Policy {
        generation: Generation(1),
        timing: Timing::FAST,
        on_silence: OnSilence::Stop,
        fencing: Fencing::SelfFence,
    };
    let grant = Grant { placement: placement.clone(), epoch: Epoch(1), policy, tickets: Vec::new() };
    let reply = Reply {
        term: Term(1),
        nonce: Nonce(1),
        mark: Mark::default(),
        grants: vec![grant],
        denials: Vec::new(),
    };
    Send { to: to.clone(), message: FromHub::Reply(reply) }
}
