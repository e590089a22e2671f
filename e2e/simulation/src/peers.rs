//! What agents find out about each other, and promise each other.

use agent_core::{Event, HoldAsk, Probe};
use proto::{ClusterName, HoldAnswer, Mark, Moment, PathKind};

use crate::network::End;
use crate::transition::{Happening, Hold, Life};
use crate::world::World;

const SILENCE: std::ops::RangeInclusive<u64> = 900..=1_600;

impl World {
    pub(crate) fn probes(&mut self, site: &ClusterName, probe: &Probe) {
        let life = self.site(site).life;
        for path in [PathKind::PeerAgent, PathKind::ApiServer] {
            let of = probe.peer.cluster.clone();
            if !self.site_mut(site).probing.insert((of.clone(), path)) {
                continue;
            }
            let answers = self.path_works(site, &of, path);
            let delay =
                if answers { self.random.within(&(2..=40)) } else { self.random.within(&SILENCE) / 3 };
            let (mark, began) = (probe.mark, probe.began);
            self.later(delay, Happening::ProbeEnds { site: site.clone(), life, of, path, mark, began });
        }
    }

    pub(crate) fn path_works(&self, site: &ClusterName, of: &ClusterName, path: PathKind) -> bool {
        let Some(there) = self.sites.get(of) else { return false };
        let linked = self.network.is_up(End::Agent(site.clone()), End::Agent(of.clone()));
        let serves = match path {
            PathKind::PeerAgent => there.agent.is_some() && there.frozen_until <= self.now,
            PathKind::ApiServer => there.api_up,
            // There is none here.
            PathKind::Witness => false,
        };
        linked && there.up && serves
    }

    pub(crate) fn probe_ends(
        &mut self,
        site: &ClusterName,
        life: Life,
        of: ClusterName,
        path: PathKind,
        mark: Mark,
        began: Moment,
    ) {
        let late = Happening::ProbeEnds { site: site.clone(), life, of: of.clone(), path, mark, began };
        if self.agent_waits(site, late).is_none() || self.site(site).life != life {
            return;
        }
        self.site_mut(site).probing.remove(&(of.clone(), path));
        let reachable = self.path_works(site, &of, path);
        self.agent_step(site, Event::Probed { cluster: of, path, reachable, mark, began });
    }

    pub(crate) fn asks(&mut self, site: &ClusterName, ask: HoldAsk) {
        let HoldAsk { peer, request, deadline, asked } = ask;
        let deadline = self.now + u64::try_from(deadline.as_millis()).unwrap_or(0);
        let (from_life, to) = (self.site(site).life, peer.cluster);
        let hold = Hold { from: site.clone(), from_life, to: to.clone(), request, asked, deadline };
        let arrives = self.network.call(End::Agent(site.clone()), End::Agent(to), &mut self.random);
        if let Some(delay) = arrives {
            self.later(delay, Happening::HoldArrives { hold: hold.clone() });
        }
        // The first answer counts; this one comes in any case.
        self.queue.push(deadline, Happening::HoldReturns { hold, answer: None });
    }

    pub(crate) fn hold_arrives(&mut self, hold: Hold) {
        let to = hold.to.clone();
        let Some(Happening::HoldArrives { hold }) = self.agent_waits(&to, Happening::HoldArrives { hold })
        else {
            return;
        };
        let here = self.site_mut(&hold.to);
        if !here.up || here.agent.is_none() {
            return;
        }
        here.asked += 1;
        let ask = agent_core::AskId(here.asked);
        let (to, request) = (hold.to.clone(), hold.request.clone());
        here.asks.insert(ask, hold);
        self.agent_step(&to, Event::HoldAsked { ask, request });
    }

    pub(crate) fn hold_answered(&mut self, hold: Hold, answer: HoldAnswer) {
        let (a, b) = (End::Agent(hold.to.clone()), End::Agent(hold.from.clone()));
        if let Some(delay) = self.network.call(a, b, &mut self.random)
            && self.now + delay < hold.deadline
        {
            self.later(delay, Happening::HoldReturns { hold, answer: Some(answer) });
        }
    }

    pub(crate) fn hold_returns(&mut self, hold: Hold, answer: Option<HoldAnswer>) {
        let from = hold.from.clone();
        let Some(Happening::HoldReturns { hold, answer }) =
            self.agent_waits(&from, Happening::HoldReturns { hold, answer })
        else {
            return;
        };
        if self.site(&hold.from).life != hold.from_life {
            return;
        }
        let Hold { from, from_life: _, to, request, asked, deadline: _ } = hold;
        let event = Event::HoldAnswered {
            peer: to,
            placement: request.placement,
            epoch: request.epoch,
            asked,
            answer,
        };
        self.agent_step(&from, event);
    }
}
