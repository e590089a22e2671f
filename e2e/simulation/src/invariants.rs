//! What must hold after every event, whatever has failed. Numbers are those of docs/invariants.md.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::Effect;
use hub_core::journal::{Entry, OperationKind, StepRecord};
use proto::{ClusterName, Epoch, FromHub, OperationId, Role, StepKind};

use crate::reference;
use crate::scenario::CLAIMS;
use crate::world::{World, wall};

#[derive(Debug, Default)]
pub struct Watch {
    pub violations: Vec<String>,
    owners: BTreeMap<Epoch, ClusterName>,
    /// The highest epoch that an intent has entered.
    entered: Epoch,
    issued: BTreeSet<(OperationId, StepKind)>,
    /// Operations that take the placement from one cluster to another.
    moves: BTreeSet<OperationId>,
    fenced: BTreeSet<OperationId>,
    /// The epoch that the running operation leaves.
    leaving: Option<Epoch>,
    primaries: BTreeSet<(ClusterName, String)>,
    discarded: usize,
    forced: usize,
}

impl Watch {
    fn check_ownership(&mut self, epoch: Epoch, holder: &ClusterName) {
        let before = self.owners.insert(epoch, holder.clone());
        if before.as_ref().is_some_and(|before| before != holder) {
            self.breaks("S2 one owner per epoch", format!("epoch {epoch} goes to {holder} as well"));
        }
        if self.owners.keys().next_back().is_some_and(|highest| *highest > epoch) {
            self.breaks("S3 epochs never decrease", format!("{holder} gets the older epoch {epoch}"));
        }
        self.leaving = None;
    }

    fn breaks(&mut self, invariant: &str, what: String) {
        self.violations.push(format!("{invariant}: {what}"));
    }
}

impl World {
    /// After every event.
    pub(crate) fn check(&mut self) {
        self.one_writer();
        self.fenced_before_promoted();
        self.nothing_discarded_unasked();
        self.nothing_forced_but_in_a_failover();
    }

    /// S1.
    fn one_writer(&mut self) {
        let running: Vec<&ClusterName> =
            self.sites.values().filter(|site| !site.containers.is_empty()).map(|site| &site.name).collect();
        if let [a, b, ..] = running.as_slice() {
            let what = format!("pods run in {a} and in {b}");
            self.watch.breaks("S1 single writer", what);
        }
    }

    /// S4, seen from the array: no image becomes primary while pods run elsewhere.
    fn fenced_before_promoted(&mut self) {
        let primaries: BTreeSet<(ClusterName, String)> =
            self.array.images.iter().filter(|(_, image)| image.primary).map(|(key, _)| key.clone()).collect();
        for (site, handle) in primaries.difference(&self.watch.primaries) {
            let elsewhere =
                self.sites.values().find(|other| other.name != *site && !other.containers.is_empty());
            if let Some(other) = elsewhere {
                let what = format!("{handle} became primary in {site} while pods ran in {}", other.name);
                self.watch.violations.push(format!("S4 fence before promote: {what}"));
            }
        }
        self.watch.primaries = primaries;
    }

    /// S22.
    fn nothing_discarded_unasked(&mut self) {
        let seen = self.watch.discarded;
        self.watch.discarded = self.array.discarded.len();
        for discarded in &self.array.discarded[seen..] {
            let issued = self.watch.issued.iter().any(|(_, step)| step.as_str() == "Resync");
            if !issued {
                let what = format!("{} was resynced in {} without a step", discarded.handle, discarded.site);
                self.watch.violations.push(format!("S22 no silent discard: {what}"));
            }
        }
    }

    /// storage.md: a planned move forces nothing, and neither does a deployment or a readoption.
    fn nothing_forced_but_in_a_failover(&mut self) {
        let seen = self.watch.forced;
        self.watch.forced = self.array.forced.len();
        for forced in &self.array.forced[seen..] {
            let running = reference::running(&self.hub.lines);
            let failover = running
                .is_some_and(|intent| intent.kind == OperationKind::FailOver && intent.to == forced.site);
            if !failover {
                let running = running.map_or("nothing".to_owned(), |intent| intent.operation.to_string());
                let what = format!("{} in {} while {running} ran", forced.handle, forced.site);
                self.watch.violations.push(format!("forced promotion outside a failover: {what}"));
            }
        }
    }

