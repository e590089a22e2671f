//! Several placements and clusters at once: which one goes first, who waits for whom, and who is the target.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hub_core::fleet::Cluster;
use hub_core::journal::Entry;
use hub_core::placement::Placement;
use hub_core::{Decision, Event, Explanation, Hub, Now, Settings};
use proto::{
    Acknowledgement, Action, ClusterName, Divergence, Epoch, FromHub, Heartbeat, Hello, Mark, Moment, Nonce,
    OperationId, Outcome, PathKind, PathState, PlacementId, PlacementName, Renewal, Replication,
    ReplicationState, Report, Role, StepKind, VolumeState, WallTime, WorkloadState,
};

use crate::story::{TIMING, cluster, configured, inventory, placement, workload};

const TICK: Duration = Duration::from_millis(50);

/// What one cluster is for one placement.
#[derive(Clone, Default)]
struct Part {
    epoch: u64,
    role: Option<Role>,
    pods: u32,
    staged: bool,
}

struct Fleet {
    hub: Hub,
    now: Moment,
    up: BTreeMap<ClusterName, bool>,
    greeted: BTreeSet<ClusterName>,
    nonce: u64,
    marks: BTreeMap<ClusterName, Mark>,
    parts: BTreeMap<(ClusterName, PlacementId), Part>,
    placements: Vec<Placement>,
    /// Placements whose promotion does not end.
    stuck: BTreeSet<PlacementId>,
    /// Placements whose pods do not get ready.
    unready: BTreeSet<PlacementId>,
    recorded: Vec<String>,
    waiting: BTreeMap<PlacementId, String>,
    worked: BTreeMap<ClusterName, Moment>,
    syncs: BTreeMap<PlacementId, i64>,
}

fn named(name: &str) -> Placement {
    Placement {
        id: PlacementId::parse(&format!("uid-{name}")).expect("a uid"),
        name: PlacementName::parse(name, name).expect("a name"),
        ..placement()
    }
}

impl Fleet {
    fn new(clusters: &[&str], settings: Settings, placements: Vec<Placement>) -> Fleet {
        let now = Moment(1_000_000);
        let (hub, _) = Hub::start(settings, at(now), &[], Vec::new());
        let mut fleet = Fleet {
            hub,
            now,
            up: clusters.iter().map(|name| (cluster(name), true)).collect(),
            greeted: BTreeSet::new(),
            nonce: 0,
            marks: BTreeMap::new(),
            parts: BTreeMap::new(),
            placements: placements.clone(),
            stuck: BTreeSet::new(),
            unready: BTreeSet::new(),
            recorded: Vec::new(),
            waiting: BTreeMap::new(),
            worked: BTreeMap::new(),
            syncs: BTreeMap::new(),
        };
        for name in clusters {
            fleet.step(Event::ClusterSeen(configured(name)));
        }
        for placement in placements {
            let running = Part { pods: 1, ..Part::default() };
            fleet.parts.insert((placement.preferred.clone(), placement.id.clone()), running);
            fleet.step(Event::PlacementSeen(Box::new(placement)));
        }
        fleet.pass(5000);
        fleet.recorded.clear();
        fleet
    }

