//! Tells what a hub does as a story: time passes, sites beat, commands are answered, and every decision becomes a line.

mod member;
mod scene;
mod situations;
mod witness;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crds::operation::OperationPhase;
use crds::placement::DRPlacementStatus;
use hub_core::journal::{Entry, Line, Tip};
use hub_core::placement::{Placement, Refused};
use hub_core::{Decision, Event, Explanation, Hub, Now, Remembered, Send, Settings};
use proto::{
    Acknowledgement, Command, Divergence, Epoch, FromHub, Generation, Heartbeat, Hello, Moment, Nonce,
    PathState, PlacementId, Renewal, Role, WallTime,
};

pub use self::member::Member;
pub use self::scene::{TIMING, cluster, configured, inventory, placement, workload};
pub use self::situations::{after_a_disaster, answer, approval, approve, moving, moving_where};
pub use self::witness::PlayedWitness;

/// 2026-01-01, so that the story shows times that a reader can place.
const WALL_ZERO: i64 = 1_767_225_600_000;
/// How long a returned site must be heard before it is a target.
const STEADY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);
/// How old the last write is where the API server is dead.
const HOURS: Duration = Duration::from_secs(3 * 60 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Recorded,
    Sent,
}

pub struct Story {
    pub hub: Option<Hub>,
    pub now: Moment,
    pub members: Vec<Member>,
    pub placement: Placement,
    pub hub_domain: &'static str,
    pub witnesses: Vec<PlayedWitness>,
    pub lines: Vec<Line>,
    pub remembered: BTreeMap<PlacementId, Remembered>,
    /// Why a hub that starts does not understand the DRPlacement, if it does not.
    pub refused: Option<String>,
    /// Whether reads of the DRPlacement past every cache succeed.
    pub api_answers: bool,
    /// The hub is killed in the decision of this number that writes something down: before it sends, or after.
    pub crash: Option<(usize, Crash)>,
    pub decisions: usize,
    tip: Tip,
    text: String,
    last_waiting: String,
    shown: Option<Box<DRPlacementStatus>>,
    /// How far each operation is by what was told last.
    pub phases: BTreeMap<String, Option<OperationPhase>>,
}

impl Story {
    /// Hub, east and west; the application runs at east and nobody protects it yet.
    pub fn new() -> Story {
        Story::with("hub-site", Vec::new())
    }

    /// The same, with the hub in a failure domain that may be another's, and witnesses.
    pub fn with(hub_domain: &'static str, witnesses: Vec<PlayedWitness>) -> Story {
        let mut east = Member::new("east", "west");
        (east.pods, east.wants) = (1, 1);
        let mut story = Story {
            hub: None,
            now: Moment(1_000_000),
            members: vec![east, Member::new("west", "east")],
            placement: placement(),
            hub_domain,
            witnesses,
            lines: Vec::new(),
            remembered: BTreeMap::new(),
            refused: None,
            api_answers: true,
            crash: None,
            decisions: 0,
            tip: Tip::default(),
            text: String::new(),
            last_waiting: String::new(),
            shown: None,
            phases: BTreeMap::new(),
        };
        story.say("genesis");
        let genesis = story.tip.seal(WallTime(WALL_ZERO), Entry::Genesis { hub: "hub".to_owned() });
        story.lines.push(genesis);
        story.text.clear();
        story.start_hub();
        story
    }

    /// The same, adopted, synced and armed.
    pub fn protected() -> Story {
        Story::new().settled()
    }

    pub fn settled(self) -> Story {
        let mut story = self;
        story.pass(3000);
        story.text.clear();
        story.now = Moment(2_000_000 - 20);
        // The jump is the hub's sleep; a breath later everything is as it was.
        story.beat_all_at_once();
        story.pass(1000);
        story.text.clear();
        story
    }

    /// Another member cluster is enrolled, and beats.
    pub fn join(&mut self, name: &str) {
        self.members.push(Member::new(name, "east"));
        self.step(Event::ClusterSeen(configured(name)));
    }

    /// How far the operation is, as its DROperation says.
    pub fn phase(&self, operation: &str) -> Option<OperationPhase> {
        self.phases.get(operation).copied().flatten()
    }

