//! What an agent does with what reaches it, and at its own deadline.

use crate::protocol::{Protocol, STOP, Step};
use crate::real::{self, Commanded, Extension, Judged, Parts};
use crate::rule::Rule;
use crate::state::{App, FORGOTTEN, Message, Role, Site, State, other};

fn parts(site: &Site) -> Parts {
    Parts { hubs: site.lease, promised: site.promised }
}

fn left(site: &Site) -> u8 {
    real::left(parts(site))
}

fn extend(site: &mut Site, by: Extension) {
    let Parts { hubs, promised } = real::extended(parts(site), by);
    site.lease = hubs;
    site.promised = promised;
}

fn enter(site: &mut Site, epoch: u8, role: Role) {
    if epoch > site.epoch {
        site.granted = false;
        site.promised = 0;
        site.commanded = None;
    }
    site.epoch = site.epoch.max(epoch);
    site.role = role;
    site.app = match (role, site.app) {
        (Role::Fenced, App::Runs) => App::Stops(STOP),
        // What was begun to be stopped may never have got that far.
        (Role::Holder | Role::Promoting, App::Stops(_)) => App::Runs,
        (Role::Holder | Role::Promoting | Role::Standby | Role::Fenced, app) => app,
    };
}

pub(crate) fn denied(site: &mut Site, asked: u8, epoch: u8) {
    if site.epoch == asked && epoch >= site.epoch {
        superseded(site, epoch);
    }
}

fn superseded(site: &mut Site, epoch: u8) {
    let role = match site.role {
        Role::Holder | Role::Promoting | Role::Fenced => Role::Fenced,
        Role::Standby => Role::Standby,
    };
    enter(site, epoch, role);
}

impl Protocol {
    /// Its own deadline: looked at whenever anything happens.
    pub(crate) fn watch_lease(&self, site: &mut Site) {
        let bound = site.role == Role::Holder || site.role == Role::Promoting && site.app != App::Stopped;
        let stops = self.scope.setting.terms(site.lives_by).stops && self.keeps(Rule::LeaseEndStops);
        if bound && stops && left(site) == 0 {
            enter(site, site.epoch, Role::Fenced);
        }
    }

    pub(crate) fn command(&self, state: &mut State, to: usize, commanded: Commanded) {
        let Commanded { epoch, age, promotes } = commanded;
        let before = state.sites[to];
        let mut asked = before;
        if !self.keeps(Rule::PromiseIsHonoured) {
            asked.owes = 0;
        }
        match real::judge(&asked, commanded) {
            Judged::Refused => return,
            Judged::Replayed => return self.send(state, Message::Promoted { from: to, epoch }),
            Judged::Admitted => {}
        }
        let role = match promotes {
            None => Role::Fenced,
            Some(_) if before.role == Role::Holder && epoch <= before.epoch => Role::Holder,
            Some(_) => Role::Promoting,
        };
        if role == Role::Promoting && state.sites[other(to)].app != App::Stopped {
            state.promoted_beside = true;
        }
        let site = &mut state.sites[to];
        enter(site, epoch, role);
        site.commanded = Some(epoch);
        if role == Role::Promoting {
            self.hear(site, age);
        }
    }

    /// While an epoch is entered an answer is as good as a grant.
    pub(crate) fn hear(&self, site: &mut Site, age: u8) {
        let ttl = self.ttl(site.lives_by);
        extend(site, Extension::Heard { age, ttl });
    }

    pub(crate) fn replied(&self, site: &mut Site, age: u8) {
        if site.role == Role::Promoting {
            self.hear(site, age);
        }
    }

    pub(crate) fn granted(&self, site: &mut Site, age: u8, epoch: u8, generation: u8) {
        let renews = matches!(site.role, Role::Holder | Role::Fenced);
        if !renews || (epoch != site.epoch && self.keeps(Rule::GrantsAreForTheirEpoch)) {
            return;
        }
        if generation > site.lives_by || !self.keeps(Rule::OlderPoliciesChangeNothing) {
            site.lives_by = generation;
        }
        let age = if self.keeps(Rule::DeadlineCountsFromSend) { age } else { 0 };
        let (ttl, lived_by) = (self.ttl(generation), self.ttl(site.lives_by));
        let extension = match self.keeps(Rule::ShorterLeaseShortens) {
            true => Extension::Granted { age, ttl, lived_by },
            false => Extension::Heard { age, ttl },
        };
        extend(site, extension);
        site.granted = true;
        if site.role == Role::Fenced && left(site) > 0 {
            enter(site, epoch, Role::Holder);
        }
    }