    fn kill(&mut self, name: &str) {
        self.up.insert(cluster(name), false);
        self.greeted.remove(&cluster(name));
        self.step(Event::Disconnected(cluster(name)));
    }

    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Placement)) {
        let placement = self.placements.iter_mut().find(|placement| placement.name.name == name);
        let placement = placement.expect("a placement of the story");
        edit(placement);
        placement.generation.0 += 1;
        placement.policy.generation = placement.generation;
        let placement = placement.clone();
        self.step(Event::PlacementSeen(Box::new(placement)));
    }

    fn pass(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        while self.now < end {
            self.now = self.now + TICK;
            if (self.now.0 / 50).is_multiple_of(10) {
                let beating = self.up.iter().filter(|(_, up)| **up).map(|(name, _)| name.clone());
                let beating: Vec<ClusterName> = beating.collect();
                beating.iter().for_each(|name| self.beat(name));
            }
            self.step(Event::Tick);
        }
    }

    fn beat(&mut self, name: &ClusterName) {
        self.nonce += 1;
        let now = self.now;
        let others: Vec<(ClusterName, bool)> = self
            .up
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, up)| (other.clone(), *up))
            .collect();
        let mark = self.marks.get(name).copied().unwrap_or_default();
        let mut paths = Vec::new();
        for (other, reachable) in others {
            if reachable {
                self.worked.insert(other.clone(), now);
            }
            let worked_age = self.worked.get(&other).map(|at| now.since(*at));
            for path in [PathKind::PeerAgent, PathKind::ApiServer] {
                paths.push(PathState { cluster: other.clone(), path, reachable, mark, worked_age });
            }
        }
        let held: Vec<Renewal> = self
            .parts
            .iter()
            .filter(|((of, _), part)| of == name && part.role == Some(Role::Holder))
            .map(|((_, id), part)| Renewal {
                placement: id.clone(),
                epoch: Epoch(part.epoch),
                echo: self.placement(id).generation,
                gates: Vec::new(),
            })
            .collect();
        if self.greeted.insert(name.clone()) {
            let hello = Hello { cluster: name.clone(), version: "1".to_owned(), known: Vec::new() };
            self.step(Event::Connected(hello));
        }
        self.step(Event::Heartbeat(Heartbeat {
            cluster: name.clone(),
            nonce: Nonce(self.nonce),
            api_write_age: Some(Duration::ZERO),
            renewals: held,
            paths,
        }));
        let ids: Vec<PlacementId> = self.placements.iter().map(|placement| placement.id.clone()).collect();
        for id in ids {
            if self.placement(&id).clusters.contains(name) {
                let report = self.report(name, &id);
                self.step(Event::Report(Box::new(report)));
            }
        }
    }

    fn placement(&self, id: &PlacementId) -> &Placement {
        self.placements.iter().find(|placement| placement.id == *id).expect("a placement of the story")
    }

    fn part(&mut self, name: &ClusterName, id: &PlacementId) -> &mut Part {
        self.parts.entry((name.clone(), id.clone())).or_default()
    }

    fn report(&mut self, name: &ClusterName, id: &PlacementId) -> Report {
        let unready = self.unready.contains(id);
        let behind = self.syncs.get(id).copied().unwrap_or(0);
        let last_sync = WallTime(at(self.now).wall.0 - behind);
        let part = self.part(name, id).clone();
        let role = part.role.unwrap_or(Role::Unknown);
        let owns = matches!(role, Role::Holder | Role::Promoting);
        let replication = owns.then(|| Replication {
            desired: "primary".to_owned(),
            state: ReplicationState::Primary,
            current: true,
            completed: Some(true),
            degraded: Some(false),
            resyncing: Some(false),
            validated: None,
            last_sync: Some(last_sync),
            last_sync_bytes: None,
            last_sync_took: None,
            epoch: Some(Epoch(part.epoch)),
            message: String::new(),
        });
        let known = self.placement(id).clone();
        let volume = VolumeState {
            claim: self.claim_of(&known),
            handle: Some("image-1".to_owned()),
            bound: true,
            attached: part.pods > 0,
            replication,
        };
        Report {
            cluster: name.clone(),
            placement: id.clone(),
            epoch_seen: Epoch(part.epoch),
            role,
            operation: None,
            staged: part.staged.then(|| inventory().version.clone()),
            inventory: (part.pods > 0 || role == Role::Fenced).then(|| {
                let mut inventory = inventory();
                inventory.volumes[0].claim = self.claim_of(&known);
                inventory
            }),
            volumes: vec![volume],
            workloads: vec![WorkloadState {
                workload: workload(),
                wanted: part.pods,
                ready: if unready { 0 } else { part.pods },
            }],
            pods: part.pods,
            driver_leader: Some(true),
            ailments: Vec::new(),
            divergence: Divergence::No,
        }
    }

    fn claim_of(&self, placement: &Placement) -> String {
        let name = placement.protect.volumes.0.get("claim").unwrap_or(&placement.name.name);
        format!("{name}-data")
    }

    fn step(&mut self, event: Event) {
        let decision = self.hub.step(at(self.now), event);
        self.carry_out(decision);
    }

    fn carry_out(&mut self, decision: Decision) {
        let seconds = self.now.since(Moment(1_000_000)).as_secs_f64();
        for entry in &decision.record {
            if let Some(line) = line_of(entry) {
                self.recorded.push(format!("{seconds:7.2} {line}"));
            }
        }
        for explanation in &decision.explain {
            if let Explanation::Placement(view) = explanation {
                let waiting = view.waiting.as_ref().map(|finding| finding.message.clone());
                self.waiting.insert(view.id.clone(), waiting.unwrap_or_default());
            }
        }
        for send in decision.send {
            if !self.up.get(&send.to).copied().unwrap_or(false) {
                continue;
            }
            match send.message {
                FromHub::Reply(reply) => {
                    self.marks.insert(send.to, reply.mark);
                }
                FromHub::Assignment(assignment) => {
                    let holder = assignment.holder.clone();
                    let part = self.part(&send.to, &assignment.placement);
                    part.staged = assignment.inventory.is_some();
                    if holder.as_ref() == Some(&send.to) {
                        part.role = Some(Role::Holder);
                    } else if holder.is_some() {
                        (part.role, part.epoch) = (Some(Role::Standby), assignment.epoch.0);
                    }
                }
                FromHub::Unassign(_) => {}
                FromHub::Command(command) => {
                    let id = command.id.placement.clone();
                    let hangs = self.stuck.contains(&id) && command.id.step == StepKind::Promote;
                    let part = self.part(&send.to, &id);
                    part.epoch = part.epoch.max(command.epoch.0);
                    match &command.action {
                        Action::Fence | Action::ScaleDown | Action::Demote => {
                            (part.role, part.pods) = (Some(Role::Fenced), 0);
                        }
                        Action::Promote { .. } => part.role = Some(Role::Promoting),
                        Action::ScaleUp { .. } => (part.role, part.pods) = (Some(Role::Holder), 1),
                        Action::Restore { .. } => part.staged = true,
                        Action::Resync { .. } | Action::Rejoin | Action::Release => {}
                    }
                    let outcome = if hangs {
                        Outcome::Failing { reason: "FailedToPromote".to_owned(), message: "busy".to_owned() }
                    } else {
                        Outcome::Done
                    };
                    let report = self.report(&send.to, &id);
                    self.step(Event::Acknowledged(Acknowledgement {
                        cluster: send.to.clone(),
                        command: command.id.clone(),
                        epoch: command.epoch,
                        outcome,
                    }));
                    self.step(Event::Report(Box::new(report)));
                }
            }
        }
        for name in decision.verify {
            let id =
                self.placements.iter().find(|placement| placement.name == name).map(|one| one.id.clone());
            if let Some(id) = id {
                let began = self.now;
                self.step(Event::Verified(id, began));
            }
        }
    }

    fn holder(&self, name: &str) -> String {
        let id = PlacementId::parse(&format!("uid-{name}")).expect("a uid");
        let progress = self.hub.progress(&id).and_then(|progress| progress.ownership.as_ref());
        progress.map(|ownership| ownership.holder.to_string()).unwrap_or_default()
    }

    fn index(&self, what: &str) -> usize {
        let found = self.recorded.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what} is not in\n{}", self.recorded.join("\n")))
    }

    fn told(&self) -> String {
        self.recorded.join("\n")
    }
}

