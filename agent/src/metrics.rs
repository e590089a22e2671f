//! Every instrument of the agent, declared once. Call sites hand over what happened, and carry no names.

use proto::{Acknowledgement, FromAgent, Outcome, PlacementName, Role, WallTime};
use tokio::sync::watch;
use understudy_telemetry::{
    CALL_DURATION, CallDurations, Counter, Declaration, Kind, Meter, Sample, TELEMETRY_LOST,
};

const API_WRITE_TIME: Declaration = Declaration {
    name: "understudy.agent.api_write.time",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &[],
    meaning: "When this agent last wrote to its own API server, as Unix time. A site that cannot write cannot fence itself: alert on its age.",
};
const LEASE_EXPIRY_TIME: Declaration = Declaration {
    name: "understudy.agent.lease.expiry.time",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &["namespace", "placement"],
    meaning: "When this cluster's right to hold the placement ends, as Unix time, by hub or by all peers.",
};
const ROLE: Declaration = Declaration {
    name: "understudy.agent.role",
    kind: Kind::Gauge,
    unit: "{placement}",
    attributes: &["namespace", "placement", "role"],
    meaning: "1 for what this cluster is for the placement (Holder, Promoting, Standby, Fenced or Unknown), 0 for the others.",
};
const COMMANDS: Declaration = Declaration {
    name: "understudy.agent.commands",
    kind: Kind::Counter,
    unit: "{answer}",
    attributes: &["step", "outcome"],
    meaning: "Answers to commands of the hub: Done, Working, Failing, or the name of a refusal.",
};
const FENCES: Declaration = Declaration {
    name: "understudy.agent.fences",
    kind: Kind::Counter,
    unit: "{fence}",
    attributes: &["namespace", "placement"],
    meaning: "How often this cluster stopped holding the placement and fenced itself.",
};

const CONNECTIONS: Declaration = Declaration {
    name: "understudy.agent.connections",
    kind: Kind::Counter,
    unit: "{connection}",
    attributes: &["result"],
    meaning: "Streams to the hub: Begun, and Ended. A stream that keeps ending is a link or a certificate that somebody should look at.",
};
const QUEUE_LENGTH: Declaration = Declaration {
    name: "understudy.agent.queue.length",
    kind: Kind::Gauge,
    unit: "{item}",
    attributes: &["queue"],
    meaning: "What waits in the agent's queues: backlog (messages that the link to the hub does not take) and requests (to its own API server, under way).",
};
const CERTIFICATE_EXPIRY: Declaration = Declaration {
    name: "understudy.certificate.expiry.time",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &[],
    meaning: "When this process' own certificate ends, as Unix time.",
};
const BUILD: Declaration = Declaration {
    name: "understudy.build.info",
    kind: Kind::Gauge,
    unit: "{process}",
    attributes: &["version"],
    meaning: "1, by the version that runs.",
};

/// All of them, in the order of the docs.
pub const ALL: &[Declaration] = &[
    API_WRITE_TIME,
    LEASE_EXPIRY_TIME,
    ROLE,
    COMMANDS,
    FENCES,
    CONNECTIONS,
    QUEUE_LENGTH,
    CERTIFICATE_EXPIRY,
    BUILD,
    CALL_DURATION,
    TELEMETRY_LOST,
];

/// The calls that other agents make.
const METHODS: &[&str] = &["dr.v1.Peer/Probe", "dr.v1.Peer/Hold"];

/// What the agent is now. The driver replaces it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub last_api_write: Option<WallTime>,
    /// In seconds of Unix time.
    pub certificate_ends: i64,
    pub backlog: usize,
    pub requests: usize,
    pub placements: Vec<PlacementSnapshot>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PlacementSnapshot {
    pub name: PlacementName,
    pub role: Role,
    /// None: nothing is held.
    pub lease_expiry: Option<WallTime>,
}

/// The agent's instruments. Clones feed the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    snapshot: watch::Sender<Snapshot>,
    commands: Counter<u64>,
    fences: Counter<u64>,
    connections: Counter<u64>,
    calls: CallDurations,
}

