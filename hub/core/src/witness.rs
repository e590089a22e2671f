//! What the witnesses show the hub: which clusters' Leases advance there, and what they remember of the placements.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{ClusterName, Epoch, Moment, PlacementId, Pulse, Pulses, Testimony, Timing, WitnessLook};

use crate::placement::Placement;
use crate::progress::Ledger;

/// So many placements are told to a witness in one visit, so that the look after it comes in time.
const TOLD_AT_ONCE: usize = 8;

/// A witness as the installation names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    pub name: String,
    /// Its own: what it shares its fate with.
    pub failure_domain: String,
}

/// One witness, to be visited now: first it is told the testimonies, then it is looked at, all within the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    pub witness: String,
    pub testimonies: Vec<Testimony>,
    pub deadline: Duration,
}

/// What a visit that began at this moment has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visited {
    pub witness: String,
    pub began: Moment,
    pub look: WitnessLook,
}

/// All configured witnesses, and what each showed when it last answered.
#[derive(Debug)]
pub struct Witnesses {
    known: Vec<Known>,
    /// How often they are looked at, and how long a look may take: the shortest that a placement asks for.
    every: Duration,
    deadline: Duration,
}

#[derive(Debug)]
struct Known {
    witness: Witness,
    /// When the last visit was asked for.
    asked: Option<Moment>,
    /// When the last visit began that was answered.
    answered: Option<Moment>,
    pulses: Pulses,
    testimonies: BTreeMap<PlacementId, Testimony>,
}

/// One witness as it bears on one placement, in ages.
#[derive(Clone, Debug)]
pub struct WitnessView<'a> {
    pub name: &'a str,
    pub failure_domain: &'a str,
    /// Since the last look that was answered began; none: it has not answered this hub yet.
    pub look_age: Option<Duration>,
    /// The holder's Lease there; none: there is none.
    pub holder: Option<Pulse>,
    /// The highest epoch of the placement that it is known to remember.
    pub epoch: Epoch,
}

impl Witnesses {
    pub fn new(configured: &[Witness]) -> Witnesses {
        let known = configured.iter().map(|witness| Known {
            witness: witness.clone(),
            asked: None,
            answered: None,
            pulses: Pulses::default(),
            testimonies: BTreeMap::new(),
        });
        Witnesses { known: known.collect(), every: Timing::DEFAULT.renew, deadline: Timing::DEFAULT.rpc }
    }

    /// The witnesses are looked at as often as the most impatient placement's holder renews.
    pub fn take_timing<'a>(&mut self, placements: impl Iterator<Item = &'a Placement>) {
        (self.every, self.deadline) = (Timing::DEFAULT.renew, Timing::DEFAULT.rpc);
        for placement in placements {
            self.every = self.every.min(placement.policy.timing.renew);
            self.deadline = self.deadline.min(placement.policy.timing.rpc);
        }
    }

    /// More than one visit can tell is told in another one at once.
    pub fn visited(&mut self, visited: &Visited, ledger: &Ledger) {
        let Visited { witness, began, look } = visited;
        let Some(known) = self.known.iter_mut().find(|known| known.witness.name == *witness) else { return };
        known.answered = known.answered.max(Some(*began));
        known.pulses.look(*began, &look.clusters);
        known.testimonies = look.placements.iter().map(|one| (one.placement.clone(), one.clone())).collect();
        if known.owed(ledger).count() > TOLD_AT_ONCE {
            known.asked = None;
        }
    }

    /// What is not written down elsewhere yet is worth a visit at once.
    pub fn visit_soon(&mut self) {
        self.known.iter_mut().for_each(|known| known.asked = None);
    }

    /// Who is to be visited now. What a witness does not know yet is told to it until it shows it: the visit before may
    /// have failed, and it may itself have come back from an old copy.
    pub fn due(&mut self, now: Moment, ledger: &Ledger) -> Vec<Visit> {
        let (every, deadline) = (self.every, self.deadline);
        let due =
            self.known.iter_mut().filter(|known| known.asked.is_none_or(|asked| now.since(asked) >= every));
        due.map(|known| {
            known.asked = Some(now);
            let testimonies = known.owed(ledger).take(TOLD_AT_ONCE).collect();
            Visit { witness: known.witness.name.clone(), testimonies, deadline }
        })
        .collect()
    }

    /// What each remembers of this placement.
    pub fn remember<'a>(&'a self, placement: &'a PlacementId) -> impl Iterator<Item = (&'a str, Epoch)> {
        let told = |known: &'a Known| Some((known.witness.name.as_str(), known.epoch(placement)?));
        self.known.iter().filter_map(told)
    }

    /// The highest epoch that any of them remembers; none: one has not answered this hub yet.
    pub fn highest(&self, placement: &PlacementId) -> Option<Epoch> {
        let remembered = |known: &Known| {
            let _answered = known.answered?;
            Some(known.epoch(placement).unwrap_or(Epoch(0)))
        };
        let all: Option<Vec<Epoch>> = self.known.iter().map(remembered).collect();
        Some(all?.into_iter().max().unwrap_or(Epoch(0)))
    }

    pub fn view<'a>(
        &'a self,
        now: Moment,
        placement: &PlacementId,
        holder: Option<&ClusterName>,
    ) -> Vec<WitnessView<'a>> {
        let view = |known: &'a Known| WitnessView {
            name: &known.witness.name,
            failure_domain: &known.witness.failure_domain,
            look_age: known.answered.map(|answered| now.since(answered)),
            holder: holder.zip(known.answered).and_then(|(holder, looked)| known.pulses.of(holder, looked)),
            epoch: known.epoch(placement).unwrap_or(Epoch(0)),
        };
        self.known.iter().map(view).collect()
    }
}

