//! What goes wrong, on purpose: in the stories and traps at a chosen moment, in random runs at any.

use crds::placement::FailoverMode;
use hub_core::journal::{Entry, Line, StepRecord};
use proto::{ClusterName, StepKind};

use crate::application::{App, Number};
use crate::kubernetes::deployments;
use crate::network::{Echo, End};
use crate::reference;
use crate::scenario::edit;
use crate::transition::{Happening, Time};
use crate::wishes::{FailoverModeOf, FencingOf};
use crate::witness::WitnessFault;
use crate::world::{Clock, Human, Site, World};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillHub,
    /// The hub's machine stays down until `HubReturns`.
    LoseHub,
    HubReturns,
    /// SIGSTOP, and SIGCONT after so long.
    FreezeHub(Time),
    /// The hub comes back with its journal as it was before the newest operation.
    OldBackup,
    /// The same, and what the DRPlacements' statuses have told is gone as well.
    OldCluster,
    /// The hub comes back with its journal as it was before the newest promotion was begun.
    BackupBeforePromotion,
    HubApiStops,
    HubApiReturns,

    KillAgent(ClusterName),
    /// The agent is killed, and starts again on the same boot by a clock that is so many seconds ahead: as in another time
    /// namespace, or (backwards) on a machine that was set back to a snapshot.
    AnotherClock(ClusterName, i64),
    FreezeAgent(ClusterName, Time),
    /// The agent's machine is suspended, and its clock has not counted that.
    Suspend(ClusterName, Time),
    /// The hub's clock is as fast as the bound allows, and everybody else's as slow.
    ClocksApart,
    /// Every command is followed by that of another hub, for the same epoch and another operation.
    SecondHub,
    /// Somebody sets the wall clock of the agent's machine, by so many seconds forward.
    WallJump(ClusterName, i64),

    /// Between the hub and one agent.
    CutFromHub(ClusterName),
    /// What the hub says does not arrive.
    HubIsMute(ClusterName),
    /// What the agent says does not arrive.
    HubIsDeaf(ClusterName),
    /// Between all agents, and all arrays.
    CutPeers,
    /// What this agent says does not arrive at others.
    PeersAreDeaf(ClusterName),
    CutArrays,
    /// Everything but its own nodes.
    Isolate(ClusterName),
    Slow {
        site: ClusterName,
        by: Time,
    },
    Lose {
        percent: u64,
    },
    /// Commands, answers and heartbeats come twice, the second time late and in another order.
    Again {
        percent: u64,
        within: Time,
    },
    /// Of the third place, where there is one.
    Witness(WitnessFault),
    /// Links between agents and arrays as usual again.
    HealPeers,
    /// Everything but machines and API servers as usual again.
    Heal,

    /// Power off: nodes, API server, storage.
    Dies(ClusterName),
    Returns(ClusterName),
    ApiStops(ClusterName),
    ApiReturns(ClusterName),
    /// Some requests take so much longer, and are done when nobody waits any more.
    ApiSlow(ClusterName, Time),
    /// Admission goes by what was so much longer ago.
    AdmissionLags(ClusterName, Time),
    /// So many of a hundred writes meet somebody else's.
    Conflicts(ClusterName, u64),
    /// Watches lag by so much more.
    StaleWatch(ClusterName, Time),

    /// Somebody or something scales the workload of this cluster, as an autoscaler or GitOps would.
    Scales {
        site: ClusterName,
        replicas: u32,
    },
    /// Pods that are deleted take this much longer to end.
    SlowPods(Time),

    /// What the holder writes takes longer to arrive at the other array.
    SlowCrossing(Time),
    /// Nothing is mirrored.
    MirrorStalls,
    /// No volume can be promoted.
    PromotionHangs,
    /// All but this one can.
    OnePromotionHangs(&'static str),
    DemotionRefused,
    /// A copy that is made anew never arrives.
    ResyncHangs,

    /// The user prefers this cluster from now on: no fault, but it comes as unexpectedly.
    Prefer(ClusterName),
    SetMode(FailoverModeOf),
    SetFencing(FencingOf),
    SetTtl(Time),
    Pause(bool),
    Delete,
    /// The site that owns the most placements dies, or is isolated.
    OwnersLost {
        dies: bool,
    },
    /// Where nothing is moved unasked, the user asks for the other cluster once the owner is lost.
    SurvivorsPreferred,
    OwnersPreferred,
    /// What the user does to one placement alone; the others are left as they are.
    Of(Number, Box<Fault>),
    /// From now on somebody reads what is proposed.
    HumanComes(Human),
}

