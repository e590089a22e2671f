//! A witness as a story plays it: members that reach it advance their Leases, and the hub visits it.

use std::collections::BTreeMap;

use hub_core::Event;
use hub_core::witness::{Visit, Visited, Witness};
use proto::{ClusterName, Moment, PlacementId, Testimony, WitnessLook};

use super::Story;
use super::scene::TIMING;

pub struct PlayedWitness {
    name: &'static str,
    domain: &'static str,
    /// It answers the hub.
    pub up: bool,
    /// What is written to it is lost.
    pub deaf: bool,
    leases: BTreeMap<ClusterName, u64>,
    pub testimonies: BTreeMap<PlacementId, Testimony>,
    next: Moment,
}

impl PlayedWitness {
    pub fn new(name: &'static str, domain: &'static str) -> PlayedWitness {
        PlayedWitness {
            name,
            domain,
            up: true,
            deaf: false,
            leases: BTreeMap::new(),
            testimonies: BTreeMap::new(),
            next: Moment(0),
        }
    }

    pub fn configured(&self) -> Witness {
        Witness { name: self.name.to_owned(), failure_domain: self.domain.to_owned() }
    }
}

impl Story {
    pub fn witness(&mut self) -> &mut PlayedWitness {
        self.witnesses.first_mut().expect("a story with a witness")
    }

    pub(super) fn advance_leases(&mut self) {
        let now = self.now;
        for witness in self.witnesses.iter_mut().filter(|witness| witness.up && now >= witness.next) {
            witness.next = now + TIMING.renew;
            for member in self.members.iter().filter(|member| member.up && member.reaches_witnesses) {
                *witness.leases.entry(member.name.clone()).or_default() += 1;
            }
        }
    }

    pub(super) fn visit(&mut self, visit: &Visit) {
        let began = self.now;
        let found = self.witnesses.iter_mut().find(|witness| witness.name == visit.witness);
        let Some(witness) = found.filter(|witness| witness.up) else { return };
        for testimony in visit.testimonies.iter().filter(|_| !witness.deaf) {
            witness.testimonies.insert(testimony.placement.clone(), testimony.clone());
        }
        let look = WitnessLook {
            clusters: witness.leases.iter().map(|(name, count)| (name.clone(), count.to_string())).collect(),
            placements: witness.testimonies.values().cloned().collect(),
        };
        self.step(Event::Visited(Box::new(Visited { witness: visit.witness.clone(), began, look })));
    }
}
