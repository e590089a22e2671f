//! The protocol as a search: everything that the hub, the sites and the network may do next, in any order.
//!
//! A reduction of the real cores, and a generous one. What decides is theirs (`real`). When it happens is anybody's: a
//! hub may suspect whom it likes, whenever it likes, and begin, abort and repeat what it may at any moment; messages are lost,
//! doubled and overtaken; agents and hub restart between any two steps. So whatever the real hub does with its checks,
//! its timers and its order of steps is among the behaviours searched here.

use stateright::{Model, Property};

use crate::real::{self, Answer, STOP, Terms};
use crate::rule::Rule;
use crate::state::{App, Kind, Message, Operation, Proof, Role, SITES, State, other};

/// A clock that is slow misses one tick in so many: with the largest rate error that a user may set, one in ten.
const TICKS_BETWEEN_MISSES: u8 = 9;

/// What is looked at together. Everything at once would not close; each scope closes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub about: &'static str,
    /// What the generations of the DRPlacement say, in their order; the user may edit to the next one at any time.
    pub terms: &'static [Terms],
    /// Operations may enter epochs up to this one.
    pub epochs: u8,
    /// So many messages are on the wire at once; what does not fit is lost.
    pub wire: usize,
    pub holds: bool,
    pub moves: bool,
    pub aborts: bool,
    pub restarts: bool,
    pub slow_clocks: bool,
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub scope: Scope,
    pub without: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Time passes; the clock of one site may miss it.
    Tick(Option<usize>),
    Deliver(Message),
    /// Delivered, and still under way.
    Double(Message),
    Lose(Message),
    Beat(usize),
    Ask(usize),
    Starts(usize),
    HasStopped(usize),
    SaysStopped(usize),
    SaysPromoted(usize),
    RestartAgent(usize),
    RestartHub,
    Rejoin(usize),
    Assign(usize),
    Begin(Kind, usize),
    Abort,
    WaitIsOver,
    IssuePromotion,
    CommandFence,
    CommandPromotion,
    Edit,
}

impl Protocol {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn ttl(&self, generation: u8) -> u8 {
        self.scope.terms[usize::from(generation) - 1].ttl
    }

    fn stops(&self, generation: u8) -> bool {
        self.scope.terms[usize::from(generation) - 1].stops
    }

    fn policy(&self, generation: u8) -> proto::Policy {
        real::policy(self.scope.terms, generation, self.scope.slow_clocks)
    }

    fn folded(&self, state: &State) -> real::Folded {
        real::fold(&state.hub.facts, self.scope.terms, self.scope.slow_clocks)
    }

    /// After so many ticks nothing on the wire, and nothing that is counted, makes a difference any more.
    fn old(&self) -> u8 {
        let longest = self.scope.terms.iter().map(|terms| terms.ttl).max().unwrap_or_default();
        longest + STOP + 2
    }

    fn send(&self, state: &mut State, message: Message) {
        if state.wire.len() < self.scope.wire {
            state.wire.insert(message);
        }
    }

    // The hub.

    fn hears(&self, state: &mut State, from: usize) {
        if from == state.hub.facts.owner && self.keeps(Rule::WhatIsHeardIsWaitedFor) {
            state.hub.since = 0;
        }
    }

    fn heartbeat(&self, state: &mut State, from: usize, age: u8, renewal: Option<(u8, u8)>) {
        self.hears(state, from);
        let Some((epoch, echo)) = renewal else {
            return self.send(state, Message::Reply { to: from, age });
        };
        let generation = state.generation;
        let mut asked = state.clone();
        if !self.keeps(Rule::NoGrantAfterIntent) {
            asked.hub.facts.operation = None;
            asked.hub.facts.highest = asked.hub.facts.epoch;
        }
        match self.folded(&asked).answer(from, epoch, echo, self.policy(generation)) {
            Answer::Granted { records_policy, records_echo } => {
                let facts = &mut state.hub.facts;
                if records_policy && self.keeps(Rule::PolicyBeforeGrant) {
                    facts.granted.push(generation);
                }
                if records_echo {
                    facts.echoed = echo;
                    facts.granted.retain(|granted| *granted >= echo);
                }
                state.hub.since = 0;
                self.send(state, Message::Grant { to: from, age, epoch, generation });
            }
            Answer::Superseded { epoch: newer } => {
                self.send(state, Message::Superseded { to: from, asked: epoch, epoch: newer });
            }
            Answer::NotNow => self.send(state, Message::Reply { to: from, age }),
        }
    }

