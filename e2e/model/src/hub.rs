//! What the hub does: it may begin, abort, wait and command whenever its journal lets it, for no reason at all.

use crate::protocol::{Protocol, Scope, Step};
use crate::real::{self, Answer, Asked, Setting};
use crate::rule::Rule;
use crate::state::{FORGOTTEN, Facts, Generations, Hub, Kind, Message, Operation, Proof, State, other};

impl Protocol {
    /// A heartbeat from the holder: whatever is answered may move its deadline.
    pub(crate) fn hears(&self, hub: &mut Hub, from: usize) {
        if from == hub.facts.owner && self.keeps(Rule::WhatIsHeardIsWaitedFor) {
            hub.since = 0;
        }
    }

    pub(crate) fn heartbeat(&self, state: &mut State, from: usize, age: u8, renewal: Option<(u8, u8)>) {
        self.hears(&mut state.hub, from);
        let answer = match renewal {
            None => Message::Reply { to: from, age },
            Some((epoch, echo)) => self.renewal(state, from, age, epoch, echo),
        };
        if age != FORGOTTEN {
            self.send(state, answer);
        }
    }

    fn renewal(&self, state: &mut State, from: usize, age: u8, epoch: u8, echo: u8) -> Message {
        let generation = state.generation;
        let mut facts = state.hub.facts;
        if !self.keeps(Rule::NoGrantAfterIntent) {
            facts.operation = None;
            facts.highest = facts.epoch;
        }
        if !self.keeps(Rule::GrantsOnlyToTheOwner) {
            facts.owner = from;
        }
        let asked = Asked { site: from, epoch, echo, newest: generation };
        match real::answer(&facts, &self.scope.setting, asked) {
            Answer::Granted { records_policy, records_echo } => {
                let facts = &mut state.hub.facts;
                let is_first = facts.granted.iter().next().is_none();
                if records_policy && (is_first || self.keeps(Rule::PolicyBeforeGrant)) {
                    facts.granted.insert(generation);
                }
                if records_echo {
                    facts.echoed = echo;
                    facts.granted.forget_below(echo);
                }
                state.hub.since = 0;
                Message::Grant { to: from, age, epoch, generation }
            }
            Answer::Superseded { epoch: newer } => {
                Message::Superseded { to: from, age, asked: epoch, epoch: newer }
            }
            Answer::NotNow => Message::Reply { to: from, age },
        }
    }

    pub(crate) fn begin(&self, facts: &mut Facts, kind: Kind, to: usize) {
        let epoch = self.last_epoch(facts) + 1;
        facts.highest = epoch;
        let proof = (kind == Kind::Readopt).then_some(Proof::NeverHeld);
        facts.operation = Some(Operation { kind, to, epoch, proof, issued: false });
    }

    fn last_epoch(&self, facts: &Facts) -> u8 {
        if self.keeps(Rule::BurnedEpochsStayBurned) { facts.highest } else { facts.epoch }
    }

    /// How long to wait for an expired lease; none: waiting proves nothing.
    fn wait(&self, state: &State) -> Option<u8> {
        let mut facts = state.hub.facts;
        if !self.keeps(Rule::EveryPolicyOfTheRangeCounts) {
            // Only what the DRPlacement says now.
            facts.granted = Generations::only(state.generation);
            facts.echoed = state.generation;
        }
        if !self.keeps(Rule::WithoutAnEchoNothingIsProven) && facts.echoed == 0 {
            facts.echoed = facts.granted.iter().next().unwrap_or_default();
        }
        let Setting { stop, slow_clocks, .. } = self.scope.setting;
        let setting = Setting {
            stop: if self.keeps(Rule::HubWaitsForTheStop) { stop } else { 0 },
            slow_clocks: slow_clocks && self.keeps(Rule::HubAllowsForSlowClocks),
            ..self.scope.setting
        };
        real::expiry_wait(&facts, &setting)
    }

    pub(crate) fn acknowledged(&self, facts: &mut Facts, from: usize, epoch: u8) {
        let owner = facts.owner;
        let Some(operation) = &mut facts.operation else { return };
        let named = operation.epoch == epoch || !self.keeps(Rule::AcknowledgedByThisOperation);
        if named && from == owner && operation.to != owner && operation.proof.is_none() {
            operation.proof = Some(Proof::Acknowledged);
        }
    }

