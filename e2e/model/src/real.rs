//! The product's own functions, asked about a state of the model: the fold of the journal, the answer to a renewal, what an
//! expired lease proves, the arithmetic of a lease, and the guard of commands. What the model decides by itself is only
//! *when* something happens, and there it may do whatever the hub and the network could.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::thread::LocalKey;
use std::time::Duration;

use agent_core::guard::{self, Verdict};
use agent_core::lease::{Accounted, Lease, Promised};
use hub_core::journal::{Entry, Intent, OperationKind, StepRecord};
use hub_core::placement::{Failback, Mode, Placement};
use hub_core::progress::{Ledger, Progress};
use proto::{
    Action, ClusterName, Command, CommandId, DenialReason, Epoch, FenceProof, Fencing, Generation, Moment,
    Nonce, OnSilence, OperationId, Outcome, PlacementId, PlacementName, Policy, Protect, Renewal, Selector,
    StepKind, Timing, WallTime,
};

use crate::state::{Facts, Kind, Proof, Role, Site, Span};

/// Far enough from the beginning of time that every span fits before it.
const NOW: u64 = 1_000;
/// How many ticks a command lives.
pub const LIFETIME: u8 = 2;
/// The largest that a policy may say.
const CLOCK_RATE_ERROR_PPM: u32 = 100_000;
/// How many ticks a promise holds.
const HOLD: u8 = 2;

/// What a generation of the DRPlacement says, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub ttl: u8,
    pub stops: bool,
}

/// What all policies of a search say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    pub first: Terms,
    /// After the user's edit, if there is one.
    pub second: Terms,
    pub stop: u8,
    /// The clocks may be as wrong as a policy can say.
    pub slow_clocks: bool,
}

impl Setting {
    pub fn terms(&self, generation: u8) -> Terms {
        if generation == 1 { self.first } else { self.second }
    }
}

/// One tick is a millisecond to the product.
fn ticks(count: u8) -> Duration {
    Duration::from_millis(u64::from(count))
}

fn policy(setting: &Setting, generation: u8) -> Policy {
    let Terms { ttl, stops } = setting.terms(generation);
    Policy {
        generation: Generation(u64::from(generation)),
        timing: Timing {
            renew: ticks(1),
            rpc: ticks(1),
            ttl: ticks(ttl),
            hold: ticks(HOLD),
            grace: ticks(0),
            stop: ticks(setting.stop),
            clock_rate_error_ppm: if setting.slow_clocks { CLOCK_RATE_ERROR_PPM } else { 0 },
            suspect: ticks(1),
            unreachable: ticks(1),
        },
        on_silence: if stops { OnSilence::Stop } else { OnSilence::Continue },
        fencing: Fencing::SelfFence,
    }
}

fn cluster(site: usize) -> ClusterName {
    ClusterName::parse(["east", "west"][site]).unwrap_or_else(|_| unreachable!("a name that is one"))
}

fn id() -> PlacementId {
    PlacementId::parse("shop").unwrap_or_else(|_| unreachable!("a uid that is one"))
}

fn name() -> PlacementName {
    PlacementName::parse("shop", "shop").unwrap_or_else(|_| unreachable!("a name that is one"))
}

fn operation_id(epoch: u8) -> OperationId {
    OperationId(format!("shop-{epoch}"))
}

fn intent(kind: Kind, from: usize, to: usize, epoch: u8) -> Entry {
    let kind = match kind {
        Kind::FailOver => OperationKind::FailOver,
        Kind::Migrate => OperationKind::Migrate,
        Kind::Readopt => OperationKind::Readopt,
    };
    Entry::Intent(Box::new(Intent {
        operation: operation_id(epoch),
        placement: id(),
        name: name(),
        kind,
        from: Some(cluster(from)),
        to: cluster(to),
        epoch: Epoch(u64::from(epoch)),
        plan: hub_core::plan::steps(kind).to_vec(),
        claims: Vec::new(),
        evidence: Vec::new(),
        lost_at: None,
        losses: Vec::new(),
        generation: Generation(1),
        preferred: None,
        approval: None,
    }))
}

