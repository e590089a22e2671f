//! The whole simulated world: one queue, one clock, and everybody it happens to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use agent_core::{Agent, AskId, Change, Kind, Watched};
use proto::{ClusterName, Epoch, FromAgent, FromHub, Moment, Nonce, PathKind, PlacementId, WallTime};

use crate::application::{App, Number, number_of};
use crate::coverage::Coverage;
use crate::crash::Crashes;
use crate::csi_addons::Worker;
use crate::hub::HubMachine;
use crate::invariants::Watch;
use crate::kubernetes::Kubernetes;
use crate::network::{End, Network};
use crate::random::Random;
use crate::storage::Array;
use crate::transition::{Happening, Hold, Life, Queue, Ticks, Time};
use crate::witness::ThirdPlace;

/// 2026-01-01.
const WALL_ZERO: i64 = 1_767_225_600_000;

/// One wall clock for all: times of writes, syncs and losses are compared across machines.
pub fn wall(at: Time) -> WallTime {
    WallTime(WALL_ZERO + i64::try_from(at).unwrap_or(0))
}

/// As Kubernetes writes a time, with its milliseconds; a run lasts less than a day.
pub fn stamp(at: WallTime) -> String {
    let millis = at.0 - WALL_ZERO;
    let (seconds, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    format!("2026-01-01T{:02}:{:02}:{:02}.{rest:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A machine's own clock: it began some time ago, and runs a little fast or slow (protocol R7).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub base: u64,
    pub since: Time,
    /// Parts per million.
    pub rate: i64,
}

impl Clock {
    pub fn new(random: &mut Random, since: Time) -> Clock {
        let rate = i64::try_from(random.within(&(0..=19_000))).unwrap_or(0) - 9_500;
        Clock { base: random.within(&(1_000..=500_000)), since, rate }
    }

    /// From now on faster or slower.
    pub fn run_at(&mut self, now: Time, rate: i64) {
        *self = Clock { base: self.read(now).0, since: now, rate };
    }

    /// What passes until `at` is not counted, for so long.
    pub fn miss(&mut self, at: Time, span: Time) {
        let before = self.read(at.saturating_sub(span));
        let after = self.read(at);
        self.base = self.base.saturating_sub(after.0 - before.0);
    }

    pub fn read(&self, now: Time) -> Moment {
        let passed = i64::try_from(now.saturating_sub(self.since)).unwrap_or(0);
        let own = passed + passed * self.rate / 1_000_000;
        Moment(self.base + u64::try_from(own).unwrap_or(0))
    }
}

/// Who reads what is proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Human {
    #[default]
    Absent,
    Careful,
    /// Answers for what was proposed at another time, or answers twice, or late.
    Careless,
}

/// What the storage does not do now.
#[derive(Clone, Debug, Default)]
pub struct StorageAils {
    pub promotion: bool,
    /// Of this claim alone.
    pub promotion_of: Option<&'static str>,
    pub demotion: bool,
    pub mirroring: bool,
    pub resync: bool,
}

/// The lease of one application, as its cluster lives by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lived {
    /// When it ends or ended, by the agent's clock.
    pub end: Option<Moment>,
    /// The epoch that the hub has granted to it in this life.
    pub granted: Option<Epoch>,
}

