//! What the hub knows about one placement now, as ages, not timestamps: the whole ground of every choice.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{
    ClusterName, Inventory, Outcome, PlacementId, PlacementName, Replication, Report, Role, Shared, StepKind,
    VolumeState, WallTime,
};

use crate::approval::Approval;
use crate::checks;
use crate::decision::Remembered;
use crate::finding::Finding;
use crate::fleet::{Cluster, Heard, Liveness, Seen};
use crate::placement::Placement;
use crate::progress::Progress;
use crate::witness::WitnessView;

pub struct Observation<'a> {
    pub placement: &'a Placement,
    pub progress: &'a Progress,
    pub remembered: Option<&'a Remembered>,
    /// The clusters of the placement that have a DRCluster, in the user's order; the holder last, if an edit took it out.
    pub sites: Vec<SiteView<'a>>,
    /// Named in the placement, but no DRCluster of that name exists.
    pub unconfigured: Vec<&'a ClusterName>,
    pub hub: HubView<'a>,
    /// Since the last grant to the holder, or since this hub started if there was none since.
    pub lease_age: Duration,
    /// Since a linearizable read of the DRPlacement began; none: not read since this hub started.
    pub verified_age: Option<Duration>,
    /// Who would take over: the first in the user's order that could, or simply the first if none can.
    pub aim: Option<ClusterName>,
    /// The other clusters in the user's order, and what stands against each as a target.
    pub standbys: Vec<(ClusterName, Option<Finding>)>,
    /// What stands against the preferred cluster as a target, where another one is the holder.
    pub preferred_flaw: Option<Finding>,
    /// Answers of humans that name this placement.
    pub approvals: Vec<&'a Approval>,
    /// What `spec.dependsOn` names and does not serve now.
    pub missing_dependencies: Vec<String>,
    /// Since when the copy has met the bound, if it does.
    pub protected_since: Option<WallTime>,
    /// Another placement that selects the same and was here first.
    pub overlapping: Option<&'a PlacementName>,
    /// A claim that another placement owns too, looked for before anything is adopted or moved on purpose.
    pub shared_claim: Option<(&'a PlacementName, &'a str)>,
    pub wall: WallTime,
}

pub struct HubView<'a> {
    pub failure_domain: &'a str,
    /// How long it has listened: since it started, or stood still.
    pub listening: Duration,
    pub witnesses: Vec<WitnessView<'a>>,
    pub sites: usize,
    /// Sites that are suspected now, by this placement's timing.
    pub dark: usize,
    /// Clusters that were lost by automatic failovers within the last hour.
    pub lost_lately: Vec<&'a ClusterName>,
    /// How long a site that was lost must be heard before it is a target.
    pub steady_after: Duration,
    /// Moves of other placements that run now, and how many may.
    pub moving: usize,
    pub moving_at_most: usize,
    /// The failover of another placement that has gone past its point of no return and is not through.
    pub first_out: Option<FirstOut<'a>>,
}

/// The placement that goes first of those which leave a cluster.
pub struct FirstOut<'a> {
    pub placement: &'a PlacementId,
    pub name: &'a PlacementName,
    pub from: ClusterName,
    pub promoting_for: Duration,
}

pub struct SiteView<'a> {
    pub cluster: &'a Cluster,
    pub connected: bool,
    pub liveness: Liveness,
    pub silent: Duration,
    /// How long it has been heard since it was last lost; none: not lost since this hub started.
    pub back_for: Option<Duration>,
    pub heard: Option<&'a Heard>,
    pub report: Option<&'a Report>,
    /// How long it has been heard on its stream without a report on the placement; zero if there is one.
    pub mute: Duration,
    /// What it sees of the placement's holder.
    pub sees_holder: Vec<Seen>,
    /// Its answers to the commands of the operation that runs.
    pub answers: BTreeMap<StepKind, &'a Outcome>,
}

