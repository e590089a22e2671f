//! The one loop that owns the agent: events in, decisions out, in the order in which they were made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_core::decision::Memory;
use agent_core::{
    Agent, AskId, Decision, Effect, Event, Followed, HoldAsk, Note, Point, Probe, WitnessVisit,
};
use kube::Client;
use kube::api::ApiResource;
use proto::{ClusterName, FromAgent, Hello, HoldAnswer, PlacementId, StepKind};
use tls::Credentials;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use understudy_telemetry::{SetTraceParent, current_trace};

use crate::crash::CrashPoint;
use crate::gates::{GateAsked, Waiting, seal};
use crate::link::{LinkEvent, LinkSender};
use crate::metrics::{Metrics, PlacementSnapshot, Snapshot};
use crate::peer::{self, HoldAsked, KnownPeers};
use crate::watches::Watches;
use crate::{apply, clock, probes, site_states};

/// No wait in the core is cut finer than this; the protocol's `stop` allows for a tick of 100 ms.
const TICK: Duration = Duration::from_millis(25);
/// Requests to the API server at the same time: enough for a placement of many volumes, few enough to leave it room.
const REQUESTS: usize = 32;
/// Messages that the link does not take at the moment. Beyond this the oldest is dropped, and said again at the next
/// connection.
const BACKLOG: usize = 8192;
const SNAPSHOT_EVERY: Duration = Duration::from_millis(500);

pub struct Driver {
    pub agent: Agent,
    pub client: Client,
    pub credentials: Arc<Credentials>,
    pub link: LinkSender,
    pub hello: watch::Sender<Hello>,
    pub memory: watch::Sender<Memory>,
    pub peers: watch::Sender<KnownPeers>,
    pub watches: Watches,
    pub metrics: Metrics,
    pub crash: Option<CrashPoint>,
    /// Ends the wait before the hub is called.
    pub may_call_hub: watch::Sender<bool>,
    /// To the visitor of the witnesses, where there are any; a full queue means that a visit is under way.
    pub wanted_visits: mpsc::Sender<WitnessVisit>,
}

pub struct Inbox {
    /// Watches, memory, whatever the edge has seen.
    pub events: mpsc::Receiver<Event>,
    pub link: mpsc::Receiver<LinkEvent>,
    pub holds: mpsc::Receiver<HoldAsked>,
    pub gates: mpsc::Receiver<GateAsked>,
    pub scalable: mpsc::Receiver<Vec<ApiResource>>,
}

struct Running {
    /// Requests and questions under way; each ends by its own deadline, with events.
    tasks: JoinSet<Ended>,
    requests: Arc<Semaphore>,
    asking: BTreeMap<AskId, oneshot::Sender<HoldAnswer>>,
    asked: u64,
    gates: Waiting,
    probing: BTreeSet<ClusterName>,
    backlog: VecDeque<FromAgent>,
    followed: Followed,
    spans: BTreeMap<PlacementId, Span>,
    snapshot_due: Instant,
}

/// What a task has left behind.
struct Ended {
    events: Vec<Event>,
    probed: Option<ClusterName>,
}

impl From<Vec<Event>> for Ended {
    fn from(events: Vec<Event>) -> Ended {
        Ended { events, probed: None }
    }
}

impl Driver {
    pub async fn run(
        mut self,
        first: Event,
        mut inbox: Inbox,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut running = Running {
            tasks: JoinSet::new(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            asking: BTreeMap::new(),
            asked: 0,
            gates: Waiting::default(),
            probing: BTreeSet::new(),
            backlog: VecDeque::new(),
            followed: Followed::default(),
            spans: BTreeMap::new(),
            snapshot_due: Instant::now(),
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.step(first, &mut running);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(ended) = running.tasks.join_next() => {
                    let Ended { events, probed } = ended?;
                    if let Some(cluster) = probed {
                        running.probing.remove(&cluster);
                    }
                    events.into_iter().for_each(|event| self.step(event, &mut running));
                }
                // Before whatever others may send: no flood of it stops the time.
                _ = ticks.tick() => {
                    self.step(Event::Tick(clock::wall()), &mut running);
                    self.publish(&mut running);
                }
                event = inbox.link.recv() => {
                    let event = event.ok_or_else(|| anyhow::anyhow!("the link to the hub has ended"))?;
                    self.hear_link(event, &mut running);
                }
                Some(asked) = inbox.holds.recv() => self.hear_hold(asked, &mut running),
                event = inbox.events.recv() => {
                    let event = event.ok_or_else(|| anyhow::anyhow!("every watch has ended"))?;
                    self.step(event, &mut running);
                }
                Some(found) = inbox.scalable.recv() => self.watches.learn(found),
                // Last: anybody in the cluster can ask.
                Some(asked) = inbox.gates.recv() => {
                    self.step(Event::GateAsked(asked.question.clone()), &mut running);
                    if self.agent.answers_gate(&asked.question.nonce) {
                        running.gates.note(asked);
                    }
                }
            }
        }
    }

