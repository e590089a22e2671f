//! The driver around the real hub: events in, then write down, then send, then tell. It may die between any two.

use std::collections::BTreeMap;
use std::time::Duration;

use hub_core::approval::Approval;
use hub_core::fleet::Cluster;
use hub_core::journal::{Entry, Intent, Line, Tip};
use hub_core::placement::Placement;
use hub_core::witness::Witness;
use hub_core::{Decision, Event, Explanation, Hub, Now, Remembered, Send, Settings};
use proto::{ClusterName, FromAgent, FromHub, Moment, PlacementId};

use crate::application::{App, Number, number_of, placement_of};
use crate::crash::{Boundary, Verdict};
use crate::network::End;
use crate::transition::{Happening, Life, Time};
use crate::witness;
use crate::world::{Clock, Human, World, wall};

/// A process that has died is started again after this long.
pub const RESTART: Time = 700;
/// The other hub is a little behind.
const TWIN: Time = 300;
/// A human is no machine.
const READING: Time = 900;
/// Stands for the ten minutes of protocol §7.
const STEADY_AFTER: Duration = Duration::from_secs(2);
const READ: std::ops::RangeInclusive<u64> = 5..=40;

/// The hub's machine: the process, and what outlives it.
pub struct HubMachine {
    pub hub: Option<Hub>,
    pub life: Life,
    pub clock: Clock,
    pub lines: Vec<Line>,
    tip: Tip,
    remembered: BTreeMap<PlacementId, Remembered>,
    /// The streams that this process holds.
    pub streams: BTreeMap<ClusterName, u64>,
    pub api_up: bool,
    /// Who reads the proposals, and says yes to each.
    pub human: Human,
    /// SIGSTOP: what comes waits until then.
    pub frozen_until: Time,
    /// Another hub commands as well.
    pub twin: bool,
    pub started: Time,
    pub approvals: Vec<Approval>,
    /// The hub is not started again by itself.
    pub stays_down: bool,
}

impl HubMachine {
    pub fn new(clock: Clock) -> HubMachine {
        let mut machine = HubMachine {
            hub: None,
            life: 0,
            clock,
            lines: Vec::new(),
            tip: Tip::default(),
            remembered: BTreeMap::new(),
            streams: BTreeMap::new(),
            api_up: true,
            human: Human::Absent,
            frozen_until: 0,
            twin: false,
            started: 0,
            approvals: Vec::new(),
            stays_down: false,
        };
        let genesis = machine.tip.seal(wall(0), Entry::Genesis { hub: "hub".to_owned() });
        machine.lines.push(genesis);
        machine
    }
}

fn configured(name: &ClusterName) -> Cluster {
    Cluster {
        name: name.clone(),
        identity: format!("uid-{name}"),
        failure_domain: format!("{name}-site"),
        peer_endpoint: Some(format!("{name}:7444")),
        probe_endpoints: vec![format!("{name}:6443")],
        maintenance: false,
    }
}

impl World {
    fn hub_now(&self) -> Now {
        Now { boot: self.hub.clock.read(self.now), wall: wall(self.now) }
    }

    pub(crate) fn hub_starts(&mut self) {
        if self.hub.hub.is_some() || self.hub.stays_down {
            return;
        }
        self.say("hub: starts".to_owned());
        self.watch.disturbed(self.now);
        self.hub.started = self.now;
        self.hub.life += 1;
        self.hub.streams.clear();
        let third = Witness { name: witness::NAME.to_owned(), failure_domain: "third-site".to_owned() };
        let witnesses = self.witness.iter().map(|_| third.clone()).collect();
        let settings = Settings { steady_after: STEADY_AFTER, witnesses, ..Settings::new("hub", "hub-site") };
        let remembered = self.hub.remembered.values().cloned().collect();
        let (hub, first) = Hub::start(settings, self.hub_now(), &self.hub.lines, remembered);
        self.hub.hub = Some(hub);
        self.hub_carries_out(first);
        let life = self.hub.life;
        self.later(self.ticks.often, Happening::HubTicks(life));
        for name in self.sites.keys().cloned().collect::<Vec<_>>() {
            let event = Box::new(Event::ClusterSeen(configured(&name)));
            let delay = self.random.within(&READ);
            self.later(delay, Happening::HubHears { life, event });
        }
        self.tell_wishes();
        for approval in self.hub.approvals.clone() {
            let event = Box::new(Event::ApprovalSeen(Box::new(approval)));
            let delay = self.random.within(&READ);
            self.later(delay, Happening::HubHears { life, event });
        }
    }

