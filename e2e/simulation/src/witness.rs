//! Stands in for a witness: an API server in a third place with Leases in it, which is asked and decides nothing.

use std::collections::BTreeMap;

use agent_core::{Event as AgentEvent, WitnessVisit, Witnessed};
use hub_core::Event as HubEvent;
use hub_core::witness::{Visit, Visited};
use proto::{ClusterName, Epoch, Moment, PlacementId, Testimony, WitnessLook};

use crate::network::End;
use crate::transition::{Happening, Life, Time};
use crate::world::World;

pub const NAME: &str = "third";

/// What goes wrong there, until everything is mended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WitnessFault {
    Stops,
    /// It comes back from an old copy, again and again.
    Forgets,
    CutFromHub,
    CutFrom(ClusterName),
    /// Each call takes so much longer.
    Slow(Time),
}

impl WitnessFault {
    pub fn kind(&self) -> &'static str {
        match self {
            WitnessFault::Stops => "witness stops",
            WitnessFault::Forgets => "witness restored from old copies",
            WitnessFault::CutFromHub => "witness cut from hub",
            WitnessFault::CutFrom(_) => "witness cut from a site",
            WitnessFault::Slow(_) => "witness slow",
        }
    }
}

/// What stands in the third place, and what has been read there.
#[derive(Debug, Default)]
pub struct ThirdPlace {
    down: bool,
    /// Whatever is written is gone again a moment later, as if it came back from an old copy each time.
    forgets: bool,
    /// What each call takes.
    slow: Time,
    /// How often each cluster has shown that it lives: the version of its Lease.
    clusters: BTreeMap<ClusterName, u64>,
    placements: BTreeMap<PlacementId, Testimony>,
    /// What this hub was shown, for whoever judges it.
    pub shown: Shown,
}

/// What one life of the hub has seen at the witness.
#[derive(Debug, Default)]
pub struct Shown {
    of: Life,
    /// When it got the newest look.
    pub at: Option<Time>,
    clusters: BTreeMap<ClusterName, (u64, Option<Time>)>,
    epochs: BTreeMap<PlacementId, Epoch>,
}

impl Shown {
    /// When the hub has found another version of a cluster's Lease than at the look before.
    pub fn advanced(&self, cluster: &ClusterName) -> Option<Time> {
        self.clusters.get(cluster).and_then(|(_, at)| *at)
    }

    pub fn epoch(&self, placement: &PlacementId) -> Epoch {
        self.epochs.get(placement).copied().unwrap_or_default()
    }

    /// None: that life has seen nothing.
    pub fn of_life(&self, life: Life) -> Option<&Shown> {
        (self.of == life).then_some(self)
    }

    /// The hub has got an answer.
    pub fn look(&mut self, of: Life, now: Time, look: &WitnessLook) {
        if self.of != of {
            *self = Shown { of, ..Shown::default() };
        }
        self.at = Some(now);
        for (cluster, version) in &look.clusters {
            let version = version.parse().unwrap_or(0);
            let (known, at) = self.clusters.entry(cluster.clone()).or_insert((version, None));
            if *known != version {
                (*known, *at) = (version, (version > *known).then_some(now));
            }
        }
        let epochs = look.placements.iter().map(|one| (one.placement.clone(), one.epoch));
        self.epochs = epochs.collect();
    }
}

impl ThirdPlace {
    fn look(&self) -> WitnessLook {
        WitnessLook { clusters: self.versions(), placements: self.placements.values().cloned().collect() }
    }

    fn versions(&self) -> BTreeMap<ClusterName, String> {
        self.clusters.iter().map(|(cluster, version)| (cluster.clone(), version.to_string())).collect()
    }

    /// What it remembers of a placement, whoever has been shown it.
    pub fn remembers(&self, placement: &PlacementId) -> Epoch {
        self.placements.get(placement).map(|known| known.epoch).unwrap_or_default()
    }

    fn is_told(&mut self, testimony: Testimony) {
        if self.remembers(&testimony.placement) <= testimony.epoch {
            self.placements.insert(testimony.placement.clone(), testimony);
        }
    }
}

impl World {
    /// Gives the world a witness in a place of its own.
    pub fn with_witness(mut self) -> World {
        self.witness = Some(ThirdPlace::default());
        self
    }