    fn begin(&self, state: &mut State, kind: Kind, to: usize) {
        let facts = &mut state.hub.facts;
        let epoch = match self.keeps(Rule::BurnedEpochsStayBurned) {
            true => facts.highest + 1,
            false => facts.epoch + 1,
        };
        facts.highest = epoch;
        let proof = (kind == Kind::Readopt).then_some(Proof::NeverHeld);
        facts.operation = Some(Operation { kind, to, epoch, proof, issued: false });
    }

    fn wait(&self, state: &State) -> Option<u8> {
        let range = if !self.keeps(Rule::EveryPolicyOfTheRangeCounts) {
            // Only what the DRPlacement says now.
            let mut newest = state.clone();
            newest.hub.facts.granted = vec![state.generation];
            newest.hub.facts.echoed = state.generation;
            self.folded(&newest).expiry_wait()
        } else {
            self.folded(state).expiry_wait()
        };
        let mut wait = range?;
        if !self.keeps(Rule::HubWaitsForTheStop) {
            wait = wait.saturating_sub(STOP);
        }
        if !self.keeps(Rule::HubAllowsForSlowClocks) {
            wait = wait.saturating_sub(1);
        }
        Some(wait)
    }

    fn acknowledged(&self, state: &mut State, from: usize, epoch: u8) {
        let owner = state.hub.facts.owner;
        let Some(operation) = &mut state.hub.facts.operation else { return };
        let named = operation.epoch == epoch || !self.keeps(Rule::AcknowledgedByThisOperation);
        if named && from == owner && operation.to != owner && operation.proof.is_none() {
            operation.proof = Some(Proof::Acknowledged);
        }
    }

    fn promoted(&self, state: &mut State, from: usize, epoch: u8) {
        let facts = &mut state.hub.facts;
        let Some(operation) = facts.operation.filter(|it| it.epoch == epoch && it.to == from && it.issued) else {
            return;
        };
        // What is heard from the new owner is heard from the owner.
        facts.owner = from;
        facts.epoch = operation.epoch;
        facts.granted.clear();
        facts.echoed = 0;
        facts.operation = None;
        state.hub.since = 0;
    }

    // The sites.

    fn enter(&self, state: &mut State, site: usize, epoch: u8, role: Role) {
        let it = &mut state.sites[site];
        if epoch > it.epoch {
            it.granted = false;
            it.promised = 0;
            it.commanded = None;
        }
        it.epoch = it.epoch.max(epoch);
        it.role = role;
        if role == Role::Fenced && it.app == App::Runs {
            it.app = App::Stops(STOP);
        }
    }

    fn superseded(&self, state: &mut State, site: usize, epoch: u8) {
        let role = match state.sites[site].role {
            Role::Holder | Role::Promoting | Role::Fenced => Role::Fenced,
            Role::Standby => Role::Standby,
        };
        self.enter(state, site, epoch, role);
    }

    fn command(&self, state: &mut State, to: usize, age: u8, epoch: u8, promotes: Option<Proof>) {
        let mut asked = state.sites[to].clone();
        if !self.keeps(Rule::StaleEpochsAreRefused) {
            asked.epoch = asked.epoch.min(epoch);
            asked.commanded = asked.commanded.filter(|commanded| *commanded == epoch);
        }
        if !self.keeps(Rule::PromiseIsHonoured) {
            asked.owes = 0;
        }
        if !real::is_admitted(&asked, promotes, epoch, age) {
            return;
        }
        let before = &state.sites[to];
        let role = match promotes {
            None => Role::Fenced,
            Some(_) if before.role == Role::Holder && epoch <= before.epoch => Role::Holder,
            Some(_) => Role::Promoting,
        };
        self.enter(state, to, epoch, role);
        let it = &mut state.sites[to];
        it.commanded = Some(epoch);
        if role == Role::Promoting {
            let ttl = self.ttl(it.lives_by);
            real::hear(it, other(to), age, ttl);
        }
    }