    pub(crate) fn assigned(&self, site: &mut Site, here: bool, epoch: u8, generation: u8) {
        if epoch < site.epoch {
            return;
        }
        // A holder's terms change only by a grant (R6).
        if site.role == Role::Standby || !self.keeps(Rule::TermsComeWithGrants) {
            site.lives_by = site.lives_by.max(generation);
        }
        match (site.role, here) {
            (Role::Promoting, true) if epoch == site.epoch => enter(site, epoch, Role::Holder),
            (_, true) => {}
            (Role::Standby | Role::Fenced, false) if epoch == site.epoch => {}
            (_, false) => superseded(site, epoch),
        }
    }

    pub(crate) fn asked(&self, state: &mut State, from: usize, age: u8, epoch: u8) {
        let to = other(from);
        let site = &mut state.sites[to];
        if site.role != Role::Standby || site.epoch != epoch {
            return;
        }
        let mut setting = self.scope.setting;
        if !self.keeps(Rule::TargetWaitsForTheStop) {
            setting.stop = 0;
        }
        setting.slow_clocks &= self.keeps(Rule::TargetAllowsForSlowClocks);
        site.owes = site.owes.max(real::target_wait(&setting, site.lives_by));
        if age != FORGOTTEN {
            self.send(state, Message::Promise { to: from, age, epoch });
        }
    }

    pub(crate) fn promised(&self, site: &mut Site, age: u8, epoch: u8) {
        if site.role == Role::Holder && site.epoch == epoch {
            let age = if self.keeps(Rule::PromiseCountsFromAsking) { age } else { 0 };
            extend(site, Extension::Promised { age });
        }
    }

    pub(crate) fn restart_agent(&self, state: &mut State, site: usize) {
        let it = &mut state.sites[site];
        it.granted = false;
        if !self.keeps(Rule::PromiseIsDurable) {
            it.owes = 0;
        }
        if !self.keeps(Rule::EpochIsDurable) {
            it.epoch = 1;
            it.commanded = None;
        }
        if !self.keeps(Rule::EchoIsDurable) {
            it.lives_by = 1;
        }
        if !self.keeps(Rule::RestartExtendsNothing) && left(it) > 0 {
            it.lease.left = self.ttl(it.lives_by);
        }
        let keeps = self.keeps(Rule::NoncesDieWithTheProcess);
        state
            .wire
            .pass(|message| if keeps { forgotten_by(site, message) } else { mistaken_by(site, message) });
    }

    /// What the site may do now.
    pub(crate) fn site_steps(&self, state: &State, site: usize, steps: &mut Vec<Step>) {
        let it = &state.sites[site];
        let facts = &state.hub.facts;
        let left = left(it);
        if it.role != Role::Standby {
            steps.push(Step::Beat(site));
        }
        let holds = it.role == Role::Holder;
        if self.scope.holds && holds && left > 0 {
            steps.push(Step::Ask(site));
        }
        let live = it.granted && left > 0;
        if holds && it.app == App::Stopped && live {
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
        let new_terms = it.lives_by < state.generation;
        if it.epoch < facts.epoch || new_terms || (it.role == Role::Promoting && facts.owner == site) {
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

    pub(crate) fn says_promoted(&self, state: &mut State, site: usize) {
        let epoch = state.sites[site].epoch;
        if self.keeps(Rule::AnswersAreRemembered) {
            state.sites[site].answered = Some(epoch);
        }
        self.send(state, Message::Promoted { from: site, epoch });
    }

    pub(crate) fn beat(&self, state: &State, site: usize) -> Message {
        let Site { role, epoch, lives_by, .. } = state.sites[site];
        let echo = if self.keeps(Rule::EchoIsWhatIsLivedBy) { lives_by } else { state.generation };
        let renewal = (role != Role::Promoting).then_some((epoch, echo));
        Message::Heartbeat { from: site, age: 0, renewal }
    }
}

/// What is on the wire when the process ends that sent it, or waits for it.
fn forgotten_by(site: usize, mut message: Message) -> Option<Message> {
    if message.answers() == Some(site) {
        return None;
    }
    if let Some((from, age)) = message.age_mut()
        && from == site
    {
        *age = FORGOTTEN;
    }
    Some(message)
}

/// A nonce of the process before is taken for one that this one has just sent.
fn mistaken_by(site: usize, mut message: Message) -> Option<Message> {
    let answers = message.answers() == Some(site);
    if let Some((_, age)) = message.age_mut()
        && answers
    {
        *age = 0;
    }
    Some(message)
}
