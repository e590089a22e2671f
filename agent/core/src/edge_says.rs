//! What the edge brings: memory at the start, the ends of writes and effects, the clocks; and what is said by the clock.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::{
    ClusterName, Fencing, FromAgent, Generation, Heartbeat, Moment, Nonce, PlacementId, Renewal, Role, Rule,
    Timing, WallTime, kept,
};

use crate::agent::Agent;
use crate::decision::{Decision, Memory, Note, Probe};
use crate::event::{Failed, Failure, MemoryRead, Receipt};
use crate::fence::FenceProgress;
use crate::hub_says::Sent;
use crate::lease::Lease;
use crate::placement::Placement;
use crate::site_state::{Promise, Recorded, SiteState};

/// The period of heartbeats before any assignment names one.
const UNASSIGNED_RENEW: Duration = Duration::from_secs(1);
/// The memory is written once in each renewal period, but within these bounds: it is also what a waiting agent watches.
const MEMORY_PERIOD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// Heartbeats that may still be answered; an answer to an older one grants nothing any more anyway.
const ANSWERABLE: usize = 1024;
/// R7: the clocks may not move apart by more.
const LARGEST_CLOCK_JUMP: Duration = Duration::from_secs(2);

impl Agent {
    /// Everything is taken from what was durable. A holder from another life of its node stops before it asks anyone.
    pub(crate) fn start(&mut self, memory: MemoryRead, decision: &mut Decision) {
        let MemoryRead { boot, wall, remembered_boot, remembered_offset, leases, mut promises, paths, sites } =
            memory;
        let same_boot = remembered_boot.as_ref() == Some(&boot) || !kept(Rule::AnotherBootStopsFirst);
        self.clock_offset = remembered_offset.filter(|_| remembered_boot.as_ref() == Some(&boot));
        self.started = Some(self.now);
        // Nonces of an earlier process on this boot must not be taken for ours.
        self.nonce = Nonce(self.now.0);
        if same_boot && self.clock_moved(self.clock_offset, wall).is_none() {
            self.paths.recall(paths);
        }
        if !same_boot {
            promises.clear();
        }
        for recorded in sites {
            let id = recorded.state.placement.clone();
            let lease = leases.iter().find(|(placement, _)| *placement == id).map(|(_, lease)| *lease);
            let until = |promise: &Promise| {
                let moved = self.clock_moved(promise.clock_offset, wall);
                if promise.boot == boot { promise.until_by(self.now, moved) } else { self.now + promise.wait }
            };
            let mut placement = restored(recorded, until, self.now);
            placement.lease = Lease::remembered(lease.filter(|_| same_boot), placement.policy().as_ref());
            let epoch = placement.epoch_seen();
            let promised = promises.iter().find(|(placement, _)| *placement == id);
            if let Some((_, promised)) = promised.filter(|_| placement.role() == Role::Holder) {
                placement.lease.recall(promised.clone(), epoch);
            }
            let held = matches!(placement.role(), Role::Holder | Role::Promoting);
            if held && !same_boot && placement.assignment.is_some() {
                placement.enter_role(&id, placement.epoch_seen(), Role::Fenced, self.now, wall);
            }
            self.placements.insert(id, placement);
        }
        self.boot = boot;
        self.compare_clocks(wall, decision);
        self.placements.values_mut().for_each(|placement| placement.lease.doubt(self.now));
    }

    /// By how much boot time and wall time have moved apart since their distance was `before`, if that is too much: this
    /// process may have found it, or one before it on the same boot.
    fn clock_moved(&self, before: Option<i64>, wall: WallTime) -> Option<Duration> {
        let jump = Duration::from_millis(self.offset(wall).abs_diff(before?));
        Some(jump).filter(|jump| *jump > LARGEST_CLOCK_JUMP && kept(Rule::ClockJumpSuspends))
    }

    fn offset(&self, wall: WallTime) -> i64 {
        wall.0.saturating_sub(i64::try_from(self.now.0).unwrap_or(i64::MAX))
    }

    /// R7: only rates of clocks are trusted, and two clocks that part mean that one of them is wrong.
    pub(crate) fn compare_clocks(&mut self, wall: WallTime, decision: &mut Decision) {
        self.wall = wall;
        let moved = self.clock_moved(self.clock_offset, wall);
        self.clock_offset = Some(self.offset(wall));
        let Some(jump) = moved else { return };
        self.next_heartbeat = self.now;
        // A grant for a renewal from before the jump would count from a doubtful instant.
        self.sent.clear();
        for placement in self.placements.values_mut() {
            // Without the hub there is no call that could confirm what a target has promised either.
            let rpc = placement.policy().filter(|_| self.hub_up).map_or(Duration::ZERO, |it| it.timing.rpc);
            placement.lease.suspend(self.now, jump, rpc);
            placement.wait_longer(self.now, jump, &self.boot, self.clock_offset);
            if !self.hub_up {
                placement.lease.lose_hub();
            }
            if placement.role() == Role::Holder {
                decision.note.push(Note::LeaseSuspended { placement: placement.name.clone(), jump });
            }
        }
    }

