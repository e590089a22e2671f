//! Every instrument of the hub, declared once. Call sites hand over what happened, and carry no names.

mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_core::{Explanation, Send};
use telemetry::{Counter, Declaration, Histogram, Kind, Meter, Sample};
use tokio::sync::watch;

use crate::journal_store::AppendTimes;
use crate::sessions::{SessionCounters, SessionRefusal};
use told::{Ended, News, Told};

const PLACEMENT: &[&str] = &["namespace", "placement"];

const OPERATION_SPANS: Kind = Kind::Histogram(&[
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0,
    3600.0,
]);
const LOSS_SPANS: Kind = Kind::Histogram(&[
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0,
]);
const STEP_SPANS: Kind =
    Kind::Histogram(&[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]);
const DISK_SPANS: Kind =
    Kind::Histogram(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]);
/// As OpenTelemetry's semantic conventions advise for the durations of calls.
const CALL_SPANS: Kind =
    Kind::Histogram(&[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]);

const fn gauge(
    name: &'static str,
    unit: &'static str,
    attributes: &'static [&'static str],
    meaning: &'static str,
) -> Declaration {
    Declaration { name, kind: Kind::Gauge, unit, attributes, meaning }
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    attributes: &'static [&'static str],
    meaning: &'static str,
) -> Declaration {
    Declaration { name, kind: Kind::Counter, unit, attributes, meaning }
}

const fn histogram(
    name: &'static str,
    kind: Kind,
    attributes: &'static [&'static str],
    meaning: &'static str,
) -> Declaration {
    Declaration { name, kind, unit: "s", attributes, meaning }
}

const HEARTBEAT_TIME: Declaration = gauge(
    "understudy.site.heartbeat.time",
    "s",
    &["cluster"],
    "When the cluster's agent was last heard, as Unix time. Alert on its age.",
);
const LIVENESS: Declaration = gauge(
    "understudy.site.liveness",
    "{site}",
    &["cluster", "state"],
    "1 for the state in which the hub holds the cluster (Unheard, Live, Suspected or Lost), 0 for the others.",
);
const LEASE_EXPIRY_TIME: Declaration = gauge(
    "understudy.lease.expiry.time",
    "s",
    &["namespace", "placement", "cluster"],
    "When the newest lease that the hub granted ends at the latest, as Unix time.",
);
const LAST_SYNC_TIME: Declaration = gauge(
    "understudy.replication.last_sync.time",
    "s",
    &["namespace", "placement", "cluster", "volume"],
    "When the volume's last complete copy was taken, as Unix time. Alert on its age. Beyond 16 volumes of a placement, the oldest of the others stands for them as volume `others`.",
);
const LAG: Declaration = gauge(
    "understudy.replication.lag",
    "s",
    &["namespace", "placement", "cluster", "volume"],
    "Age of the volume's last complete copy. For dashboards; alert on the time instead.",
);
const EXPECTED_LOSS: Declaration = gauge(
    "understudy.placement.expected_loss",
    "s",
    PLACEMENT,
    "What would be lost if the active cluster were lost now: the age of the worst volume's copy; infinite where it is not known.",
);
const EXPECTED_RTO: Declaration = gauge(
    "understudy.placement.expected_rto",
    "s",
    PLACEMENT,
    "How long the application would be away if the active cluster were lost now.",
);
const CONDITION: Declaration = gauge(
    "understudy.placement.condition",
    "{condition}",
    &["namespace", "placement", "condition", "reason"],
    "The condition's status: 1 true, 0 false, -1 unknown. Reconciling and Stalled are absent while they are false.",
);
const ACTIVE: Declaration = gauge(
    "understudy.placement.active",
    "{placement}",
    &["namespace", "placement", "cluster"],
    "1 for the cluster that owns the placement.",
);
const OPERATION_ACTIVE: Declaration = gauge(
    "understudy.operation.active",
    "{operation}",
    &["namespace", "placement", "kind", "step"],
    "1 while an operation runs, by its current step.",
);
const LEADER: Declaration = gauge(
    "understudy.hub.leader",
    "{leader}",
    &[],
    "1 where this process leads, and so decides; 0 elsewhere.",
);