impl Fault {
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillHub => "hub killed",
            Fault::LoseHub => "hub away",
            Fault::HubReturns => "hub back",
            Fault::FreezeHub(_) => "hub frozen",
            Fault::OldBackup => "hub restored from an old backup",
            Fault::OldCluster => "hub's cluster restored from an old backup",
            Fault::BackupBeforePromotion => "hub restored from before a promotion",
            Fault::HubApiStops => "hub's API server stops",
            Fault::HubApiReturns => "hub's API server back",
            Fault::KillAgent(_) => "agent killed",
            Fault::AnotherClock(..) => "agent restarts by another clock",
            Fault::FreezeAgent(..) => "agent frozen",
            Fault::Suspend(..) => "agent's machine suspended",
            Fault::ClocksApart => "clock rates at their bounds",
            Fault::SecondHub => "second hub",
            Fault::WallJump(..) => "wall clock set",
            Fault::CutFromHub(_) => "site cut from hub",
            Fault::HubIsMute(_) => "one way: hub to site cut",
            Fault::HubIsDeaf(_) => "one way: site to hub cut",
            Fault::CutPeers => "sites cut from each other",
            Fault::PeersAreDeaf(_) => "one way: site to site cut",
            Fault::CutArrays => "arrays cut from each other",
            Fault::Isolate(_) => "site isolated",
            Fault::Slow { .. } => "slow link",
            Fault::Lose { .. } => "lossy links",
            Fault::Again { .. } => "messages doubled and reordered",
            Fault::Witness(fault) => fault.kind(),
            Fault::HealPeers => "links between sites mended",
            Fault::Heal => "links and storage mended",
            Fault::Dies(_) => "site dies",
            Fault::Returns(_) => "site returns",
            Fault::ApiStops(_) => "API server stops",
            Fault::ApiReturns(_) => "API server back",
            Fault::ApiSlow(..) => "API server slow, writes land late",
            Fault::AdmissionLags(..) => "admission reads an old cache",
            Fault::Conflicts(..) => "writes conflict",
            Fault::StaleWatch(..) => "watches lag",
            Fault::Scales { .. } => "workload scaled by others",
            Fault::SlowPods(_) => "pods slow to end",
            Fault::SlowCrossing(_) => "mirroring slow",
            Fault::MirrorStalls => "mirroring stalled",
            Fault::PromotionHangs => "promotion hangs",
            Fault::OnePromotionHangs(_) => "one of the volumes is not promoted",
            Fault::DemotionRefused => "demotion refused",
            Fault::ResyncHangs => "resync never ready",
            Fault::Prefer(_) => "user: preference edited",
            Fault::SetMode(_) => "user: mode and onSilence edited",
            Fault::SetFencing(_) => "user: fencing edited",
            Fault::SetTtl(_) => "user: ttl edited",
            Fault::Pause(true) => "user: paused",
            Fault::Pause(false) => "user: resumed",
            Fault::Delete => "user: placement deleted",
            Fault::Of(_, edit) => edit.kind(),
            Fault::OwnersLost { .. } => "the site with the most placements lost",
            Fault::SurvivorsPreferred => "user: survivors preferred",
            Fault::OwnersPreferred => "user: owners preferred",
            Fault::HumanComes(Human::Careful) => "human approves",
            Fault::HumanComes(Human::Careless) => "human approves what was not proposed",
            Fault::HumanComes(Human::Absent) => "human leaves",
        }
    }

    /// Whether it ends something, or asks for something: no fault of its own.
    pub fn is_mending(&self) -> bool {
        matches!(
            self,
            Fault::HubReturns
                | Fault::HubApiReturns
                | Fault::HealPeers
                | Fault::Heal
                | Fault::Returns(_)
                | Fault::ApiReturns(_)
                | Fault::Pause(false)
        )
    }
}

/// Longer than a keep-alive needs to find a connection dead.
const KEEP_ALIVE: std::ops::RangeInclusive<u64> = 1_000..=1_800;
/// Parts per million; the bound is one percent.
const FASTEST: i64 = 9_900;
/// The agent comes first; kubelets that are faster are what the fencing level SelfFence does not cover.
const NODES_AFTER_AGENT: Time = 9_000;
const MUTE_IS_KNOWN_AFTER: Time = 4_500;