/// One member cluster, with its machines.
pub struct Site {
    pub name: ClusterName,
    /// API server, controllers, storage and agent's machine are alive.
    pub up: bool,
    pub nodes_up: bool,
    /// The API server answers.
    pub api_up: bool,
    /// When it stopped to, if it does not.
    pub api_down_since: Time,
    /// Some requests take up to this much longer.
    pub api_slow: Time,
    /// Of a hundred writes, so many meet somebody else's.
    pub conflicts: u64,
    pub watch_lag: Time,
    pub admission_lag: Time,
    /// The agent's process is stopped until then, and goes on after.
    pub frozen_until: Time,
    /// Its clock has not counted all time.
    pub slept: bool,
    /// The wall clock of the agent's machine, against everybody else's.
    pub wall_ahead: i64,
    /// Of each application.
    pub leases: Vec<Lived>,
    pub agent_since: Time,
    /// When this process sent its heartbeats.
    pub sent: BTreeMap<Nonce, Moment>,
    /// Counts its cold starts.
    pub boot: u64,
    pub clock: Clock,
    pub kubernetes: Kubernetes,
    pub agent: Option<Agent>,
    pub life: Life,
    /// What the agent has written into its Lease.
    pub memory: Option<agent_core::decision::Memory>,
    pub stream: Option<u64>,
    pub dialling: bool,
    /// When the controllers look next.
    pub controllers_look: Option<Time>,
    /// The namespaces whose objects the agent watches.
    pub followed: BTreeSet<String>,
    /// When the newest news of each kind arrives, so that none overtakes another.
    pub news: BTreeMap<Kind, Time>,
    pub site_news: Time,
    pub asked: u64,
    pub asks: BTreeMap<AskId, Hold>,
    pub probing: BTreeSet<(ClusterName, PathKind)>,
    /// The process that is under way to the witness: one visit waits for the other.
    pub visiting: Option<Life>,
    /// Pods whose containers run, and whose they are.
    pub containers: BTreeMap<String, Number>,
    /// The handles of the volumes that each of them has mounted.
    pub mounted: BTreeMap<String, Vec<String>>,
    pub workers: BTreeMap<String, Worker>,
}

/// The newest stream of one agent, and what is on its way, in order.
#[derive(Default)]
pub struct Stream {
    pub number: u64,
    pub to_hub: VecDeque<FromAgent>,
    pub to_agent: VecDeque<FromHub>,
}

pub struct World {
    pub now: Time,
    pub random: Random,
    pub queue: Queue,
    pub hub: HubMachine,
    pub sites: BTreeMap<ClusterName, Site>,
    pub streams: BTreeMap<ClusterName, Stream>,
    pub network: Network,
    /// None: hub and agents know of no witness.
    pub witness: Option<ThirdPlace>,
    pub array: Array,
    pub crossing_delay: Time,
    pub pod_delay: Time,
    pub ticks: Ticks,
    pub storage_ails: StorageAils,
    /// Faults that the fencing level SelfFence does not cover are left out.
    pub covered_only: bool,
    /// What is at rest is looked at all the same, and must be.
    pub doubts_rest: bool,
    /// How often each kind of fault has happened.
    pub faults: BTreeMap<&'static str, u64>,
    pub apps: Vec<App>,
    pub pods: u64,
    pub crashes: Crashes,
    pub watch: Watch,
    pub coverage: Coverage,
    /// The story so far, and events taken.
    pub trace: Vec<String>,
    pub steps: u64,
}

/// Whether all is as it must be is asked this often.
const ASK_EVERY: Time = 20;

impl World {
    /// With one application.
    pub fn new(seed: u64, names: &[&str]) -> World {
        World::with_apps(seed, names, &["east"])
    }

    /// With one application for each home.
    pub fn with_apps(seed: u64, names: &[&str], homes: &[&str]) -> World {
        let mut random = Random::new(seed);
        let hub = HubMachine::new(Clock::new(&mut random, 0));
        let mut world = World {
            now: 0,
            hub,
            sites: BTreeMap::new(),
            streams: BTreeMap::new(),
            network: Network::default(),
            witness: None,
            array: Array::default(),
            crossing_delay: 0,
            pod_delay: 0,
            ticks: Ticks::USUAL,
            storage_ails: StorageAils::default(),
            covered_only: true,
            doubts_rest: false,
            faults: BTreeMap::new(),
            apps: Vec::new(),
            pods: 0,
            crashes: Crashes::default(),
            watch: Watch::default(),
            coverage: Coverage::default(),
            trace: Vec::new(),
            steps: 0,
            queue: Queue::default(),
            random,
        };
        for name in names {
            let name = cluster(name);
            let clock = Clock::new(&mut world.random, 0);
            // Of three clusters the third has nothing to do with the placement.
            if world.array.sites.len() < 2 {
                world.array.sites.push(name.clone());
            }
            world.streams.insert(name.clone(), Stream::default());
            world.sites.insert(name.clone(), Site::new(name, clock, homes.len()));
        }
        world.apps = homes.iter().enumerate().map(|(number, home)| App::new(number, cluster(home))).collect();
        world
    }

    /// Of most stories the only one.
    pub fn first(&self) -> &App {
        &self.apps[0]
    }

    /// The application of a placement.
    pub fn app_of(&self, placement: &PlacementId) -> Number {
        number_of(placement.as_str())
    }

