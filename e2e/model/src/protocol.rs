//! The protocol as a search: everything that the hub, the sites and the network may do next, in any order.
//!
//! A reduction of the real cores, and a generous one. What decides is theirs (`real`). When it happens is anybody's: a
//! hub may suspect whom it likes, whenever it likes, and begin, abort and repeat what it may at any moment; messages are lost,
//! doubled and overtaken; agents and hub restart between any two steps. So whatever the real hub does with its checks,
//! its timers and its order of steps is among the behaviours searched here.

use stateright::{Model, Property};

use crate::real::{Commanded, LIFETIME, Setting};
use crate::rule::Rule;
use crate::site::denied;
use crate::state::{App, FORGOTTEN, Kind, Message, Role, SITES, State};

/// How many ticks an application may take to stop.
pub const STOP: u8 = 1;
/// With the largest rate errors that a user may set, one clock counts nine ticks while another counts eleven: so one in six
/// is less than it may miss.
const TICKS_BETWEEN_MISSES: u8 = 5;

/// What is looked at together. Everything at once would not close; each scope closes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub about: &'static str,
    pub setting: Setting,
    /// With two the user may edit the DRPlacement, once and at any time.
    pub generations: u8,
    /// Operations may enter epochs up to this one.
    pub epochs: u8,
    /// So many messages are on the wire at once; what does not fit is lost.
    pub wire: usize,
    pub holds: bool,
    pub moves: bool,
    pub aborts: bool,
    pub restarts: bool,
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub scope: Scope,
    pub without: Option<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub(crate) fn ttl(&self, generation: u8) -> u8 {
        self.scope.setting.terms(generation).ttl
    }

    fn longest_ttl(&self) -> u8 {
        let Setting { first, second, .. } = self.scope.setting;
        first.ttl.max(second.ttl)
    }

    /// After so many ticks of silence no hub waits any more.
    pub(crate) fn longest_wait(&self) -> u8 {
        self.longest_ttl() + STOP + 1
    }

    /// After so many ticks an answer says what it would say after any more.
    fn oldest(&self) -> u8 {
        self.longest_ttl().max(LIFETIME)
    }

    pub(crate) fn send(&self, state: &mut State, message: Message) {
        state.wire.send(message, self.scope.wire);
    }

    fn deliver(&self, state: &mut State, message: Message) {
        let sites = &mut state.sites;
        match message {
            Message::Heartbeat { from, age, renewal } => self.heartbeat(state, from, age, renewal),
            Message::Grant { to, age, epoch, generation } => {
                self.granted(&mut sites[to], age, epoch, generation);
            }
            Message::Reply { to, age } => self.replied(&mut sites[to], age),
            Message::Superseded { to, age: _, asked, epoch } => denied(&mut sites[to], asked, epoch),
            Message::Assignment { to, holder, epoch, generation } => {
                self.assigned(&mut sites[to], holder == to, epoch, generation);
            }
            Message::Fence { to, age, epoch } => {
                self.command(state, to, Commanded { epoch, age, promotes: None });
            }
            Message::Promote { to, age, epoch, proof } => {
                self.command(state, to, Commanded { epoch, age, promotes: Some(proof) });
            }
            Message::Stopped { from, epoch } => self.acknowledged(&mut state.hub.facts, from, epoch),
            Message::Promoted { from, epoch } => self.promoted(&mut state.hub, from, epoch),
            Message::Ask { from, age, epoch } => self.asked(state, from, age, epoch),
            Message::Promise { to, age, epoch } => self.promised(&mut sites[to], age, epoch),
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Tick(missed_by) => self.tick(state, missed_by),
            Step::Deliver(message) => {
                state.wire.remove(message);
                self.deliver(state, message);
            }
            Step::Double(message) => self.deliver(state, message),
            Step::Lose(message) => state.wire.remove(message),
            Step::Beat(site) => {
                let message = self.beat(state, site);
                self.send(state, message);
            }
            Step::Ask(site) => {
                let epoch = state.sites[site].epoch;
                self.send(state, Message::Ask { from: site, age: 0, epoch });
            }
            Step::Starts(site) => state.sites[site].app = App::Runs,
            Step::HasStopped(site) => state.sites[site].app = App::Stopped,
            Step::SaysStopped(site) => {
                let epoch = state.sites[site].epoch;
                self.send(state, Message::Stopped { from: site, epoch });
            }
            Step::SaysPromoted(site) => self.says_promoted(state, site),
            Step::RestartAgent(site) => self.restart_agent(state, site),
            Step::RestartHub => self.restart_hub(&mut state.hub),
            Step::Rejoin(site) => state.sites[site].role = Role::Standby,
            Step::Assign(to) => {
                let (facts, generation) = (state.hub.facts, state.generation);
                let (holder, epoch) = (facts.owner, facts.epoch);
                self.send(state, Message::Assignment { to, holder, epoch, generation });
            }
            Step::Begin(kind, to) => self.begin(&mut state.hub.facts, kind, to),
            Step::Abort => state.hub.facts.operation = None,
            Step::WaitIsOver => self.wait_is_over(&mut state.hub.facts),
            Step::IssuePromotion => self.issue_promotion(&mut state.hub.facts),
            Step::CommandFence => self.command_fence(state),
            Step::CommandPromotion => self.command_promotion(state),
            Step::Edit => state.generation += 1,
        }
    }

    fn tick(&self, state: &mut State, missed_by: Option<usize>) {
        state.hub.since = (state.hub.since + 1).min(self.longest_wait());
        for site in SITES {
            let it = &mut state.sites[site];
            if missed_by == Some(site) {
                it.steady = TICKS_BETWEEN_MISSES;
                continue;
            }
            it.steady = it.steady.saturating_sub(1);
            it.lease.sent = (it.lease.sent + 1).min(self.longest_ttl());
            it.lease.left = it.lease.left.saturating_sub(1);
            it.promised = it.promised.saturating_sub(1);
            it.owes = it.owes.saturating_sub(1);
            it.app = match it.app {
                App::Stops(left) if left <= 1 => App::Stopped,
                App::Stops(left) => App::Stops(left - 1),
                App::Runs | App::Stopped => it.app,
            };
        }
        state.wire.pass(|mut message| {
            if let Some((site, age)) = message.age_mut()
                && missed_by != Some(site)
                && *age != FORGOTTEN
            {
                *age = (*age + 1).min(self.oldest());
            }
            Some(message)
        });
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::beginning(self.ttl(1))]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Tick(None));
        if self.scope.setting.slow_clocks {
            let ready = SITES.into_iter().filter(|site| state.sites[*site].steady == 0);
            steps.extend(ready.map(|site| Step::Tick(Some(site))));
        }
        self.hub_steps(state, steps);
        for site in SITES {
            self.site_steps(state, site, steps);
        }
        for message in state.wire.iter() {
            steps.extend([Step::Deliver(message), Step::Double(message), Step::Lose(message)]);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = *last;
        self.take(&mut state, step);
        for site in &mut state.sites {
            self.watch_lease(site);
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
            Property::always("S4 nothing is promoted beside a running application", |_, state: &State| {
                !state.promoted_beside
            }),
            Property::always("S9 the owner on record has entered its epoch", |_, state: &State| {
                let facts = &state.hub.facts;
                state.sites[facts.owner].epoch >= facts.epoch
            }),
            Property::sometimes(COMPLETED, |_, state: &State| {
                state.hub.facts.owner == 1 && state.sites[1].app == App::Runs
            }),
        ]
    }
}

/// What every scope must reach: a search that never gets there shows nothing.
pub const COMPLETED: &str = "a failover is completed";
