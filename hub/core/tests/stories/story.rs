//! Tells what a hub does as a story: time passes, sites beat, commands are answered, and every decision becomes a line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crds::operation::OperationPhase;
use crds::placement::DRPlacementStatus;
use hub_core::fleet::Cluster;
use hub_core::journal::{Entry, Line, Tip};
use hub_core::placement::{Failback, Mode, Placement};
use hub_core::{Decision, Event, Explanation, Hub, Now, Remembered, Send, Settings};
use proto::{
    Acknowledgement, Action, Ailment, ClusterName, Command, Divergence, Epoch, Fencing, FromHub, Generation,
    Heartbeat, Hello, Inventory, Mark, Moment, Nonce, OnSilence, Outcome, PathKind, PathState, PlacementId,
    PlacementName, Policy, Protect, Renewal, Replication, ReplicationState, Report, Role, Selector, Timing,
    VolumeManifest, VolumeState, WallTime, WorkloadRef, WorkloadState,
};

use crate::later_claims;

pub const TIMING: Timing = Timing {
    renew: Duration::from_millis(500),
    rpc: Duration::from_millis(500),
    ttl: Duration::from_secs(3),
    hold: Duration::from_secs(2),
    grace: Duration::from_secs(1),
    stop: Duration::from_secs(4),
    clock_rate_error_ppm: 10_000,
    suspect: Duration::from_millis(1500),
    unreachable: Duration::from_secs(3),
};

/// 2026-01-01, so that the story shows times that a reader can place.
const WALL_ZERO: i64 = 1_767_225_600_000;
/// How long a returned site must be heard before it is a target.
const STEADY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// One member cluster as the story plays it: it beats while it is up, and answers commands when it is told to.
pub struct Member {
    pub name: ClusterName,
    pub up: bool,
    /// Whether its renewals, reports and answers get through.
    pub linked: bool,
    pub reports: bool,
    /// Its pods take their time.
    pub slow: bool,
    pub epoch: Epoch,
    pub role: Role,
    /// Answers every command with Done, and plays the consequence.
    pub obeys: bool,
    pub fails_promotion: bool,
    pub pods: u32,
    pub staged: Option<String>,
    pub sees: BTreeMap<(ClusterName, PathKind), bool>,
    pub last_sync: Option<WallTime>,
    pub syncs: bool,
    /// A claim that came after the adoption.
    pub later: Option<VolumeState>,
    pub ailments: Vec<Ailment>,
    pub wants: u32,
    pub divergence: Divergence,
    /// A csi-addons controller leads for its driver.
    pub driver_leads: bool,
    /// It was told to scale down, and shows what it has for the last backup.
    pub hands_over: bool,
    /// Its demotion does not cross.
    pub slow_demotion: bool,
    nonce: u64,
    mark: Mark,
    echo: Generation,
    next_beat: Moment,
    connected: bool,
    /// Done with, so that a repeated command gets the same answer.
    worked: BTreeMap<(ClusterName, PathKind), Moment>,
}

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
    pub lines: Vec<Line>,
    pub remembered: BTreeMap<PlacementId, Remembered>,
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

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a cluster name")
}

pub fn configured(name: &str) -> Cluster {
    Cluster {
        name: cluster(name),
        identity: format!("uid-{name}"),
        failure_domain: format!("{name}-site"),
        peer_endpoint: None,
        probe_endpoints: Vec::new(),
        maintenance: false,
    }
}

pub fn placement() -> Placement {
    Placement {
        id: PlacementId::parse("uid-shop").expect("a uid"),
        name: PlacementName::parse("shop", "shop").expect("a name"),
        generation: Generation(1),
        created: None,
        deleting: false,
        preferred: cluster("east"),
        clusters: vec![cluster("east"), cluster("west")],
        protect: Protect { volumes: shop(), workloads: shop(), objects: Vec::new() },
        replication_class: "rbd-5m".to_owned(),
        mode: Mode::Automatic,
        max_data_loss: Some(Duration::from_secs(600)),
        max_skew: None,
        policy: Policy {
            generation: Generation(1),
            timing: TIMING,
            on_silence: OnSilence::Stop,
            fencing: Fencing::SelfFence,
        },
        paused: false,
        move_deadline: Duration::from_secs(60),
        failback: Failback {
            automatic: false,
            resync_automatic: false,
            stabilization: Duration::from_secs(60),
            windows: Vec::new(),
        },
        depends_on: Vec::new(),
        told: None,
        acknowledged: None,
    }
}

fn shop() -> Selector {
    Selector(BTreeMap::from([("app".to_owned(), "shop".to_owned())]))
}

pub fn inventory() -> Inventory {
    Inventory {
        version: "v1".to_owned(),
        volumes: vec![VolumeManifest {
            claim: "shop-data".to_owned(),
            handle: "image-1".to_owned(),
            persistent_volume: serde_json::json!({}),
            persistent_volume_claim: serde_json::json!({}),
        }],
        classes: Vec::new(),
        workloads: vec![proto::volume::WorkloadReplicas { workload: workload(), replicas: 1 }],
        objects: Vec::new(),
    }
}

pub fn workload() -> WorkloadRef {
    WorkloadRef { api_version: "apps/v1".to_owned(), kind: "Deployment".to_owned(), name: "shop".to_owned() }
}