const OPERATIONS: Declaration = counter(
    "understudy.operations",
    "{operation}",
    &["kind", "trigger", "result"],
    "Operations that ended while this hub led.",
);
const DECISIONS: Declaration = counter(
    "understudy.decisions",
    "{decision}",
    &["decision", "reason"],
    "What the hub decided: to begin an operation, to refuse or abort one, to ask a human, or to wait; each when it began.",
);
const SESSIONS: Declaration = counter(
    "understudy.sessions",
    "{session}",
    &["error.type"],
    "Connections of agents that were refused, and streams that were cut, by what was wrong.",
);
const SESSIONS_OPEN: Declaration =
    gauge("understudy.sessions.open", "{session}", &[], "Streams of agents that are open now.");

const OPERATION_DURATION: Declaration = histogram(
    "understudy.operation.duration",
    OPERATION_SPANS,
    &["kind", "result"],
    "From an operation's decision to its end.",
);
const OPERATION_STEP_DURATION: Declaration = histogram(
    "understudy.operation.step.duration",
    OPERATION_SPANS,
    &["kind", "step"],
    "From a step's command to its proof; step Detect is from the last sign of life to the decision.",
);
const OPERATION_DATA_LOSS: Declaration = histogram(
    "understudy.operation.data_loss",
    LOSS_SPANS,
    &["kind"],
    "What an operation gave up, by its receipt: the worst volume. A loss that is not known has no length, and is not in it.",
);
const STEP_DURATION: Declaration =
    histogram("understudy.hub.step.duration", STEP_SPANS, &[], "How long the hub thought about one event.");
const APPEND_DURATION: Declaration = histogram(
    "understudy.journal.append.duration",
    DISK_SPANS,
    &[],
    "How long an append took until it was durable. Nothing is sent before.",
);
const CALL_DURATION: Declaration = histogram(
    "rpc.server.call.duration",
    CALL_SPANS,
    &["rpc.system.name", "rpc.method", "rpc.response.status_code"],
    "How long a call of the hub took; a stream is one call for as long as it lasts.",
);

/// All of them, in the order of the docs.
pub const ALL: &[Declaration] = &[
    HEARTBEAT_TIME,
    LIVENESS,
    LEASE_EXPIRY_TIME,
    LAST_SYNC_TIME,
    LAG,
    EXPECTED_LOSS,
    EXPECTED_RTO,
    CONDITION,
    ACTIVE,
    OPERATIONS,
    OPERATION_DURATION,
    OPERATION_STEP_DURATION,
    OPERATION_DATA_LOSS,
    OPERATION_ACTIVE,
    SESSIONS,
    SESSIONS_OPEN,
    DECISIONS,
    LEADER,
    STEP_DURATION,
    APPEND_DURATION,
    CALL_DURATION,
];

/// The hub's instruments. Clones feed the same ones.
#[derive(Clone, Debug)]
pub struct HubMetrics {
    told: watch::Sender<Told>,
    operations: Counter<u64>,
    operation_duration: Histogram<f64>,
    operation_step_duration: Histogram<f64>,
    operation_data_loss: Histogram<f64>,
    decisions: Counter<u64>,
    step_duration: Histogram<f64>,
    append_duration: Histogram<f64>,
    call_duration: Histogram<f64>,
}

/// When the hub began to think about an event.
#[derive(Debug)]
pub struct Stepping(Instant);