impl Known {
    fn epoch(&self, placement: &PlacementId) -> Option<Epoch> {
        self.testimonies.get(placement).map(|known| known.epoch)
    }

    /// Nothing, before it was looked at: it may remember more than this hub.
    fn owed<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = Testimony> + 'a {
        let entered = ledger.placements.iter().filter(|(_, progress)| progress.highest > Epoch(0));
        let wanted = entered.filter(|(_, progress)| self.answered.is_some() && !progress.released);
        let wanted = wanted.map(|(placement, progress)| Testimony {
            placement: placement.clone(),
            epoch: progress.highest,
            holder: progress.ownership.as_ref().map(|ownership| ownership.holder.clone()),
        });
        wanted.filter(|wanted| {
            self.testimonies.get(&wanted.placement).is_none_or(|known| {
                known.epoch < wanted.epoch || known.epoch == wanted.epoch && known.holder != wanted.holder
            })
        })
    }
}

impl WitnessView<'_> {
    /// Heard lately, as this placement takes it.
    pub fn answers(&self, patience: Duration) -> bool {
        self.look_age.is_some_and(|age| age <= patience)
    }

    /// Since the holder's Lease was last found anew; none: it has no Lease there.
    pub fn last_beat(&self) -> Option<Duration> {
        Some(self.holder?.still_for + self.look_age?)
    }
}

#[cfg(test)]
mod tests {
    use proto::{PlacementName, WallTime};

    use super::*;
    use crate::journal::Entry;

    fn ledger_of(placements: usize) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 0..placements {
            let entry = Entry::Ownership {
                placement: PlacementId::parse(&format!("uid-{number}")).expect("a uid"),
                name: PlacementName::parse("shop", "shop").expect("a name"),
                epoch: Epoch(1),
                holder: ClusterName::parse("east").expect("a name"),
            };
            ledger.fold(WallTime(0), &entry);
        }
        ledger
    }

    #[test]
    fn a_witness_that_lost_everything_is_told_many_placements_in_visits_that_follow_at_once() {
        let third = Witness { name: "third".to_owned(), failure_domain: "third-site".to_owned() };
        let (mut witnesses, ledger) = (Witnesses::new(&[third]), ledger_of(20));
        let (now, mut told, mut visits) = (Moment(1_000), Vec::new(), 0);
        while let Some(visit) = witnesses.due(now, &ledger).into_iter().next() {
            assert!(visit.testimonies.len() <= TOLD_AT_ONCE, "{}", visit.testimonies.len());
            told.extend(visit.testimonies);
            visits += 1;
            let look = WitnessLook { placements: told.clone(), ..WitnessLook::default() };
            witnesses.visited(&Visited { witness: visit.witness, began: now, look }, &ledger);
        }
        // The first one only looks; what is left after the third is told with the next look that is due.
        assert_eq!((visits, told.len()), (3, 16));
        let later = witnesses.due(now + Timing::DEFAULT.renew, &ledger);
        assert_eq!(later.first().map(|visit| visit.testimonies.len()), Some(4));
    }
}
