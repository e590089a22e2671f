//! The driver around a real agent: events in, requests out. Whatever is under way when it dies may still land.

use agent_core::decision::Memory;
use agent_core::{
    Agent, Change, Decision, Effect, Event, Failed, Failure, Identity, MemoryRead, Note, Receipt, SiteWrite,
    Watched,
};
use proto::{ClusterName, FromAgent, FromHub, Moment, PlacementId, PlacementName, Role};

use crate::application::number_of;
use crate::crash::{Boundary, Verdict};
use crate::hub::RESTART;
use crate::kubernetes::is_namespaced;
use crate::network::End;
use crate::transition::{Happening, Life, Request, Ticks, Time};
use crate::world::World;

const DIAL_AGAIN: Time = 250;
/// One way of a request to the own API server.
const REQUEST: std::ops::RangeInclusive<u64> = 2..=20;
const WATCH_LAG: std::ops::RangeInclusive<u64> = 2..=120;
/// Admission reads a cache.
const ADMISSION_LAG: std::ops::RangeInclusive<u64> = 5..=60;
const ADMISSION_STEP: Time = 20;
const ADMISSION_BOUND: Time = 500;
const EFFECT_BOUND: Time = 5_000;
/// The agent's own call to another one, and a probe, take no longer.
const NOBODY: Life = 0;

impl World {
    pub(crate) fn agent_starts(&mut self, site: &ClusterName) {
        if self.site(site).agent.is_some() || !self.site(site).up || !self.site(site).api_up {
            return;
        }
        self.say(format!("{site}: the agent starts"));
        self.watch.disturbed(self.now);
        let now = self.now;
        let here = self.site_mut(site);
        here.life += 1;
        here.leases.iter_mut().for_each(|lease| lease.granted = None);
        here.sent.clear();
        here.followed.clear();
        here.dialling = false;
        here.probing.clear();
        here.asks.clear();
        here.news.clear();
        let memory = here.memory.clone().unwrap_or_default();
        let remembered_boot = here.memory.as_ref().map(|memory| memory.boot.clone());
        let another_boot =
            remembered_boot.as_ref().is_some_and(|before| *before != format!("{site}-{}", here.boot));
        here.agent_since = now;
        let first = MemoryRead {
            boot: format!("{site}-{}", here.boot),
            wall: here.own_wall(now),
            remembered_boot,
            remembered_offset: memory.clock_offset,
            leases: memory.leases,
            promises: memory.promises,
            paths: memory.paths,
            sites: here.kubernetes.site_states.values().cloned().collect(),
        };
        here.agent = Some(Agent::new(Identity { cluster: site.clone(), version: "simulated".into() }));
        let life = here.life;
        self.agent_step(site, Event::Started(first));
        self.check_start(site, another_boot);
        self.list(site, None);
        self.later(self.ticks.often, Happening::AgentTicks { site: site.clone(), life });
        self.later(20, Happening::Dials { site: site.clone(), life });
    }

    /// The process dies. What it had asked for may still land; nobody hears the answer.
    pub(crate) fn kill_agent(&mut self, site: &ClusterName) {
        if self.site_mut(site).agent.take().is_none() {
            return;
        }
        self.say(format!("{site}: the agent is killed"));
        self.watch.disturbed(self.now);
        let here = self.site_mut(site);
        here.life += 1;
        here.frozen_until = 0;
        if let Some(stream) = here.stream.take()
            && self.linked(site)
        {
            self.later(5, Happening::HubMissesStream { site: site.clone(), stream });
        }
        self.later(RESTART, Happening::AgentStarts { site: site.clone() });
    }

    /// Every watch begins anew.
    pub(crate) fn list_all(&mut self, site: &ClusterName) {
        self.list(site, None);
        for namespace in self.site(site).followed.clone() {
            self.list(site, Some(&namespace));
        }
    }

    /// What is in a namespace, or in none.
    fn list(&mut self, site: &ClusterName, namespace: Option<&str>) {
        for (kind, is_namespaced) in self.site(site).kubernetes.watched() {
            if is_namespaced != namespace.is_some() {
                continue;
            }
            let delay = self.random.within(&WATCH_LAG);
            let began = self.agent_now(site);
            let list = self.site(site).kubernetes.list(&kind, namespace, began);
            self.hear_news(site, list, delay);
        }
    }

