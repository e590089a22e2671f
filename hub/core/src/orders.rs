//! What has been sent to whom, so that it is sent again when it has to be, and not otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{
    Action, Assignment, ClusterName, Command, CommandId, FromHub, Moment, PlacementId, Rule, StepKind, kept,
};

use crate::assign::{assignment, inventory, is_as_meant};
use crate::decision::{Decision, Send};
use crate::event::Now;
use crate::fleet::Fleet;
use crate::journal::OperationKind;
use crate::observation::{Observation, SiteView};
use crate::placement::Placement;
use crate::progress::{Ledger, Operation};
use crate::step;

#[derive(Debug, Default)]
pub struct Orders {
    assigned: BTreeMap<PlacementId, BTreeMap<ClusterName, Assignment>>,
    sent: BTreeMap<(ClusterName, CommandId), Moment>,
    /// Clusters that were away when a placement was released, and still remember it.
    to_let_go: BTreeMap<ClusterName, BTreeSet<PlacementId>>,
}

impl Orders {
    /// A new stream: whatever was sent before may not have arrived.
    pub fn connected(&mut self, cluster: &ClusterName) {
        self.assigned.values_mut().for_each(|told| {
            told.remove(cluster);
        });
        self.sent.retain(|(to, _), _| to != cluster);
    }

    /// Tells every connected cluster of the placement what it asks of it, where that has changed.
    pub fn assign(&mut self, o: &Observation, fleet: &Fleet, decision: &mut Decision) {
        let (placement, progress) = (o.placement, o.progress);
        let letting_go =
            progress.running().is_some_and(|operation| operation.intent.kind == OperationKind::Release);
        if letting_go {
            return;
        }
        let holder = progress.ownership.as_ref().map(|ownership| &ownership.holder);
        let target = progress.running().map(|operation| &operation.intent.to);
        let concerned: BTreeSet<&ClusterName> =
            placement.clusters.iter().chain(holder).chain(target).collect();
        let connected = |cluster: &&ClusterName| fleet.sites.get(*cluster).is_some_and(|site| site.connected);
        let told = self.assigned.entry(placement.id.clone()).or_default();
        for cluster in concerned.iter().copied().filter(connected) {
            let inventory = inventory(progress, o.remembered, cluster);
            let known = told.get_mut(cluster).filter(|known| known.inventory.as_ref() == inventory);
            let known = known.map(|known| {
                // From now on it is seen at once.
                known.inventory = inventory.cloned();
                &*known
            });
            let is_known = known.is_some_and(|known| is_as_meant(known, placement, progress, fleet, cluster));
            let meant = || assignment(placement, progress, fleet, cluster);
            debug_assert_eq!(is_known, known.cloned().map(without_inventory) == Some(meant()));
            if !is_known {
                let assignment = Assignment { inventory: inventory.cloned(), ..meant() };
                told.insert(cluster.clone(), assignment.clone());
                let message = FromHub::Assignment(Box::new(assignment));
                decision.send.push(Send { to: cluster.clone(), message });
            }
        }
        for (to, _) in told.extract_if(.., |cluster, _| !concerned.contains(cluster)) {
            decision.send.push(Send { to, message: FromHub::Unassign(placement.id.clone()) });
        }
    }

    pub fn unassign(&mut self, placement: &Placement, decision: &mut Decision) {
        for to in self.assigned.remove(&placement.id).unwrap_or_default().into_keys() {
            decision.send.push(Send { to, message: FromHub::Unassign(placement.id.clone()) });
        }
    }

    /// Sends what the running operation wants done and nobody has confirmed yet.
    pub fn command(&mut self, now: Now, o: &Observation, decision: &mut Decision) {
        let Some(operation) = o.progress.running() else { return };
        let durable =
            |step: &StepKind| operation.step(*step).issued.is_some() || !kept(Rule::JournalBeforeCommand);
        let issued = operation.intent.plan.iter().filter(|step| durable(step));
        for step in issued {
            for (cluster, action) in (step::rule(*step).command)(o, operation) {
                if let Some(site) = o.site(&cluster) {
                    self.send_command(now, o, operation, *step, site, action, decision);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one command is made of all of these, and only here")]
    fn send_command(
        &mut self,
        now: Now,
        o: &Observation,
        operation: &Operation,
        step: StepKind,
        site: &SiteView,
        action: Action,
        decision: &mut Decision,
    ) {
        let Some(heard) = site.heard.filter(|_| site.connected) else { return };
        let intent = &operation.intent;
        let id = CommandId { placement: intent.placement.clone(), operation: intent.operation.clone(), step };
        let timing = &o.placement.policy.timing;
        let key = (site.cluster.name.clone(), id.clone());
        let again = self.sent.get(&key).is_none_or(|at| now.boot.since(*at) >= timing.renew * 2);
        let confirmed = site.answers.get(&step).is_some_and(|answer| **answer == proto::Outcome::Done);
        if confirmed || !again {
            return;
        }
        self.sent.insert(key, now.boot);
        let command = Command {
            id,
            epoch: intent.epoch,
            nonce: heard.nonce,
            lifetime: lifetime(now, heard.at, timing.rpc, timing.renew),
            action,
            trace_parent: None,
        };
        decision
            .send
            .push(Send { to: site.cluster.name.clone(), message: FromHub::Command(Box::new(command)) });
    }

    pub fn let_go_later(&mut self, cluster: &ClusterName, placement: &PlacementId) {
        self.to_let_go.entry(cluster.clone()).or_default().insert(placement.clone());
    }

    /// Tells a cluster that was away when a placement was released.
    pub fn let_go(&mut self, fleet: &Fleet, ledger: &Ledger, cluster: &ClusterName, decision: &mut Decision) {
        let Some(placements) = self.to_let_go.remove(cluster) else { return };
        let Some(heard) = fleet.sites.get(cluster).and_then(|site| site.heard.as_ref()) else { return };
        for placement in placements {
            let Some(operation) = ledger.of(&placement).and_then(|progress| progress.operation.as_ref())
            else {
                continue;
            };
            let command = Command {
                id: CommandId {
                    placement: placement.clone(),
                    operation: operation.intent.operation.clone(),
                    step: StepKind::Release,
                },
                epoch: operation.intent.epoch,
                nonce: heard.nonce,
                lifetime: LET_GO_LIFETIME,
                action: Action::Release,
                trace_parent: None,
            };
            decision.send.push(Send { to: cluster.clone(), message: FromHub::Command(Box::new(command)) });
        }
    }
}

fn without_inventory(assignment: Assignment) -> Assignment {
    Assignment { inventory: None, ..assignment }
}

const LET_GO_LIFETIME: Duration = Duration::from_secs(60);

/// R5: counted by the agent since it sent the heartbeat that the command answers, which was a call before it was heard.
fn lifetime(now: Now, heard: Moment, rpc: Duration, renew: Duration) -> Duration {
    now.boot.since(heard) + rpc * 3 + renew
}