    pub(crate) fn human_comes(&mut self, human: Human) {
        self.hub.human = human;
        let proposed: Vec<_> = self.apps.iter().filter_map(|app| app.proposed.clone()).collect();
        proposed.into_iter().for_each(|proposed| self.human_reads(proposed));
    }

    fn human_reads(&mut self, proposed: Box<Intent>) {
        match self.hub.human {
            Human::Absent => {}
            Human::Careful => self.later(READING, Happening::HumanAnswers { proposed }),
            Human::Careless => {
                let late = self.random.within(&(READING..=12_000));
                self.later(late, Happening::HumanAnswers { proposed: proposed.clone() });
                self.later(late + 300, Happening::HumanAnswers { proposed });
            }
        }
    }

    /// Whoever vouches that a site is off has seen it.
    fn is_seen_off(&self, site: Option<&ClusterName>) -> bool {
        site.is_some_and(|site| !self.site(site).up)
    }

    /// Somebody has read what is proposed.
    pub(crate) fn human_answers(&mut self, proposed: &Intent) {
        self.say(format!("human: approves {}", proposed.operation));
        let asserts_off = proposed.from.clone().filter(|from| self.is_seen_off(Some(from)));
        let mistaken = u64::from(self.hub.human == Human::Careless && self.random.percent(40));
        let approval = Approval {
            namespace: proposed.name.namespace.clone(),
            name: format!("yes-{}", self.hub.approvals.len()),
            operation: proposed.operation.0.clone(),
            placement: proposed.name.name.clone(),
            epoch: proposed.epoch,
            generation: proto::Generation(proposed.generation.0.saturating_sub(mistaken)),
            approver: "ann".to_owned(),
            approve: true,
            asserts_off,
            expires: None,
            created: None,
        };
        self.hub.approvals.push(approval.clone());
        let life = self.hub.life;
        self.later(
            20,
            Happening::HubHears { life, event: Box::new(Event::ApprovalSeen(Box::new(approval))) },
        );
    }

    /// A frozen process takes in nothing: it waits for it.
    fn hub_waits(&mut self, happening: Happening) -> Option<Happening> {
        let until = self.hub.frozen_until;
        if until <= self.now {
            return Some(happening);
        }
        self.queue.push(until, happening);
        None
    }

    pub(crate) fn hub_ticks(&mut self, life: Life) {
        if self.hub_waits(Happening::HubTicks(life)).is_none() {
            return;
        }
        if self.hub.life == life && self.hub.hub.is_some() {
            let next = if self.is_calm() { self.ticks.hub_calm } else { self.ticks.working };
            self.later(next, Happening::HubTicks(life));
            self.hub_step(Event::Tick);
        }
    }

    fn is_calm(&self) -> bool {
        let heard = |site: &ClusterName| self.hub.streams.contains_key(site) && self.linked(site);
        let at_rest = |app: &App| app.waits.is_empty() && !app.under_way;
        self.network.is_whole()
            && self.sites.keys().all(heard)
            && self.sites.values().all(|site| site.up && site.agent.is_some())
            && self.apps.iter().all(at_rest)
    }

    pub(crate) fn hub_hears(&mut self, life: Life, event: Event) {
        let happening = self.hub_waits(Happening::HubHears { life, event: Box::new(event) });
        let Some(Happening::HubHears { life, event }) = happening else { return };
        if self.hub.life == life {
            if let (Event::Visited(visited), Some(witness)) = (&*event, &mut self.witness) {
                witness.shown.look(life, self.now, &visited.look);
            }
            self.hub_step(*event);
        }
    }