    /// The status that the hub has shown is what its successor finds.
    pub fn keep_status(&mut self) {
        self.placement.told = self.shown.clone();
    }

    fn beat_all_at_once(&mut self) {
        for member in &mut self.members {
            member.next_beat = self.now;
        }
    }

    pub fn member(&mut self, name: &str) -> &mut Member {
        let name = cluster(name);
        self.members.iter_mut().find(|member| member.name == name).expect("a member of the story")
    }

    pub fn say(&mut self, line: &str) {
        let since = self.now.since(Moment(2_000_000 * u64::from(self.now.0 >= 2_000_000)));
        let shown = if self.now.0 >= 2_000_000 {
            format!("{:6.2}s", since.as_secs_f64())
        } else {
            "     --".to_owned()
        };
        let _infallible = writeln!(self.text, "{shown}  {line}");
    }

    pub fn forget_what_was_told(&mut self) {
        self.text.clear();
    }

    pub fn told(&self) -> &str {
        &self.text
    }

    pub fn clock(&self) -> Now {
        Now { boot: self.now, wall: WallTime(WALL_ZERO + i64::try_from(self.now.0).expect("a short story")) }
    }

    /// The status that the hub has shown last.
    pub fn shown(&self) -> Option<&DRPlacementStatus> {
        self.shown.as_deref()
    }

    pub fn start_hub(&mut self) {
        let settings = Settings {
            steady_after: STEADY,
            witnesses: self.witnesses.iter().map(PlayedWitness::configured).collect(),
            ..Settings::new("hub", self.hub_domain)
        };
        let remembered = self.remembered.values().cloned().collect();
        let (hub, first) = Hub::start(settings, self.clock(), &self.lines, remembered);
        self.hub = Some(hub);
        self.carry_out(first);
        for member in &mut self.members {
            member.connected = false;
        }
        let names: Vec<_> = self.members.iter().map(|member| member.name.to_string()).collect();
        for name in names {
            self.step(Event::ClusterSeen(configured(&name)));
        }
        let placement = self.placement.clone();
        let seen = match &self.refused {
            None => Event::PlacementSeen(Box::new(placement)),
            Some(message) => Event::PlacementRefused(Box::new(Refused {
                id: placement.id,
                name: placement.name,
                generation: placement.generation,
                deleting: placement.deleting,
                message: message.clone(),
            })),
        };
        self.step(seen);
    }

    pub fn kill_hub(&mut self) {
        self.say("the hub is killed");
        self.hub = None;
    }

    pub fn restart_hub(&mut self) {
        self.say("the hub starts");
        self.start_hub();
    }

    pub fn kill(&mut self, name: &str) {
        self.say(&format!("every process of {name} is killed"));
        let gone = cluster(name);
        self.member(name).up = false;
        for member in &mut self.members {
            for ((other, _), sees) in &mut member.sees {
                *sees = *sees && *other != gone;
            }
        }
        self.step(Event::Disconnected(gone));
    }