fn proof(proof: Proof) -> FenceProof {
    match proof {
        Proof::NeverHeld => FenceProof::NeverHeld,
        Proof::Acknowledged => FenceProof::Acknowledged,
        Proof::LeaseExpired => FenceProof::LeaseExpired,
    }
}

/// The journal that a hub with these facts has on its disk.
fn journal(facts: &Facts, setting: &Setting) -> Vec<Entry> {
    let mut entries = vec![Entry::Ownership {
        placement: id(),
        name: name(),
        epoch: Epoch(u64::from(facts.epoch)),
        holder: cluster(facts.owner),
    }];
    for generation in facts.granted.iter() {
        let policy = policy(setting, generation);
        let clusters = vec![cluster(0), cluster(1)];
        entries.push(Entry::Policy { placement: id(), policy, clusters });
    }
    if facts.echoed > 0 {
        let generation = Generation(u64::from(facts.echoed));
        entries.push(Entry::Echo { placement: id(), generation });
    }
    let running = facts.operation.map_or(facts.epoch, |operation| operation.epoch);
    if facts.highest > running {
        let other = 1 - facts.owner;
        entries.push(intent(Kind::FailOver, facts.owner, other, facts.highest));
        let (placement, operation) = (id(), operation_id(facts.highest));
        entries.push(Entry::Abort { placement, operation, reason: String::new() });
    }
    if let Some(operation) = facts.operation {
        entries.push(intent(operation.kind, facts.owner, operation.to, operation.epoch));
        let (placement, id) = (id(), operation_id(operation.epoch));
        if let Some(known) = operation.proof {
            let (placement, operation) = (placement.clone(), id.clone());
            entries.push(Entry::Fence { placement, operation, proof: proof(known) });
        }
        if operation.issued {
            let (step, state) = (StepKind::Promote, StepRecord::Issued);
            entries.push(Entry::Step { placement, operation: id, step, state });
        }
    }
    entries
}

/// What a hub is asked with: the fold of its journal.
fn fold(facts: &Facts, setting: &Setting) -> Progress {
    let mut ledger = Ledger::default();
    for entry in journal(facts, setting) {
        ledger.fold(WallTime(0), &entry);
    }
    ledger.of(&id()).cloned().unwrap_or_default()
}

/// The same is asked very often: every answer of the product's is kept.
type Kept<Question, Answer> = RefCell<HashMap<Question, Answer>>;

fn kept<Question: Copy + Eq + Hash, Answer: Copy>(
    answers: &'static LocalKey<Kept<Question, Answer>>,
    question: Question,
    ask: impl FnOnce(Question) -> Answer,
) -> Answer {
    if let Some(known) = answers.with_borrow(|answers| answers.get(&question).copied()) {
        return known;
    }
    let answer = ask(question);
    answers.with_borrow_mut(|answers| answers.insert(question, answer));
    answer
}

#[derive(Clone, Copy)]
pub enum Answer {
    Granted { records_policy: bool, records_echo: bool },
    Superseded { epoch: u8 },
    NotNow,
}

/// One renewal: who sends it, and what it says.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    pub site: usize,
    pub epoch: u8,
    pub echo: u8,
    /// Of the DRPlacement, as the hub has it.
    pub newest: u8,
}

/// How many ticks after the last grant the holder is certainly stopped, if waiting proves anything.
pub fn expiry_wait(facts: &Facts, setting: &Setting) -> Option<u8> {
    thread_local! {
        static ANSWERS: Kept<(Facts, Setting), Option<u8>> = RefCell::default();
    }
    kept(&ANSWERS, (*facts, *setting), |(facts, setting)| {
        hub_core::lease::expiry_wait(&fold(&facts, &setting)).map(|wait| span(wait.as_millis()))
    })
}