    /// Whether pods of an application run at a site.
    pub fn runs(&self, site: &Site, app: Number) -> bool {
        site.containers.values().any(|of| *of == app)
    }

    pub fn site(&self, name: &ClusterName) -> &Site {
        &self.sites[name]
    }

    pub fn site_mut(&mut self, name: &ClusterName) -> &mut Site {
        self.sites.get_mut(name).unwrap_or_else(|| unreachable!("{name} is not a site of this world"))
    }

    pub fn later(&mut self, delay: Time, happening: Happening) {
        self.queue.push(self.now + delay, happening);
    }

    pub fn say(&mut self, line: String) {
        self.trace.push(format!("{:4}.{:03}  {line}", self.now / 1000, self.now % 1000));
    }

    pub fn agent_now(&self, site: &ClusterName) -> Moment {
        self.site(site).clock.read(self.now)
    }

    pub fn linked(&self, site: &ClusterName) -> bool {
        self.network.is_up(End::Hub, End::Agent(site.clone()))
    }

    /// Lets time pass; ends early when an invariant is broken.
    pub fn pass(&mut self, span: Time) {
        let end = self.now + span;
        self.pass_until(end, |_| false);
    }

    /// Lets time pass until something holds; false if it does not before `end`, or an invariant is broken.
    pub fn pass_until(&mut self, end: Time, holds: impl Fn(&World) -> bool) -> bool {
        let mut asked = None;
        loop {
            if !self.watch.violations.is_empty() {
                return false;
            }
            if asked.is_none_or(|asked| self.now >= asked + ASK_EVERY) {
                asked = Some(self.now);
                if holds(self) {
                    return true;
                }
            }
            if self.queue.next_at().is_none_or(|at| at > end) {
                self.now = end;
                return false;
            }
            let Some((at, happening)) = self.queue.pop() else { return false };
            self.now = at.max(self.now);
            self.steps += 1;
            self.happens(happening);
            self.tell_changes();
            self.check();
            self.cover();
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::HubStarts => self.hub_starts(),
            Happening::HubTicks(life) => self.hub_ticks(life),
            Happening::HubHears { life, event } => self.hub_hears(life, *event),
            Happening::WishIsRead { life, app, began } => self.wish_is_read(life, app, began),
            Happening::AgentStarts { site } => self.agent_starts(&site),
            Happening::AgentTicks { site, life } => self.agent_ticks(&site, life),
            Happening::AgentHears { site, life, event } => self.agent_hears(&site, life, *event),
            Happening::Dials { site, life } => self.dials(&site, life),
            Happening::ReachesHub { site, stream } => self.reaches_hub(&site, stream),
            Happening::ReachesAgent { site, stream } => self.reaches_agent(&site, stream),
            Happening::HubMissesStream { site, stream } => self.hub_misses_stream(&site, stream),
            Happening::AgentMissesStream { site, stream } => self.agent_misses_stream(&site, stream),
            Happening::EffectLands { site, life, request } => self.effect_lands(&site, life, request),
            Happening::SiteStateLands { site, life, write } => self.site_state_lands(&site, life, *write),
            Happening::MemoryLands { site, life, memory } => self.memory_lands(&site, life, *memory),
            Happening::AdmissionLearns { site, placement } => self.admission_learns(&site, placement),
            Happening::ProbeEnds { site, life, of, path, mark, began } => {
                self.probe_ends(&site, life, of, path, mark, began);
            }
            Happening::HubAtWitness { life, visit, began } => self.hub_at_witness(life, *visit, began),
            Happening::AgentAtWitness { site, life, visit, deadline } => {
                self.agent_at_witness(&site, life, &visit, deadline);
            }
            Happening::HoldArrives { hold } => self.hold_arrives(hold),
            Happening::HoldReturns { hold, answer } => self.hold_returns(hold, answer),
            Happening::ControllersLook { site } => self.controllers_look(&site),
            Happening::PodTriesToStart { site, pod, boot } => self.pod_tries_to_start(&site, &pod, boot),
            Happening::PodEnds { site, pod, boot } => self.pod_ends(&site, &pod, boot),
            Happening::Detaches { site, volume, boot } => self.detaches(&site, &volume, boot),
            Happening::NodesCome { site, boot } => self.nodes_come(&site, boot),
            Happening::Writes { site, pod, boot } => self.writes(&site, &pod, boot),
            Happening::Reconciles { site, claim, boot, turn } => self.reconciles(&site, &claim, boot, turn),
            Happening::CallEnds { site, claim, boot, call } => self.call_ends(&site, &claim, boot, call),
            Happening::SnapshotDue { handle } => self.snapshot_due(&handle),
            Happening::SnapshotArrives { snapshot } => self.snapshot_arrives(&snapshot),
            Happening::HumanAnswers { proposed } => self.human_answers(&proposed),
            Happening::SaidAgainToAgent { site, message } => self.said_again_to_agent(&site, *message),
            Happening::SaidAgainToHub { site, stream, message } => {
                self.said_again_to_hub(&site, stream, *message);
            }
            Happening::Fails(fault) => self.fails(fault),
        }
    }