    /// The user edits the DRPlacement.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Placement)) {
        edit(&mut self.placement);
        self.placement.generation = Generation(self.placement.generation.0 + 1);
        self.placement.policy.generation = self.placement.generation;
        let placement = self.placement.clone();
        self.step(Event::PlacementSeen(Box::new(placement)));
    }

    /// Lets time pass, with everything that beats by itself.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        while self.now < end {
            self.now = self.now + TICK;
            for index in 0..self.members.len() {
                self.beat(index);
            }
            self.advance_leases();
            self.step(Event::Tick);
        }
    }

    fn beat(&mut self, index: usize) {
        let (now, wall) = (self.now, self.clock().wall);
        let hub_runs = self.hub.is_some();
        let member = &mut self.members[index];
        if !member.up || !member.linked || !hub_runs {
            member.connected = member.connected && member.up && member.linked && hub_runs;
            return;
        }
        if now < member.next_beat && member.connected {
            return;
        }
        member.next_beat = now + TIMING.renew;
        member.nonce += 1;
        if member.syncs && matches!(member.role, Role::Holder) {
            member.last_sync = Some(wall);
        }
        let just_connected = !std::mem::replace(&mut member.connected, true);
        let known = if member.epoch == Epoch(0) {
            Vec::new()
        } else {
            vec![proto::heartbeat::Known {
                placement: placement().id,
                epoch: member.epoch,
                role: member.role,
            }]
        };
        let hello = Hello { cluster: member.name.clone(), version: "0.1.0".to_owned(), known };
        let renewals = if member.role == Role::Holder {
            vec![Renewal {
                placement: placement().id,
                epoch: member.epoch,
                echo: member.echo,
                gates: member.gates.clone(),
            }]
        } else {
            Vec::new()
        };
        let mut paths = Vec::new();
        for ((other, path), reachable) in &member.sees {
            if *reachable {
                member.worked.insert((other.clone(), *path), now);
            }
            let worked = member.worked.get(&(other.clone(), *path));
            paths.push(PathState {
                cluster: other.clone(),
                path: *path,
                reachable: *reachable,
                mark: member.mark,
                worked_age: worked.map(|at| now.since(*at)),
            });
        }
        let heartbeat = Heartbeat {
            cluster: member.name.clone(),
            nonce: Nonce(member.nonce),
            api_write_age: Some(if member.writes { Duration::from_millis(100) } else { HOURS }),
            renewals,
            paths,
        };
        let (report, reports) = (member.report(), member.reports);
        if just_connected {
            self.step(Event::Connected(hello));
        }
        self.step(Event::Heartbeat(heartbeat));
        if reports {
            self.step(Event::Report(Box::new(report)));
        }
    }

    pub fn step(&mut self, event: Event) {
        let now = self.clock();
        let Some(hub) = &mut self.hub else { return };
        let decision = hub.step(now, event);
        self.carry_out(decision);
    }

    fn carry_out(&mut self, decision: Decision) {
        let Decision { record, remember, send, explain, verify, visit } = decision;
        let writes = !record.is_empty();
        self.decisions += usize::from(writes);
        let crash =
            self.crash.filter(|(number, _)| writes && *number == self.decisions).map(|(_, crash)| crash);
        for entry in record {
            self.say(&format!("  record  {}", record_line(&entry)));
            let line = self.tip.seal(self.clock().wall, entry);
            self.lines.push(line);
        }
        for kept in remember {
            self.remembered.insert(kept.placement.clone(), kept);
        }
        if crash == Some(Crash::Recorded) {
            self.kill_hub();
            return;
        }
        for explanation in explain {
            match explanation {
                Explanation::Happened(happening) => {
                    self.say(&format!("  event   {}: {}", happening.reason, happening.message));
                }
                Explanation::Placement(view) => {
                    self.shown = Some(Box::new(view.status.clone()));
                    let waiting = view.waiting.map(|finding| finding.reason.to_string()).unwrap_or_default();
                    if waiting != self.last_waiting && !waiting.is_empty() {
                        self.say(&format!("  waits   {waiting}"));
                    }
                    self.last_waiting = waiting;
                }
                Explanation::Released(_, name) => self.say(&format!("  let go  {name}")),
                Explanation::Operation(view) => {
                    self.phases.insert(view.operation.0.clone(), view.status.phase);
                }
                Explanation::Site(_) => {}
            }
        }
        for send in send {
            self.deliver(send);
        }
        if crash == Some(Crash::Sent) {
            self.kill_hub();
            return;
        }
        for visit in visit {
            self.visit(&visit);
        }
        if self.api_answers {
            for _name in verify {
                let (id, began) = (self.placement.id.clone(), self.now);
                self.step(Event::Verified(id, began));
            }
        }
    }

    fn deliver(&mut self, send: Send) {
        let to = send.to.to_string();
        let reached = self.member(&to).up && self.member(&to).linked;
        match send.message {
            FromHub::Reply(reply) => {
                for denial in &reply.denials {
                    self.say(&format!("  deny    {to} epoch {}: {:?}", denial.epoch, denial.reason));
                }
                if reached {
                    let member = self.member(&to);
                    member.mark = reply.mark;
                    for grant in &reply.grants {
                        member.echo = grant.policy.generation;
                    }
                }
            }
            FromHub::Assignment(assignment) => {
                let holder = assignment.holder.as_ref().map_or("nobody".to_owned(), ToString::to_string);
                self.say(&format!("  assign  {to}: {holder} holds at epoch {}", assignment.epoch));
                if reached {
                    let member = self.member(&to);
                    let inventory = assignment.inventory.as_ref().filter(|_| member.stages);
                    member.staged = inventory.map(|inventory| inventory.version.clone());
                    if assignment.holder.as_ref().is_some_and(|holder| *holder == member.name) {
                        if member.epoch == assignment.epoch {
                            member.role = Role::Holder;
                        }
                    } else if assignment.epoch > member.epoch && member.role == Role::Holder {
                        (member.epoch, member.role) = (assignment.epoch, Role::Fenced);
                        (member.pods, member.wants, member.divergence) = (0, 0, Divergence::Unknown);
                    } else if assignment.epoch > member.epoch && member.role == Role::Fenced {
                        member.epoch = assignment.epoch;
                    } else if assignment.epoch > member.epoch {
                        (member.epoch, member.role) = (assignment.epoch, Role::Standby);
                    } else if holder != "nobody"
                        && member.role == Role::Fenced
                        && member.divergence == Divergence::No
                    {
                        (member.role, member.hands_over) = (Role::Standby, false);
                    }
                }
            }
            FromHub::Unassign(id) => self.say(&format!("  unassign {to} {id}")),
            FromHub::Command(command) => self.command(&to, &command, reached),
        }
    }

    fn command(&mut self, to: &str, command: &Command, reached: bool) {
        self.say(&format!("  send    {to}: {} at epoch {}", command.id, command.epoch));
        let member = self.member(to);
        if !reached || !member.obeys {
            return;
        }
        let outcome = member.obey(command);
        let acknowledgement = Acknowledgement {
            cluster: member.name.clone(),
            command: command.id.clone(),
            epoch: command.epoch,
            outcome,
        };
        let report = member.report();
        self.step(Event::Acknowledged(acknowledgement));
        self.step(Event::Report(Box::new(report)));
    }

    pub fn epoch(&self) -> u64 {
        self.hub
            .as_ref()
            .and_then(|hub| hub.progress(&placement().id))
            .and_then(|progress| progress.ownership.as_ref())
            .map_or(0, |ownership| ownership.epoch.0)
    }

    pub fn holder(&self) -> Option<String> {
        self.hub
            .as_ref()
            .and_then(|hub| hub.progress(&placement().id))
            .and_then(|progress| progress.ownership.as_ref())
            .map(|ownership| ownership.holder.to_string())
    }

    pub fn promotions(&self) -> usize {
        self.text.lines().filter(|line| line.contains("Promote at epoch")).count()
    }
}

