//! Witnesses: API servers in further failure domains that remember, and decide nothing. Each cluster advances a Lease there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::epoch::Epoch;
use crate::names::{ClusterName, PlacementId};

/// What a witness remembers of one placement: the highest epoch ever entered or burned, and who owned it then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    pub placement: PlacementId,
    pub epoch: Epoch,
    pub holder: Option<ClusterName>,
}

/// One look at a witness: the version of each cluster's Lease, and what is remembered of each placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessLook {
    pub clusters: BTreeMap<ClusterName, String>,
    pub placements: Vec<Testimony>,
}

/// The Leases of the clusters at one witness, as one observer has seen them change. Times that others wrote mean nothing
/// here (protocol R7): only whether a version is another one than at the last look.
#[derive(Clone, Debug, Default)]
pub struct Pulses {
    seen: BTreeMap<ClusterName, Version>,
}

#[derive(Clone, Debug)]
struct Version {
    text: String,
    /// When the look began that found it first.
    since: Moment,
    /// Another one was there before it.
    advanced: bool,
}

/// How one cluster's Lease stands at a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// For how long every look has found the same version.
    pub still_for: Duration,
    /// It was seen to change, so that it was alive.
    pub advanced: bool,
}

impl Pulse {
    /// A sign of life: it has advanced, and not long ago.
    pub fn beats(self, patience: Duration) -> bool {
        self.advanced && self.still_for <= patience
    }

    /// It was looked at for long enough to have advanced, and has not.
    pub fn is_still(self, patience: Duration) -> bool {
        self.still_for > patience
    }
}

impl Pulses {
    /// Takes in what a look found that began at `began`.
    pub fn look(&mut self, began: Moment, clusters: &BTreeMap<ClusterName, String>) {
        for (cluster, version) in clusters {
            match self.seen.get_mut(cluster) {
                Some(known) if known.text == *version => {}
                Some(known) => {
                    let advanced = !is_older(version, &known.text);
                    *known = Version { text: version.clone(), since: began, advanced };
                }
                None => {
                    let first = Version { text: version.clone(), since: began, advanced: false };
                    self.seen.insert(cluster.clone(), first);
                }
            }
        }
    }

    /// As of the last look, which began at `looked`; none: no Lease of the cluster was ever there.
    pub fn of(&self, cluster: &ClusterName, looked: Moment) -> Option<Pulse> {
        let version = self.seen.get(cluster)?;
        Some(Pulse { still_for: looked.since(version.since), advanced: version.advanced })
    }
}

/// A witness that comes back from an old copy shows what was: nobody has advanced anything. Versions of one kind are ordered
/// numbers; of what is no number only the difference counts.
fn is_older(version: &str, known: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    number(version).zip(number(known)).is_some_and(|(version, known)| version < known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn east() -> ClusterName {
        ClusterName::parse("east").expect("a name")
    }

    fn pulse_after(looks: &[(u64, &str)]) -> Option<Pulse> {
        let mut pulses = Pulses::default();
        for (at, version) in looks {
            pulses.look(Moment(*at), &BTreeMap::from([(east(), (*version).to_owned())]));
        }
        pulses.of(&east(), Moment(looks.last()?.0))
    }

    #[test]
    fn a_lease_that_was_found_and_not_yet_seen_to_change_is_neither_alive_nor_still() {
        let found = pulse_after(&[(1_000, "7")]).expect("a Lease");
        assert!(!found.beats(PATIENCE) && !found.is_still(PATIENCE));
    }

    #[test]
    fn a_lease_beats_for_as_long_as_the_patience_after_its_last_change() {
        let changed = [(1_000, "7"), (6_000, "8"), (21_000, "8")];
        assert!(pulse_after(&changed).expect("a Lease").beats(PATIENCE));
        let later = [(1_000, "7"), (6_000, "8"), (21_001, "8")];
        let still = pulse_after(&later).expect("a Lease");
        assert!(!still.beats(PATIENCE) && still.is_still(PATIENCE));
    }

    /// Nothing is concluded from the time in which nobody looked.
    #[test]
    fn stillness_is_counted_between_looks_and_not_until_now() {
        let seen_once = pulse_after(&[(1_000, "7"), (2_000, "7")]).expect("a Lease");
        assert!(!seen_once.is_still(PATIENCE));
    }

    #[test]
    fn an_older_version_is_no_sign_of_life_but_that_of_a_witness_from_an_old_copy() {
        let restored = pulse_after(&[(1_000, "7"), (2_000, "9"), (3_000, "8")]).expect("a Lease");
        assert!(!restored.beats(PATIENCE) && !restored.advanced);
        let advances = pulse_after(&[(1_000, "9"), (2_000, "8"), (3_000, "10")]).expect("a Lease");
        assert!(advances.beats(PATIENCE));
    }

    #[test]
    fn a_cluster_without_a_lease_has_no_pulse() {
        assert_eq!(Pulses::default().of(&east(), Moment(5)), None);
    }
}