    pub(crate) fn tell_watch(&mut self, site: &ClusterName, watched: Watched) {
        let (Change::Applied(object) | Change::Deleted(object)) = &watched.change else { return };
        let here = self.site(site);
        let follows = match object["metadata"]["namespace"].as_str() {
            Some(namespace) if is_namespaced(&watched.kind) => here.followed.contains(namespace),
            Some(_) | None => !is_namespaced(&watched.kind),
        };
        if here.agent.is_some() && here.up && here.api_up && follows {
            let delay = self.random.within(&WATCH_LAG) + self.site(site).watch_lag;
            self.hear_news(site, watched, delay);
        }
    }

    /// News of one kind never overtake each other.
    fn hear_news(&mut self, site: &ClusterName, watched: Watched, delay: Time) {
        let (now, here) = (self.now, self.site_mut(site));
        let newest = here.news.entry(watched.kind.clone()).or_default();
        *newest = (*newest).max(now + delay);
        let (at, life) = (*newest, here.life);
        let event = Box::new(Event::Watched(watched));
        self.queue.push(at, Happening::AgentHears { site: site.clone(), life, event });
    }

    /// A frozen process takes in nothing: it waits for it.
    pub(crate) fn agent_waits(&mut self, site: &ClusterName, happening: Happening) -> Option<Happening> {
        let until = self.site(site).frozen_until;
        if until <= self.now || self.site(site).agent.is_none() {
            return Some(happening);
        }
        self.queue.push(until, happening);
        None
    }

    pub(crate) fn agent_ticks(&mut self, site: &ClusterName, life: Life) {
        if self.agent_waits(site, Happening::AgentTicks { site: site.clone(), life }).is_some()
            && self.site(site).life == life
        {
            let next = self.next_tick(site);
            self.later(next, Happening::AgentTicks { site: site.clone(), life });
            let wall = self.site(site).own_wall(self.now);
            self.agent_step(site, Event::Tick(wall));
        }
    }

    fn next_tick(&self, site: &ClusterName) -> Time {
        let (here, now) = (self.site(site), self.agent_now(site));
        let Ticks { often, working, agent_calm, hub_calm: _, near } = self.ticks;
        let tick = |(name, role, end): (&PlacementName, Role, Option<Moment>)| match role {
            Role::Holder if end.is_some_and(|end| now.0 + near < end.0) => agent_calm,
            Role::Holder | Role::Promoting => often,
            Role::Standby if !self.apps[number_of(&name.namespace)].under_way => agent_calm,
            Role::Standby | Role::Fenced | Role::Unknown => working,
        };
        here.agent.as_ref().and_then(|agent| agent.roles().map(tick).min()).unwrap_or(often)
    }

    pub(crate) fn agent_hears(&mut self, site: &ClusterName, life: Life, event: Event) {
        let event = Box::new(event);
        let happening = self.agent_waits(site, Happening::AgentHears { site: site.clone(), life, event });
        let Some(Happening::AgentHears { life, event, .. }) = happening else { return };
        if self.site(site).life == life {
            if matches!(*event, Event::Witnessed(_)) {
                self.site_mut(site).visiting = None;
            }
            self.agent_step(site, *event);
        }
    }

    pub(crate) fn agent_step(&mut self, site: &ClusterName, event: Event) {
        let now = self.agent_now(site);
        let here = self.site_mut(site);
        let Some(agent) = &mut here.agent else { return };
        let decision = agent.step(now, event);
        let held = agent.roles().filter(|(_, role, _)| *role == Role::Holder);
        let held: Vec<_> = held.map(|(name, _, end)| (number_of(&name.namespace), end)).collect();
        let followed = &agent.followed().namespaces;
        let followed = (*followed != here.followed).then(|| followed.clone());
        here.follow_leases(now, &held);
        self.check_rest(site);
        self.agent_carries_out(site, decision);
        if let Some(followed) = followed.filter(|_| self.site(site).agent.is_some()) {
            let before = std::mem::replace(&mut self.site_mut(site).followed, followed.clone());
            for namespace in followed.difference(&before) {
                self.list(site, Some(namespace));
            }
        }
    }