impl World {
    pub fn fails(&mut self, fault: Fault) {
        if self.covered_only && self.is_uncovered(&fault) {
            return self.say(format!("fault: {fault:?} is not covered by SelfFence, and left out"));
        }
        self.say(format!("fault: {fault:?}"));
        *self.faults.entry(fault.kind()).or_default() += 1;
        self.watch.disturbed(self.now);
        match fault {
            Fault::KillHub
            | Fault::LoseHub
            | Fault::HubReturns
            | Fault::FreezeHub(_)
            | Fault::OldBackup
            | Fault::OldCluster
            | Fault::BackupBeforePromotion => self.hub_fails(fault),
            Fault::HubApiStops => self.hub.api_up = false,
            Fault::HubApiReturns => {
                self.hub.api_up = true;
                self.tell_wishes();
            }
            Fault::KillAgent(site) => self.kill_agent(&site),
            Fault::AnotherClock(site, seconds) => {
                self.kill_agent(&site);
                self.site_mut(&site).set_clock(seconds);
            }
            Fault::FreezeAgent(site, span) => self.freeze_agent(&site, span),
            Fault::Suspend(site, span) => {
                self.freeze_agent(&site, span);
                let until = self.now + span;
                let here = self.site_mut(&site);
                here.slept = true;
                here.clock.miss(until, span);
                // Its timers have run out meanwhile.
                let (life, wall) = (here.life, here.own_wall(until));
                let event = Box::new(agent_core::Event::Tick(wall));
                self.queue.push(until, Happening::AgentHears { site, life, event });
            }
            Fault::ClocksApart => self.part_the_clocks(),
            Fault::SecondHub => self.hub.twin = true,
            Fault::WallJump(site, seconds) => self.site_mut(&site).wall_ahead += seconds * 1000,
            Fault::CutFromHub(_)
            | Fault::HubIsMute(_)
            | Fault::HubIsDeaf(_)
            | Fault::CutPeers
            | Fault::PeersAreDeaf(_)
            | Fault::CutArrays
            | Fault::Isolate(_) => self.cuts(fault),
            Fault::Slow { site, by } => self.network.slow_down(End::Hub, End::Agent(site), by),
            Fault::Lose { percent } => self.network.lose(percent),
            Fault::Again { percent, within } => self.network.echo = Echo { percent, within },
            Fault::Witness(fault) => self.witness_fails(&fault),
            Fault::HealPeers => self.heal_peers(),
            Fault::Heal => self.heal(),
            Fault::Dies(site) => self.dies(&site),
            Fault::Returns(site) => self.returns(&site),
            Fault::ApiStops(site) => {
                let now = self.now;
                let here = self.site_mut(&site);
                if std::mem::take(&mut here.api_up) {
                    here.api_down_since = now;
                }
            }
            Fault::ApiSlow(site, by) => self.site_mut(&site).api_slow = by,
            Fault::ApiReturns(site) => self.api_returns(&site),
            Fault::AdmissionLags(site, by) => self.site_mut(&site).admission_lag = by,
            Fault::Conflicts(site, percent) => self.site_mut(&site).conflicts = percent,
            Fault::StaleWatch(site, by) => self.site_mut(&site).watch_lag = by,
            Fault::Scales { site, replicas } => {
                for workload in self.apps.iter().map(|app| app.workload.clone()).collect::<Vec<_>>() {
                    let kubernetes = &mut self.site_mut(&site).kubernetes;
                    let _none_at_a_mere_neighbour = kubernetes.change(&deployments(), &workload, |object| {
                        object["spec"]["replicas"] = serde_json::json!(replicas);
                    });
                }
            }
            Fault::SlowPods(delay) => self.pod_delay = delay,
            Fault::SlowCrossing(_)
            | Fault::MirrorStalls
            | Fault::PromotionHangs
            | Fault::OnePromotionHangs(_)
            | Fault::DemotionRefused
            | Fault::ResyncHangs => self.storage_fails(&fault),
            Fault::Prefer(_)
            | Fault::SetMode(_)
            | Fault::SetFencing(_)
            | Fault::SetTtl(_)
            | Fault::Pause(_)
            | Fault::Delete => {
                (0..self.apps.len()).for_each(|app| self.user_edits(app, &fault));
            }
            Fault::OwnersLost { dies } => self.owners_lost(dies),
            Fault::SurvivorsPreferred => self.survivors_preferred(),
            Fault::OwnersPreferred => self.owners_preferred(),
            Fault::Of(app, edit) => self.user_edits(app, &edit),
            Fault::HumanComes(human) => self.human_comes(human),
        }
    }