    pub(crate) fn site_written(
        &mut self,
        id: &PlacementId,
        result: Result<Recorded, Failed>,
        decision: &mut Decision,
    ) {
        let now = self.now;
        let Some(placement) = self.placements.get_mut(id) else { return };
        match result {
            Ok(recorded) => {
                self.last_write = Some(now);
                let before =
                    placement.recorded.as_ref().map(|known| (known.state.role, known.state.epoch_seen));
                let state = &recorded.state;
                if before != Some((state.role, state.epoch_seen)) {
                    let (placement, role, epoch) = (state.name.clone(), state.role, state.epoch_seen);
                    decision.note.push(Note::RoleChanged { placement, role, epoch });
                }
                placement.recorded = Some(recorded);
                placement.writing = Default::default();
                placement.survey_anew();
                Agent::tell_promises(placement, decision);
                if placement.site.as_ref().is_some_and(|site| site.role == Role::Holder) {
                    self.next_heartbeat = self.next_heartbeat.min(now);
                }
            }
            Err(Failed { failure, message }) => {
                placement.writing.failed(now, message.clone());
                if failure != Failure::Conflict {
                    decision.note.push(Note::WriteFailed { placement: placement.name.clone(), message });
                }
            }
        }
    }

    /// Nobody else writes DRSiteStates. What differs from ours is put right with the next write; an epoch that is higher
    /// than ours is taken over, because an epoch seen is never unseen.
    pub(crate) fn site_seen(&mut self, id: &PlacementId, seen: Option<Recorded>) {
        let Some(placement) = self.placements.get_mut(id) else { return };
        // What is older than our own last write says nothing; what comes during a write is settled by its end.
        let version = |recorded: &Recorded| recorded.resource_version.parse::<u64>().ok();
        let older = seen.as_ref().and_then(version) <= placement.recorded.as_ref().and_then(version);
        if placement.writing.in_flight || (seen.is_some() && older) {
            return;
        }
        if let (Some(seen), Some(site)) = (&seen, &mut placement.site)
            && seen.state.epoch_seen > site.epoch_seen
        {
            site.epoch_seen = seen.state.epoch_seen;
            site.operation = seen.state.operation.clone();
            site.role = seen.state.role;
            site.handed_over = seen.state.handed_over;
            site.resync = seen.state.resync.clone();
        }
        placement.recorded = seen;
    }

    pub(crate) fn memory_written(&mut self, success: bool) {
        self.memory_in_flight = false;
        if success {
            self.last_write = Some(self.now);
        }
    }

    pub(crate) fn finished(
        &mut self,
        id: &PlacementId,
        key: &str,
        result: Result<Receipt, Failed>,
        decision: &mut Decision,
    ) {
        let now = self.now;
        let Some(placement) = self.placements.get_mut(id) else { return };
        if placement.attempts.get(key).is_some_and(|attempt| attempt.stops) {
            placement.stop_may_still_land(now);
        }
        let attempt = placement.attempts.entry(key.to_owned()).or_default();
        match result {
            Ok(Receipt::Applied) => {
                attempt.succeeded(now);
                if key.starts_with("delete DRSiteState") {
                    placement.released();
                }
            }
            Ok(Receipt::Object(watched)) => {
                attempt.succeeded(now);
                self.world.see(*watched);
            }
            Ok(Receipt::Lists(lists)) => {
                attempt.must_be_repeated(now);
                lists.into_iter().for_each(|list| self.world.see(list));
            }
            Ok(Receipt::FenceInForce) => {
                attempt.succeeded(now);
                if let Some(progress) = &mut placement.fence {
                    progress.in_force = progress.in_force.or(Some(now));
                }
            }
            Ok(Receipt::FenceNotInForce) => attempt.must_be_repeated(now),
            Err(Failed { failure: _, message }) => {
                attempt.failed(now, message.clone());
                let (placement, effect) = (placement.name.clone(), key.to_owned());
                decision.note.push(Note::EffectFailed { placement, effect, message });
            }
        }
    }

    /// What is said because it is time: heartbeats, questions, probes, the memory.
    pub(crate) fn speak(&mut self, decision: &mut Decision) {
        self.heartbeat(decision);
        self.ask_for_holds(decision);
        self.probe(decision);
        self.keep_memory(decision);
    }