    fn agent_carries_out(&mut self, site: &ClusterName, decision: Decision) {
        let Decision { remember, keep, apply, send, ask, answer, admit: _, probe, visit, note, reached: _ } =
            decision;
        note.into_iter().for_each(|note| self.note(site, note));
        for write in remember {
            let delay = self.request_takes(site);
            let placement = write.state.placement.clone();
            let life = self.gives_up(site, delay, Event::SiteWritten { placement, result: Err(late()) });
            self.later(delay, Happening::SiteStateLands { site: site.clone(), life, write: Box::new(write) });
        }
        if let Some(memory) = keep {
            let delay = self.request_takes(site);
            let life = self.gives_up(site, delay, Event::MemoryWritten { success: false });
            self.later(delay, Happening::MemoryLands { site: site.clone(), life, memory: Box::new(memory) });
        }
        for (placement, effect) in apply {
            self.check_effect(site, self.app_of(&placement), &effect);
            let (delay, first) = (self.request_takes(site), self.now);
            let read = self.site(site).kubernetes.read_for(&effect);
            let failed =
                Event::Finished { placement: placement.clone(), key: effect.key(), result: Err(late()) };
            let life = self.gives_up(site, delay, failed);
            let request = Box::new(Request { placement, effect, first, read });
            self.later(delay, Happening::EffectLands { site: site.clone(), life, request });
        }
        for message in send {
            let counts = matches!(message, FromAgent::Acknowledgement(_));
            let verdict = if counts { self.reached(Boundary::Told) } else { Verdict::Go };
            if verdict == Verdict::DieBefore {
                return self.kill_agent(site);
            }
            self.agent_sends(site, message);
            if verdict == Verdict::DieAfter {
                return self.kill_agent(site);
            }
        }
        ask.into_iter().for_each(|ask| self.asks(site, ask));
        for (number, answer) in answer {
            if let Some(hold) = self.site_mut(site).asks.remove(&number) {
                self.hold_answered(hold, answer);
            }
        }
        probe.into_iter().for_each(|probe| self.probes(site, &probe));
        if let Some(visit) = visit {
            self.agent_visits(site, visit);
        }
    }

    /// Some requests of a slow API server arrive when nobody waits for them any more.
    fn request_takes(&mut self, site: &ClusterName) -> Time {
        let slow = self.site(site).api_slow;
        if slow > 0 && self.random.percent(25) {
            return self.random.within(&(0..=slow));
        }
        self.random.within(&REQUEST)
    }

    /// Whoever asks gives up after a while; what was asked for is done all the same, and nobody hears of it.
    fn gives_up(&mut self, site: &ClusterName, takes: Time, event: Event) -> Life {
        let life = self.site(site).life;
        if takes <= EFFECT_BOUND {
            return life;
        }
        self.answer_agent(site, life, event, EFFECT_BOUND);
        NOBODY
    }

    fn note(&mut self, site: &ClusterName, note: Note) {
        match note {
            Note::RoleChanged { role, epoch, .. } => {
                self.say(format!("{site}: is {role:?} at epoch {epoch}"))
            }
            Note::LeaseRanOut { stops, .. } => {
                self.say(format!("{site}: its lease has run out, stops: {stops}"))
            }
            Note::Superseded { epoch, .. } => self.say(format!("{site}: superseded by epoch {epoch}")),
            Note::ResyncWithdrawn { .. } => self.say(format!("{site}: takes the resync back")),
            Note::CommandRefused { command, refusal } => {
                self.watch.refused += 1;
                self.say(format!("{site}: refuses {command}: {}", refusal.as_str()));
            }
            Note::CommandDone { command } => {
                self.watch.done.insert((site.clone(), command.placement.clone(), command.to_string()));
                self.say(format!("{site}: has done {command}"));
            }
            Note::EffectFailed { effect, message, .. } => {
                self.say(format!("{site}: cannot {effect}: {message}"))
            }
            Note::HoldPromised { holder, .. } => self.say(format!("{site}: promises {holder} to wait")),
            Note::WriteFailed { message, .. } => {
                self.say(format!("{site}: its DRSiteState stays: {message}"))
            }
            Note::LeaseSuspended { .. } | Note::CommandAdmitted { .. } | Note::PolicyRefused { .. } => {}
        }
    }

    fn agent_sends(&mut self, site: &ClusterName, message: FromAgent) {
        let Some(number) = self.site(site).stream else { return };
        let here_now = self.agent_now(site);
        let Some(stream) = self.streams.get_mut(site).filter(|stream| stream.number == number) else {
            return;
        };
        if let FromAgent::Heartbeat(heartbeat) = &message {
            let (nonce, at) = (heartbeat.nonce, here_now);
            if let Some(here) = self.sites.get_mut(site) {
                here.sent.insert(nonce, at);
            }
        }
        if let (FromAgent::Heartbeat(_) | FromAgent::Acknowledgement(_), Some(late)) =
            (&message, self.network.again(&mut self.random))
        {
            let message = Box::new(message.clone());
            let again = Happening::SaidAgainToHub { site: site.clone(), stream: number, message };
            self.queue.push(self.now + late, again);
        }
        stream.to_hub.push_back(message);
        let delay = self.network.delay(End::Agent(site.clone()), End::Hub, &mut self.random);
        self.later(delay, Happening::ReachesHub { site: site.clone(), stream: number });
    }