    fn part_the_clocks(&mut self) {
        let now = self.now;
        self.hub.clock.run_at(now, FASTEST);
        self.sites.values_mut().for_each(|site| site.clock.run_at(now, -FASTEST));
    }

    fn hub_fails(&mut self, fault: Fault) {
        if let Fault::FreezeHub(span) = fault {
            self.hub.frozen_until = self.now + span;
        } else if fault == Fault::HubReturns {
            self.hub.stays_down = false;
            self.later(100, Happening::HubStarts);
        } else {
            self.kill_hub();
            self.hub.stays_down |= fault == Fault::LoseHub;
            if matches!(fault, Fault::OldBackup | Fault::OldCluster) {
                self.restore_backup();
                if fault == Fault::OldCluster {
                    let wishes = self.apps.iter_mut().filter_map(|app| app.wish.as_mut());
                    wishes.for_each(|wish| wish.status = None);
                }
            } else if fault == Fault::BackupBeforePromotion {
                let begins = |line: &Line| {
                    matches!(
                        line.entry,
                        Entry::Step { step: StepKind::Promote, state: StepRecord::Issued, .. }
                    )
                };
                if let Some(end) = self.hub.lines.iter().rposition(begins) {
                    self.restore(end);
                }
            }
        }
    }

    fn storage_fails(&mut self, fault: &Fault) {
        let ails = &mut self.storage_ails;
        if let Fault::OnePromotionHangs(claim) = fault {
            ails.promotion_of = Some(claim);
        }
        ails.mirroring |= *fault == Fault::MirrorStalls;
        ails.promotion |= *fault == Fault::PromotionHangs;
        ails.demotion |= *fault == Fault::DemotionRefused;
        ails.resync |= *fault == Fault::ResyncHangs;
        if let Fault::SlowCrossing(delay) = fault {
            self.crossing_delay = *delay;
        }
    }

    fn owners_lost(&mut self, dies: bool) {
        let owned = |site: &ClusterName| {
            let owner = |app: &&App| reference::owner(&app.lines).is_some_and(|(_, owner)| owner == site);
            self.apps.iter().filter(owner).count()
        };
        let Some(site) = self.array.sites.iter().max_by_key(|site| owned(site)).cloned() else { return };
        self.fails(if dies { Fault::Dies(site) } else { Fault::Isolate(site) });
    }

    fn survivors_preferred(&mut self) {
        for app in 0..self.apps.len() {
            let App { wish, lines, .. } = &self.apps[app];
            let manual = wish.as_ref().is_some_and(|wish| wish.spec.failover.mode == FailoverMode::Manual);
            let Some((_, owner)) = reference::owner(lines).filter(|_| manual) else { continue };
            let lost = !self.site(owner).up || !self.linked(owner);
            if let Some(other) = self.array.peer(owner).filter(|_| lost) {
                self.user_edits(app, &Fault::Prefer(other));
            }
        }
    }

    fn user_edits(&mut self, app: Number, fault: &Fault) {
        if let Fault::Prefer(cluster) = fault {
            edit(self, app, |wish| wish.spec.preferred_cluster = cluster.to_string());
        } else if let Fault::SetMode(mode) = fault {
            edit(self, app, |wish| mode.set(wish));
        } else if let Fault::SetFencing(level) = fault {
            edit(self, app, |wish| level.set(wish));
        } else if let Fault::SetTtl(ttl) = fault {
            edit(self, app, |wish| {
                if let Some(timing) = &mut wish.spec.failover.timing {
                    timing.ttl = Some(format!("{ttl}ms"));
                }
            });
        } else if let Fault::Pause(paused) = fault {
            edit(self, app, |wish| wish.spec.paused = *paused);
        } else {
            crate::scenario::delete(self, app);
        }
    }