fn at(now: Moment) -> Now {
    Now { boot: now, wall: WallTime(1_767_225_600_000 + i64::try_from(now.0).expect("a short story")) }
}

fn line_of(entry: &Entry) -> Option<String> {
    let step = |operation: &OperationId, step: &StepKind, state| format!("{operation} {step} {state:?}");
    match entry {
        Entry::Intent(intent) => Some(format!("{} begins", intent.operation)),
        Entry::Step { operation, step: kind, state, .. } => Some(step(operation, kind, *state)),
        Entry::Commit { operation, .. } => Some(format!("{operation} ends")),
        Entry::Abort { operation, reason, .. } => Some(format!("{operation} aborted: {reason}")),
        Entry::Cut { operation, reason, .. } => Some(format!("{operation} cut: {reason}")),
        Entry::Proposal(intent) => Some(format!("{} proposed", intent.operation)),
        Entry::Genesis { .. }
        | Entry::Term { .. }
        | Entry::Ownership { .. }
        | Entry::Policy { .. }
        | Entry::Echo { .. }
        | Entry::Withdrawn { .. }
        | Entry::BackedUp { .. }
        | Entry::Resynced { .. }
        | Entry::WishFulfilled { .. }
        | Entry::Fence { .. }
        | Entry::Block { .. }
        | Entry::Released { .. }
        | Entry::NeedsHuman { .. } => None,
    }
}

