//! What goes wrong, on purpose: in the stories at a chosen moment, in random runs at any.

use agent_core::Kind;
use proto::ClusterName;

use crate::network::End;
use crate::random::Random;
use crate::transition::{Happening, Time};
use crate::world::{Clock, World};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillHub,
    /// The hub's machine stays down until `HubReturns`.
    LoseHub,
    HubReturns,
    KillAgent(ClusterName),
    /// Between the hub and one agent.
    CutFromHub(ClusterName),
    /// Between all agents, and all arrays.
    CutPeers,
    /// Everything but its own nodes.
    Isolate(ClusterName),
    Slow {
        site: ClusterName,
        by: Time,
    },
    Lose {
        percent: u64,
    },
    /// Every link as usual again.
    Heal,
    /// Power off: nodes, API server, storage.
    Dies(ClusterName),
    Returns(ClusterName),
    ApiStops(ClusterName),
    ApiReturns(ClusterName),
    /// Some requests take so much longer, and are done when nobody waits any more.
    ApiSlow(ClusterName, Time),
    HubApiStops,
    HubApiReturns,
    /// The user prefers this cluster from now on: no fault, but it comes as unexpectedly.
    Prefer(ClusterName),
    /// Somebody or something scales the workload of this cluster, as an autoscaler or GitOps would.
    Scales {
        site: ClusterName,
        replicas: u32,
    },
    /// Pods that are deleted take this much longer to end.
    SlowPods(Time),
    /// What the holder writes takes longer to arrive at the other array.
    SlowCrossing(Time),
}

impl Fault {
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillHub => "hub killed",
            Fault::LoseHub => "hub away",
            Fault::HubReturns => "hub back",
            Fault::KillAgent(_) => "agent killed",
            Fault::CutFromHub(_) => "site cut from hub",
            Fault::CutPeers => "sites cut from each other",
            Fault::Isolate(_) => "site isolated",
            Fault::Slow { .. } => "slow link",
            Fault::Lose { .. } => "lossy links",
            Fault::Heal => "links mended",
            Fault::Dies(_) => "site dies",
            Fault::Returns(_) => "site returns",
            Fault::ApiStops(_) => "API server stops",
            Fault::ApiReturns(_) => "API server back",
            Fault::ApiSlow(..) => "API server slow",
            Fault::HubApiStops => "hub's API server stops",
            Fault::HubApiReturns => "hub's API server back",
            Fault::Prefer(_) => "preference edited",
            Fault::Scales { .. } => "workload scaled by others",
            Fault::SlowPods(_) => "pods slow to end",
            Fault::SlowCrossing(_) => "mirroring slow",
        }
    }
}

/// Longer than a keep-alive needs to find a connection dead.
const KEEP_ALIVE: std::ops::RangeInclusive<u64> = 1_000..=1_800;
/// The agent comes first; kubelets that are faster are what the fencing level SelfFence does not cover.
const NODES_AFTER_AGENT: Time = 9_000;