    pub(crate) fn witness_fails(&mut self, fault: &WitnessFault) {
        let Some(witness) = &mut self.witness else { return };
        match fault {
            WitnessFault::Stops => witness.down = true,
            WitnessFault::Forgets => {
                witness.forgets = true;
                witness.clusters.values_mut().for_each(|version| *version /= 2);
            }
            WitnessFault::Slow(by) => witness.slow = *by,
            WitnessFault::CutFromHub => self.network.cut(End::Hub, End::Witness),
            WitnessFault::CutFrom(site) => self.network.cut(End::Agent(site.clone()), End::Witness),
        }
    }

    pub(crate) fn mend_witness(&mut self) {
        if let Some(witness) = &mut self.witness {
            (witness.down, witness.forgets, witness.slow) = (false, false, 0);
        }
    }

    pub(crate) fn hub_visits(&mut self, visit: Visit, began: Moment) {
        if self.witness.is_none() {
            return;
        }
        let life = self.hub.life;
        if let Some(delay) = self.network.call(End::Hub, End::Witness, &mut self.random) {
            self.later(delay, Happening::HubAtWitness { life, visit: Box::new(visit), began });
        }
    }

    /// Telling takes two calls for each testimony, and half of the time at most; then comes the look. A visit that fails is no
    /// event: the hub goes by how long ago the last one was that did not.
    pub(crate) fn hub_at_witness(&mut self, life: Life, visit: Visit, began: Moment) {
        let back = self.network.call(End::Hub, End::Witness, &mut self.random);
        let Some(witness) = self.witness.as_mut().filter(|witness| !witness.down) else { return };
        let deadline = Time::try_from(visit.deadline.as_millis()).unwrap_or(0);
        let telling = witness.slow * 2;
        let in_time =
            (deadline / 2).checked_div(telling).map_or(Ok(usize::MAX), usize::try_from).unwrap_or(0);
        let told: Vec<Testimony> = visit.testimonies.into_iter().take(in_time).collect();
        let takes = telling * Time::try_from(told.len()).unwrap_or(0) + witness.slow;
        told.into_iter().for_each(|testimony| witness.is_told(testimony));
        if witness.forgets {
            witness.placements.clear();
        }
        let look = witness.look();
        let Some(delay) = back.map(|delay| delay + takes).filter(|delay| *delay <= deadline) else { return };
        let event = Box::new(HubEvent::Visited(Box::new(Visited { witness: visit.witness, began, look })));
        self.later(delay, Happening::HubHears { life, event });
    }

    pub(crate) fn agent_visits(&mut self, site: &ClusterName, visit: WitnessVisit) {
        let life = self.site(site).life;
        if self.witness.is_none() || self.site(site).visiting == Some(life) {
            return;
        }
        self.site_mut(site).visiting = Some(life);
        let deadline = self.now + Time::try_from(visit.deadline.as_millis()).unwrap_or(0);
        let visit = Box::new(visit);
        match self.network.call(End::Agent(site.clone()), End::Witness, &mut self.random) {
            Some(delay) => {
                self.later(delay, Happening::AgentAtWitness { site: site.clone(), life, visit, deadline });
            }
            None => self.witness_answers(site, life, &visit, None, deadline),
        }
    }

    pub(crate) fn agent_at_witness(
        &mut self,
        site: &ClusterName,
        life: Life,
        visit: &WitnessVisit,
        deadline: Time,
    ) {
        let back = self.network.call(End::Agent(site.clone()), End::Witness, &mut self.random);
        let versions = self.witness.as_mut().filter(|witness| !witness.down).map(|witness| {
            if visit.advance {
                *witness.clusters.entry(site.clone()).or_default() += 1;
            }
            witness.versions()
        });
        let slow = self.witness.as_ref().map_or(0, |witness| witness.slow);
        let answered = back.map(|delay| self.now + slow + delay).filter(|at| *at <= deadline);
        match versions.zip(answered) {
            Some((versions, at)) => self.witness_answers(site, life, visit, Some(versions), at),
            None => self.witness_answers(site, life, visit, None, deadline),
        }
    }

    fn witness_answers(
        &mut self,
        site: &ClusterName,
        life: Life,
        visit: &WitnessVisit,
        look: Option<BTreeMap<ClusterName, String>>,
        at: Time,
    ) {
        let looks = BTreeMap::from([(NAME.to_owned(), look)]);
        let found = Witnessed { mark: visit.mark, began: visit.began, looks };
        let event = Box::new(AgentEvent::Witnessed(found));
        self.queue.push(at.max(self.now), Happening::AgentHears { site: site.clone(), life, event });
    }
}
