//! The hub's one owner of state: an event goes in, a decision comes out.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{
    Acknowledgement, ClusterName, Denial, DenialReason, Epoch, FromHub, Grant, Heartbeat, Hello, Mark,
    Moment, OperationId, Outcome, PlacementId, Renewal, Reply, Report, Role, Rule, Sealed, StepKind, Term,
    kept,
};

mod copies;
mod observe;

use crate::agenda::Agenda;
use crate::approval::Approval;
use crate::decide::{Choice, decide};
use crate::decision::{Decision, Remembered, Send};
use crate::event::{Event, Now};
use crate::finding::Finding;
use crate::fleet::Fleet;
use crate::gate;
use crate::journal::{Entry, Line, OperationKind};
use crate::lease::{self, Memories};
use crate::observation::Observation;
use crate::orders::Orders;
use crate::placement::{Placement, Refused};
use crate::progress::{Ledger, Progress};
use crate::rejoin;
use crate::tell::Tell;
use crate::wish::is_silent;
use crate::witness::{Visited, Witness, Witnesses};

/// What an installation says about its hub.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    pub failure_domain: String,
    /// How long a site that was lost must be heard again before it is a target (protocol §7).
    pub steady_after: Duration,
    /// How many placements may be moved at once.
    pub moves_at_once: usize,
    /// Each name once.
    pub witnesses: Vec<Witness>,
}

impl Settings {
    /// Protocol §7.
    pub const STEADY_AFTER: Duration = Duration::from_secs(10 * 60);
    /// Each move makes a handful of calls on the storage at both sites; more at once gain nothing.
    pub const MOVES_AT_ONCE: usize = 16;

    pub fn new(name: impl Into<String>, failure_domain: impl Into<String>) -> Settings {
        Settings {
            name: name.into(),
            failure_domain: failure_domain.into(),
            steady_after: Settings::STEADY_AFTER,
            moves_at_once: Settings::MOVES_AT_ONCE,
            witnesses: Vec::new(),
        }
    }
}

/// A hub that was not run for this long has missed what was said meanwhile: silence is counted anew from here.
const ASLEEP: Duration = Duration::from_secs(1);

/// How often a placement is looked at while something moves, and while nothing does.
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(500);

/// How often a fresh read of a DRPlacement is asked for while its holder is silent.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// More transitions in one step than any plan has; a bound, so that a mistake cannot spin.
const MOST_TRANSITIONS: usize = 64;

pub struct Hub {
    settings: Settings,
    /// Since when the hub has been hearing without a gap.
    awake_since: Moment,
    last_step: Moment,
    ledger: Ledger,
    placements: BTreeMap<PlacementId, Placement>,
    refused: BTreeMap<PlacementId, Refused>,
    /// Answers of humans, by namespace and name.
    approvals: BTreeMap<(String, String), Approval>,
    remembered: BTreeMap<PlacementId, Remembered>,
    fleet: Fleet,
    memories: BTreeMap<PlacementId, Memories>,
    last_grant: BTreeMap<PlacementId, Moment>,
    /// When each cluster was last answered, whatever becomes of its DRCluster.
    answered: BTreeMap<ClusterName, Moment>,
    started: Moment,
    verified: BTreeMap<PlacementId, Moment>,
    read_asked: BTreeMap<PlacementId, Moment>,
    answers: BTreeMap<PlacementId, Answers>,
    witnesses: Witnesses,
    agenda: Agenda,
    orders: Orders,
    tell: Tell,
}

/// What the agents have answered to the operation that runs.
#[derive(Debug)]
struct Answers {
    operation: OperationId,
    outcomes: BTreeMap<(ClusterName, StepKind), Outcome>,
}

/// What a look at a placement asks for.
struct Looked {
    /// Something moves: it is looked at again soon.
    busy: bool,
    wants_read: bool,
}