    fn hub_step(&mut self, event: Event) {
        let now = self.hub_now();
        if let Some(hub) = &mut self.hub.hub {
            let decision = hub.step(now, event);
            self.hub_carries_out(decision);
        }
    }

    fn hub_carries_out(&mut self, decision: Decision) {
        let Decision { record, remember, send, explain, verify, visit } = decision;
        // What is remembered is made durable with what is recorded, or not at all.
        let keep = |world: &mut World| {
            for kept in remember {
                world.hub.remembered.insert(kept.placement.clone(), kept);
            }
        };
        if record.is_empty() {
            keep(self);
        } else {
            let verdict = self.reached(Boundary::Recorded);
            if verdict == Verdict::DieBefore {
                return self.kill_hub();
            }
            for entry in record {
                self.writes_down(entry);
            }
            keep(self);
            if verdict == Verdict::DieAfter {
                return self.kill_hub();
            }
        }
        for send in send {
            let counts = matches!(send.message, FromHub::Command(_) | FromHub::Assignment(_));
            let verdict = if counts { self.reached(Boundary::Sent) } else { Verdict::Go };
            if verdict == Verdict::DieBefore {
                return self.kill_hub();
            }
            self.hub_sends(send);
            if verdict == Verdict::DieAfter {
                return self.kill_hub();
            }
        }
        let began = self.hub_now().boot;
        visit.into_iter().for_each(|visit| self.hub_visits(visit, began));
        let asked = if self.hub.api_up { verify } else { Vec::new() };
        for name in asked {
            let (life, began, app) = (self.hub.life, self.hub_now().boot, number_of(&name.name));
            let delay = self.random.within(&READ);
            self.later(delay, Happening::WishIsRead { life, app, began });
        }
        explain.into_iter().for_each(|explanation| self.hub_tells(explanation));
    }

    fn writes_down(&mut self, entry: Entry) {
        self.say(format!("hub: records {}", line(&entry)));
        let app = placement_of(&entry).map(|placement| self.app_of(placement));
        if let Some(app) = app {
            self.check_entry(app, &entry);
            if let Entry::Proposal(proposed) = &entry {
                self.apps[app].proposed = Some(proposed.clone());
                self.human_reads(proposed.clone());
            } else if matches!(entry, Entry::Intent(_) | Entry::Withdrawn { .. }) {
                self.apps[app].proposed = None;
            }
        }
        let sealed = self.hub.tip.seal(wall(self.now), entry);
        if let Some(app) = app {
            self.apps[app].lines.push(sealed.clone());
            self.apps[app].look_at_lines();
        }
        self.hub.lines.push(sealed);
    }

    /// The journal ends right before the newest operation that is no adoption.
    pub(crate) fn restore_backup(&mut self) {
        let newest = self.hub.lines.iter().rposition(|line| matches!(line.entry, Entry::Intent(_)));
        let first = self.hub.lines.iter().position(|line| matches!(line.entry, Entry::Intent(_)));
        let (Some(newest), Some(first)) = (newest, first) else { return };
        // What was under way when the backup was made could be taken up by a hub that does not know how it went on.
        let at_rest = |end: &usize| {
            let before = &self.hub.lines[..*end];
            let begun = before.iter().filter(|line| matches!(line.entry, Entry::Intent(_))).count();
            let ends = |line: &&Line| {
                matches!(line.entry, Entry::Commit { .. } | Entry::Cut { .. } | Entry::Abort { .. })
            };
            begun == before.iter().filter(ends).count()
        };
        let newest = (first + 1..=newest).rev().find(at_rest);
        if let Some(end) = newest {
            self.restore(end);
        }
    }

    pub(crate) fn restore(&mut self, end: usize) {
        self.say(format!("hub: its journal ends at line {end} again"));
        self.restore_journal(end);
        self.watch_restore();
    }

