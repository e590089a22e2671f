//! The hub: reads its arguments, opens its journal, connects the conversations, and runs until it is told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use hub_core::witness::Witness;
use hub_core::{Hub, Settings};
use tls::Credentials;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use understudy_hub::args::{Arguments, Command, RunArguments};
use understudy_hub::audit::Audit;
use understudy_hub::crash::CrashPoint;
use understudy_hub::driver::Driver;
use understudy_hub::journal_store::JournalStore;
use understudy_hub::metrics::Metrics;
use understudy_hub::sessions::{SessionCounters, SessionRefusal, SessionSettings, Sessions};
use understudy_hub::traces::Traces;
use understudy_hub::{approvals, clock, identity, pki, placements, status_writer, telemetry, witnesses};
use understudy_telemetry::{Health, failure, serve};
use witness::WitnessSettings;

const _: () = assert!(!proto::rule::CAN_BE_SWITCHED_OFF, "what runs in a cluster keeps every safety rule");

/// Wishes waiting for the core: a watch that lists a thousand placements waits for it rather than growing.
const WISHES: usize = 256;
/// Explanations waiting for the status writer, which takes them at once.
const TOLD: usize = 4096;
/// Reads waiting for the reader.
const READS: usize = 64;
const COUNT_EVERY: Duration = Duration::from_millis(500);

fn main() -> anyhow::Result<()> {
    // A second call would mean a second provider, which the dependencies rule out.
    let _first = rustls::crypto::ring::default_provider().install_default();
    match Arguments::parse().command {
        Command::Run(arguments) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let why = runtime.block_on(run(*arguments));
            // A name server that does not answer keeps a thread for half a minute, which nobody has to wait for.
            runtime.shutdown_background();
            why
        }
        Command::Pki(command) => pki::run(command),
    }
}

async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let instance = std::env::var("POD_NAME").unwrap_or_else(|_| arguments.hub_name.clone());
    let telemetry = telemetry::telemetry(&arguments.telemetry, instance, None)?;
    let (health, watched_health) = watch::channel(Health::starting());
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if let Some(address) = arguments.telemetry.metrics_listen {
        let (bound, serving) = serve(address, &telemetry, watched_health).await?;
        tracing::info!(%bound, "metrics and health are served");
        tasks.spawn(async move { serving.await.context("serving metrics and health") });
    }
    let stop = CancellationToken::new();
    tasks.spawn(stop_on_signal(stop.clone()));

    arguments.check_witnesses()?;
    let credentials = identity::load(arguments.certificate_files(), arguments.trust_domain.clone())?;
    let opened = Instant::now();
    let (journal, replayed) = JournalStore::open(&arguments.journal, &arguments.hub_name, clock::now().wall)?;
    tracing::info!(lines = replayed.lines.len(), fresh = replayed.fresh, "the journal is open");
    let replay = opened.elapsed();
    let settings = Settings {
        steady_after: arguments.steady_after,
        moves_at_once: arguments.moves_at_once,
        witnesses: arguments.witnesses.iter().map(configured).collect(),
        ..Settings::new(&arguments.hub_name, &arguments.failure_domain)
    };
    let witnesses = witnesses::connect(&arguments.witnesses).await?;
    let (hub, first) = Hub::start(settings, clock::now(), &replayed.lines, replayed.remembered);

    let client = kube::Client::try_default().await.context("connecting to the hub's own API server")?;
    let (known, clusters) = watch::channel(Default::default());
    let (sessions, inbox) = Sessions::new(clusters);
    let (wish, wishes) = mpsc::channel(WISHES);
    let (tell, told) = mpsc::channel(TOLD);
    let (want_read, wanted_reads) = mpsc::channel(READS);
    tasks.spawn(placements::watch_placements(client.clone(), wish.clone()));
    tasks.spawn(placements::watch_clusters(client.clone(), wish.clone(), known));
    tasks.spawn(approvals::watch_approvals(client.clone(), wish.clone()));
    tasks.spawn(placements::verify_placements(client.clone(), wanted_reads, wish.clone()));
    tasks.spawn(status_writer::run(client, told));

    let listener = TcpListener::bind(arguments.listen).await.with_context(|| {
        format!("listening on {}: choose another address with --listen", arguments.listen)
    })?;
    tracing::info!(listen = %listener.local_addr()?, term = hub.term().0, "the hub is up");
    let metrics = Metrics::new(&telemetry.meter());
    metrics.leads(hub.term());
    metrics.replayed(replay, replayed.lines.iter().map(|line| &line.entry));
    let mut traces = Traces::new(telemetry.spans());
    traces.replayed(replayed.lines.iter());
    let mut audit = Audit::default();
    audit.replayed(replayed.lines.iter());
    tasks.spawn(count_refusals(sessions.counters(), credentials.clone(), metrics.clone()));
    let (served, calls, until) = (sessions.clone(), metrics.calls(), stop.clone());
    let pass_on = telemetry.pass_on();
    let serving_credentials = credentials.clone();
    tasks.spawn(async move {
        let settings = SessionSettings { calls, pass_on, ..SessionSettings::default() };
        served.serve(listener, serving_credentials, settings, until).await.context("serving the agents")
    });
    let mut wanted_visits = BTreeMap::new();
    for witness in witnesses {
        let (want, wanted) = mpsc::channel(witnesses::VISITS);
        wanted_visits.insert(witness.name().to_owned(), want);
        tasks.spawn(witnesses::attend(witness, wanted, wish.clone(), metrics.clone()));
    }
    let driver = Driver {
        hub,
        journal,
        sessions,
        credentials,
        told: tell,
        wanted_reads: want_read,
        wanted_visits,
        metrics,
        traces,
        audit,
        crash: CrashPoint::from_environment(),
    };
    tasks.spawn(driver.run(first, wishes, inbox, arguments.tick, stop.clone()));
    health.send_replace(Health::ready());

    // Whatever ends first ends the process: a part that is missing unnoticed is worse than a restart.
    let ended = tasks.join_next().await;
    let asked = stop.is_cancelled();
    stop.cancel();
    health.send_replace(Health { alive: Err("stopping".to_owned()), ready: Err("stopping".to_owned()) });
    let why = failure(ended, &mut tasks, asked).await;
    tasks.shutdown().await;
    telemetry.shutdown().await;
    why
}

fn configured(settings: &WitnessSettings) -> Witness {
    Witness { name: settings.name.clone(), failure_domain: settings.failure_domain.clone() }
}

/// Carries over to the metrics what nobody tells them: the sessions' own counts, and a certificate that was renewed.
async fn count_refusals(
    counters: Arc<SessionCounters>,
    credentials: Arc<Credentials>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut told = SessionRefusal::ALL.map(|reason| (reason, 0));
    let mut often = tokio::time::interval(COUNT_EVERY);
    loop {
        often.tick().await;
        metrics.certificate_ends(credentials.not_after());
        for (reason, known) in &mut told {
            let now = counters.refusals(*reason);
            (*known..now).for_each(|_| metrics.session_refused(reason.as_str()));
            *known = now;
        }
    }
}

async fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to stop"),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    stop.cancel();
    Ok(())
}
