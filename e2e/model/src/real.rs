//! The product's own functions, asked about a state of the model: the fold of the journal, the answer to a renewal, what an
//! expired lease proves, the arithmetic of a lease, and the guard of commands. What the model decides by itself is only
//! *when* something happens, and there it may do whatever the hub and the network could.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use agent_core::guard::{self, Verdict};
use agent_core::lease::{Accounted, Lease, Promised};
use hub_core::journal::{Entry, Intent, OperationKind, StepRecord};
use hub_core::placement::{Failback, Mode, Placement};
use hub_core::progress::{Ledger, Progress};
use proto::{
    Action, ClusterName, Command, CommandId, DenialReason, Epoch, FenceProof, Fencing, Generation, Moment,
    Nonce, OnSilence, OperationId, PlacementId, PlacementName, Policy, Protect, Renewal, Selector, StepKind,
    Timing, WallTime,
};

use crate::state::{Facts, Kind, Proof, Role, Site, Span};

/// Far enough from the beginning of time that every span fits before it.
const NOW: u64 = 1_000;
/// How many ticks a command lives.
pub const LIFETIME: u8 = 2;

/// What a generation of the DRPlacement says, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub ttl: u8,
    pub stops: bool,
}

pub const STOP: u8 = 1;
pub const HOLD: u8 = 2;

/// One tick is a millisecond to the product.
fn ticks(count: u8) -> Duration {
    Duration::from_millis(u64::from(count))
}

pub fn policy(terms: &[Terms], generation: u8, slow_clocks: bool) -> Policy {
    let Terms { ttl, stops } = terms[usize::from(generation) - 1];
    Policy {
        generation: Generation(u64::from(generation)),
        timing: Timing {
            renew: ticks(1),
            rpc: ticks(1),
            ttl: ticks(ttl),
            hold: ticks(HOLD),
            grace: ticks(0),
            stop: ticks(STOP),
            clock_rate_error_ppm: if slow_clocks { 100_000 } else { 0 },
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
fn journal(facts: &Facts, terms: &[Terms], slow_clocks: bool) -> Vec<Entry> {
    let mut entries = vec![Entry::Ownership {
        placement: id(),
        name: name(),
        epoch: Epoch(u64::from(facts.epoch)),
        holder: cluster(facts.owner),
    }];
    for generation in &facts.granted {
        let policy = policy(terms, *generation, slow_clocks);
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
pub struct Folded(Rc<Progress>);

type Known = HashMap<(Facts, Vec<(u8, bool)>, bool), Rc<Progress>>;

thread_local! {
    /// The same journal is met very often.
    static FOLDED: RefCell<Known> = RefCell::new(HashMap::new());
}

pub fn fold(facts: &Facts, terms: &[Terms], slow_clocks: bool) -> Folded {
    let key = (facts.clone(), terms.iter().map(|it| (it.ttl, it.stops)).collect(), slow_clocks);
    FOLDED.with_borrow_mut(|known| {
        let folded = known.entry(key).or_insert_with(|| {
            let mut ledger = Ledger::default();
            for entry in journal(facts, terms, slow_clocks) {
                ledger.fold(WallTime(0), &entry);
            }
            Rc::new(ledger.of(&id()).cloned().unwrap_or_default())
        });
        Folded(folded.clone())
    })
}

pub enum Answer {
    Granted { records_policy: bool, records_echo: bool },
    Superseded { epoch: u8 },
    NotNow,
}

impl Folded {
    /// How many ticks after the last grant the holder is certainly stopped, if waiting proves anything.
    pub fn expiry_wait(&self) -> Option<u8> {
        hub_core::lease::expiry_wait(&self.0).map(|wait| span(wait.as_millis()))
    }

    pub fn answer(&self, site: usize, epoch: u8, echo: u8, newest: Policy) -> Answer {
        let renewal = Renewal {
            placement: id(),
            epoch: Epoch(u64::from(epoch)),
            echo: Generation(u64::from(echo)),
        };
        let placement = placement(newest);
        let answer =
            hub_core::lease::answer(Some(&placement), Some(&self.0), None, &cluster(site), &renewal);
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
    }
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

/// The lease of a site as the agent has it.
fn lease(site: &Site, peer: usize) -> Lease {
    let Span { sent, left } = site.lease;
    let accounted =
        Accounted { sent: Moment(NOW - u64::from(sent)), until: Moment(NOW + u64::from(left)) };
    let mut lease = Lease::remembered(Some(accounted), None);
    if site.promised > 0 {
        let until = BTreeMap::from([(cluster(peer), Moment(NOW + u64::from(site.promised)))]);
        lease.recall(Promised { epoch: Epoch(1), until }, Epoch(1));
    }
    lease
}

fn keep(site: &mut Site, lease: &Lease, peer: usize) {
    if let Some(Accounted { sent, until }) = lease.accounted() {
        site.lease = Span { sent: span((NOW - sent.0.min(NOW)).into()), left: span(until.0.saturating_sub(NOW).into()) };
    }
    let promised = lease.promised(Epoch(1)).and_then(|promised| promised.until.get(&cluster(peer)).copied());
    site.promised = promised.map_or(0, |until| span(until.0.saturating_sub(NOW).into()));
}

/// How long the site may go on.
pub fn left(site: &Site, peer: usize) -> u8 {
    let deadline = lease(site, peer).deadline([&cluster(peer)].into_iter());
    deadline.map_or(0, |deadline| span(deadline.0.saturating_sub(NOW).into()))
}

pub fn grant(site: &mut Site, peer: usize, age: u8, ttl: u8, lived_by: u8) {
    let mut lease = lease(site, peer);
    lease.grant(Moment(NOW - u64::from(age)), ticks(ttl), ticks(lived_by));
    keep(site, &lease, peer);
    site.granted = true;
}

pub fn hear(site: &mut Site, peer: usize, age: u8, ttl: u8) {
    let mut lease = lease(site, peer);
    lease.hear(Moment(NOW - u64::from(age)), ticks(ttl));
    keep(site, &lease, peer);
}

pub fn promise(site: &mut Site, peer: usize, age: u8) {
    let mut lease = lease(site, peer);
    lease.promise(cluster(peer), Moment(NOW - u64::from(age)), ticks(HOLD));
    keep(site, &lease, peer);
}

/// How long a target waits for a holder that it has promised to wait for.
pub fn target_wait(policy: &Policy) -> u8 {
    span(policy.timing.target_wait_for(ticks(STOP)).as_millis())
}

/// What the guard says to a command that answers a heartbeat of this age.
pub fn is_admitted(site: &Site, promotes: Option<Proof>, epoch: u8, age: u8) -> bool {
    let (action, step) = match promotes {
        Some(known) => (Action::Promote { proof: proof(known), claims: Vec::new() }, StepKind::Promote),
        None => (Action::Fence, StepKind::Fence),
    };
    let command = Command {
        id: CommandId { placement: id(), operation: operation_id(epoch), step },
        epoch: Epoch(u64::from(epoch)),
        nonce: Nonce(1),
        lifetime: ticks(LIFETIME),
        action,
        trace_parent: None,
    };
    let operation = site.commanded.map(operation_id);
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
        nonce_sent: Some(Moment(NOW - u64::from(age))),
        answered: None,
    };
    guard::judge(&command, known, Moment(NOW)) == Verdict::Admitted
}