    fn step(&mut self, event: Event, running: &mut Running) {
        let decision = self.agent.step(clock::now(), event);
        self.carry_out(decision, running);
        let hello = self.agent.hello();
        self.hello.send_if_modified(|known| replace(known, hello));
        let peers = self.agent.peers();
        self.peers.send_if_modified(|known| replace(known, peers));
        let may_call = self.agent.may_call_hub();
        self.may_call_hub.send_if_modified(|known| replace(known, may_call));
        if *self.agent.followed() != running.followed {
            running.followed = self.agent.followed().clone();
            self.watches.follow(&running.followed);
        }
        self.flush(running);
    }

    fn carry_out(&mut self, decision: Decision, running: &mut Running) {
        let Decision {
            remember,
            keep,
            apply: effects,
            send,
            ask,
            answer,
            admit,
            probe,
            visit,
            note,
            reached,
        } = decision;
        for note in note {
            tell(&note, running);
        }
        for write in remember {
            let client = self.client.clone();
            let span = running.span(&write.state.placement);
            running.tasks.spawn(async { site_states::write(client, write).await.into() }.instrument(span));
        }
        if let Some(memory) = keep {
            self.memory.send_replace(memory);
        }
        for (placement, effect) in effects {
            let (client, requests) = (self.client.clone(), running.requests.clone());
            let span = running.span_of_effect(&placement, &effect);
            let task = async move {
                // Nobody closes the semaphore; without a permit the request is merely not held back.
                let _permit = requests.acquire_owned().await.ok();
                vec![apply::apply(client, placement, effect).await].into()
            };
            running.tasks.spawn(task.instrument(span));
        }
        // An answer leaves only after the point that comes before it.
        self.crash_before_answers(&reached);
        for message in send {
            self.metrics.sent(&message);
            // The link says Hello by itself, at the begin of each stream.
            if !matches!(message, FromAgent::Hello(_)) {
                running.backlog.push_back(message);
            }
        }
        if running.backlog.len() > BACKLOG {
            running.backlog.pop_front();
        }
        ask.into_iter().for_each(|ask| self.ask(ask, running));
        admit.into_iter().for_each(|ticket| running.gates.answer(ticket));
        for (number, mut answer) in answer {
            seal(&self.credentials, &mut answer);
            if let Some(waiting) = running.asking.remove(&number) {
                // Whoever asked may have given up.
                let _ = waiting.send(answer);
            }
        }
        probe.into_iter().for_each(|probe| self.probe(probe, running));
        if let Some(visit) = visit {
            let _full_means_visiting = self.wanted_visits.try_send(visit);
        }
        self.flush(running);
        self.crash_after_answers(&reached);
    }

    fn crash_before_answers(&self, reached: &[(StepKind, Point)]) {
        let before = reached.iter().filter(|(_, point)| *point != Point::Acknowledged);
        if let Some(crash) = &self.crash {
            before.for_each(|(step, point)| crash.reached(*step, *point));
        }
    }

    fn crash_after_answers(&self, reached: &[(StepKind, Point)]) {
        let after = reached.iter().filter(|(_, point)| *point == Point::Acknowledged);
        if let Some(crash) = &self.crash {
            after.for_each(|(step, point)| crash.reached(*step, *point));
        }
    }

    fn flush(&mut self, running: &mut Running) {
        while let Some(message) = running.backlog.pop_front() {
            if !self.link.send(message.clone()) {
                running.backlog.push_front(message);
                return;
            }
        }
    }

    fn hear_link(&mut self, event: LinkEvent, running: &mut Running) {
        match event {
            LinkEvent::Up => {
                self.metrics.connected();
                running.backlog.clear();
                self.step(Event::HubUp, running);
            }
            LinkEvent::Down { reason: _ } => {
                self.metrics.disconnected();
                self.step(Event::HubDown, running);
            }
            LinkEvent::Message(message) => self.step(Event::FromHub(message), running),
        }
    }

    fn hear_hold(&mut self, asked: HoldAsked, running: &mut Running) {
        let HoldAsked { request, answer } = asked;
        running.asked += 1;
        let ask = AskId(running.asked);
        running.asking.retain(|_, waiting| !waiting.is_closed());
        running.asking.insert(ask, answer);
        self.step(Event::HoldAsked { ask, request }, running);
    }

    fn ask(&self, ask: HoldAsk, running: &mut Running) {
        let HoldAsk { peer, request, deadline, asked } = ask;
        let credentials = self.credentials.clone();
        running.tasks.spawn(async move {
            let (placement, epoch) = (request.placement.clone(), request.epoch);
            let answer = peer::hold(&peer, &credentials, request, deadline).await;
            if let Err(error) = &answer {
                tracing::debug!(peer = %peer.cluster, error = error as &dyn std::error::Error, "no hold");
            }
            vec![Event::HoldAnswered { peer: peer.cluster, placement, epoch, asked, answer: answer.ok() }]
                .into()
        });
    }