    fn granted(&self, state: &mut State, to: usize, age: u8, epoch: u8, generation: u8) {
        let it = &mut state.sites[to];
        let renews = matches!(it.role, Role::Holder | Role::Fenced);
        if !renews || (epoch != it.epoch && self.keeps(Rule::GrantsAreForTheirEpoch)) {
            return;
        }
        if generation > it.lives_by || !self.keeps(Rule::OlderPoliciesChangeNothing) {
            it.lives_by = generation;
        }
        let age = if self.keeps(Rule::DeadlineCountsFromSend) { age } else { 0 };
        let (ttl, lived_by) = (self.ttl(generation), self.ttl(it.lives_by));
        if self.keeps(Rule::ShorterLeaseShortens) {
            real::grant(it, other(to), age, ttl, lived_by);
        } else {
            real::hear(it, other(to), age, ttl);
            it.granted = true;
        }
        if it.role == Role::Fenced && real::left(it, other(to)) > 0 {
            it.role = Role::Holder;
        }
    }

    fn assigned(&self, state: &mut State, to: usize, holder: usize, epoch: u8, generation: u8) {
        let it = &mut state.sites[to];
        if epoch < it.epoch {
            return;
        }
        // A holder's terms change only by a grant (R6).
        if it.role == Role::Standby {
            it.lives_by = it.lives_by.max(generation);
        }
        match (it.role, holder == to) {
            (Role::Promoting, true) if epoch == it.epoch => self.enter(state, to, epoch, Role::Holder),
            (_, true) => {}
            (Role::Standby | Role::Fenced, false) if epoch == it.epoch => {}
            (_, false) => self.superseded(state, to, epoch),
        }
    }

    fn asked(&self, state: &mut State, from: usize, age: u8, epoch: u8) {
        let to = other(from);
        let it = &mut state.sites[to];
        let standby = it.role == Role::Standby || !self.keeps(Rule::PromiseOnlyByAStandby);
        let its_epoch = it.epoch == epoch || !self.keeps(Rule::PromiseOnlyToTheEpochSeen);
        if !(standby && its_epoch) {
            return;
        }
        let policy = real::policy(self.scope.terms, it.lives_by, self.scope.slow_clocks);
        let mut wait = real::target_wait(&policy);
        if !self.keeps(Rule::TargetWaitsForTheStop) {
            wait = wait.saturating_sub(STOP);
        }
        if !self.keeps(Rule::TargetAllowsForSlowClocks) {
            wait = wait.saturating_sub(1);
        }
        it.owes = it.owes.max(wait);
        self.send(state, Message::Promise { to: from, age, epoch });
    }

    fn deliver(&self, state: &mut State, message: &Message) {
        match *message {
            Message::Heartbeat { from, age, renewal } => self.heartbeat(state, from, age, renewal),
            Message::Grant { to, age, epoch, generation } => self.granted(state, to, age, epoch, generation),
            Message::Reply { to, age } => {
                let it = &mut state.sites[to];
                if it.role == Role::Promoting {
                    let ttl = self.ttl(it.lives_by);
                    real::hear(it, other(to), age, ttl);
                }
            }
            Message::Superseded { to, asked, epoch } => {
                let it = &state.sites[to];
                if it.epoch == asked && epoch >= it.epoch && self.keeps(Rule::SupersededStops) {
                    self.superseded(state, to, epoch);
                }
            }
            Message::Assignment { to, holder, epoch, generation } => {
                self.assigned(state, to, holder, epoch, generation);
            }
            Message::Fence { to, age, epoch } => self.command(state, to, age, epoch, None),
            Message::Promote { to, age, epoch, proof } => {
                self.command(state, to, age, epoch, Some(proof));
            }
            Message::Stopped { from, epoch } => self.acknowledged(state, from, epoch),
            Message::Promoted { from, epoch } => self.promoted(state, from, epoch),
            Message::Ask { from, age, epoch } => self.asked(state, from, age, epoch),
            Message::Promise { to, age, epoch } => {
                let it = &mut state.sites[to];
                if it.role == Role::Holder && it.epoch == epoch {
                    real::promise(it, other(to), age);
                }
            }
        }
    }

