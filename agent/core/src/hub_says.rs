//! What the hub says, and what follows from it at once.

use std::collections::BTreeMap;

use proto::heartbeat::Known;
use proto::{
    Acknowledgement, Action, ClusterName, Command, Denial, DenialReason, Epoch, FromAgent, FromHub, Grant,
    Hello, Mark, Moment, Nonce, Outcome, PlacementId, Reply, Role, Rule, kept,
};

use crate::agent::Agent;
use crate::decision::{Decision, Note};
use crate::guard::{self, Verdict};
use crate::placement::{Current, Placement};

/// A heartbeat that may still be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub at: Moment,
    pub renewed: BTreeMap<PlacementId, Epoch>,
}

impl Agent {
    /// A stream has begun: who we are, what we remember, and then everything again.
    pub(crate) fn hub_up(&mut self, decision: &mut Decision) {
        self.hub_up = true;
        // Marks of a hub that has lost its journal are not ordered with those of the one before, and evidence is asked
        // for anew anyway.
        self.mark = Mark::default();
        self.marks_since = self.now;
        self.paths.forget_evidence();
        decision.send.push(FromAgent::Hello(self.hello()));
        for placement in self.placements.values_mut() {
            placement.reporting = Default::default();
            if let Some(current) = &mut placement.command {
                current.answered = None;
            }
        }
        self.next_heartbeat = self.now;
    }

    /// What begins a stream.
    pub fn hello(&self) -> Hello {
        let known = self.placements.iter().filter(|(_, placement)| placement.site.is_some());
        Hello {
            cluster: self.identity.cluster.clone(),
            version: self.identity.version.clone(),
            known: known
                .map(|(id, placement)| Known {
                    placement: id.clone(),
                    epoch: placement.epoch_seen(),
                    role: placement.role(),
                })
                .collect(),
        }
    }

    pub(crate) fn hear_hub(&mut self, message: FromHub, decision: &mut Decision) {
        match message {
            FromHub::Reply(reply) => self.hear_reply(reply, decision),
            FromHub::Assignment(assignment) => self.assigned(*assignment, decision),
            FromHub::Unassign(placement) => self.unassign(&placement),
            FromHub::Command(command) => self.hear_command(*command, decision),
        }
    }

    fn hear_reply(&mut self, reply: Reply, decision: &mut Decision) {
        let Reply { term: _, nonce, mark, grants, denials } = reply;
        self.mark = self.mark.max(mark);
        let Some(sent) = self.sent.get(&nonce).cloned() else { return };
        for grant in grants {
            self.take_grant(&sent, &grant);
            if let Some(placement) = self.placements.get(&grant.placement) {
                let tickets = grant.tickets.into_iter();
                decision.admit.extend(tickets.filter(|ticket| placement.gates.wait_for(&ticket.nonce)));
            }
        }
        self.hear_while_promoting(&sent, &denials);
        for denial in denials {
            self.take_denial(&sent, &denial, decision);
        }
    }

    /// A grant counts for the epoch it was asked for, from the instant it was asked.
    fn take_grant(&mut self, sent: &Sent, grant: &Grant) {
        let Grant { placement: id, epoch, policy, tickets: _ } = grant;
        let cluster = self.identity.cluster.clone();
        let Some(placement) = self.placements.get_mut(id) else { return };
        let asked = sent.renewed.get(id) == Some(epoch);
        if !asked || *epoch != placement.epoch_seen() || !placement.renews(&cluster) {
            return;
        }
        if placement.lease.is_over(self.now) {
            self.next_memory = self.now;
        }
        placement.apply_policy(*policy);
        let lived_by = placement.policy().map_or(policy.timing.ttl, |lived_by| lived_by.timing.ttl);
        // A policy that is not taken is never echoed, so the hub goes on waiting by the one that is lived by.
        let granted = if policy.timing.check().is_ok() { policy.timing.ttl } else { lived_by };
        let since = if kept(Rule::DeadlineCountsFromSending) { sent.at } else { self.now };
        placement.lease.grant(self.now, since, granted, lived_by);
        let live = placement.lease.is_granted(self.now, placement.targets());
        if placement.role() == Role::Fenced && live {
            placement.enter_role(id, *epoch, Role::Holder, self.now, self.wall);
        }
    }

    /// While a cluster enters an epoch with its application running, the hub cannot grant yet; that it answers must do.
    fn hear_while_promoting(&mut self, sent: &Sent, denials: &[Denial]) {
        for (id, placement) in &mut self.placements {
            let denied = denials.iter().any(|denial| denial.placement == *id);
            let Some(policy) = placement.policy() else { continue };
            if placement.role() == Role::Promoting && !denied {
                if placement.lease.is_over(self.now) {
                    self.next_memory = self.now;
                }
                placement.lease.hear(sent.at, policy.timing.ttl);
            }
        }
    }

    fn take_denial(&mut self, sent: &Sent, denial: &Denial, decision: &mut Decision) {
        let Denial { placement: id, epoch, holder: _, reason } = denial;
        let Some(placement) = self.placements.get_mut(id) else { return };
        let about_now = sent.renewed.get(id) == Some(&placement.epoch_seen());
        match reason {
            DenialReason::Superseded if about_now && *epoch >= placement.epoch_seen() => {
                if placement.role() != Role::Fenced {
                    let placement = placement.name.clone();
                    decision.note.push(Note::Superseded { placement, epoch: *epoch });
                }
                placement.superseded(id, *epoch, self.now, self.wall);
            }
            // Not a reason to stop before the deadline.
            DenialReason::Superseded | DenialReason::NotYours | DenialReason::NotNow => {}
        }
    }