    /// One probe of a cluster at a time: a slow one must not pile up.
    fn probe(&self, probe: Probe, running: &mut Running) {
        let Probe { peer, mark, began, deadline } = probe;
        if !running.probing.insert(peer.cluster.clone()) {
            return;
        }
        let credentials = self.credentials.clone();
        running.tasks.spawn(async move {
            let bound = deadline + Duration::from_millis(100);
            let found =
                timeout(bound, probes::probe(&peer, &credentials, deadline)).await.unwrap_or_default();
            let results = found.into_iter().map(|one| Event::Probed {
                cluster: one.cluster,
                path: one.path,
                reachable: one.found.reachable(),
                mark,
                began,
            });
            Ended { events: results.collect(), probed: Some(peer.cluster) }
        });
    }

    fn publish(&mut self, running: &mut Running) {
        if Instant::now() < running.snapshot_due {
            return;
        }
        running.snapshot_due = Instant::now() + SNAPSHOT_EVERY;
        let (now, wall) = (clock::now(), clock::wall());
        let placements = self.agent.roles().map(|(name, role, deadline)| PlacementSnapshot {
            name: name.clone(),
            role,
            lease_expiry: deadline.map(|deadline| wall + deadline.since(now)),
        });
        let written = self.agent.last_write().map(|at| {
            let age = i64::try_from(now.since(at).as_millis()).unwrap_or(i64::MAX);
            proto::WallTime(wall.0 - age)
        });
        self.metrics.publish(Snapshot {
            last_api_write: written,
            certificate_ends: self.credentials.not_after(),
            backlog: running.backlog.len(),
            requests: REQUESTS - running.requests.available_permits(),
            placements: placements.collect(),
        });
    }
}

impl Running {
    /// The work of a command hangs below the hub's step.
    fn span(&self, placement: &PlacementId) -> Span {
        self.spans.get(placement).cloned().unwrap_or_else(Span::none)
    }

    /// What belongs to no command is no trace of its own.
    fn span_of_effect(&self, placement: &PlacementId, effect: &Effect) -> Span {
        match self.spans.get(placement) {
            Some(command) => tracing::info_span!(parent: command, "effect", effect = effect.key()),
            None => Span::none(),
        }
    }
}

fn replace<T: PartialEq>(known: &mut T, newest: T) -> bool {
    let changed = *known != newest;
    if changed {
        *known = newest;
    }
    changed
}

/// Writes down what an operator may want to read. Each message is constant; what it is about is in its fields.
fn tell(note: &Note, running: &mut Running) {
    match note {
        Note::RoleChanged { placement, role, epoch } => {
            tracing::info!(%placement, ?role, epoch = epoch.0, "role changed");
        }
        Note::LeaseRanOut { placement, stops } => {
            tracing::warn!(%placement, stops, "lease ran out");
        }
        Note::LeaseSuspended { placement, jump } => {
            tracing::warn!(%placement, ?jump, "clocks have parted, the lease is suspended");
        }
        Note::Superseded { placement, epoch } => {
            tracing::warn!(%placement, epoch = epoch.0, "superseded by another epoch");
        }
        Note::ResyncWithdrawn { placement } => {
            tracing::warn!(%placement, "resync taken back, nobody asks for it any more");
        }
        Note::CommandRefused { command, refusal } => {
            tracing::warn!(placement = %command.placement, %command, refusal = refusal.as_str(), "command refused");
        }
        Note::CommandAdmitted { command, epoch, trace_parent } => {
            let span = tracing::info_span!(
                "command",
                placement = %command.placement,
                operation = %command.operation,
                step = %command.step,
                %command,
                epoch = epoch.0,
                trace_id = tracing::field::Empty,
            );
            if let Some(parent) = trace_parent {
                span.set_traceparent(parent);
            }
            span.record("trace_id", span.in_scope(current_trace));
            span.in_scope(|| {
                tracing::info!(placement = %command.placement, %command, epoch = epoch.0, "command admitted");
            });
            running.spans.insert(command.placement.clone(), span);
        }
        Note::CommandDone { command } => {
            let span = running.spans.remove(&command.placement).unwrap_or_else(Span::none);
            span.in_scope(|| tracing::info!(placement = %command.placement, %command, "command done"));
        }
        Note::EffectFailed { placement, effect, message } => {
            tracing::info!(%placement, effect, message, "a change was not possible");
        }
        Note::WriteFailed { placement, message } => {
            tracing::warn!(%placement, message, "the DRSiteState was not written");
        }
        Note::HoldPromised { placement, holder } => {
            tracing::info!(%placement, %holder, "hold promised");
        }
        Note::PolicyRefused { placement, message } => {
            tracing::warn!(%placement, message, "the hub's policy is not taken, the one before stays in force");
        }
    }
}