impl HubMetrics {
    /// For a process that leads.
    pub fn new(meter: &Meter, sessions: Arc<SessionCounters>) -> HubMetrics {
        let (told, seen) = watch::channel(Told { leads: true, ..Told::default() });
        let gauge = |declaration: Declaration, read: fn(&Told) -> Vec<Sample>| {
            let seen = seen.clone();
            declaration.gauge(meter, move || read(&seen.borrow()));
        };
        gauge(HEARTBEAT_TIME, Told::heartbeat_times);
        gauge(LIVENESS, Told::liveness);
        gauge(LEASE_EXPIRY_TIME, Told::lease_expiry_times);
        gauge(LAST_SYNC_TIME, Told::last_sync_times);
        gauge(LAG, Told::lags);
        gauge(EXPECTED_LOSS, Told::expected_losses);
        gauge(EXPECTED_RTO, Told::expected_rtos);
        gauge(CONDITION, Told::conditions);
        gauge(ACTIVE, Told::active_clusters);
        gauge(OPERATION_ACTIVE, Told::active_operations);
        gauge(LEADER, Told::leader);
        observe_sessions(meter, sessions);
        HubMetrics {
            told,
            operations: OPERATIONS.counter(meter),
            operation_duration: OPERATION_DURATION.histogram(meter),
            operation_step_duration: OPERATION_STEP_DURATION.histogram(meter),
            operation_data_loss: OPERATION_DATA_LOSS.histogram(meter),
            decisions: DECISIONS.counter(meter),
            step_duration: STEP_DURATION.histogram(meter),
            append_duration: APPEND_DURATION.histogram(meter),
            call_duration: CALL_DURATION.histogram(meter),
        }
    }

    pub fn leads(&self, leads: bool) {
        self.told.send_modify(|told| told.leads = leads);
    }

    pub fn step_begins(&self) -> Stepping {
        Stepping(Instant::now())
    }

    pub fn step_ends(&self, Stepping(began): Stepping) {
        self.step_duration.record(began.elapsed().as_secs_f64(), &[]);
    }

    pub fn appended(&self, times: AppendTimes) {
        self.append_duration.record(times.total.as_secs_f64(), &[]);
    }

    /// Takes in the grants among what is sent.
    pub fn sends(&self, send: &Send) {
        self.told.send_if_modified(|told| told.sends(send, told::now()));
    }

    /// Takes in what is told to everybody.
    pub fn tells(&self, explanation: &Explanation) {
        let mut news = News::default();
        self.told.send_modify(|told| news = told.explain(explanation));
        let News { ended, decided } = news;
        if let Some(ended) = ended {
            self.ended(&ended);
        }
        if let Some((decision, reason)) = decided {
            self.decisions.add(1, &DECISIONS.attributes([decision, reason]));
        }
    }

    /// `method` is the full name of a call, `status` the name of its gRPC status, such as `OK`.
    pub fn call_served(&self, method: &'static str, status: &'static str, took: Duration) {
        self.call_duration.record(took.as_secs_f64(), &CALL_DURATION.attributes(["grpc", method, status]));
    }

    fn ended(&self, ended: &Ended) {
        let Ended { kind, trigger, result, took, steps, worst_loss } = ended;
        self.operations.add(1, &OPERATIONS.attributes([*kind, *trigger, *result]));
        if let Some(took) = took {
            self.operation_duration.record(*took, &OPERATION_DURATION.attributes([*kind, *result]));
        }
        for (step, seconds) in steps {
            self.operation_step_duration
                .record(*seconds, &OPERATION_STEP_DURATION.attributes([*kind, step.as_str()]));
        }
        if let Some(loss) = worst_loss {
            self.operation_data_loss.record(*loss, &OPERATION_DATA_LOSS.attributes([*kind]));
        }
    }
}

fn observe_sessions(meter: &Meter, counters: Arc<SessionCounters>) {
    let refusals = counters.clone();
    SESSIONS.observed_counter(meter, move || {
        let count = |refusal| SESSIONS.sample(refusals.refusals(refusal) as f64, [refusal.as_str()]);
        SessionRefusal::ALL.into_iter().map(count).collect()
    });
    SESSIONS_OPEN.gauge(meter, move || vec![SESSIONS_OPEN.sample(counters.open() as f64, [])]);
}

#[cfg(test)]
mod tests;