fn steady() -> Settings {
    Settings { steady_after: Duration::ZERO, ..Settings::new("hub", "hub-site") }
}

fn within(east: &str, others: &[&str]) -> Vec<ClusterName> {
    std::iter::once(east).chain(others.iter().copied()).map(cluster).collect()
}

#[test]
fn of_many_placements_the_first_proves_the_path_and_the_rest_follow() {
    let names = ["a", "b", "c"];
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), names.map(named).to_vec());
    fleet.stuck.insert(named("a").id);
    fleet.stuck.insert(named("b").id);
    fleet.stuck.insert(named("c").id);
    fleet.kill("east");
    fleet.pass(11_000);
    let issued = fleet.recorded.iter().filter(|line| line.contains("Promote Issued")).count();
    assert_eq!(issued, 1, "{}", fleet.told());
    fleet.stuck.clear();
    fleet.pass(6000);
    assert_eq!(names.map(|name| fleet.holder(name)), ["west", "west", "west"], "{}", fleet.told());
}

#[test]
fn when_the_first_is_stuck_the_next_one_proves_the_path_before_the_rest_follow() {
    let names = ["a", "b", "c", "d"];
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), names.map(named).to_vec());
    fleet.stuck.extend(names.map(|name| named(name).id));
    fleet.kill("east");
    let issued = |fleet: &Fleet| fleet.recorded.iter().filter(|line| line.contains("Promote Issued")).count();
    for second in 0..50_u64 {
        let before = issued(&fleet);
        fleet.pass(1_000);
        assert!(issued(&fleet) <= before + 1, "at once, {second} s after the loss: {}", fleet.told());
    }
    assert_eq!(issued(&fleet), 4, "{}", fleet.told());
}

#[test]
fn a_placement_that_is_stuck_does_not_hold_up_independent_ones() {
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), vec![named("a"), named("b")]);
    fleet.stuck.insert(named("a").id);
    fleet.kill("east");
    fleet.pass(40_000);
    assert_eq!(
        (fleet.holder("a").as_str(), fleet.holder("b").as_str()),
        ("east", "west"),
        "{}",
        fleet.told()
    );
}

/// Neither selector covers the other, and yet one claim has the labels of both.
#[test]
fn a_claim_that_another_placement_owns_is_not_adopted_a_second_time() {
    let labelled = |name: &str, tier: &str| {
        let mut placement = named(name);
        placement.name = PlacementName::parse("apps", name).expect("a name");
        for selector in [&mut placement.protect.volumes, &mut placement.protect.workloads] {
            selector.0.clear();
            selector.0.insert(tier.to_owned(), "yes".to_owned());
            selector.0.insert("claim".to_owned(), "both".to_owned());
        }
        placement
    };
    let (first, second) = (labelled("a", "web"), labelled("b", "db"));
    let mut fleet = Fleet::new(&["east", "west"], steady(), vec![first, second.clone()]);
    fleet.pass(2000);
    assert_eq!(fleet.holder("a"), "east", "{}", fleet.told());
    assert!(
        fleet.waiting[&second.id].contains("both-data belongs to apps/a"),
        "{}",
        fleet.waiting[&second.id]
    );
}