fn record_line(entry: &Entry) -> String {
    match entry {
        Entry::Genesis { hub } => format!("Genesis {hub}"),
        Entry::Term { term } => format!("Term {}", term.0),
        Entry::Ownership { epoch, holder, .. } => format!("Ownership epoch {epoch}: {holder}"),
        Entry::Policy { policy, .. } => format!("Policy of generation {}", policy.generation.0),
        Entry::Echo { generation, .. } => format!("Echo of generation {}", generation.0),
        Entry::Intent(intent) => {
            format!("Intent {} to {} at epoch {}", intent.operation, intent.to, intent.epoch)
        }
        Entry::Proposal(intent) => {
            format!("Proposal {} to {} at epoch {}", intent.operation, intent.to, intent.epoch)
        }
        Entry::Withdrawn { operation, reason, .. } => format!("Withdrawn {operation}: {reason}"),
        Entry::Cut { operation, reason, .. } => format!("Cut {operation}: {reason}"),
        Entry::BackedUp { claims, .. } => format!("BackedUp {}", claims.join(", ")),
        Entry::Resynced { .. } => "Resynced".to_owned(),
        Entry::WishFulfilled { .. } => "WishFulfilled".to_owned(),
        Entry::Step { step, state, .. } => format!("Step {step} {state:?}"),
        Entry::Fence { proof, .. } => format!("Fence {proof:?}"),
        Entry::Commit { operation, .. } => format!("Commit {operation}"),
        Entry::Abort { operation, reason, .. } => format!("Abort {operation}: {reason}"),
        Entry::Block { operation, .. } => format!("Block after {operation}"),
        Entry::Released { .. } => "Released".to_owned(),
        Entry::NeedsHuman { reason, .. } => format!("NeedsHuman: {reason}"),
    }
}