impl SiteView<'_> {
    /// Heard lately, on a stream that stands: what it says counts, and what it is told arrives.
    pub fn is_in_contact(&self) -> bool {
        self.connected && self.liveness == Liveness::Alive
    }

    /// Neither heard, with its report, since this hub began to listen, nor silent or mute for so long that this says something.
    pub fn is_unknown(&self, patience: Duration) -> bool {
        match self.liveness {
            Liveness::Unheard => true,
            Liveness::Alive => self.report.is_none() && self.mute < patience,
            Liveness::Suspect | Liveness::Unreachable => false,
        }
    }

    /// Not heard for so long that it may be lost.
    pub fn is_silent(&self) -> bool {
        matches!(self.liveness, Liveness::Suspect | Liveness::Unreachable)
    }

    /// Silent for so long that it may be declared lost.
    pub fn is_unreachable(&self) -> bool {
        self.liveness == Liveness::Unreachable
    }
}

/// What an application that is not ready lacks, or where to look: there are no pods to look at when none are made.
pub fn what_it_lacks(report: Option<&Report>) -> &str {
    let ailments = report.into_iter().flat_map(|report| &report.ailments);
    let mut refused = ailments.filter(|ailment| ailment.reason == "PodsRefused");
    refused.next().map_or("look at their pods", |ailment| ailment.message.as_str())
}

/// Whether its VolumeReplication, if there is one, says `primary`, whatever has come of it.
pub fn is_meant_to_be_primary(volume: &VolumeState) -> bool {
    volume.replication.as_ref().is_some_and(|replication| replication.desired == "primary")
}