    fn tick(&self, state: &mut State, missed_by: Option<usize>) {
        state.hub.since = (state.hub.since + 1).min(self.old());
        for site in SITES {
            let it = &mut state.sites[site];
            if missed_by == Some(site) {
                it.steady = TICKS_BETWEEN_MISSES;
                continue;
            }
            it.steady = it.steady.saturating_sub(1);
            it.lease.sent = (it.lease.sent + 1).min(self.old());
            it.lease.left = it.lease.left.saturating_sub(1);
            it.promised = it.promised.saturating_sub(1);
            it.owes = it.owes.saturating_sub(1);
            it.app = match it.app {
                App::Stops(left) if left <= 1 => App::Stopped,
                App::Stops(left) => App::Stops(left - 1),
                App::Runs | App::Stopped => it.app,
            };
            let bound = it.role == Role::Holder || it.role == Role::Promoting && it.app != App::Stopped;
            let over = real::left(it, other(site)) == 0;
            if bound && over && self.stops(it.lives_by) && self.keeps(Rule::LeaseEndStops) {
                let epoch = it.epoch;
                self.enter(state, site, epoch, Role::Fenced);
            }
        }
        let wire = std::mem::take(&mut state.wire);
        for mut message in wire {
            if let Some((site, age)) = message.age_mut()
                && missed_by != Some(site)
            {
                *age += 1;
                if *age > self.old() {
                    continue;
                }
            }
            state.wire.insert(message);
        }
    }

    fn restart_agent(&self, state: &mut State, site: usize) {
        let it = &mut state.sites[site];
        it.granted = false;
        if !self.keeps(Rule::PromiseIsDurable) {
            it.owes = 0;
        }
        if !self.keeps(Rule::EpochIsDurable) {
            it.epoch = 1;
            it.commanded = None;
        }
    }

    fn restart_hub(&self, state: &mut State) {
        if self.keeps(Rule::BootWait) {
            state.hub.since = 0;
        } else {
            // It takes what it has not heard for a long silence.
            state.hub.since = self.old();
        }
        if !self.keeps(Rule::IntentIsDurable) {
            let facts = &mut state.hub.facts;
            facts.operation = None;
            facts.highest = facts.epoch;
        }
    }

