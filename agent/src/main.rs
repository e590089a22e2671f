//! The agent: reads its arguments, takes its turn, connects the conversations, and runs until it is told to stop.

use std::net::SocketAddr;
use std::time::Duration;

use agent_core::{Agent, Event, Identity, MemoryRead, Recorded};
use anyhow::Context;
use clap::Parser;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use understudy_agent::args::{Arguments, Command, RunArguments};
use understudy_agent::crash::CrashPoint;
use understudy_agent::driver::{Driver, Inbox};
use understudy_agent::gates::GateAsked;
use understudy_agent::link::{Link, LinkSettings};
use understudy_agent::memory::{self, Remembered};
use understudy_agent::metrics::Metrics;
use understudy_agent::peer::{self, PeerSettings};
use understudy_agent::watches::{self, Watches};
use understudy_agent::{clock, enforcement, gates, identity, relay, site_states, telemetry, witnesses};
use understudy_telemetry::{Health, Relay, failure, serve};

const _: () = assert!(!proto::rule::CAN_BE_SWITCHED_OFF, "what runs in a cluster keeps every safety rule");

/// Events waiting for the core: a watch that lists a thousand objects waits for it rather than growing.
const EVENTS: usize = 1024;
/// Holds waiting for the core; a peer asks again within a renewal period.
const HOLDS: usize = 64;
/// Questions of gates waiting for the core; a gate asks again within a renewal period.
const GATES: usize = 256;
const HUB_CALL: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What is under way when the agent is told to stop may take this long.
const GIVE_BACK: Duration = Duration::from_secs(2);

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
    }
}

async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let pod = std::env::var("POD_NAME").ok();
    let instance = pod.clone().unwrap_or_else(host);
    let (way, batches) = Relay::new();
    let way = arguments.telemetry_by_hub.then_some(way);
    let cluster = arguments.cluster.to_string();
    let telemetry = telemetry::telemetry(&arguments.telemetry, instance.clone(), cluster, way)?;
    let (health, watched_health) = watch::channel(Health::starting());
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if let Some(address) = arguments.telemetry.metrics_listen {
        let (bound, serving) = serve(address, &telemetry, watched_health).await?;
        tracing::info!(%bound, "metrics and health are served");
        tasks.spawn(async move { serving.await.context("serving metrics and health") });
    }
    let stop = CancellationToken::new();
    tasks.spawn(stop_on_signal(stop.clone()));

    let witnesses = witnesses::connect(&arguments.witnesses).await?;
    let credentials = identity::load(arguments.certificate_files(), arguments.trust_domain.clone())?;
    // Not among the tasks that end with the process: what is told then goes this way too.
    let carrying = tokio::spawn(relay::carry(arguments.hub.clone(), credentials.clone(), batches));
    let client = Client::try_default().await.context("connecting to this cluster's API server")?;
    let boot = clock::boot_id(&arguments.boot_id_file)?;
    // A container of a pod starts only after the one before has ended, so the pod holds the turn; without a pod each
    // process is another holder.
    let holder = pod.unwrap_or_else(|| format!("{instance}-{}-{}", std::process::id(), clock::now().0));
    let taken = tokio::select! {
        taken = memory::take_turn(client.clone(), &arguments.namespace, holder) => taken?,
        () = stop.cancelled() => return Ok(()),
    };
    let (turn, remembered) = taken;
    let first = first_event(boot, remembered, site_states::read_all(&client).await?);
    let who = Identity { cluster: arguments.cluster.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let agent = Agent::new(who).relying_on(enforcement::installed()?);
    let (events, events_inbox) = mpsc::channel(EVENTS);
    let (found, scalable) = mpsc::channel(1);
    let (hold, holds) = mpsc::channel(HOLDS);
    let (gate, gates_asking) = mpsc::channel(GATES);
    let (newest_memory, memories) = watch::channel(Default::default());
    let (known_peers, peers) = watch::channel(Default::default());
    let (hello, hello_seen) = watch::channel(agent.hello());
    let (may_call, may_call_seen) = watch::channel(false);
    let settings = LinkSettings { hub: arguments.hub.clone(), rpc: HUB_CALL, longest_pause: LONGEST_PAUSE };
    let (link, sender, link_inbox) = Link::new(settings, credentials.clone(), hello_seen);

    tasks.spawn(memory::keep_writing(turn, memories, events.clone()));
    tasks.spawn(site_states::watch(client.clone(), events.clone()));
    tasks.spawn(watches::discover(client.clone(), found));
    tasks.spawn(enforcement::keep_trying(client.clone(), arguments.namespace.clone(), events.clone()));
    let listener = TcpListener::bind(arguments.peer_listen).await.with_context(|| {
        format!("listening on {}: choose another address with --peer-listen", arguments.peer_listen)
    })?;
    tracing::info!(peer_listen = %listener.local_addr()?, "other clusters' agents are served");
    let metrics = Metrics::new(&telemetry.meter());
    let peer_settings = PeerSettings { calls: metrics.calls(), ..PeerSettings::default() };
    let (served_credentials, until) = (credentials.clone(), stop.clone());
    tasks.spawn(async move {
        let serving = peer::serve(listener, served_credentials, peers, hold, peer_settings, until);
        serving.await.context("serving other clusters' agents")
    });
    serve_gates(arguments.gate_listen, gate, &stop, &mut tasks).await?;
    tasks.spawn(call_the_hub(link, may_call_seen, stop.clone()));
    let wanted_visits = witnesses::begin(witnesses, &arguments.cluster, events.clone(), &mut tasks);
    let driver = Driver {
        agent,
        client: client.clone(),
        credentials,
        link: sender,
        hello,
        memory: newest_memory,
        peers: known_peers,
        watches: Watches::new(client, events),
        metrics,
        crash: CrashPoint::from_environment(),
        may_call_hub: may_call,
        wanted_visits,
    };
    let inbox = Inbox { events: events_inbox, link: link_inbox, holds, gates: gates_asking, scalable };
    tasks.spawn(driver.run(first, inbox, stop.clone()));
    health.send_replace(Health::ready());

    // Whatever ends first ends the process: a part that is missing unnoticed is worse than a restart.
    let ended = tasks.join_next().await;
    let asked = stop.is_cancelled();
    stop.cancel();
    health.send_replace(Health { alive: Err("stopping".to_owned()), ready: Err("stopping".to_owned()) });
    let why = failure(ended, &mut tasks, asked).await;
    give_back(&mut tasks).await;
    telemetry.shutdown().await;
    carrying.abort();
    why
}