    /// The journal ends before line `end`, as an old backup has it.
    fn restore_journal(&mut self, end: usize) {
        self.hub.lines.truncate(end);
        self.hub.tip = Tip::default();
        for line in &self.hub.lines {
            self.hub.tip.check(line).unwrap_or_else(|error| unreachable!("our own journal: {error}"));
        }
        let last = self.hub.lines.last().map_or(0, |line| line.index);
        for app in &mut self.apps {
            app.lines.retain(|line| line.index <= last);
            app.look_at_lines();
        }
    }

    fn hub_tells(&mut self, explanation: Explanation) {
        match explanation {
            Explanation::Placement(view) => {
                let waits = view
                    .waiting
                    .map(|finding| format!("{}: {}", finding.reason, finding.message))
                    .unwrap_or_default();
                let app = self.app_of(&view.id);
                if waits.split(':').next() != self.apps[app].waits.split(':').next() {
                    self.say(format!("hub: waits for {waits}"));
                }
                self.apps[app].waits = waits;
                if let Some(wish) = &mut self.apps[app].wish {
                    wish.status = Some(view.status);
                }
            }
            Explanation::Happened(happening) => {
                self.say(format!("hub: tells {}: {}", happening.reason, happening.message));
            }
            Explanation::Released(id, _) => {
                self.say(format!("hub: has let go of {id}"));
                let app = self.app_of(&id);
                self.apps[app].wish = None;
                let (life, event) = (self.hub.life, Box::new(Event::PlacementGone(id)));
                self.later(20, Happening::HubHears { life, event });
            }
            Explanation::Operation(_) | Explanation::Site(_) => {}
        }
    }

    /// The process dies. Its machine lives on, and ends its connections.
    pub(crate) fn kill_hub(&mut self) {
        if self.hub.hub.take().is_none() {
            return;
        }
        self.say("hub: is killed".to_owned());
        self.watch.disturbed(self.now);
        self.hub.frozen_until = 0;
        self.hub.life += 1;
        for (site, stream) in std::mem::take(&mut self.hub.streams) {
            if self.linked(&site) {
                self.later(5, Happening::AgentMissesStream { site, stream });
            }
        }
        self.later(RESTART, Happening::HubStarts);
    }

    fn hub_sends(&mut self, send: Send) {
        let Send { to, message } = send;
        self.check_sent(&to, &message);
        if let FromHub::Command(command) = &message {
            self.say(format!("hub: sends {to} {} at epoch {}", command.id, command.epoch));
        }
        let Some(number) = self.hub.streams.get(&to).copied() else { return };
        let Some(stream) = self.streams.get_mut(&to).filter(|stream| stream.number == number) else { return };
        if let (FromHub::Reply(_) | FromHub::Command(_), Some(late)) =
            (&message, self.network.again(&mut self.random))
        {
            let message = Box::new(message.clone());
            self.queue.push(self.now + late, Happening::SaidAgainToAgent { site: to.clone(), message });
        }
        if let (FromHub::Command(command), true) = (&message, self.hub.twin) {
            let mut other = command.clone();
            other.id.operation.0.push_str("-of-the-other");
            let message = Box::new(FromHub::Command(other));
            self.queue.push(self.now + TWIN, Happening::SaidAgainToAgent { site: to.clone(), message });
        }
        stream.to_agent.push_back(message);
        let delay = self.network.delay(End::Hub, End::Agent(to.clone()), &mut self.random);
        self.later(delay, Happening::ReachesAgent { site: to, stream: number });
    }

