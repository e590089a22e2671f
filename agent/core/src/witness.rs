//! What the witnesses show of the other clusters, and whether this cluster's own Lease advances there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{ClusterName, Mark, Moment, PathKind, Pulse, Pulses, Role};

use crate::agent::Agent;
use crate::decision::{Decision, WitnessVisit};

/// What one visit to all witnesses has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Witnessed {
    pub mark: Mark,
    pub began: Moment,
    /// The versions of the clusters' Leases at each witness by its name; none: it has not answered in time.
    pub looks: BTreeMap<String, Option<BTreeMap<ClusterName, String>>>,
}

impl Agent {
    /// Every witness once in each renewal period.
    pub(crate) fn visit_witnesses(&mut self, deadline: Duration, decision: &mut Decision) {
        let (mark, began, every) = (self.mark, self.now, self.next_probe.since(self.now));
        let advance = self.is_worth_a_sign_of_life();
        decision.visit = Some(WitnessVisit { mark, began, deadline, every, advance });
    }

    /// A cluster that the hub hears shows that it lives, and one that holds something by a lease. One that has neither has
    /// stopped what it held, or is about to: it shows no sign of life, so that somebody else may take over. Otherwise an
    /// isolated site would veto its own replacement for ever.
    fn is_worth_a_sign_of_life(&self) -> bool {
        let lives_by_a_lease = self.placements.values().any(|placement| {
            let deadline = placement.lease.deadline(placement.targets());
            placement.role() == Role::Holder && deadline.is_some_and(|deadline| self.now < deadline)
        });
        self.hub_up || lives_by_a_lease
    }

    /// One witness at which a cluster advances is enough for its life; that it is still has to be seen at all of them.
    pub(crate) fn witnessed(&mut self, found: &Witnessed) {
        for (witness, look) in &found.looks {
            if let Some(clusters) = look {
                self.pulses.entry(witness.clone()).or_default().look(found.began, clusters);
            }
        }
        for (cluster, patience) in self.patience_with_peers() {
            let pulses = found.looks.iter().map(|(witness, look)| {
                let known = self.pulses.get(witness).filter(|_| look.is_some());
                known.and_then(|known: &Pulses| known.of(&cluster, found.began))
            });
            let pulses: Vec<Option<Pulse>> = pulses.collect();
            let beats = pulses.iter().flatten().any(|pulse| pulse.beats(patience));
            let known_at = pulses.iter().flatten().count();
            let still = known_at > 0 && pulses.iter().flatten().all(|pulse| pulse.is_still(patience));
            let all_answered = found.looks.values().all(Option::is_some);
            if beats || (still && all_answered) {
                let mark = if found.began > self.marks_since { found.mark } else { Mark::default() };
                self.paths.probed(cluster, PathKind::Witness, beats, mark, found.began);
            }
        }
    }

    /// Its agent advances its Lease in the shortest renewal period of its placements, of which those shared with this
    /// cluster are some: it is still when it has missed as many as make it suspect.
    fn patience_with_peers(&self) -> BTreeMap<ClusterName, Duration> {
        let mut patience: BTreeMap<ClusterName, Duration> = BTreeMap::new();
        for placement in self.placements.values() {
            let Some((assignment, policy)) = placement.assignment.as_ref().zip(placement.policy()) else {
                continue;
            };
            let peers: BTreeSet<&ClusterName> = assignment.peers.iter().map(|peer| &peer.cluster).collect();
            for peer in peers {
                let shortest = patience.entry(peer.clone()).or_insert(policy.timing.suspect);
                *shortest = (*shortest).min(policy.timing.suspect);
            }
        }
        patience
    }
}