    fn hear_command(&mut self, command: Command, decision: &mut Decision) {
        let nonce_sent = self.sent.get(&command.nonce).map(|sent| sent.at);
        let verdict = match self.placements.get(&command.id.placement) {
            Some(placement) => {
                let known = known(placement, &self.identity.cluster, &command, nonce_sent);
                guard::judge(&command, known, self.now)
            }
            // A release that has been carried out leaves nothing behind to remember it by.
            None if command.action == Action::Release => {
                self.let_go_of(&command.id.placement);
                Verdict::Replayed(Outcome::Done)
            }
            None => Verdict::Refused(proto::Refusal::NotAssigned),
        };
        match verdict {
            Verdict::Admitted => self.admit(command, nonce_sent, decision),
            Verdict::Replayed(outcome) => self.answer_command(&command, outcome, decision),
            Verdict::Refused(refusal) => {
                let placement = self.placements.get(&command.id.placement);
                let epoch_seen = placement.map_or(Epoch(0), Placement::epoch_seen);
                decision.note.push(Note::CommandRefused { command: command.id.clone(), refusal });
                self.answer_command(&command, Outcome::Refused { refusal, epoch_seen }, decision);
            }
        }
    }

    fn answer_command(&self, command: &Command, outcome: Outcome, decision: &mut Decision) {
        decision.send.push(FromAgent::Acknowledgement(Acknowledgement {
            cluster: self.identity.cluster.clone(),
            command: command.id.clone(),
            epoch: command.epoch,
            outcome,
        }));
    }

    /// From here the command's epoch is this cluster's epoch; its effects wait until that is durable.
    fn admit(&mut self, command: Command, nonce_sent: Option<Moment>, decision: &mut Decision) {
        let (now, wall) = (self.now, self.wall);
        let id = command.id.placement.clone();
        if command.action == Action::Release {
            self.let_go_of(&id);
        }
        let Some(placement) = self.placements.get_mut(&id) else { return };
        if let Action::Resync { .. } = &command.action {
            placement.resync_asked = now;
        }
        if let Some(current) = &mut placement.command
            && current.command.id == command.id
        {
            current.command = command;
            current.answered = None;
            return;
        }
        decision.note.push(Note::CommandAdmitted {
            command: command.id.clone(),
            epoch: command.epoch,
            trace_parent: command.trace_parent.clone(),
        });
        if command.action == Action::Release {
            placement.assign_to_let_go(&id);
        } else if let Action::Resync { .. } = &command.action {
            placement.site_mut(&id).resync = Some(command.id.operation.clone());
        } else if command.action != Action::Rejoin {
            let before = placement.role();
            let role = role_for(&command.action, placement.role(), command.epoch > placement.epoch_seen());
            placement.enter_role(&id, command.epoch, role, now, wall);
            if let (Role::Promoting, Some(sent), Some(policy)) = (role, nonce_sent, placement.policy()) {
                if placement.lease.is_over(now) {
                    self.next_memory = now;
                }
                placement.lease.hear(sent, policy.timing.ttl);
            }
            let site = placement.site_mut(&id);
            site.operation = Some(command.id.operation.clone());
            if let Action::Promote { claims, proof: _ } = &command.action {
                site.protect(claims.iter().cloned());
                // What ran here as a standby is not what the user wants to run now.
                if before == Role::Standby {
                    site.replicas.clear();
                }
            }
        }
        placement.command =
            Some(Current { command, admitted: now, accepted: false, answered: None, quiet_until: now });
        placement.survey_anew();
    }
}

fn known<'a>(
    placement: &'a Placement,
    cluster: &ClusterName,
    command: &Command,
    nonce_sent: Option<Moment>,
) -> guard::Known<'a> {
    let site = placement.site.as_ref();
    guard::Known {
        assigned: placement.assignment.is_some(),
        epoch_seen: placement.epoch_seen(),
        role: placement.role(),
        held_elsewhere: placement.is_held_elsewhere(cluster),
        operation: site.and_then(|site| site.operation.as_ref()),
        promised_until: placement.promised_until,
        nonce_sent,
        answered: site.and_then(|site| site.result_of(&command.id.to_string())),
    }
}

/// The role that a command's epoch is entered with.
fn role_for(action: &Action, role: Role, newer: bool) -> Role {
    match action {
        Action::Fence | Action::ScaleDown | Action::Demote => Role::Fenced,
        Action::Promote { .. } if role == Role::Holder && !newer => Role::Holder,
        Action::Promote { .. } => Role::Promoting,
        Action::ScaleUp { .. } if role == Role::Promoting => Role::Holder,
        // A site that its own deadline has stopped starts only by a grant.
        Action::ScaleUp { .. }
        | Action::Restore { .. }
        | Action::Resync { .. }
        | Action::Rejoin
        | Action::Release => match role {
            Role::Unknown => Role::Standby,
            Role::Holder | Role::Promoting | Role::Standby | Role::Fenced => role,
        },
    }
}

impl Agent {
    pub(crate) fn next_nonce(&mut self) -> Nonce {
        self.nonce = Nonce(self.nonce.0 + 1);
        self.nonce
    }
}