    /// Whether a step of the hub is possible now.
    fn hub_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let Scope { epochs, moves, aborts, .. } = self.scope;
        let facts = &state.hub.facts;
        match facts.operation {
            None => {
                let target = other(facts.owner);
                let burned = facts.highest > facts.epoch;
                let next = if self.keeps(Rule::BurnedEpochsStayBurned) { facts.highest } else { facts.epoch };
                if next < epochs {
                    steps.push(Step::Begin(Kind::FailOver, target));
                    if moves {
                        steps.push(Step::Begin(Kind::Migrate, target));
                    }
                    if burned {
                        steps.push(Step::Begin(Kind::Readopt, facts.owner));
                    }
                }
            }
            Some(operation) => {
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
                let may_abort = !operation.issued
                    || operation.kind == Kind::Readopt
                    || !self.keeps(Rule::ForwardPastNoReturn);
                if aborts && may_abort {
                    steps.push(Step::Abort);
                }
            }
        }
        if usize::from(state.generation) < self.scope.terms.len() {
            steps.push(Step::Edit);
        }
        if self.scope.restarts {
            steps.push(Step::RestartHub);
        }
    }

    fn site_steps(&self, state: &State, site: usize, steps: &mut Vec<Step>) {
        let it = &state.sites[site];
        let facts = &state.hub.facts;
        let left = real::left(it, other(site));
        let beating = state.wire.iter().any(|message| {
            matches!(message, Message::Heartbeat { from, age: 0, .. } if *from == site)
        });
        if !beating && it.role != Role::Standby {
            steps.push(Step::Beat(site));
        }
        let holds = it.role == Role::Holder;
        if self.scope.holds && holds && left > 0 {
            steps.push(Step::Ask(site));
        }
        let live = it.granted && left > 0;
        if holds && it.app == App::Stopped && (live || !self.keeps(Rule::StartsOnlyWithALease)) {
            steps.push(Step::Starts(site));
        }
        if matches!(it.app, App::Stops(_)) {
            steps.push(Step::HasStopped(site));
        }
        let stopped = it.app == App::Stopped || !self.keeps(Rule::AcknowledgedWhenStopped);
        if it.role == Role::Fenced && it.commanded == Some(it.epoch) && stopped {
            steps.push(Step::SaysStopped(site));
        }
        if it.role == Role::Promoting && it.commanded == Some(it.epoch) {
            steps.push(Step::SaysPromoted(site));
        }
        if it.epoch < facts.epoch || (it.role == Role::Promoting && facts.owner == site) {
            steps.push(Step::Assign(site));
        }
        let returned = facts.owner != site && facts.operation.is_none() && it.epoch == facts.epoch;
        if it.role == Role::Fenced && returned && it.app == App::Stopped {
            steps.push(Step::Rejoin(site));
        }
        if self.scope.restarts {
            steps.push(Step::RestartAgent(site));
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::beginning()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Tick(None));
        if self.scope.slow_clocks {
            let ready = SITES.into_iter().filter(|site| state.sites[*site].steady == 0);
            steps.extend(ready.map(|site| Step::Tick(Some(site))));
        }
        self.hub_steps(state, steps);
        for site in SITES {
            self.site_steps(state, site, steps);
        }
        for message in &state.wire {
            steps.push(Step::Deliver(message.clone()));
            steps.push(Step::Double(message.clone()));
            steps.push(Step::Lose(message.clone()));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick(missed_by) => self.tick(&mut state, missed_by),
            Step::Deliver(message) => {
                state.wire.remove(&message);
                self.deliver(&mut state, &message);
            }
            Step::Double(message) => self.deliver(&mut state, &message),
            Step::Lose(message) => {
                state.wire.remove(&message);
            }
            Step::Beat(site) => {
                let it = &state.sites[site];
                let echo = match self.keeps(Rule::EchoIsWhatIsLivedBy) {
                    true => it.lives_by,
                    false => state.generation,
                };
                let renewal = (it.role != Role::Promoting).then_some((it.epoch, echo));
                self.send(&mut state, Message::Heartbeat { from: site, age: 0, renewal });
            }
            Step::Ask(site) => {
                let epoch = state.sites[site].epoch;
                self.send(&mut state, Message::Ask { from: site, age: 0, epoch });
            }
            Step::Starts(site) => state.sites[site].app = App::Runs,
            Step::HasStopped(site) => state.sites[site].app = App::Stopped,
            Step::SaysStopped(site) => {
                let epoch = state.sites[site].epoch;
                self.send(&mut state, Message::Stopped { from: site, epoch });
            }
            Step::SaysPromoted(site) => {
                let epoch = state.sites[site].epoch;
                self.send(&mut state, Message::Promoted { from: site, epoch });
            }
            Step::RestartAgent(site) => self.restart_agent(&mut state, site),
            Step::RestartHub => self.restart_hub(&mut state),
            Step::Rejoin(site) => state.sites[site].role = Role::Standby,
            Step::Assign(to) => {
                let (holder, epoch, generation) =
                    (state.hub.facts.owner, state.hub.facts.epoch, state.generation);
                self.send(&mut state, Message::Assignment { to, holder, epoch, generation });
            }
            Step::Begin(kind, to) => self.begin(&mut state, kind, to),
            Step::Abort => state.hub.facts.operation = None,
            Step::WaitIsOver => {
                if let Some(operation) = &mut state.hub.facts.operation {
                    operation.proof = Some(Proof::LeaseExpired);
                }
            }
            Step::IssuePromotion => {
                if let Some(operation) = &mut state.hub.facts.operation {
                    operation.issued = true;
                }
            }
            Step::CommandFence => {
                let (to, operation) = (state.hub.facts.owner, state.hub.facts.operation?);
                self.hears(&mut state, to);
                self.send(&mut state, Message::Fence { to, age: 0, epoch: operation.epoch });
            }
            Step::CommandPromotion => {
                let operation = state.hub.facts.operation?;
                self.hears(&mut state, operation.to);
                let proof = operation.proof.unwrap_or(Proof::LeaseExpired);
                let (to, epoch) = (operation.to, operation.epoch);
                self.send(&mut state, Message::Promote { to, age: 0, epoch, proof });
            }
            Step::Edit => state.generation += 1,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1 never two writers", |_, state: &State| {
                state.sites.iter().any(|site| site.app == App::Stopped)
            }),
            Property::always("S2 one holder of an epoch", |_, state: &State| {
                let [east, west] = &state.sites;
                let holds = |role| matches!(role, Role::Holder | Role::Promoting);
                !(holds(east.role) && holds(west.role) && east.epoch == west.epoch)
            }),
            Property::sometimes("a failover is completed", |_, state: &State| {
                state.hub.facts.owner == 1 && state.sites[1].app == App::Runs
            }),
        ]
    }
}