    /// The link task: a stream at once, or another attempt later.
    pub(crate) fn dials(&mut self, site: &ClusterName, life: Life) {
        if self.agent_waits(site, Happening::Dials { site: site.clone(), life }).is_none() {
            return;
        }
        let here = self.site(site);
        if here.life != life || here.stream.is_some() {
            return;
        }
        let may = here.agent.as_ref().is_some_and(Agent::may_call_hub);
        if !may || !self.linked(site) || self.hub.hub.is_none() {
            return self.later(DIAL_AGAIN, Happening::Dials { site: site.clone(), life });
        }
        self.check_call(site);
        let number = self.streams.get(site).map_or(0, |stream| stream.number) + 1;
        self.streams.insert(site.clone(), crate::world::Stream { number, ..Default::default() });
        self.hub.streams.insert(site.clone(), number);
        self.site_mut(site).stream = Some(number);
        self.agent_step(site, Event::HubUp);
    }

    pub(crate) fn reaches_agent(&mut self, site: &ClusterName, number: u64) {
        if self.site(site).stream != Some(number) || self.site(site).agent.is_none() {
            return;
        }
        if !self.network.carries(End::Hub, End::Agent(site.clone())) {
            return self.later(100, Happening::ReachesAgent { site: site.clone(), stream: number });
        }
        if self.agent_waits(site, Happening::ReachesAgent { site: site.clone(), stream: number }).is_none() {
            return;
        }
        let Some(stream) = self.streams.get_mut(site).filter(|stream| stream.number == number) else {
            return;
        };
        let Some(message) = stream.to_agent.pop_front() else { return };
        self.agent_takes(site, message);
    }

    pub(crate) fn said_again_to_agent(&mut self, site: &ClusterName, message: FromHub) {
        let here = self.site(site);
        if here.agent.is_some() && here.frozen_until <= self.now {
            self.agent_takes(site, message);
        }
    }

    fn agent_takes(&mut self, site: &ClusterName, message: FromHub) {
        if let FromHub::Reply(reply) = &message {
            for grant in &reply.grants {
                let app = self.app_of(&grant.placement);
                let lease = &mut self.site_mut(site).leases[app];
                lease.granted = lease.granted.max(Some(grant.epoch));
            }
        }
        let unfit = match &message {
            FromHub::Command(command) => self.unfit(site, command).map(|why| (command.id.clone(), why)),
            FromHub::Reply(_) | FromHub::Assignment(_) | FromHub::Unassign(_) => None,
        };
        let refused = self.watch.refused;
        self.agent_step(site, Event::FromHub(message));
        if let Some((command, why)) = unfit.filter(|_| self.watch.refused == refused) {
            self.watch.breaks(
                "S11 stale or late commands change nothing",
                format!("{site} takes {command}: {why}"),
            );
        }
    }

    pub(crate) fn agent_misses_stream(&mut self, site: &ClusterName, number: u64) {
        if self
            .agent_waits(site, Happening::AgentMissesStream { site: site.clone(), stream: number })
            .is_none()
        {
            return;
        }
        let held = self.site(site).stream == Some(number);
        let lives = self.hub.streams.get(site) == Some(&number) && self.linked(site);
        if held && !lives {
            self.site_mut(site).stream = None;
            let life = self.site(site).life;
            self.agent_step(site, Event::HubDown);
            self.later(DIAL_AGAIN, Happening::Dials { site: site.clone(), life });
        }
    }