#[test]
fn an_application_starts_after_the_one_that_it_depends_on() {
    let mut web = named("a-web");
    web.name = PlacementName::parse("apps", "a-web").expect("a name");
    web.protect.volumes.0.insert("part".to_owned(), "web".to_owned());
    web.protect.workloads.0.insert("part".to_owned(), "web".to_owned());
    web.depends_on = vec!["b-db".to_owned()];
    let mut database = named("b-db");
    database.name = PlacementName::parse("apps", "b-db").expect("a name");
    database.protect.volumes.0.insert("part".to_owned(), "db".to_owned());
    database.protect.workloads.0.insert("part".to_owned(), "db".to_owned());
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), vec![web.clone(), database.clone()]);
    fleet.unready.insert(database.id.clone());
    fleet.kill("east");
    fleet.pass(20_000);
    assert!(!fleet.told().contains("a-web-failover-2 ScaleUp Issued"), "{}", fleet.told());
    assert!(fleet.waiting[&web.id].contains("waits for apps/b-db"), "{}", fleet.waiting[&web.id]);
    fleet.unready.clear();
    fleet.pass(2000);
    assert!(fleet.index("b-db-failover-2 ScaleUp") < fleet.index("a-web-failover-2 ScaleUp"));
    assert!(fleet.told().contains("a-web-failover-2 ends"), "{}", fleet.told());
}

#[test]
fn applications_that_depend_on_each_other_are_named_and_not_started_in_a_wrong_order() {
    let mut one = named("one");
    one.name = PlacementName::parse("apps", "one").expect("a name");
    one.protect.volumes.0.insert("part".to_owned(), "one".to_owned());
    one.protect.workloads.0.insert("part".to_owned(), "one".to_owned());
    one.depends_on = vec!["two".to_owned()];
    let mut two = named("two");
    two.name = PlacementName::parse("apps", "two").expect("a name");
    two.protect.volumes.0.insert("part".to_owned(), "two".to_owned());
    two.protect.workloads.0.insert("part".to_owned(), "two".to_owned());
    two.depends_on = vec!["one".to_owned()];
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), vec![one.clone(), two]);
    fleet.kill("east");
    fleet.pass(20_000);
    assert!(fleet.waiting[&one.id].contains("which waits for it in turn"), "{}", fleet.waiting[&one.id]);
    fleet.edit("two", |placement| placement.depends_on.clear());
    fleet.pass(3000);
    assert!(fleet.told().contains("one-failover-2 ends"), "{}", fleet.told());
}

#[test]
fn no_more_placements_are_moved_at_once_than_the_hub_may() {
    let settings = Settings { moves_at_once: 1, ..steady() };
    let mut fleet = Fleet::new(&["east", "west", "north"], settings, vec![named("a"), named("b")]);
    fleet.stuck.insert(named("a").id);
    for name in ["a", "b"] {
        fleet.edit(name, |placement| placement.preferred = cluster("west"));
    }
    fleet.pass(5000);
    assert!(!fleet.told().contains("b-migrate-2 begins"), "{}", fleet.told());
    assert!(fleet.waiting[&named("b").id].contains("--moves-at-once"), "{}", fleet.waiting[&named("b").id]);
    fleet.stuck.clear();
    fleet.pass(5000);
    assert_eq!(
        (fleet.holder("a").as_str(), fleet.holder("b").as_str()),
        ("west", "west"),
        "{}",
        fleet.told()
    );
}

#[test]
fn the_target_is_the_first_cluster_that_is_ready() {
    let mut shop = named("a");
    shop.clusters = within("east", &["west", "north"]);
    let mut fleet = Fleet::new(&["east", "west", "north", "south"], steady(), vec![shop]);
    fleet.kill("west");
    fleet.pass(8000);
    fleet.edit("a", |placement| placement.mode = hub_core::placement::Mode::Confirm);
    fleet.edit("a", |placement| placement.preferred = cluster("north"));
    fleet.pass(6000);
    assert_eq!(fleet.holder("a"), "north", "{}", fleet.told());
}