/// What the hub says to a renewal.
pub fn answer(facts: &Facts, setting: &Setting, asked: Asked) -> Answer {
    thread_local! {
        static ANSWERS: Kept<(Facts, Setting, Asked), Answer> = RefCell::default();
    }
    kept(&ANSWERS, (*facts, *setting, asked), |(facts, setting, asked)| {
        let renewal = Renewal {
            placement: id(),
            epoch: Epoch(u64::from(asked.epoch)),
            echo: Generation(u64::from(asked.echo)),
            gates: Vec::new(),
        };
        let placement = placement(policy(&setting, asked.newest));
        let progress = fold(&facts, &setting);
        let answer = hub_core::lease::answer(
            Some(&placement),
            Some(&progress),
            None,
            Some(Epoch(0)),
            &cluster(asked.site),
            &renewal,
        );
        match answer.verdict {
            Ok(_) => Answer::Granted {
                records_policy: answer.record.iter().any(|entry| matches!(entry, Entry::Policy { .. })),
                records_echo: answer.record.iter().any(|entry| matches!(entry, Entry::Echo { .. })),
            },
            Err(denial) => match denial.reason {
                DenialReason::Superseded => Answer::Superseded { epoch: span(u128::from(denial.epoch.0)) },
                DenialReason::NotNow | DenialReason::NotYours => Answer::NotNow,
            },
        }
    })
}

fn span(ticks: u128) -> u8 {
    u8::try_from(ticks).unwrap_or(u8::MAX)
}

fn placement(policy: Policy) -> Placement {
    let nothing = || Selector(BTreeMap::new());
    Placement {
        id: id(),
        name: name(),
        generation: policy.generation,
        created: None,
        deleting: false,
        preferred: cluster(0),
        clusters: vec![cluster(0), cluster(1)],
        protect: Protect { volumes: nothing(), workloads: nothing(), objects: Vec::new() },
        replication_class: String::new(),
        group_class: None,
        mode: Mode::Automatic,
        max_data_loss: None,
        max_skew: None,
        policy,
        paused: false,
        move_deadline: Duration::ZERO,
        failback: Failback {
            automatic: false,
            resync_automatic: false,
            stabilization: Duration::ZERO,
            windows: Vec::new(),
        },
        depends_on: Vec::new(),
        told: None,
        acknowledged: None,
    }
}

/// The two parts of a site's lease, in spans from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parts {
    pub hubs: Span,
    /// What the other site has promised.
    pub promised: u8,
}

/// What may happen to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// A renewal of this age was granted for `ttl`; the site lives by `lived_by`.
    Granted { age: u8, ttl: u8, lived_by: u8 },
    /// A heartbeat of this age was answered while an epoch is entered.
    Heard { age: u8, ttl: u8 },
    /// The other site was asked so long ago, and promises.
    Promised { age: u8 },
}

fn lease(parts: Parts) -> Lease {
    let Parts { hubs: Span { sent, left }, promised } = parts;
    let accounted = Accounted { sent: past(sent), until: Moment(NOW + u64::from(left)) };
    let mut lease = Lease::remembered(Some(accounted), None);
    if promised > 0 {
        let until = BTreeMap::from([(cluster(1), Moment(NOW + u64::from(promised)))]);
        lease.recall(Promised { epoch: Epoch(1), until }, Epoch(1));
    }
    lease
}

fn past(age: u8) -> Moment {
    Moment(NOW - u64::from(age))
}

fn from_now(until: Moment) -> u8 {
    span(u128::from(until.0.saturating_sub(NOW)))
}

/// How long the site may go on.
pub fn left(parts: Parts) -> u8 {
    thread_local! {
        static ANSWERS: Kept<Parts, u8> = RefCell::default();
    }
    kept(&ANSWERS, parts, |parts| lease(parts).deadline([&cluster(1)].into_iter()).map_or(0, from_now))
}