fn first_event(boot: String, remembered: Option<Remembered>, sites: Vec<Recorded>) -> Event {
    tracing::info!(
        placements = sites.len(),
        remembered = remembered.is_some(),
        "this agent acts for its cluster"
    );
    let Remembered { boot: remembered_boot, clock_offset, leases, promises, paths } =
        remembered.unwrap_or_default();
    Event::Started(MemoryRead {
        boot,
        wall: clock::wall(),
        remembered_boot: Some(remembered_boot),
        remembered_offset: clock_offset,
        leases: leases.into_iter().collect(),
        promises: promises.into_iter().collect(),
        paths,
        sites,
    })
}

/// A holder from another life of its node stops before it asks anyone.
async fn call_the_hub(
    link: Link,
    mut may_call: watch::Receiver<bool>,
    until: CancellationToken,
) -> anyhow::Result<()> {
    if may_call.wait_for(|may_call| *may_call).await.is_ok() {
        link.run(until).await;
    }
    Ok(())
}

async fn serve_gates(
    address: Option<SocketAddr>,
    questions: mpsc::Sender<GateAsked>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: choose another address with --gate-listen"))?;
    tracing::info!(gate_listen = %listener.local_addr()?, "the gates of this cluster's pods are served");
    tasks.spawn(gates::serve(listener, questions, stop.clone()));
    Ok(())
}

/// The driver ends first, and with it its end of the memory; then the turn is given back, so that the next agent need
/// not wait for it to run out.
async fn give_back(tasks: &mut JoinSet<anyhow::Result<()>>) {
    let ended = async { while tasks.join_next().await.is_some() {} };
    // Watches never end by themselves.
    let _late = tokio::time::timeout(GIVE_BACK, ended).await;
    tasks.shutdown().await;
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "understudy-agent".to_owned(), |name| name.trim().to_owned())
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