impl Metrics {
    pub fn new(meter: &Meter) -> Metrics {
        let (snapshot, seen) = watch::channel(Snapshot::default());
        API_WRITE_TIME.gauge(meter, &seen, api_write_times);
        LEASE_EXPIRY_TIME.gauge(meter, &seen, lease_expiry_times);
        ROLE.gauge(meter, &seen, roles);
        QUEUE_LENGTH.gauge(meter, &seen, queue_lengths);
        CERTIFICATE_EXPIRY.gauge(meter, &seen, certificate_expiry);
        BUILD.gauge(meter, &seen, |_| vec![BUILD.sample(1.0, [env!("CARGO_PKG_VERSION")])]);
        Metrics {
            snapshot,
            commands: COMMANDS.counter(meter),
            fences: FENCES.counter(meter),
            connections: CONNECTIONS.counter(meter),
            calls: CallDurations::new(meter, METHODS),
        }
    }

    /// Replaces what the gauges show, and counts what has become fenced since the last time.
    pub fn publish(&self, snapshot: Snapshot) {
        let before = self.snapshot.send_replace(snapshot);
        for one in newly_fenced(&before, &self.snapshot.borrow()) {
            self.fences.add(1, &FENCES.attributes([one.namespace.as_str(), &one.name]));
        }
    }

    pub fn connected(&self) {
        self.connections.add(1, &CONNECTIONS.attributes(["Begun"]));
    }

    pub fn disconnected(&self) {
        self.connections.add(1, &CONNECTIONS.attributes(["Ended"]));
    }

    /// For the server that other agents call.
    pub fn calls(&self) -> CallDurations {
        self.calls.clone()
    }

    /// Counts the answers to commands among what is sent.
    pub fn sent(&self, message: &FromAgent) {
        match message {
            FromAgent::Acknowledgement(answer) => self.answered(answer),
            FromAgent::Hello(_) | FromAgent::Heartbeat(_) | FromAgent::Report(_) => {}
        }
    }

    fn answered(&self, answer: &Acknowledgement) {
        let outcome = match &answer.outcome {
            Outcome::Done => "Done",
            Outcome::Working { .. } => "Working",
            Outcome::Failing { .. } => "Failing",
            Outcome::Refused { refusal, .. } => refusal.as_str(),
        };
        self.commands.add(1, &COMMANDS.attributes([answer.command.step.as_str(), outcome]));
    }
}

fn newly_fenced<'a>(before: &Snapshot, now: &'a Snapshot) -> Vec<&'a PlacementName> {
    let held = |name: &PlacementName| {
        before
            .placements
            .iter()
            .any(|one| one.name == *name && matches!(one.role, Role::Holder | Role::Promoting))
    };
    let fenced = now.placements.iter().filter(|one| one.role == Role::Fenced).map(|one| &one.name);
    fenced.filter(|name| held(name)).collect()
}

fn api_write_times(snapshot: &Snapshot) -> Vec<Sample> {
    snapshot.last_api_write.iter().map(|at| API_WRITE_TIME.sample(seconds(*at), [])).collect()
}

fn queue_lengths(snapshot: &Snapshot) -> Vec<Sample> {
    let of = |(queue, length): (&'static str, usize)| QUEUE_LENGTH.sample(length as f64, [queue]);
    [("backlog", snapshot.backlog), ("requests", snapshot.requests)].into_iter().map(of).collect()
}

fn certificate_expiry(snapshot: &Snapshot) -> Vec<Sample> {
    vec![CERTIFICATE_EXPIRY.sample(snapshot.certificate_ends as f64, [])]
}

fn lease_expiry_times(snapshot: &Snapshot) -> Vec<Sample> {
    let of = |one: &PlacementSnapshot| {
        let expiry = seconds(one.lease_expiry?);
        Some(LEASE_EXPIRY_TIME.sample(expiry, [one.name.namespace.as_str(), &one.name.name]))
    };
    snapshot.placements.iter().filter_map(of).collect()
}

fn roles(snapshot: &Snapshot) -> Vec<Sample> {
    let all = [Role::Holder, Role::Promoting, Role::Standby, Role::Fenced, Role::Unknown];
    let of = |one: &PlacementSnapshot| {
        let name = one.name.clone();
        let role = one.role;
        all.map(|each| {
            let value = if each == role { 1.0 } else { 0.0 };
            ROLE.sample(value, [name.namespace.as_str(), &name.name, role_name(each)])
        })
    };
    snapshot.placements.iter().flat_map(of).collect()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Holder => "Holder",
        Role::Promoting => "Promoting",
        Role::Standby => "Standby",
        Role::Fenced => "Fenced",
        Role::Unknown => "Unknown",
    }
}

fn seconds(at: WallTime) -> f64 {
    at.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests;