    /// Watches and controllers hear of what has changed in the clusters.
    fn tell_changes(&mut self) {
        let changed = |site: &&Site| !site.kubernetes.changes.is_empty();
        let names: Vec<ClusterName> =
            self.sites.values().filter(changed).map(|site| site.name.clone()).collect();
        for site in names {
            for watched in std::mem::take(&mut self.site_mut(&site).kubernetes.changes) {
                self.wake(&site, &watched);
                self.tell_watch(&site, watched);
            }
        }
    }

    fn wake(&mut self, site: &ClusterName, watched: &Watched) {
        match (&watched.kind, &watched.change) {
            (Kind::Replication, Change::Applied(object)) => {
                let observed = &object["status"]["observedGeneration"];
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if *observed != object["metadata"]["generation"] {
                    self.reconcile_after(site, &name, 20);
                }
            }
            (Kind::Workload(_) | Kind::Claim | Kind::Volume, _) => self.wake_controllers(site),
            (
                Kind::Replication
                | Kind::Pod
                | Kind::Attachment
                | Kind::StorageClass
                | Kind::ReplicationClass
                | Kind::Group
                | Kind::GroupClass
                | Kind::GroupContent
                | Kind::AddonsNode
                | Kind::Policy
                | Kind::PolicyBinding
                | Kind::Object(_)
                | Kind::Reconciler(_),
                _,
            ) => {}
        }
    }
}

impl Site {
    pub fn own_wall(&self, now: Time) -> WallTime {
        WallTime(wall(now).0 + self.wall_ahead)
    }

    /// Its clock is so many seconds ahead of before; what it has read before happens when it would have.
    pub fn set_clock(&mut self, seconds: i64) {
        let ahead = seconds * 1000;
        self.clock.base = self.clock.base.saturating_add_signed(ahead);
        // Wall time is what it was.
        let ends = self.leases.iter_mut().filter_map(|lease| lease.end.as_mut());
        ends.for_each(|end| *end = Moment(end.0.saturating_add_signed(ahead)));
    }

    /// A lease that is no longer lived by has ended, at the latest now.
    /// `held`: until when each application may be held that is held now.
    pub fn follow_leases(&mut self, now: Moment, held: &[(Number, Option<Moment>)]) {
        for (app, lease) in self.leases.iter_mut().enumerate() {
            lease.end = match held.iter().find(|(of, _)| *of == app) {
                Some((_, end)) => *end,
                None => lease.end.map(|end| end.min(now)),
            };
        }
    }

    fn new(name: ClusterName, clock: Clock, apps: usize) -> Site {
        Site {
            name,
            up: true,
            nodes_up: true,
            api_up: true,
            api_down_since: 0,
            api_slow: 0,
            conflicts: 0,
            watch_lag: 0,
            admission_lag: 0,
            frozen_until: 0,
            slept: false,
            wall_ahead: 0,
            leases: vec![Lived::default(); apps],
            agent_since: 0,
            sent: BTreeMap::new(),
            boot: 1,
            clock,
            kubernetes: Kubernetes::default(),
            agent: None,
            life: 0,
            memory: None,
            stream: None,
            dialling: false,
            controllers_look: None,
            followed: BTreeSet::new(),
            news: BTreeMap::new(),
            site_news: 0,
            asked: 0,
            asks: BTreeMap::new(),
            probing: BTreeSet::new(),
            visiting: None,
            containers: BTreeMap::new(),
            mounted: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap_or_else(|error| unreachable!("{error}"))
}