#[test]
fn a_second_site_that_is_lost_within_an_hour_is_for_a_human() {
    let other = Placement { preferred: cluster("west"), clusters: within("west", &["south"]), ..named("b") };
    let first = Placement { clusters: within("east", &["north"]), ..named("a") };
    let clusters = ["east", "north", "south", "west", "one", "two", "three"];
    let mut fleet = Fleet::new(&clusters, steady(), vec![first, other]);
    fleet.kill("east");
    fleet.pass(15_000);
    assert_eq!(fleet.holder("a"), "north", "{}", fleet.told());
    // Only the memory of the loss is left: east is well again.
    fleet.up.insert(cluster("east"), true);
    fleet.pass(5000);
    fleet.kill("west");
    fleet.pass(20_000);
    assert_eq!(fleet.holder("b"), "west", "{}", fleet.told());
    assert!(fleet.told().contains("b-failover-2 proposed"), "{}", fleet.told());
}

#[test]
fn two_sites_that_fall_silent_at_once_freeze_the_hub() {
    let first = Placement { clusters: within("east", &["north"]), ..named("a") };
    let clusters = ["east", "north", "south", "west", "one", "two", "three"];
    let mut fleet = Fleet::new(&clusters, steady(), vec![first]);
    fleet.kill("east");
    fleet.kill("south");
    fleet.pass(20_000);
    assert_eq!(fleet.holder("a"), "east", "{}", fleet.told());
    assert_eq!(TIMING.suspect, Duration::from_millis(1500), "the silence was long enough to count");
}

#[test]
fn a_cluster_that_has_just_come_back_is_no_target() {
    let settings = Settings { steady_after: Duration::from_secs(60), ..Settings::new("hub", "hub-site") };
    let mut fleet = Fleet::new(&["east", "west", "north"], settings, vec![named("a")]);
    fleet.kill("west");
    fleet.pass(5000);
    fleet.up.insert(cluster("west"), true);
    fleet.pass(5000);
    fleet.edit("a", |placement| placement.preferred = cluster("west"));
    fleet.pass(5000);
    assert_eq!(fleet.holder("a"), "east", "{}", fleet.told());
    assert!(fleet.waiting[&named("a").id].contains("are asked of a target"), "{:?}", fleet.waiting);
    fleet.pass(60_000);
    assert_eq!(fleet.holder("a"), "west", "{}", fleet.told());
}

#[test]
fn on_request_the_cluster_that_the_user_prefers_is_offered() {
    let mut shop = named("a");
    shop.clusters = within("east", &["west", "north"]);
    shop.mode = hub_core::placement::Mode::Manual;
    let mut fleet = Fleet::new(&["east", "west", "north", "south"], steady(), vec![shop]);
    fleet.kill("east");
    fleet.pass(8000);
    assert!(!fleet.told().contains("proposed"), "{}", fleet.told());
    fleet.edit("a", |placement| placement.preferred = cluster("north"));
    fleet.pass(2000);
    assert!(fleet.told().contains("a-failover-2 proposed"), "{}", fleet.told());
    assert!(fleet.waiting[&named("a").id].contains("to fail over to north"), "{:?}", fleet.waiting);
}

/// csi-addons does not tell to whom something was synced: the third cluster's copy may be older than it seems.
#[test]
fn after_a_failover_a_third_cluster_takes_over_only_by_a_word() {
    let mut shop = named("a");
    shop.clusters = within("east", &["west", "north"]);
    let mut fleet = Fleet::new(&["east", "west", "north", "south", "one"], steady(), vec![shop]);
    fleet.kill("east");
    fleet.pass(15_000);
    assert_eq!(fleet.holder("a"), "west", "{}", fleet.told());
    fleet.edit("a", |placement| placement.preferred = cluster("north"));
    fleet.pass(5000);
    assert_eq!(fleet.holder("a"), "west", "{}", fleet.told());
    assert!(fleet.waiting[&named("a").id].contains("is not known to follow west"), "{:?}", fleet.waiting);
}

#[test]
fn a_cluster_that_is_being_worked_on_is_failed_over_only_by_a_word() {
    let mut fleet = Fleet::new(&["east", "west", "north"], steady(), vec![named("a")]);
    fleet.step(Event::ClusterSeen(Cluster { maintenance: true, ..configured("east") }));
    fleet.kill("east");
    fleet.pass(15_000);
    assert_eq!(fleet.holder("a"), "east", "{}", fleet.told());
    assert!(fleet.told().contains("a-failover-2 proposed"), "{}", fleet.told());
}