    /// SelfFence does not stop what its agent cannot reach, nor what an agent that is not run should stop: a holder whose
    /// API server or agent is silent while its nodes live must not be cut off as well (docs/invariants.md, "Not covered").
    fn is_uncovered(&self, fault: &Fault) -> bool {
        let mute = self.sites.values().any(|site| {
            let lags = site.watch_lag > 0 || site.admission_lag > 0;
            let silent = !site.api_up && !self.is_known_to_be_mute(site);
            site.up && (silent || site.api_slow > 0 || site.conflicts > 0 || lags)
        });
        let frozen = self.sites.values().any(|site| site.frozen_until > self.now);
        let cut = self.array.sites.iter().any(|site| !self.linked(site)) || self.hub.stays_down;
        let isolates = matches!(
            fault,
            Fault::CutFromHub(_)
                | Fault::HubIsMute(_)
                | Fault::HubIsDeaf(_)
                | Fault::Isolate(_)
                | Fault::LoseHub
                | Fault::Slow { .. }
        );
        let disables = matches!(
            fault,
            Fault::ApiSlow(..)
                | Fault::FreezeAgent(..)
                | Fault::Suspend(..)
                | Fault::AdmissionLags(..)
                | Fault::Conflicts(..)
                | Fault::StaleWatch(..)
        );
        let blinds = isolates || matches!(fault, Fault::CutPeers | Fault::PeersAreDeaf(_));
        let rare = matches!(fault, Fault::OldBackup | Fault::OldCluster | Fault::Delete);
        if let Fault::ApiStops(site) = fault {
            return cut || self.site(site).agent.is_none();
        }
        if let Fault::KillAgent(site) | Fault::AnotherClock(site, _) = fault {
            return !self.site(site).api_up;
        }
        // One of these makes a human look.
        rare && self.watch.needs_a_human_already()
            || isolates && mute
            || blinds && frozen
            || disables && (cut || !self.network.is_whole())
    }

    /// The hub has heard for long enough that its agent can write nothing: it relies on no fence there any more.
    fn is_known_to_be_mute(&self, site: &Site) -> bool {
        let since = site.api_down_since.max(self.hub.started);
        self.hub.hub.is_some() && self.linked(&site.name) && self.now > since + MUTE_IS_KNOWN_AFTER
    }

    fn cuts(&mut self, fault: Fault) {
        if let Fault::CutFromHub(site) = fault {
            self.cut_from_hub(&site);
        } else if let Fault::HubIsMute(site) = fault {
            self.network.cut_one_way(End::Hub, End::Agent(site.clone()));
            self.miss_stream(&site);
        } else if let Fault::HubIsDeaf(site) = fault {
            self.network.cut_one_way(End::Agent(site.clone()), End::Hub);
            self.miss_stream(&site);
        } else if let Fault::PeersAreDeaf(site) = fault {
            for other in self.array.sites.clone() {
                self.network.cut_one_way(End::Agent(site.clone()), End::Agent(other));
            }
        } else if let Fault::Isolate(site) = fault {
            self.cut_from_hub(&site);
            self.cut_from_peers(&site);
            self.network.cut(End::Agent(site), End::Witness);
        } else if fault == Fault::CutArrays {
            self.cut_arrays();
        } else {
            for site in self.array.sites.clone() {
                self.cut_from_peers(&site);
            }
        }
    }

    fn freeze_agent(&mut self, site: &ClusterName, span: Time) {
        let until = self.now + span;
        let here = self.site_mut(site);
        here.frozen_until = here.frozen_until.max(until);
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

    fn cut_arrays(&mut self) {
        if let [a, b, ..] = self.array.sites.as_slice() {
            self.network.cut(End::Array(a.clone()), End::Array(b.clone()));
        }
    }

    fn heal_peers(&mut self) {
        let cut: Vec<ClusterName> = self.sites.keys().filter(|site| !self.linked(site)).cloned().collect();
        self.network.heal();
        for site in cut {
            self.network.cut(End::Hub, End::Agent(site));
        }
    }

    fn heal(&mut self) {
        self.network.heal();
        self.mend_witness();
        self.pod_delay = 0;
        self.crossing_delay = 0;
        self.storage_ails = Default::default();
        self.hub.twin = false;
        for site in self.sites.values_mut() {
            site.conflicts = 0;
            site.watch_lag = 0;
            site.admission_lag = 0;
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
        here.mounted.clear();
        here.leases.iter_mut().for_each(|lease| lease.end = None);
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
        here.frozen_until = 0;
        here.workers.clear();
        let boot = here.boot;
        let claims: Vec<String> =
            here.kubernetes.of(&agent_core::Kind::Replication).map(|(name, _)| name.to_owned()).collect();
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
}