pub fn extended(parts: Parts, by: Extension) -> Parts {
    thread_local! {
        static ANSWERS: Kept<(Parts, Extension), Parts> = RefCell::default();
    }
    kept(&ANSWERS, (parts, by), |(parts, by)| {
        let mut lease = lease(parts);
        match by {
            Extension::Granted { age, ttl, lived_by } => {
                lease.grant(past(0), past(age), ticks(ttl), ticks(lived_by))
            }
            Extension::Heard { age, ttl } => lease.hear(past(age), ticks(ttl)),
            Extension::Promised { age } => lease.promise(cluster(1), past(age), ticks(HOLD)),
        }
        let hubs = lease.accounted().map_or(parts.hubs, |Accounted { sent, until }| Span {
            sent: span(u128::from(NOW - sent.0.min(NOW))),
            left: from_now(until),
        });
        let promised = lease.promised(Epoch(1)).and_then(|promised| promised.until.get(&cluster(1)).copied());
        Parts { hubs, promised: promised.map_or(0, from_now) }
    })
}

/// How long a target waits for a holder that it has promised to wait for.
pub fn target_wait(setting: &Setting, generation: u8) -> u8 {
    let timing = policy(setting, generation).timing;
    span(timing.target_wait_for(timing.stop).as_millis())
}

/// A command as it reaches its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Commanded {
    pub epoch: u8,
    /// Of the heartbeat that it answers.
    pub age: u8,
    /// None: it is a fence.
    pub promotes: Option<Proof>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    Admitted,
    /// It was carried out before, and is answered again.
    Replayed,
    Refused,
}

/// What the guard of commands knows of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guarded {
    role: Role,
    epoch: u8,
    commanded: Option<u8>,
    answered: Option<u8>,
    owes: u8,
}

impl Guarded {
    pub fn of(site: &Site) -> Guarded {
        let Site { role, epoch, commanded, answered, owes, .. } = *site;
        Guarded { role, epoch, commanded, answered, owes }
    }
}

pub fn judge(site: &Site, commanded: Commanded) -> Judged {
    thread_local! {
        static ANSWERS: Kept<(Guarded, Commanded), Judged> = RefCell::default();
    }
    kept(&ANSWERS, (Guarded::of(site), commanded), |(guarded, commanded)| ask_the_guard(guarded, commanded))
}

fn ask_the_guard(site: Guarded, commanded: Commanded) -> Judged {
    let (action, step) = match commanded.promotes {
        Some(known) => (Action::Promote { proof: proof(known), claims: Vec::new() }, StepKind::Promote),
        None => (Action::Fence, StepKind::Fence),
    };
    let command = Command {
        id: CommandId { placement: id(), operation: operation_id(commanded.epoch), step },
        epoch: Epoch(u64::from(commanded.epoch)),
        nonce: Nonce(1),
        lifetime: ticks(LIFETIME),
        action,
        trace_parent: None,
    };
    let operation = site.commanded.map(operation_id);
    let was_answered = commanded.promotes.is_some() && site.answered == Some(commanded.epoch);
    let known = guard::Known {
        assigned: true,
        epoch_seen: Epoch(u64::from(site.epoch)),
        role: match site.role {
            Role::Holder => proto::Role::Holder,
            Role::Promoting => proto::Role::Promoting,
            Role::Standby => proto::Role::Standby,
            Role::Fenced => proto::Role::Fenced,
        },
        held_elsewhere: false,
        operation: operation.as_ref(),
        promised_until: (site.owes > 0).then(|| Moment(NOW + u64::from(site.owes))),
        nonce_sent: Some(past(commanded.age)),
        answered: was_answered.then_some(&Outcome::Done),
    };
    match guard::judge(&command, known, Moment(NOW)) {
        Verdict::Admitted => Judged::Admitted,
        Verdict::Replayed(_) => Judged::Replayed,
        Verdict::Refused(_) => Judged::Refused,
    }
}