impl World {
    pub fn fails(&mut self, fault: Fault) {
        if self.is_uncovered(&fault) {
            return self.say(format!("fault: {fault:?} is not covered by SelfFence, and left out"));
        }
        self.say(format!("fault: {fault:?}"));
        *self.faults.entry(fault.kind()).or_default() += 1;
        match fault {
            Fault::KillHub => self.kill_hub(),
            Fault::LoseHub => {
                self.kill_hub();
                self.hub.stays_down = true;
            }
            Fault::HubReturns => {
                self.hub.stays_down = false;
                self.later(100, Happening::HubStarts);
            }
            Fault::KillAgent(site) => self.kill_agent(&site),
            Fault::CutFromHub(site) => self.cut_from_hub(&site),
            Fault::CutPeers => {
                for site in self.array.sites.clone() {
                    self.cut_from_peers(&site);
                }
            }
            Fault::Isolate(site) => {
                self.cut_from_hub(&site);
                self.cut_from_peers(&site);
            }
            Fault::Slow { site, by } => self.network.slow_down(End::Hub, End::Agent(site), by),
            Fault::Lose { percent } => self.network.lose(percent),
            Fault::Heal => {
                self.network.heal();
                self.pod_delay = 0;
                self.crossing_delay = 0;
            }
            Fault::Dies(site) => self.dies(&site),
            Fault::Returns(site) => self.returns(&site),
            Fault::ApiStops(site) => self.site_mut(&site).api_up = false,
            Fault::ApiSlow(site, by) => self.site_mut(&site).api_slow = by,
            Fault::ApiReturns(site) => self.api_returns(&site),
            Fault::HubApiStops => self.hub.api_up = false,
            Fault::HubApiReturns => {
                self.hub.api_up = true;
                self.tell_wish();
            }
            Fault::Prefer(cluster) => crate::scenario::prefer(self, cluster.as_str()),
            Fault::Scales { site, replicas } => {
                let kubernetes = &mut self.site_mut(&site).kubernetes;
                let _always_there = kubernetes.change(&crate::kubernetes::deployments(), "web", |object| {
                    object["spec"]["replicas"] = serde_json::json!(replicas);
                });
            }
            Fault::SlowPods(delay) => self.pod_delay = delay,
            Fault::SlowCrossing(delay) => self.crossing_delay = delay,
        }
    }

    /// SelfFence does not stop what its agent cannot reach: a holder whose API server is silent while its nodes live must
    /// not be cut off as well (docs/invariants.md, "Not covered").
    fn is_uncovered(&self, fault: &Fault) -> bool {
        let mute = self.sites.values().any(|site| site.up && (!site.api_up || site.api_slow > 0));
        let cut = self.array.sites.iter().any(|site| !self.linked(site));
        match fault {
            Fault::CutFromHub(_) | Fault::Isolate(_) | Fault::LoseHub => mute,
            Fault::ApiStops(site) => cut || self.hub.stays_down || self.site(site).agent.is_none(),
            Fault::ApiSlow(..) => cut || self.hub.stays_down,
            Fault::KillAgent(site) => !self.site(site).api_up,
            Fault::KillHub
            | Fault::HubReturns
            | Fault::CutPeers
            | Fault::Slow { .. }
            | Fault::Lose { .. }
            | Fault::Heal
            | Fault::Dies(_)
            | Fault::Returns(_)
            | Fault::ApiReturns(_)
            | Fault::HubApiStops
            | Fault::HubApiReturns
            | Fault::Prefer(_)
            | Fault::Scales { .. }
            | Fault::SlowPods(_)
            | Fault::SlowCrossing(_) => false,
        }
    }

    fn cut_from_hub(&mut self, site: &ClusterName) {
        self.network.cut(End::Hub, End::Agent(site.clone()));
        self.miss_stream(site);
    }

    /// Both ends find out by themselves, one after the other.
    fn miss_stream(&mut self, site: &ClusterName) {
        let at_hub = self.hub.streams.get(site).copied();
        if let Some(stream) = at_hub {
            let delay = self.random.within(&KEEP_ALIVE);
            self.later(delay, Happening::HubMissesStream { site: site.clone(), stream });
        }
        if let Some(stream) = self.site(site).stream {
            let delay = self.random.within(&KEEP_ALIVE);
            self.later(delay, Happening::AgentMissesStream { site: site.clone(), stream });
        }
    }

    fn cut_from_peers(&mut self, site: &ClusterName) {
        for other in self.array.sites.clone() {
            self.network.cut(End::Agent(site.clone()), End::Agent(other.clone()));
            self.network.cut(End::Array(site.clone()), End::Array(other));
        }
    }

    fn dies(&mut self, site: &ClusterName) {
        self.miss_stream(site);
        let here = self.site_mut(site);
        here.up = false;
        here.nodes_up = false;
        here.agent = None;
        here.life += 1;
        here.stream = None;
        here.containers.clear();
    }