    /// A message of an agent arrives, in the order of its stream. A link that is cut holds it back.
    pub(crate) fn reaches_hub(&mut self, site: &ClusterName, number: u64) {
        if self.hub.streams.get(site) != Some(&number) {
            return;
        }
        if !self.network.carries(End::Agent(site.clone()), End::Hub) {
            return self.later(100, Happening::ReachesHub { site: site.clone(), stream: number });
        }
        if self.hub_waits(Happening::ReachesHub { site: site.clone(), stream: number }).is_none() {
            return;
        }
        let Some(stream) = self.streams.get_mut(site).filter(|stream| stream.number == number) else {
            return;
        };
        let Some(message) = stream.to_hub.pop_front() else { return };
        self.hub_takes(message);
    }

    pub(crate) fn said_again_to_hub(&mut self, site: &ClusterName, number: u64, message: FromAgent) {
        if self.hub.streams.get(site) == Some(&number) && self.hub.frozen_until <= self.now {
            self.hub_takes(message);
        }
    }

    fn hub_takes(&mut self, message: FromAgent) {
        if let FromAgent::Heartbeat(heartbeat) = &message {
            self.watch.heard(&heartbeat.cluster, self.now);
        }
        self.hub_step(match message {
            FromAgent::Hello(hello) => Event::Connected(hello),
            FromAgent::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
            FromAgent::Report(report) => Event::Report(Box::new(report)),
            FromAgent::Acknowledgement(answer) => Event::Acknowledged(answer),
        });
    }

    pub(crate) fn hub_misses_stream(&mut self, site: &ClusterName, number: u64) {
        if self.hub_waits(Happening::HubMissesStream { site: site.clone(), stream: number }).is_none() {
            return;
        }
        let held = self.hub.streams.get(site) == Some(&number);
        let lives = self.site(site).stream == Some(number) && self.site(site).up && self.linked(site);
        if held && !lives {
            self.hub.streams.remove(site);
            self.hub_step(Event::Disconnected(site.clone()));
        }
    }

    pub fn tell_wishes(&mut self) {
        (0..self.apps.len()).for_each(|app| self.tell_wish(app));
    }

    /// The user's wish reaches the hub by its watch.
    pub fn tell_wish(&mut self, app: Number) {
        let life = self.hub.life;
        let delay = self.random.within(&READ);
        if let Some(event) = self.wish_event(app) {
            self.later(delay, Happening::HubHears { life, event: Box::new(event) });
        }
    }

    /// The DRPlacement says what cannot be understood.
    pub(crate) fn is_refused(&self, app: Number) -> bool {
        matches!(self.wish_event(app), Some(Event::PlacementRefused(_)))
    }

    fn wish_event(&self, app: Number) -> Option<Event> {
        let parsed = Placement::parse(self.apps[app].wish.as_ref()?);
        match parsed {
            Ok(Ok(placement)) => Some(Event::PlacementSeen(Box::new(placement))),
            Ok(Err(refused)) => Some(Event::PlacementRefused(Box::new(refused))),
            Err(error) => unreachable!("a wish of this world: {error}"),
        }
    }

    pub(crate) fn wish_is_read(&mut self, life: Life, app: Number, began: Moment) {
        if self.hub_waits(Happening::WishIsRead { life, app, began }).is_none() {
            return;
        }
        if self.hub.life != life || !self.hub.api_up {
            return;
        }
        if let Some(Event::PlacementSeen(placement)) = self.wish_event(app) {
            let id = placement.id.clone();
            self.apps[app].judged.read_afresh = Some(self.now);
            self.hub_step(Event::PlacementSeen(placement));
            self.hub_step(Event::Verified(id, began));
        }
    }
}

fn line(entry: &Entry) -> String {
    if let Entry::Proposal(intent) = entry {
        return format!("Proposal {} to {} at epoch {}", intent.operation, intent.to, intent.epoch);
    }
    if let Entry::Intent(intent) = entry {
        return format!("Intent {} to {} at epoch {}", intent.operation, intent.to, intent.epoch);
    }
    if let Entry::Step { operation, step, state, .. } = entry {
        return format!("{operation}/{step} {state:?}");
    }
    if let Entry::Policy { policy, .. } = entry {
        return format!("Policy of generation {}", policy.generation.0);
    }
    format!("{entry:?}")
}