impl<'a> Observation<'a> {
    pub fn site(&self, cluster: &ClusterName) -> Option<&SiteView<'a>> {
        self.sites.iter().find(|site| site.cluster.name == *cluster)
    }

    pub fn holder_name(&self) -> Option<&'a ClusterName> {
        self.progress.ownership.as_ref().map(|ownership| &ownership.holder)
    }

    pub fn holder(&self) -> Option<&SiteView<'a>> {
        self.holder_name().and_then(|holder| self.site(holder))
    }

    /// Who takes over in the move that runs, or would in a failover.
    pub fn target(&self) -> Option<&SiteView<'a>> {
        let holder = self.holder_name();
        let running = self
            .progress
            .running()
            .filter(|operation| operation.intent.kind.takes_away() && Some(&operation.intent.to) != holder);
        if let Some(operation) = running {
            return self.site(&operation.intent.to);
        }
        match &self.aim {
            Some(aim) => self.site(aim),
            None => self.candidates().next(),
        }
    }

    /// The clusters other than the holder, in the user's order.
    pub fn candidates(&self) -> impl Iterator<Item = &SiteView<'a>> {
        let holder = self.holder_name();
        self.sites.iter().filter(move |site| Some(&site.cluster.name) != holder)
    }

    /// Judges every other cluster as a target, and aims at the first that could take over now; at the first of all if none
    /// could.
    pub fn look_at_the_standbys(&mut self) {
        let names: Vec<ClusterName> = self.candidates().map(|site| site.cluster.name.clone()).collect();
        for name in names {
            self.aim = Some(name.clone());
            let flaw = checks::first(checks::TARGET, self);
            self.standbys.push((name, flaw));
        }
        self.aim = self.choose().cloned();
        let preferred = self.standbys.iter().find(|(name, _)| *name == self.placement.preferred);
        self.preferred_flaw = preferred.and_then(|(_, flaw)| flaw.clone());
    }

    /// The one the user prefers before the others, and one whose copy is known to follow before one whose copy is not.
    fn choose(&self) -> Option<&ClusterName> {
        let ready = || self.standbys.iter().filter(|(_, flaw)| flaw.is_none()).map(|(name, _)| name);
        let follows = |name: &&ClusterName| checks::not_a_follower(self, name).is_none();
        let preferred = |name: &&ClusterName| **name == self.placement.preferred;
        let following = || ready().filter(follows);
        following()
            .find(preferred)
            .or_else(|| following().next())
            .or_else(|| ready().find(preferred))
            .or_else(|| ready().next())
    }

    /// How far the last syncs of the volumes lie apart; none as long as one has none.
    pub fn skew(&self) -> Option<Duration> {
        let volumes = self.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
        let syncs: Option<Vec<WallTime>> = volumes.iter().map(last_sync).collect();
        let syncs = syncs?;
        Some(syncs.iter().max()?.since(*syncs.iter().min()?))
    }

    pub fn inventory(&self) -> Option<&'a Shared<Inventory>> {
        self.remembered.map(|remembered| &remembered.inventory)
    }

    /// The bound the user wrote down, or three scheduling intervals of the class (protocol §5).
    pub fn loss_bound(&self) -> Option<Duration> {
        self.placement.max_data_loss.or_else(|| Some(scheduling_interval(self.inventory()?)? * 3))
    }

    /// How long copies may stay away before something is wrong with them, however little the user wants to lose.
    pub fn rhythm(&self) -> Option<Duration> {
        let three_copies = self
            .inventory()
            .and_then(|inventory| scheduling_interval(inventory))
            .map(|interval| interval * 3);
        self.loss_bound().max(three_copies)
    }

    /// What would be lost of each volume if the holder were lost at `when`; `None` is unknown, which is infinite.
    pub fn losses(&self, when: WallTime) -> Vec<(&'a VolumeState, Option<Duration>)> {
        let volumes = self.remembered.map(|remembered| remembered.volumes.as_slice()).unwrap_or_default();
        volumes.iter().map(|volume| (volume, last_sync(volume).map(|sync| when.since(sync)))).collect()
    }

    /// The loss of the worst volume; none if any volume's is unknown, or no volume is known.
    pub fn worst_loss(&self, when: WallTime) -> Option<Duration> {
        let losses = self.losses(when);
        if losses.is_empty() {
            return None;
        }
        losses
            .into_iter()
            .map(|(_, loss)| loss)
            .try_fold(Duration::ZERO, |worst, loss| Some(worst.max(loss?)))
    }

    /// When the holder was last heard, to this hub's knowledge; now, as long as it is heard.
    pub fn loss_time(&self) -> WallTime {
        match self.holder() {
            Some(holder) if holder.liveness != Liveness::Alive => {
                let kept = self.remembered.map(|remembered| remembered.received);
                holder.heard.map(|heard| heard.at_wall).or(kept).unwrap_or(self.wall)
            }
            Some(_) | None => self.wall,
        }
    }

    /// When a holder that is not heard any more was lost at the latest: its next heartbeat never came. What it wrote until
    /// then is lost as well. (Cut off but alive it writes on until its fence; the receipt gives that bound beside this.)
    pub fn lost_by(&self) -> WallTime {
        let later = match self.holder() {
            Some(holder) if holder.liveness != Liveness::Alive => {
                // What an earlier hub kept on disk is older than the last word it heard by up to as much.
                let kept = if holder.heard.is_none() { KEPT_AT_LEAST_EVERY } else { Duration::ZERO };
                kept + self.placement.policy.timing.renew
            }
            Some(_) | None => Duration::ZERO,
        };
        (self.loss_time() + later).min(self.wall)
    }
}

/// How often the hub keeps the holder's last word on disk, when nothing but its time has changed.
pub const KEPT_AT_LEAST_EVERY: Duration = Duration::from_secs(10);

pub fn last_sync(volume: &VolumeState) -> Option<WallTime> {
    volume.replication.as_ref().and_then(|replication: &Replication| replication.last_sync)
}

/// The `schedulingInterval` of the VolumeReplicationClass among the copied classes.
fn scheduling_interval(inventory: &Inventory) -> Option<Duration> {
    inventory.classes.iter().find_map(|class| {
        let text = class.get("spec")?.get("parameters")?.get("schedulingInterval")?.as_str()?;
        match text.strip_suffix('d') {
            Some(days) => Some(Duration::from_secs(days.parse::<u64>().ok()?.checked_mul(86_400)?)),
            None => crds::span::parse(text).ok(),
        }
    })
}

/// Whether a report shows the application serving: everything that is wanted is ready, and something is wanted.
pub fn is_ready(report: &Report) -> bool {
    report.role == Role::Holder
        && report.workloads.iter().any(|workload| workload.wanted > 0)
        && report.workloads.iter().all(|workload| workload.ready >= workload.wanted)
}