impl Member {
    fn new(name: &str, other: &str) -> Member {
        let paths = [PathKind::PeerAgent, PathKind::ApiServer].map(|kind| ((cluster(other), kind), true));
        Member {
            name: cluster(name),
            up: true,
            linked: true,
            reports: true,
            slow: false,
            epoch: Epoch(0),
            role: Role::Unknown,
            obeys: true,
            fails_promotion: false,
            pods: 0,
            staged: None,
            sees: BTreeMap::from(paths),
            last_sync: None,
            syncs: true,
            later: None,
            ailments: Vec::new(),
            wants: 0,
            divergence: Divergence::No,
            driver_leads: true,
            hands_over: false,
            slow_demotion: false,
            nonce: 0,
            mark: Mark::default(),
            echo: Generation(0),
            next_beat: Moment(0),
            connected: false,
            worked: BTreeMap::new(),
        }
    }

    pub fn report(&self) -> Report {
        let primary = matches!(self.role, Role::Holder | Role::Promoting);
        let replication = Replication {
            desired: "primary".to_owned(),
            state: ReplicationState::Primary,
            current: true,
            completed: Some(true),
            degraded: Some(false),
            resyncing: Some(false),
            validated: None,
            last_sync: self.last_sync,
            epoch: Some(self.epoch),
            message: String::new(),
        };
        let owns_claims = self.wants > 0 || self.staged.is_some();
        let volume = VolumeState {
            claim: "shop-data".to_owned(),
            handle: Some("image-1".to_owned()),
            bound: true,
            attached: self.pods > 0,
            replication: primary.then_some(replication),
        };
        Report {
            cluster: self.name.clone(),
            placement: placement().id,
            epoch_seen: self.epoch,
            role: self.role,
            operation: None,
            staged: self.staged.clone(),
            inventory: (self.hands_over
                || self.wants > 0 && matches!(self.role, Role::Unknown | Role::Holder))
            .then(|| later_claims::inventory_with(self.later.as_ref())),
            volumes: if owns_claims {
                std::iter::once(volume).chain(self.later.clone()).collect()
            } else {
                Vec::new()
            },
            workloads: vec![WorkloadState { workload: workload(), wanted: self.wants, ready: self.pods }],
            pods: self.pods,
            driver_leader: Some(self.driver_leads),
            ailments: self.ailments.clone(),
            divergence: self.divergence,
        }
    }
}

impl Story {
    /// Hub, east and west; the application runs at east and nobody protects it yet.
    pub fn new() -> Story {
        let mut east = Member::new("east", "west");
        (east.pods, east.wants) = (1, 1);
        let mut story = Story {
            hub: None,
            now: Moment(1_000_000),
            members: vec![east, Member::new("west", "east")],
            placement: placement(),
            lines: Vec::new(),
            remembered: BTreeMap::new(),
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
        let mut story = Story::new();
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

    fn clock(&self) -> Now {
        Now { boot: self.now, wall: WallTime(WALL_ZERO + i64::try_from(self.now.0).expect("a short story")) }
    }

    /// The status that the hub has shown last.
    pub fn shown(&self) -> Option<&DRPlacementStatus> {
        self.shown.as_deref()
    }

    pub fn start_hub(&mut self) {
        let settings = Settings { steady_after: STEADY, ..Settings::new("hub", "hub-site") };
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
        self.step(Event::PlacementSeen(Box::new(placement)));
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
            vec![Renewal { placement: placement().id, epoch: member.epoch, echo: member.echo }]
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
            api_write_age: Some(Duration::from_millis(100)),
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
        let Decision { record, remember, send, explain, verify } = decision;
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
                    member.staged = assignment.inventory.as_ref().map(|inventory| inventory.version.clone());
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
        let mut outcome = Outcome::Done;
        member.epoch = member.epoch.max(command.epoch);
        match &command.action {
            Action::Fence => {
                (member.role, member.pods, member.wants) = (Role::Fenced, 0, 0);
                member.divergence = Divergence::Unknown;
            }
            Action::ScaleDown if member.slow => {
                (member.role, member.wants) = (Role::Fenced, 0);
                outcome = Outcome::Working { waiting_for: "1 pods to be gone".to_owned() };
            }
            Action::ScaleDown => {
                (member.role, member.pods, member.wants) = (Role::Fenced, 0, 0);
                member.hands_over = true;
            }
            Action::Demote if member.slow_demotion => {
                outcome = Outcome::Working { waiting_for: "the demotion of shop-data to cross".to_owned() };
            }
            Action::Demote => member.divergence = Divergence::No,
            Action::Resync { .. } => {}
            Action::Rejoin => (member.role, member.divergence) = (Role::Standby, Divergence::No),
            Action::Restore { inventory } => member.staged = Some(inventory.version.clone()),
            Action::Promote { .. } if member.fails_promotion => {
                let (reason, message) =
                    ("FailedToPromote".to_owned(), "shop-data: cannot be promoted".to_owned());
                outcome = Outcome::Failing { reason, message };
            }
            Action::Promote { .. } => {
                (member.role, member.last_sync, member.hands_over) = (Role::Promoting, None, false);
            }
            Action::ScaleUp { workloads } => {
                let replicas = workloads.iter().map(|workload| workload.replicas).sum();
                let pods = if member.slow { 0 } else { replicas };
                (member.role, member.pods, member.wants) = (Role::Holder, pods, replicas);
            }
            Action::Release => member.role = Role::Unknown,
        }
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
