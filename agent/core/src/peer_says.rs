//! Promises between agents while the hub is silent (protocol §4, "Hub silent").

use proto::gate::{self, Statement};
use proto::{ClusterName, Epoch, HoldAnswer, HoldRequest, Moment, PlacementId, Role, Rule, Sealed, kept};

use crate::agent::Agent;
use crate::decision::{Decision, HoldAsk, Note};
use crate::event::AskId;
use crate::placement::Placement;
use crate::site_state::Promise;

impl Agent {
    /// Another holder asks: promise only what this cluster can keep, and make it durable before saying so.
    pub(crate) fn answer_hold(&mut self, ask: AskId, request: HoldRequest, decision: &mut Decision) {
        let (now, boot, clock_offset) = (self.now, self.boot.clone(), self.clock_offset);
        let HoldRequest { holder, placement: id, epoch, stop, gates } = request;
        let Some(placement) = self.placements.get_mut(&id) else {
            decision.answer.push((ask, HoldAnswer::Refused { epoch_seen: Epoch(0) }));
            return;
        };
        let epoch_seen = placement.epoch_seen();
        let (true, Some(policy)) = (may_promise(placement, epoch), placement.policy()) else {
            decision.answer.push((ask, HoldAnswer::Refused { epoch_seen }));
            return;
        };
        // What the holder lives by decides when it has stopped, and that may be an older policy than this cluster's.
        let wait = policy.timing.target_wait_for(stop);
        let outstanding = placement.promised_until.filter(|until| now < *until);
        let until = outstanding.map_or(now + wait, |until| until.max(now + wait));
        placement.promised_until = Some(until);
        if let Some(site) = &mut placement.site {
            // After a reboot the whole wait begins anew: so the longest of what is outstanding.
            let before = site.promise.take().filter(|_| outstanding.is_some());
            let wait = before.map_or(wait, |promise| promise.wait.max(wait));
            site.promise = Some(Promise { boot, clock_offset, until, wait });
        }
        let hold = policy.timing.hold;
        let promise = |nonce| {
            Sealed::of(&Statement::Promise(gate::Promise {
                target: self.identity.cluster.clone(),
                holder: holder.clone(),
                placement: id.clone(),
                epoch,
                nonce,
                hold,
                stop: policy.timing.stop.max(stop),
            }))
        };
        let tickets = gates.into_iter().map(promise).collect();
        placement.unanswered.push((ask, HoldAnswer::Promised { hold, tickets }));
        decision.note.push(Note::HoldPromised { placement: placement.name.clone(), holder });
        if !kept(Rule::PromiseIsDurableFirst) {
            Agent::tell_promises(placement, decision);
        }
    }

    /// Promises that are durable now are told.
    pub(crate) fn tell_promises(placement: &mut Placement, decision: &mut Decision) {
        let recorded = placement.recorded.as_ref().and_then(|recorded| recorded.state.promise.as_ref());
        let durable = recorded.map(|promise| promise.until);
        let told_too_early = durable.is_none() || durable < placement.promised_until;
        if told_too_early && kept(Rule::PromiseIsDurableFirst) {
            return;
        }
        decision.answer.append(&mut placement.unanswered);
    }

    pub(crate) fn take_promise(
        &mut self,
        peer: &ClusterName,
        id: &PlacementId,
        epoch: Epoch,
        asked: Moment,
        answer: Option<HoldAnswer>,
        decision: &mut Decision,
    ) {
        let Some(placement) = self.placements.get_mut(id) else { return };
        if placement.role() != Role::Holder || placement.epoch_seen() != epoch {
            return;
        }
        match answer {
            Some(HoldAnswer::Promised { hold, tickets }) => {
                placement.lease.promise(peer.clone(), asked, hold);
                decision
                    .admit
                    .extend(tickets.into_iter().filter(|ticket| placement.gates.wait_for(&ticket.nonce)));
            }
            // What it promised before still stands.
            Some(HoldAnswer::Refused { .. }) | None => {}
        }
    }

    /// Every eligible target of every placement whose lease goes without grants.
    pub(crate) fn ask_for_holds(&mut self, decision: &mut Decision) {
        for (id, placement) in &mut self.placements {
            let Some(policy) = placement.policy() else { continue };
            if placement.role() != Role::Holder || !placement.lease.hold_is_due(self.now, &policy) {
                continue;
            }
            let peers = placement.assignment.iter().flat_map(|assignment| &assignment.peers);
            for peer in peers.filter(|peer| peer.eligible && peer.peer_endpoint.is_some()) {
                decision.ask.push(HoldAsk {
                    peer: peer.clone(),
                    request: HoldRequest {
                        holder: self.identity.cluster.clone(),
                        placement: id.clone(),
                        epoch: placement.epoch_seen(),
                        stop: policy.timing.stop,
                        gates: placement.gates.nonces(self.now, policy.timing.renew),
                    },
                    deadline: policy.timing.rpc,
                    asked: self.now,
                });
            }
        }
    }
}

/// A target that has entered another epoch, or is about to be promoted, cannot wait for this holder.
fn may_promise(placement: &Placement, epoch: Epoch) -> bool {
    let promoting = placement.command.as_ref().is_some_and(|current| current.command.epoch > epoch);
    placement.role() == Role::Standby && placement.epoch_seen() == epoch && !promoting
}
