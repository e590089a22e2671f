//! Every instrument of the hub, declared once. Call sites hand over what happened, and carry no names.

mod decisions;
mod told;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hub_core::Event;
use hub_core::decision::{Explanation, Send};
use hub_core::journal::Entry;
use proto::{Acknowledgement, DenialReason, FromHub, Outcome, Term, WallTime};
use tokio::sync::watch;
use understudy_telemetry::{
    CALL_DURATION, CallDurations, Counter, Declaration, Histogram, Kind, Meter, SpanAddress, TELEMETRY_LOST,
    TracedHistogram,
};

use crate::journal_store::AppendTimes;
use decisions::Undecided;
pub use told::Queues;
use told::{Ended, Told};

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
/// The calls that agents make.
const METHODS: &[&str] = &["dr.v1.Federation/Connect", "dr.v1.Telemetry/Export"];

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
const WITNESS_TIME: Declaration = gauge(
    "understudy.witness.answer.time",
    "s",
    &["witness"],
    "When the witness last answered the hub, as Unix time. While one is silent nothing is moved automatically: alert on its age.",
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
const LAST_SYNC_SIZE: Declaration = gauge(
    "understudy.replication.last_sync.size",
    "By",
    &["namespace", "placement", "cluster", "volume"],
    "How much the volume's last complete copy carried over, where the storage says so. Of the volumes beyond 16, the sum.",
);
const LAST_SYNC_DURATION: Declaration = gauge(
    "understudy.replication.last_sync.duration",
    "s",
    &["namespace", "placement", "cluster", "volume"],
    "How long the volume's last complete copy took, where the storage says so. Of the volumes beyond 16, the longest.",
);
const EXPECTED_LOSS: Declaration = gauge(
    "understudy.placement.expected_loss",
    "s",
    PLACEMENT,
    "What would be lost if the active cluster were lost now: the age of the worst volume's copy; infinite where it is not known.",
);
const LOSS_BOUND: Declaration = gauge(
    "understudy.placement.loss_bound",
    "s",
    PLACEMENT,
    "How much may be lost: spec.failover.maxDataLoss, or three scheduling intervals of the class. Absent where neither is known.",
);
const LAST_MOVE_TIME: Declaration = gauge(
    "understudy.placement.last_move.time",
    "s",
    PLACEMENT,
    "When the placement was last moved, or else adopted, as Unix time. What is never tried does not work when it is needed.",
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
const BLOCKED: Declaration = gauge(
    "understudy.placement.blocked",
    "{placement}",
    &["condition", "reason"],
    "How many placements are not FailoverReady, AutomaticFailoverArmed or Protected, by the first thing in the way.",
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
const OPERATION_PROPOSED: Declaration = gauge(
    "understudy.operation.proposed",
    "{operation}",
    &["namespace", "placement", "kind"],
    "1 while an operation is proposed and waits for a human's answer. Alert on it where nobody watches.",
);
const LEADER: Declaration = gauge(
    "understudy.hub.leader",
    "{leader}",
    &[],
    "1 where this process leads, and so decides; 0 elsewhere.",
);

const TERM: Declaration =
    gauge("understudy.hub.term", "{term}", &[], "Which start of the hub this is; it grows with every one.");
const FROZEN: Declaration = gauge(
    "understudy.hub.frozen",
    "{placement}",
    &["reason"],
    "Placements that are not moved because the hub doubts itself: HubFrozen, or WitnessUnavailable.",
);
const QUEUE_LENGTH: Declaration = gauge(
    "understudy.hub.queue.length",
    "{item}",
    &["queue"],
    "What waits in the hub's queues: wishes (watched objects) and agents (their messages) for the core, told for the writer of statuses.",
);
const REPLAY_DURATION: Declaration = gauge(
    "understudy.journal.replay.duration",
    "s",
    &[],
    "How long it took to read the journal when the hub was started.",
);
const CERTIFICATE_EXPIRY: Declaration = gauge(
    "understudy.certificate.expiry.time",
    "s",
    &[],
    "When this process' own certificate ends, as Unix time.",
);
const BUILD: Declaration =
    gauge("understudy.build.info", "{process}", &["version"], "1, by the version that runs.");

const OPERATIONS: Declaration = counter(
    "understudy.operations",
    "{operation}",
    &["kind", "trigger", "result"],
    "Operations that ended while this hub led. Trigger: Declared (a DRPlacement was made or deleted), Requested (the preferred cluster was edited), Approved (a human said yes), Observed (the hub saw by itself).",
);
const DECISIONS: Declaration = counter(
    "understudy.decisions",
    "{decision}",
    &["decision", "reason"],
    "What the hub decided: to propose an operation, to withdraw a proposal, to begin an operation or to abort one (the reason is its kind), to let a human look, or to wait; each when it began.",
);
const SESSIONS: Declaration = counter(
    "understudy.sessions",
    "{session}",
    &["error.type"],
    "Streams of agents: begun, or with `error.type` refused or cut.",
);

const REFUSALS: Declaration = counter(
    "understudy.refusals",
    "{refusal}",
    &["refused", "reason"],
    "What was refused for the sake of safety: a Command by an agent (StaleEpoch, Conflict, Expired, PromiseOutstanding, NotAssigned), a Renewal by the hub (Superseded, NotYours, NotNow). Refused streams are in `understudy.sessions`.",
);

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
    "From a step's command to its proof; step Detect is from the last sign of life to the decision, which may have waited for a human.",
);
const OPERATION_DATA_LOSS: Declaration = histogram(
    "understudy.operation.data_loss",
    LOSS_SPANS,
    &["kind"],
    "What an operation that succeeded gave up, by its receipt: the worst volume. A loss that is not known has no length, and is not in it.",
);
const OPERATION_DOWNTIME: Declaration = histogram(
    "understudy.operation.downtime",
    OPERATION_SPANS,
    &["kind"],
    "The measured RTO: how long the application was away for an operation that succeeded. A failover counts from the lost site's last sign of life, a planned move from the order to stop; both until it was ready again.",
);
const STEP_DURATION: Declaration =
    histogram("understudy.hub.step.duration", STEP_SPANS, &[], "How long the hub thought about one event.");
const APPEND_DURATION: Declaration = histogram(
    "understudy.journal.append.duration",
    DISK_SPANS,
    &[],
    "How long an append took until it was durable. Nothing is sent before.",
);
/// All of them, in the order of the docs.
pub const ALL: &[Declaration] = &[
    HEARTBEAT_TIME,
    LIVENESS,
    WITNESS_TIME,
    LEASE_EXPIRY_TIME,
    LAST_SYNC_TIME,
    LAG,
    LAST_SYNC_SIZE,
    LAST_SYNC_DURATION,
    EXPECTED_LOSS,
    LOSS_BOUND,
    EXPECTED_RTO,
    LAST_MOVE_TIME,
    CONDITION,
    BLOCKED,
    ACTIVE,
    OPERATIONS,
    OPERATION_DURATION,
    OPERATION_STEP_DURATION,
    OPERATION_DATA_LOSS,
    OPERATION_DOWNTIME,
    OPERATION_ACTIVE,
    OPERATION_PROPOSED,
    SESSIONS,
    REFUSALS,
    DECISIONS,
    LEADER,
    TERM,
    FROZEN,
    QUEUE_LENGTH,
    STEP_DURATION,
    APPEND_DURATION,
    REPLAY_DURATION,
    CERTIFICATE_EXPIRY,
    BUILD,
    CALL_DURATION,
    TELEMETRY_LOST,
];

/// The hub's instruments. Clones feed the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    told: watch::Sender<Told>,
    undecided: Arc<Mutex<Undecided>>,
    operations: Counter<u64>,
    operation_duration: TracedHistogram,
    operation_step_duration: TracedHistogram,
    operation_data_loss: TracedHistogram,
    operation_downtime: TracedHistogram,
    sessions: Counter<u64>,
    refusals: Counter<u64>,
    decisions: Counter<u64>,
    step_duration: Histogram<f64>,
    append_duration: Histogram<f64>,
    calls: CallDurations,
}

impl Metrics {
    pub fn new(meter: &Meter) -> Metrics {
        let (told, seen) = watch::channel(Told::default());
        HEARTBEAT_TIME.gauge(meter, &seen, Told::heartbeat_times);
        LIVENESS.gauge(meter, &seen, Told::liveness);
        WITNESS_TIME.gauge(meter, &seen, Told::witness_times);
        LEASE_EXPIRY_TIME.gauge(meter, &seen, Told::lease_expiry_times);
        LAST_SYNC_TIME.gauge(meter, &seen, Told::last_sync_times);
        LAG.gauge(meter, &seen, Told::lags);
        LAST_SYNC_SIZE.gauge(meter, &seen, Told::last_sync_sizes);
        LAST_SYNC_DURATION.gauge(meter, &seen, Told::last_sync_durations);
        EXPECTED_LOSS.gauge(meter, &seen, Told::expected_losses);
        LOSS_BOUND.gauge(meter, &seen, Told::loss_bounds);
        EXPECTED_RTO.gauge(meter, &seen, Told::expected_rtos);
        LAST_MOVE_TIME.gauge(meter, &seen, Told::last_move_times);
        CONDITION.gauge(meter, &seen, Told::conditions);
        BLOCKED.gauge(meter, &seen, Told::blocked);
        ACTIVE.gauge(meter, &seen, Told::active_clusters);
        OPERATION_ACTIVE.gauge(meter, &seen, Told::active_operations);
        OPERATION_PROPOSED.gauge(meter, &seen, Told::proposed_operations);
        LEADER.gauge(meter, &seen, Told::leader);
        TERM.gauge(meter, &seen, Told::term);
        FROZEN.gauge(meter, &seen, Told::frozen);
        QUEUE_LENGTH.gauge(meter, &seen, Told::queue_lengths);
        REPLAY_DURATION.gauge(meter, &seen, Told::replay);
        CERTIFICATE_EXPIRY.gauge(meter, &seen, Told::certificate_expiry);
        BUILD.gauge(meter, &seen, Told::build);
        Metrics {
            told,
            undecided: Arc::default(),
            operations: OPERATIONS.counter(meter),
            operation_duration: OPERATION_DURATION.traced_histogram(meter),
            operation_step_duration: OPERATION_STEP_DURATION.traced_histogram(meter),
            operation_data_loss: OPERATION_DATA_LOSS.traced_histogram(meter),
            operation_downtime: OPERATION_DOWNTIME.traced_histogram(meter),
            sessions: SESSIONS.counter(meter),
            refusals: REFUSALS.counter(meter),
            decisions: DECISIONS.counter(meter),
            step_duration: STEP_DURATION.histogram(meter),
            append_duration: APPEND_DURATION.histogram(meter),
            calls: CallDurations::new(meter, METHODS),
        }
    }

    /// This process leads in this term.
    pub fn leads(&self, term: Term) {
        self.told.send_modify(|told| told.leads = Some(term));
    }

    /// How much waits in each queue.
    pub fn queues(&self, queues: Queues) {
        self.told.send_if_modified(|told| std::mem::replace(&mut told.queues, queues) != queues);
    }

    /// When our own certificate ends, in seconds of Unix time.
    pub fn certificate_ends(&self, at: i64) {
        self.told.send_if_modified(|told| told.certificate_ends.replace(at) != Some(at));
    }

    pub fn witness_answered(&self, name: &str, at: WallTime) {
        self.told.send_modify(|told| {
            told.witnesses.insert(name.to_owned(), at);
        });
    }

    /// Takes in what is told to everybody.
    pub fn explain(&self, explanation: &Explanation) {
        self.explain_within(None, explanation);
    }

    /// The same; `place` is the trace of the operation that it is about.
    pub fn explain_within(&self, place: Option<SpanAddress>, explanation: &Explanation) {
        let mut news = told::News::default();
        self.told.send_modify(|told| news = told.explain(explanation));
        if let Some(ended) = news.ended {
            self.ended(&ended, place);
        }
        if let Some(reason) = news.waits_for {
            self.decisions.add(1, &DECISIONS.attributes(["Wait", reason]));
        }
    }

    /// Counts the decisions among the entries that have become durable.
    pub fn recorded(&self, entries: &[Entry]) {
        let mut undecided = self.undecided.lock().unwrap_or_else(PoisonError::into_inner);
        for (decision, reason) in entries.iter().filter_map(|entry| undecided.decision(entry)) {
            self.decisions.add(1, &DECISIONS.attributes([decision, reason]));
        }
    }

    /// Takes in what an earlier hub had begun, so that its end is known by its kind; reading it took so long.
    pub fn replayed<'a>(&self, took: Duration, entries: impl Iterator<Item = &'a Entry>) {
        self.told.send_modify(|told| told.replay = Some(took));
        let mut undecided = self.undecided.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            undecided.decision(entry);
        }
    }

    /// Takes in the grants and denials among what has been sent.
    pub fn sent(&self, send: &Send, now: WallTime) {
        if let FromHub::Reply(reply) = &send.message {
            for denial in &reply.denials {
                self.refusals.add(1, &REFUSALS.attributes(["Renewal", denial_name(denial.reason)]));
            }
        }
        self.told.send_if_modified(|told| told.sent(send, now));
    }

    pub fn stepped(&self, took: Duration) {
        self.step_duration.record(took.as_secs_f64(), &[]);
    }

    pub fn appended(&self, times: AppendTimes) {
        self.append_duration.record(times.total.as_secs_f64(), &[]);
    }

    pub fn session_began(&self) {
        self.sessions.add(1, &[]);
    }

    /// `error_type` names what was wrong: a short word out of a closed list, such as `wrong_identity`.
    pub fn session_refused(&self, error_type: &'static str) {
        self.sessions.add(1, &SESSIONS.attributes([error_type]));
    }

    /// Counts the refusals among what agents answer.
    pub fn heard(&self, event: &Event) {
        if let Event::Acknowledged(Acknowledgement { outcome: Outcome::Refused { refusal, .. }, .. }) = event
        {
            self.refusals.add(1, &REFUSALS.attributes(["Command", refusal.as_str()]));
        }
    }

    /// For the server that agents call.
    pub fn calls(&self) -> CallDurations {
        self.calls.clone()
    }

    fn ended(&self, ended: &Ended, place: Option<SpanAddress>) {
        let Ended { kind, trigger, result, took, steps, worst_loss, downtime } = ended;
        self.operations.add(1, &OPERATIONS.attributes([*kind, *trigger, *result]));
        if let Some(took) = took {
            self.operation_duration.record(*took, &OPERATION_DURATION.attributes([*kind, *result]), place);
        }
        for (step, seconds) in steps {
            let attributes = OPERATION_STEP_DURATION.attributes([*kind, step.as_str()]);
            let place = place.map(|operation| operation.part(step));
            self.operation_step_duration.record(*seconds, &attributes, place);
        }
        if let Some(loss) = worst_loss {
            self.operation_data_loss.record(*loss, &OPERATION_DATA_LOSS.attributes([*kind]), place);
        }
        if let Some(away) = downtime {
            self.operation_downtime.record(*away, &OPERATION_DOWNTIME.attributes([*kind]), place);
        }
    }
}

fn denial_name(reason: DenialReason) -> &'static str {
    match reason {
        DenialReason::Superseded => "Superseded",
        DenialReason::NotYours => "NotYours",
        DenialReason::NotNow => "NotNow",
    }
}

#[cfg(test)]
mod tests;