impl Looked {
    fn at(observation: &Observation) -> Looked {
        let silent = is_silent(observation);
        let progress = observation.progress;
        // The user's last word is read again before what cannot be taken back (S27).
        let undecided = progress.running().is_some_and(|operation| {
            let throws_away = operation.intent.kind == OperationKind::Resync
                && operation.step(StepKind::Resync).issued.is_none();
            throws_away || operation.intent.kind.is_planned_move() && !operation.is_past_no_return()
        });
        let answered = progress.proposed.is_some() && !observation.approvals.is_empty();
        Looked { busy: silent || progress.running().is_some(), wants_read: silent || undecided || answered }
    }
}

impl Hub {
    /// Folds the journal and begins a new term.
    pub fn start(
        settings: Settings,
        now: Now,
        lines: &[Line],
        remembered: Vec<Remembered>,
    ) -> (Hub, Decision) {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.fold(line.at, &line.entry);
        }
        let mut hub = Hub {
            witnesses: Witnesses::new(&settings.witnesses),
            settings,
            awake_since: now.boot,
            last_step: now.boot,
            ledger,
            placements: BTreeMap::new(),
            refused: BTreeMap::new(),
            approvals: BTreeMap::new(),
            remembered: remembered.into_iter().map(|kept| (kept.placement.clone(), kept)).collect(),
            fleet: Fleet::default(),
            memories: BTreeMap::new(),
            last_grant: BTreeMap::new(),
            answered: BTreeMap::new(),
            started: now.boot,
            verified: BTreeMap::new(),
            read_asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            agenda: Agenda::default(),
            orders: Orders::default(),
            tell: Tell::default(),
        };
        let mut decision = Decision::default();
        let term = Term(hub.ledger.term.0 + 1);
        hub.record(now, Entry::Term { term }, &mut decision);
        (hub, decision)
    }

    /// The only way in.
    pub fn step(&mut self, now: Now, event: Event) -> Decision {
        let mut decision = Decision::default();
        if now.boot.since(self.last_step) > ASLEEP {
            self.awake_since = now.boot;
        }
        self.last_step = now.boot;
        for placement in self.learn(now, event, &mut decision) {
            self.consider(now, &placement, &mut decision);
        }
        self.withhold_grants(&mut decision);
        // Whoever is granted a generation has been told before what it asks for: orders first, then replies.
        decision.send.sort_by_key(|send| matches!(send.message, FromHub::Reply(_)));
        decision
    }

    /// R2: an answer does not grant what this very step has begun to leave.
    fn withhold_grants(&self, decision: &mut Decision) {
        let leaves = decision.record.iter().any(|entry| matches!(entry, Entry::Intent(_)));
        if !leaves || !kept(Rule::NoGrantAfterIntent) {
            return;
        }
        for send in &mut decision.send {
            let FromHub::Reply(reply) = &mut send.message else { continue };
            let denials = &mut reply.denials;
            reply.grants.retain(|grant| {
                let progress =
                    self.ledger.of(&grant.placement).filter(|progress| lease::is_leaving(progress));
                let Some(progress) = progress else { return true };
                denials.push(Denial {
                    placement: grant.placement.clone(),
                    epoch: progress.highest,
                    holder: progress.ownership.as_ref().map(|ownership| ownership.holder.clone()),
                    reason: DenialReason::NotNow,
                });
                false
            });
        }
    }

    /// The cluster's assignments as the hub means them now; for tests and for the operator's view.
    pub fn progress(&self, placement: &PlacementId) -> Option<&Progress> {
        self.ledger.of(placement)
    }

    pub fn term(&self) -> Term {
        self.ledger.term
    }

    /// Takes the event in, and says which placements to look at.
    fn learn(&mut self, now: Now, event: Event, decision: &mut Decision) -> Vec<PlacementId> {
        match event {
            Event::PlacementSeen(placement) => self.placement_seen(now, *placement, decision),
            Event::PlacementRefused(refused) => self.placement_refused(now, *refused, decision),
            Event::Verified(placement, began) => {
                self.verified.insert(placement.clone(), began);
                vec![placement]
            }
            Event::PlacementGone(id) => self.placement_gone(id),
            Event::ApprovalSeen(approval) => self.approval_seen(*approval),
            Event::ApprovalGone(namespace, name) => {
                self.approvals.remove(&(namespace, name));
                Vec::new()
            }
            Event::ClusterSeen(cluster) => {
                let name = cluster.name.clone();
                self.fleet.cluster_seen(now.boot, cluster);
                self.tell.site(now, &self.fleet, &name, self.awake_since, decision);
                self.placements_of(&name)
            }
            Event::ClusterGone(name) => {
                self.fleet.sites.remove(&name);
                self.placements_of(&name)
            }
            Event::Connected(hello) => self.connected(now, &hello, decision),
            Event::Disconnected(cluster) => {
                self.fleet.disconnected(&cluster);
                self.placements_of(&cluster)
            }
            Event::Heartbeat(heartbeat) => self.heartbeat(now, &heartbeat, decision),
            Event::Report(report) => self.report(now, *report, decision),
            Event::Acknowledged(acknowledgement) => self.acknowledged(acknowledgement),
            Event::Visited(visited) => self.visited(now, &visited, decision),
            Event::Tick => {
                decision.visit = self.witnesses.due(now.boot, &self.ledger);
                self.tell.sites(now, &self.fleet, self.awake_since, decision);
                self.agenda.take_due(now.boot)
            }
        }
    }

    fn placement_seen(
        &mut self,
        now: Now,
        placement: Placement,
        decision: &mut Decision,
    ) -> Vec<PlacementId> {
        let id = placement.id.clone();
        let mut placement = placement;
        if let Some(known) = self.placements.get(&id) {
            // The watch and the fresh reads are two conversations: the older of two wishes is no wish any more.
            if placement.generation < known.generation {
                return Vec::new();
            }
            placement.deleting = placement.deleting || known.deleting;
        }
        let told = placement.told.take();
        if let Some(told) = &told {
            let epoch = Epoch(told.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0));
            self.tell.knew(&id, told);
            self.rejoin(now, &id, "its status", (epoch, Role::Unknown), decision);
        }
        let understood_again = self.refused.remove(&id).is_some();
        if let Some(known) = self.placements.get_mut(&id) {
            known.told = None;
            // Fresh reads mostly bring what is known.
            if *known == placement && !understood_again && decision.record.is_empty() {
                known.told = told;
                return Vec::new();
            }
        }
        placement.told = told;
        self.placements.insert(id.clone(), placement);
        self.tell.take_patience(self.placements.values());
        self.witnesses.take_timing(self.placements.values());
        self.compare_memories(now, &id, decision);
        let mut touched = self.overlapping(&id);
        touched.push(id);
        touched
    }

    fn approval_seen(&mut self, approval: Approval) -> Vec<PlacementId> {
        let concerned = self.placements.values().filter(|placement| approval.concerns(placement));
        let concerned = concerned.map(|placement| placement.id.clone()).collect();
        self.approvals.insert((approval.namespace.clone(), approval.name.clone()), approval);
        concerned
    }

    fn placement_refused(&mut self, now: Now, refused: Refused, decision: &mut Decision) -> Vec<PlacementId> {
        let id = refused.id.clone();
        let known = self.placements.get_mut(&id);
        if let (Some(known), true) = (known, refused.deleting) {
            known.deleting = true;
        } else if refused.deleting && !self.owns(&id) {
            // Nothing to let go of. What the journal owns waits until it is understood, and can be let go of.
            decision.explain.push(crate::decision::Explanation::Released(id.clone(), refused.name.clone()));
            return Vec::new();
        }
        self.tell.refused(now, &refused, decision);
        self.refused.insert(id.clone(), refused);
        vec![id]
    }

    fn owns(&self, id: &PlacementId) -> bool {
        self.ledger.of(id).is_some_and(|progress| progress.ownership.is_some() && !progress.released)
    }

    fn placement_gone(&mut self, id: PlacementId) -> Vec<PlacementId> {
        self.refused.remove(&id);
        let owned = self.owns(&id);
        match self.placements.get_mut(&id) {
            // Somebody took the finalizer away: let go all the same.
            Some(placement) if owned => placement.deleting = true,
            Some(_) => {
                self.placements.remove(&id);
                self.tell.forget(&id);
            }
            None => {}
        }
        vec![id]
    }

    fn connected(&mut self, now: Now, hello: &Hello, decision: &mut Decision) -> Vec<PlacementId> {
        self.fleet.greeted(now.boot, hello);
        self.orders.connected(&hello.cluster);
        for known in &hello.known {
            self.remember_memory(&known.placement, &hello.cluster, known.epoch, known.role);
            self.compare_memories(now, &known.placement, decision);
            if self.ledger.of(&known.placement).is_some_and(|progress| progress.released) {
                self.orders.let_go_later(&hello.cluster, &known.placement);
            }
        }
        let touched = self.placements_of(&hello.cluster);
        for id in &touched {
            // A cluster that remembers nothing of a placement says so by leaving it out.
            let memories = self.memories.entry(id.clone()).or_default();
            memories.entry(hello.cluster.clone()).or_insert((Epoch(0), Role::Unknown));
        }
        touched
    }

    fn remember_memory(&mut self, placement: &PlacementId, cluster: &ClusterName, epoch: Epoch, role: Role) {
        self.memories.entry(placement.clone()).or_default().insert(cluster.clone(), (epoch, role));
    }

    /// What the clusters of a placement remember, held against the journal. Others have no say in it (S26).
    fn compare_memories(&mut self, now: Now, id: &PlacementId, decision: &mut Decision) {
        let Some(placement) = self.placements.get(id) else { return };
        let holder =
            self.ledger.of(id).and_then(|progress| progress.ownership.as_ref()).map(|own| &own.holder);
        let concerned =
            |cluster: &ClusterName| placement.clusters.contains(cluster) || holder == Some(cluster);
        let memories = self.memories.get(id).into_iter().flatten();
        let known: Vec<_> = memories
            .filter(|(cluster, _)| concerned(cluster))
            .map(|(cluster, known)| (cluster.to_string(), *known))
            .collect();
        let testified = self.witnesses.remember(id);
        // A witness is nothing for any placement: it remembers.
        let testified =
            testified.map(|(witness, epoch)| (format!("witness {witness}"), (epoch, Role::Unknown)));
        let known: Vec<_> = known.into_iter().chain(testified).collect();
        for (witness, known) in known {
            self.rejoin(now, id, &witness, known, decision);
        }
    }

    /// Whoever remembers more than this journal says so, of the placements that there are.
    fn visited(&mut self, now: Now, visited: &Visited, decision: &mut Decision) -> Vec<PlacementId> {
        self.witnesses.visited(visited, &self.ledger);
        let named = visited.look.placements.iter().map(|testimony| &testimony.placement);
        for id in named {
            self.compare_memories(now, id, decision);
        }
        Vec::new()
    }

    fn rejoin(
        &mut self,
        now: Now,
        id: &PlacementId,
        witness: &str,
        known: (Epoch, Role),
        decision: &mut Decision,
    ) {
        let progress = self.ledger.of(id);
        let told_already = progress.is_some_and(|progress| progress.needs_human.is_some());
        if told_already || !kept(Rule::HighestEpochKnownWins) {
            return;
        }
        let name = self.placements.get(id).map(|placement| &placement.name);
        let reason = rejoin::knows_more(progress, witness, known.0, name)
            .or_else(|| rejoin::acts_untold(progress, witness, known, name));
        if let Some(reason) = reason {
            self.record(now, Entry::NeedsHuman { placement: id.clone(), reason }, decision);
        }
    }

    /// No work in proportion to the fleet here: this site, and the placements it renews.
    fn heartbeat(&mut self, now: Now, heartbeat: &Heartbeat, decision: &mut Decision) -> Vec<PlacementId> {
        let cluster = &heartbeat.cluster;
        let was_quiet = self
            .fleet
            .sites
            .get(cluster)
            .is_none_or(|site| !site.connected || site.silent_for(now.boot, self.awake_since) > ASLEEP);
        self.fleet.heartbeat(now.boot, self.awake_since, now.wall, heartbeat);
        self.answered.insert(cluster.clone(), now.boot);
        let mut reply = Reply {
            term: self.ledger.term,
            nonce: heartbeat.nonce,
            mark: Mark { term: self.ledger.term.0, at: now.boot },
            grants: Vec::new(),
            denials: Vec::new(),
        };
        for renewal in &heartbeat.renewals {
            let id = &renewal.placement;
            let (placement, progress) = (self.placements.get(id), self.ledger.of(id));
            let answer = match progress.filter(|_| placement.is_none() && self.refused.contains_key(id)) {
                Some(progress) => lease::answer_by_the_journal(progress, cluster, renewal),
                None => {
                    let (memories, testified) = (self.memories.get(id), self.witnesses.highest(id));
                    lease::answer(placement, progress, memories, testified, cluster, renewal)
                }
            };
            for entry in answer.record {
                self.record(now, entry, decision);
            }
            match answer.verdict {
                Ok(mut grant) => {
                    grant.tickets = self.tickets(cluster, renewal, &grant);
                    self.last_grant.insert(id.clone(), now.boot);
                    reply.grants.push(grant);
                }
                Err(denial) => reply.denials.push(denial),
            }
        }
        decision.send.push(Send { to: cluster.clone(), message: FromHub::Reply(reply) });
        self.orders.let_go(&self.fleet, &self.ledger, cluster, decision);
        if was_quiet { self.placements_of(cluster) } else { Vec::new() }
    }

    /// What the gates of the holder's pods are told with its grant.
    fn tickets(&self, cluster: &ClusterName, renewal: &Renewal, grant: &Grant) -> Vec<Sealed> {
        let id = &renewal.placement;
        let known = self.placements.get(id).map(|known| (&known.name, &known.clusters));
        let journaled = || {
            let progress = self.ledger.of(id)?;
            let (_, clusters) = progress.targets.last()?;
            Some((&self.refused.get(id)?.name, clusters))
        };
        let Some((name, clusters)) = known.or_else(journaled) else { return Vec::new() };
        gate::tickets(cluster, name, &gate::targets(clusters, cluster, &self.fleet), renewal, grant)
    }

    fn report(&mut self, now: Now, report: Report, decision: &mut Decision) -> Vec<PlacementId> {
        let id = report.placement.clone();
        self.remember_memory(&id, &report.cluster, report.epoch_seen, report.role);
        self.compare_memories(now, &id, decision);
        let kept = self.remembered.get(&id).filter(|kept| kept.from == report.cluster);
        self.fleet.report(now.wall, report, kept.map(|kept| &kept.doubted));
        vec![id]
    }

    fn acknowledged(&mut self, ack: Acknowledgement) -> Vec<PlacementId> {
        let id = ack.command.placement.clone();
        let running = self.ledger.of(&id).and_then(Progress::running);
        let Some(operation) = running.filter(|operation| {
            operation.intent.operation == ack.command.operation && operation.intent.epoch == ack.epoch
        }) else {
            // A late answer to an operation that has ended changes nothing (S11).
            return Vec::new();
        };
        let name = operation.intent.operation.clone();
        let answers = self
            .answers
            .entry(id.clone())
            .and_modify(|answers| {
                if answers.operation != name {
                    *answers = Answers { operation: name.clone(), outcomes: BTreeMap::new() };
                }
            })
            .or_insert_with(|| Answers { operation: name.clone(), outcomes: BTreeMap::new() });
        answers.outcomes.insert((ack.cluster, ack.command.step), ack.outcome);
        vec![id]
    }

    /// Looks at one placement until there is nothing left to write down; then sends, tells, and sets the next look.
    fn consider(&mut self, now: Now, id: &PlacementId, decision: &mut Decision) {
        if !self.placements.contains_key(id) {
            return;
        }
        self.keep_copy(now, id, decision);
        for _ in 0..MOST_TRANSITIONS {
            let Some(entries) = self.look(now, id, decision) else { return };
            for entry in entries {
                self.record(now, entry, decision);
            }
            self.keep_copy(now, id, decision);
        }
        self.agenda.look_again(id, now.boot + BUSY);
    }

    /// What is to be written down first; where that is nothing, sends, tells, and sets the next look.
    fn look(&mut self, now: Now, id: &PlacementId, decision: &mut Decision) -> Option<Vec<Entry>> {
        if self.ledger.of(id).is_some_and(|progress| progress.released) {
            self.release(id, decision);
            return None;
        }
        let mut orders = std::mem::take(&mut self.orders);
        let mut tell = std::mem::take(&mut self.tell);
        let choice = self.observe(now, id, &tell).map(|observation| match decide(&observation) {
            Choice::Record(entries) => Err(entries),
            Choice::Wait(finding) => {
                let finding = finding.or_else(|| self.needs_human(id));
                orders.assign(&observation, &self.fleet, decision);
                orders.command(now, &observation, decision);
                tell.placement(&observation, finding.as_ref(), self.refused.get(id), decision);
                Ok(Looked::at(&observation))
            }
        });
        (self.orders, self.tell) = (orders, tell);
        match choice? {
            Err(entries) => Some(entries),
            Ok(Looked { busy, wants_read }) => {
                if wants_read {
                    self.ask_for_a_read(now, id, decision);
                }
                self.agenda.look_again(id, now.boot + if busy { BUSY } else { IDLE });
                None
            }
        }
    }

    fn needs_human(&self, id: &PlacementId) -> Option<Finding> {
        let reason = self.ledger.of(id)?.needs_human.as_ref()?;
        Some(Finding::new(crds::conditions::Reason::NeedsHuman, reason.clone()))
    }

    fn ask_for_a_read(&mut self, now: Now, id: &PlacementId, decision: &mut Decision) {
        let asked = self.read_asked.get(id).copied();
        let due = asked.is_none_or(|asked| now.boot.since(asked) >= READ_AGAIN);
        if let (true, Some(placement)) = (due, self.placements.get(id)) {
            self.read_asked.insert(id.clone(), now.boot);
            decision.verify.push(placement.name.clone());
        }
    }

    fn release(&mut self, id: &PlacementId, decision: &mut Decision) {
        if let Some(placement) = self.placements.remove(id) {
            self.orders.unassign(&placement, decision);
            self.tell.forget(id);
            self.tell.take_patience(self.placements.values());
            self.witnesses.take_timing(self.placements.values());
            decision.explain.push(crate::decision::Explanation::Released(id.clone(), placement.name));
        }
        self.agenda.drop(id);
    }

    /// Folds an entry in as it is asked to be written down: the driver makes it durable before anything is sent.
    fn record(&mut self, now: Now, entry: Entry, decision: &mut Decision) {
        self.ledger.fold(now.wall, &entry);
        if let Entry::Ownership { placement, .. } = &entry {
            // The new epoch's lease has not been granted yet.
            self.last_grant.insert(placement.clone(), now.boot);
        }
        if matches!(entry, Entry::Intent(_) | Entry::Ownership { .. }) {
            self.witnesses.visit_soon();
        }
        self.tell.recorded(&entry, &self.ledger, decision);
        decision.record.push(entry);
    }

    fn placements_of(&self, cluster: &ClusterName) -> Vec<PlacementId> {
        let of_cluster = self.placements.values().filter(|placement| placement.clusters.contains(cluster));
        of_cluster.map(|placement| placement.id.clone()).collect()
    }
}