    fn renew(&self) -> Duration {
        self.smallest(|timing| timing.renew).unwrap_or(UNASSIGNED_RENEW)
    }

    fn smallest(&self, part: impl Fn(&Timing) -> Duration) -> Option<Duration> {
        let assigned = self.placements.values().filter(|placement| placement.assignment.is_some());
        assigned.filter_map(|placement| Some(part(&placement.policy()?.timing))).min()
    }

    fn heartbeat(&mut self, decision: &mut Decision) {
        if !self.hub_up || self.now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = self.now + self.renew();
        let cluster = self.identity.cluster.clone();
        let held = self.placements.iter().filter(|(_, placement)| placement.renews(&cluster));
        let renewals: Vec<Renewal> = held
            .filter_map(|(id, placement)| {
                // R6: what is echoed is durable, so that a restart cannot fall behind it.
                let recorded = placement.recorded.as_ref()?.state.assignment.as_ref()?;
                let lived_by = placement.policy().filter(|_| !kept(Rule::EchoIsDurable));
                let policy = lived_by.unwrap_or(recorded.policy);
                // Before its pods have been seen, one of them may have a gate that lives by anything.
                let unseen = placement.survey.is_none().then_some(Generation(0));
                let gates_live_by =
                    unseen.or_else(|| placement.gates.live_by()).filter(|_| policy.fencing == Fencing::Gate);
                let echo = gates_live_by.map_or(policy.generation, |oldest| oldest.min(policy.generation));
                let gates = placement.gates.nonces(self.now, policy.timing.renew);
                Some(Renewal { placement: id.clone(), epoch: placement.epoch_seen(), echo, gates })
            })
            .collect();
        let nonce = self.next_nonce();
        let renewed = renewals.iter().map(|renewal| (renewal.placement.clone(), renewal.epoch)).collect();
        self.sent.insert(nonce, Sent { at: self.now, renewed });
        while self.sent.len() > ANSWERABLE {
            self.sent.pop_first();
        }
        decision.send.push(FromAgent::Heartbeat(Heartbeat {
            cluster,
            nonce,
            api_write_age: self.last_write.map(|written| self.now.since(written)),
            renewals,
            paths: self.paths.states(self.now),
        }));
    }

    /// Every peer of every placement once in each renewal period.
    fn probe(&mut self, decision: &mut Decision) {
        if self.now < self.next_probe {
            return;
        }
        self.next_probe = self.now + self.renew();
        let deadline = self.smallest(|timing| timing.rpc).unwrap_or(UNASSIGNED_RENEW);
        let assignments = self.placements.values().filter_map(|placement| placement.assignment.as_ref());
        let mut asked: BTreeSet<&ClusterName> = BTreeSet::new();
        for peer in assignments.flat_map(|assignment| &assignment.peers) {
            if asked.insert(&peer.cluster) {
                decision.probe.push(Probe { peer: peer.clone(), mark: self.mark, began: self.now, deadline });
            }
        }
        let asked: Vec<&ClusterName> = asked.into_iter().collect();
        self.paths.keep_only(&asked);
        self.visit_witnesses(deadline, decision);
    }

    fn keep_memory(&mut self, decision: &mut Decision) {
        if self.memory_in_flight || self.now < self.next_memory {
            return;
        }
        let every = self.renew().clamp(MEMORY_PERIOD.0, MEMORY_PERIOD.1);
        self.next_memory = self.now + every;
        self.memory_in_flight = true;
        let held = self.placements.iter();
        let promised = |(id, placement): (&PlacementId, &Placement)| {
            Some((id.clone(), placement.lease.promised(placement.epoch_seen())?))
        };
        decision.keep = Some(Memory {
            boot: self.boot.clone(),
            clock_offset: self.clock_offset,
            every,
            leases: held
                .filter_map(|(id, placement)| Some((id.clone(), placement.lease.accounted()?)))
                .collect(),
            promises: self.placements.iter().filter_map(promised).collect(),
            paths: self.paths.memory(),
        });
    }
}

/// A promise given in another life of the node is waited out whole, from now.
fn restored(recorded: Recorded, until: impl Fn(&Promise) -> Moment, now: Moment) -> Placement {
    let state: &SiteState = &recorded.state;
    let mut placement = Placement::new(state.name.clone());
    placement.assignment = state.assignment.clone();
    placement.site = Some(state.clone());
    let remembered = state.promise.as_ref().filter(|_| kept(Rule::PromiseSurvivesRestart));
    placement.promised_until = remembered.map(until);
    if state.role == Role::Fenced {
        placement.fence = Some(FenceProgress::begin(now));
    }
    placement.recorded = Some(recorded);
    placement.resync_asked = now;
    placement.stop_may_still_land(now);
    placement
}