    /// A cold start: another boot, and everything that Kubernetes still wants begins again.
    fn returns(&mut self, site: &ClusterName) {
        if self.site(site).up {
            return;
        }
        let clock = Clock::new(&mut self.random, self.now);
        let here = self.site_mut(site);
        here.up = true;
        here.api_up = true;
        here.api_slow = 0;
        here.boot += 1;
        here.clock = clock;
        here.workers.clear();
        let boot = here.boot;
        let claims: Vec<String> =
            here.kubernetes.of(&Kind::Replication).map(|(name, _)| name.to_owned()).collect();
        for claim in claims {
            self.reconcile_after(site, &claim, 500);
        }
        self.later(300, Happening::AgentStarts { site: site.clone() });
        self.later(NODES_AFTER_AGENT, Happening::NodesCome { site: site.clone(), boot });
        self.wake_controllers(site);
    }

    /// Watches begin anew with whole lists.
    fn api_returns(&mut self, site: &ClusterName) {
        self.site_mut(site).api_up = true;
        self.site_mut(site).api_slow = 0;
        if self.site(site).agent.is_some() {
            self.list_all(site);
        } else {
            self.later(100, Happening::AgentStarts { site: site.clone() });
        }
    }

    /// Faults of every kind between now and then; afterwards everything is mended.
    pub fn fail_at_random(&mut self, random: &mut Random, during: Time, most: u64) {
        let faults = random.within(&(1..=most));
        for _ in 0..faults {
            let at = random.within(&(0..=during));
            for (after, fault) in any(random, &self.array.sites) {
                self.queue.push(self.now + (at + after).min(during), Happening::Fails(fault));
            }
        }
        let sites = self.array.sites.clone();
        let mended =
            sites.iter().flat_map(|site| [Fault::Returns(site.clone()), Fault::ApiReturns(site.clone())]);
        for fault in mended.chain([Fault::Heal, Fault::HubReturns, Fault::HubApiReturns]) {
            self.queue.push(self.now + during + 1, Happening::Fails(fault));
        }
    }
}

/// One fault, and what ends it if it does not end by itself.
fn any(random: &mut Random, sites: &[ClusterName]) -> Vec<(Time, Fault)> {
    let site = random.one_of(sites).clone();
    let lasts = random.within(&(200..=25_000));
    let healed = |fault| vec![(0, fault), (lasts, Fault::Heal)];
    match random.within(&(0..=19)) {
        0 | 1 => vec![(0, Fault::KillHub)],
        2 | 3 => vec![(0, Fault::KillAgent(site))],
        4 => vec![(0, Fault::LoseHub), (lasts, Fault::HubReturns)],
        5 => healed(Fault::CutFromHub(site)),
        6 => healed(Fault::CutPeers),
        7 => healed(Fault::Isolate(site)),
        8 => healed(Fault::Slow { site, by: random.within(&(20..=900)) }),
        9 => healed(Fault::Lose { percent: random.within(&(5..=40)) }),
        10 | 11 => vec![(0, Fault::Prefer(site))],
        12 => healed(Fault::SlowCrossing(lasts / 2)),
        13 => vec![(0, Fault::ApiStops(site.clone())), (lasts, Fault::ApiReturns(site))],
        14 | 15 => {
            let by = random.within(&(300..=6_500));
            vec![(0, Fault::ApiSlow(site.clone(), by)), (lasts, Fault::ApiReturns(site))]
        }
        16 => vec![(0, Fault::Scales { site, replicas: 1 })],
        // Still within the time to stop.
        17 => healed(Fault::SlowPods(random.within(&(100..=1_200)))),
        18 => vec![(0, Fault::HubApiStops), (lasts, Fault::HubApiReturns)],
        _ => vec![(0, Fault::Dies(site.clone())), (lasts + 5_000, Fault::Returns(site))],
    }
}