    /// Every acknowledged write is on the owner's images, or a failover's receipt has said that it would not be (S19).
    pub fn books(&self) -> Result<(), String> {
        let Some((_, owner)) = reference::owner(&self.hub.lines) else { return Ok(()) };
        for claim in CLAIMS {
            let image = self.array.image(owner, &format!("image-{claim}"));
            let log = image.map(|image| image.log.clone()).unwrap_or_default();
            for number in self.history.missing_in(&log) {
                let written = &self.history.writes[usize::try_from(number).unwrap_or(0)];
                let at = wall(written.at);
                let receipted = reference::failovers(&self.hub.lines).any(|intent| {
                    let loss = intent.losses.iter().find(|loss| loss.claim == claim);
                    let from = intent.from.as_ref() == Some(&written.site);
                    from && loss.is_some_and(|loss| loss.last_sync.is_none_or(|synced| at >= synced))
                });
                if !receipted {
                    let at = written.at;
                    return Err(format!(
                        "write {number} of {at} ms in {} is lost from {claim}",
                        written.site
                    ));
                }
            }
        }
        Ok(())
    }

    /// Before an entry becomes durable.
    pub(crate) fn check_entry(&mut self, entry: &Entry) {
        let watch = &mut self.watch;
        if let Entry::Ownership { epoch, holder, .. } = entry {
            watch.check_ownership(*epoch, holder);
        } else if let Entry::Intent(intent) = entry {
            let enters = intent.plan.contains(&StepKind::Promote);
            if enters && intent.epoch <= watch.entered {
                watch.breaks("S3 burned epochs never return", format!("{} enters one", intent.operation));
            }
            watch.entered = watch.entered.max(intent.epoch);
            watch.leaving = enters.then(|| watch.owners.keys().next_back().copied()).flatten();
            watch.moves.extend(intent.plan.contains(&StepKind::AwaitFence).then(|| intent.operation.clone()));
        } else if let Entry::Step { operation, step, state: StepRecord::Issued, .. } = entry {
            watch.issued.insert((operation.clone(), *step));
            let leaves = *step == StepKind::Promote && watch.moves.contains(operation);
            if leaves && !watch.fenced.contains(operation) {
                watch.breaks("S4 fence before promote", format!("{operation} promotes without a proof"));
            }
        } else if let Entry::Fence { operation, .. } = entry {
            watch.fenced.insert(operation.clone());
        } else if let Entry::Abort { operation, .. } = entry {
            let promoted = watch.issued.contains(&(operation.clone(), StepKind::Promote));
            if promoted && watch.moves.contains(operation) {
                watch.breaks("S12 forward past the point of no return", format!("{operation} is aborted"));
            }
        }
    }

    /// Before a message leaves the hub.
    pub(crate) fn check_sent(&mut self, to: &ClusterName, message: &FromHub) {
        match message {
            FromHub::Reply(reply) => {
                for grant in &reply.grants {
                    let owner =
                        reference::owner(&self.hub.lines).map(|(epoch, holder)| (epoch, holder.clone()));
                    let human = reference::needs_human(&self.hub.lines).is_some();
                    if owner != Some((grant.epoch, to.clone())) && !human {
                        let what = format!("{to} is granted epoch {}, and {owner:?} owns it", grant.epoch);
                        self.watch.breaks("S2 grants go to the owner", what);
                    }
                    let leaving = reference::running(&self.hub.lines).is_some()
                        && self.watch.leaving == Some(grant.epoch);
                    if leaving {
                        let what =
                            format!("{to} is granted epoch {} after the intent to leave it", grant.epoch);
                        self.watch.breaks("S5 no grant after intent", what);
                    }
                }
            }
            FromHub::Command(command) => {
                let key = (command.id.operation.clone(), command.id.step);
                if !self.watch.issued.contains(&key) {
                    let what = format!("{} was sent and never issued", command.id);
                    self.watch.breaks("S9 journal before effect", what);
                }
            }
            FromHub::Assignment(_) | FromHub::Unassign(_) => {}
        }
    }

    /// S30: an epoch is durable before anything is asked for in it. (A request may land when the next epoch has come.)
    pub(crate) fn check_effect(&mut self, site: &ClusterName, effect: &Effect) {
        let (Effect::CreateReplication { epoch, .. } | Effect::PromoteReplication { epoch, .. }) = effect
        else {
            return;
        };
        let recorded = self.site(site).kubernetes.site_states.values().next();
        let durable = recorded.is_some_and(|recorded| {
            let may = matches!(recorded.state.role, Role::Promoting | Role::Holder);
            may && recorded.state.epoch_seen == *epoch
        });
        if !durable {
            let what = format!("{site} asks to {}", effect.key());
            self.watch.breaks("S30 the epoch is durable before its effects", what);
        }
    }
}