    pub(crate) fn promoted(&self, hub: &mut Hub, from: usize, epoch: u8) {
        let facts = &mut hub.facts;
        let promotes = facts.operation.filter(|operation| operation.to == from && operation.issued);
        let Some(operation) = promotes else { return };
        if operation.epoch != epoch && self.keeps(Rule::PromotedByThisOperation) {
            return;
        }
        facts.owner = from;
        facts.epoch = operation.epoch;
        facts.granted = Generations::default();
        facts.echoed = 0;
        facts.operation = None;
        hub.since = 0;
    }

    pub(crate) fn restart_hub(&self, hub: &mut Hub) {
        // Without the rule it takes what it has not heard for a long silence.
        hub.since = if self.keeps(Rule::BootWait) { 0 } else { self.longest_wait() };
        let facts = &mut hub.facts;
        if !self.keeps(Rule::IntentIsDurable) {
            facts.operation = None;
            facts.highest = facts.epoch;
        }
        if let Some(operation) = &mut facts.operation
            && !self.keeps(Rule::NoReturnIsDurable)
        {
            operation.issued = false;
        }
    }

    pub(crate) fn wait_is_over(&self, facts: &mut Facts) {
        if let Some(operation) = &mut facts.operation {
            operation.proof = Some(Proof::LeaseExpired);
        }
    }

    pub(crate) fn issue_promotion(&self, facts: &mut Facts) {
        if let Some(operation) = &mut facts.operation {
            operation.issued = true;
        }
    }

    pub(crate) fn command_fence(&self, state: &mut State) {
        let Facts { owner, operation, .. } = state.hub.facts;
        if let Some(Operation { epoch, .. }) = operation {
            self.send(state, Message::Fence { to: owner, age: 0, epoch });
        }
    }

    /// It answers a heartbeat that has been heard just now.
    pub(crate) fn command_promotion(&self, state: &mut State) {
        if let Some(Operation { to, epoch, proof, .. }) = state.hub.facts.operation {
            self.hears(&mut state.hub, to);
            let proof = proof.unwrap_or(Proof::LeaseExpired);
            self.send(state, Message::Promote { to, age: 0, epoch, proof });
        }
    }

    /// What the hub may do now.
    pub(crate) fn hub_steps(&self, state: &State, steps: &mut Vec<Step>) {
        match state.hub.facts.operation {
            None => self.beginnings(&state.hub.facts, steps),
            Some(operation) => self.next_of(operation, state, steps),
        }
        if state.generation < self.scope.generations {
            steps.push(Step::Edit);
        }
        if self.scope.restarts {
            steps.push(Step::RestartHub);
        }
    }

    fn beginnings(&self, facts: &Facts, steps: &mut Vec<Step>) {
        let Scope { epochs, moves, .. } = self.scope;
        if self.last_epoch(facts) >= epochs {
            return;
        }
        let target = other(facts.owner);
        steps.push(Step::Begin(Kind::FailOver, target));
        if moves {
            steps.push(Step::Begin(Kind::Migrate, target));
        }
        if facts.highest > facts.epoch {
            steps.push(Step::Begin(Kind::Readopt, facts.owner));
        }
    }

    fn next_of(&self, operation: Operation, state: &State, steps: &mut Vec<Step>) {
        let proven = operation.proof.is_some() || !self.keeps(Rule::FenceBeforePromotion);
        if operation.proof.is_none() {
            steps.push(Step::CommandFence);
            let by_time = operation.kind == Kind::FailOver;
            if by_time && self.wait(state).is_some_and(|wait| state.hub.since >= wait) {
                steps.push(Step::WaitIsOver);
            }
        }
        if proven && !operation.issued {
            steps.push(Step::IssuePromotion);
        }
        if operation.issued {
            steps.push(Step::CommandPromotion);
        }
        let may_abort =
            !operation.issued || operation.kind == Kind::Readopt || !self.keeps(Rule::ForwardPastNoReturn);
        if self.scope.aborts && may_abort {
            steps.push(Step::Abort);
        }
    }
}