    /// A request reaches the API server, maybe after its sender has died.
    pub(crate) fn effect_lands(&mut self, site: &ClusterName, life: Life, request: Box<Request>) {
        let Request { placement, effect, first, read } = &*request;
        let alive = self.site(site).life == life;
        if !self.site(site).up {
            return;
        }
        let key = effect.key();
        let answer = |result| Event::Finished { placement: placement.clone(), key: key.clone(), result };
        if !self.site(site).api_up {
            return self.answer_agent(site, life, answer(Err(late())), EFFECT_BOUND);
        }
        let writes = !matches!(effect, Effect::ProbeFence { .. } | Effect::ListUsers { .. });
        let verdict = if writes && alive { self.reached(Boundary::Landed) } else { Verdict::Go };
        if verdict == Verdict::DieBefore {
            return self.kill_agent(site);
        }
        let began = self.site(site).clock.read(*first);
        let result = if writes && self.random.percent(self.site(site).conflicts) {
            Err(conflict())
        } else {
            self.site_mut(site).kubernetes.apply(effect, read, began)
        };
        let denied = matches!(&result, Err(Failed { failure: Failure::Denied, .. }));
        if denied && alive && effect.may_be_refused_for_a_moment() && self.now < *first + ADMISSION_BOUND {
            let site = site.clone();
            return self.later(ADMISSION_STEP, Happening::EffectLands { site, life, request });
        }
        if writes {
            self.say(format!("{site}: {key}{}", if result.is_ok() { "" } else { ": refused" }));
        }
        if let (Effect::DeleteSiteState { placement, .. }, Ok(Receipt::Applied)) = (effect, &result) {
            self.site_state_changed(site, placement.clone());
        }
        if verdict == Verdict::DieAfter {
            return self.kill_agent(site);
        }
        let (event, delay) = (answer(result), self.random.within(&REQUEST));
        self.answer_agent(site, life, event, delay);
    }

    fn answer_agent(&mut self, site: &ClusterName, life: Life, event: Event, delay: Time) {
        self.later(delay, Happening::AgentHears { site: site.clone(), life, event: Box::new(event) });
    }

    pub(crate) fn site_state_lands(&mut self, site: &ClusterName, life: Life, write: SiteWrite) {
        if !self.site(site).up {
            return;
        }
        let placement = write.state.placement.clone();
        let told = |result| Event::SiteWritten { placement: placement.clone(), result };
        if !self.site(site).api_up {
            return self.answer_agent(site, life, told(Err(late())), EFFECT_BOUND);
        }
        let alive = self.site(site).life == life;
        let verdict = if alive { self.reached(Boundary::Landed) } else { Verdict::Go };
        if verdict == Verdict::DieBefore {
            return self.kill_agent(site);
        }
        let result = if self.random.percent(self.site(site).conflicts) {
            Err(conflict())
        } else {
            self.site_mut(site).kubernetes.write_site(write)
        };
        let conflict = result.is_err();
        self.site_state_changed(site, placement.clone());
        if verdict == Verdict::DieAfter {
            return self.kill_agent(site);
        }
        let delay = self.random.within(&REQUEST);
        self.answer_agent(site, life, told(result.map(Box::new)), delay);
        if conflict {
            let recorded = self.site(site).kubernetes.site_states.get(&placement).cloned().map(Box::new);
            self.answer_agent(site, life, Event::SiteSeen { placement, recorded }, delay);
        }
    }

    /// Admission's cache and the watch of DRSiteStates follow.
    fn site_state_changed(&mut self, site: &ClusterName, placement: PlacementId) {
        let delay = self.random.within(&ADMISSION_LAG) + self.site(site).admission_lag;
        self.later(delay, Happening::AdmissionLearns { site: site.clone(), placement: placement.clone() });
        let delay = self.random.within(&WATCH_LAG) + self.site(site).watch_lag;
        let (now, here) = (self.now, self.site_mut(site));
        here.site_news = here.site_news.max(now + delay);
        let (at, life) = (here.site_news, here.life);
        let recorded = here.kubernetes.site_states.get(&placement).cloned().map(Box::new);
        let event = Box::new(Event::SiteSeen { placement, recorded });
        self.queue.push(at, Happening::AgentHears { site: site.clone(), life, event });
    }

    /// The cache catches up with what is there now.
    pub(crate) fn admission_learns(&mut self, site: &ClusterName, placement: PlacementId) {
        let kubernetes = &mut self.site_mut(site).kubernetes;
        match kubernetes.site_states.get(&placement) {
            Some(recorded) => kubernetes.admission.insert(placement, recorded.state.clone()),
            None => kubernetes.admission.remove(&placement),
        };
    }

    pub(crate) fn memory_lands(&mut self, site: &ClusterName, life: Life, memory: Memory) {
        if !self.site(site).up {
            return;
        }
        let success = self.site(site).api_up;
        if success && self.site(site).life == life {
            self.site_mut(site).memory = Some(memory);
        }
        let delay = if success { self.random.within(&REQUEST) } else { EFFECT_BOUND };
        self.answer_agent(site, life, Event::MemoryWritten { success }, delay);
    }
}

fn conflict() -> Failed {
    Failed { failure: Failure::Conflict, message: "the object has been modified".to_owned() }
}

fn late() -> Failed {
    let message = format!("no answer within {EFFECT_BOUND} ms");
    Failed { failure: Failure::Unavailable, message }
}
