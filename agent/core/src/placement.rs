//! One placement in this cluster: what is known, what it is, and how it passes from one role to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::volume::WorkloadReplicas;
use proto::{
    Action, Assignment, ClusterName, Command, Epoch, Fencing, Generation, HoldAnswer, Moment, OnSilence,
    Outcome, PlacementId, PlacementName, Policy, Protect, Report, Role, Rule, Selector, StepKind, Timing,
    WallTime, kept,
};

use crate::divergence::{Refusals, refusals};
use crate::event::{AskId, back_off};
use crate::fence::FenceProgress;
use crate::gates::Gates;
use crate::lease::Lease;
use crate::reconcilers::{self, Reconciler};
use crate::rest::Rest;
use crate::site_state::{Recorded, SiteState};
use crate::survey::{Standing, Survey};
use crate::world::{Followed, World};

/// After an effect has succeeded it is not repeated for this long, whatever a lagging watch still shows.
const SETTLING: Duration = Duration::from_secs(1);
/// A change that was given up may still land: no request lives longer than this, five seconds and a margin.
const MAY_STILL_LAND: Duration = Duration::from_secs(7);
/// A fence that is not in force yet is probed again this soon: admission's cache lags by some tens of milliseconds.
const PROBE_AGAIN: Duration = Duration::from_millis(25);

#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub name: PlacementName,
    /// The newest from the hub, with its inventory; after a restart the recorded one, without.
    pub assignment: Option<Assignment>,
    /// What this cluster is, perhaps not durable yet; none: nothing has been asked of it.
    pub site: Option<SiteState>,
    pub recorded: Option<Recorded>,
    pub writing: Attempt,
    pub lease: Lease,
    /// Why the policy of the newest assignment is not taken, if it is not.
    pub refused_policy: Option<String>,
    pub command: Option<Current>,
    pub fence: Option<FenceProgress>,
    pub attempts: BTreeMap<String, Attempt>,
    /// What of Argo CD or Flux applies it, each with an object that says so, and what is still paused for it.
    pub reconcilers: BTreeMap<Reconciler, String>,
    pub gates: Gates,
    /// Until when a change that stops the application may still land, although it has ended or was given up.
    pub stops_until: Moment,
    /// Peers that wait for a promise to be durable.
    pub unanswered: Vec<(AskId, HoldAnswer)>,
    pub promised_until: Option<Moment>,
    /// Of the world's revision that it was made at.
    pub survey: Option<(u64, Survey)>,
    /// The one before it, by an assignment that asks for the same: what has not changed since need not be made anew.
    pub survey_before: Option<Survey>,
    /// Counts the surveys made.
    pub surveys: u64,
    pub reporting: Reporting,
    /// Once told that the lease has run out, not again.
    pub told_expiry: bool,
    /// Of the newest survey: what VolumeReplications say against their copies, and since when one does.
    pub refusals: Refusals,
    pub refused_since: Option<Moment>,
    /// When the hub last asked for the copy here to be made anew.
    pub resync_asked: Moment,
    /// None: it has to be looked at.
    pub rest: Option<Rest>,
    /// What has to be watched for it, since the last look.
    pub followed: Followed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Current {
    pub command: Command,
    pub admitted: Moment,
    /// Its epoch is durable.
    pub accepted: bool,
    /// The last answer; a change is told.
    pub answered: Option<Outcome>,
    /// What is only waited for changes often, and is told less often.
    pub quiet_until: Moment,
}

impl Current {
    /// Claims that it names, whether or not they are labelled here.
    pub fn claims(&self) -> Vec<String> {
        match &self.command.action {
            Action::Promote { claims, proof: _ } => claims.clone(),
            Action::Restore { inventory } => {
                inventory.volumes.iter().map(|volume| volume.claim.clone()).collect()
            }
            Action::Resync { claims } => claims.clone(),
            Action::Fence
            | Action::ScaleDown
            | Action::Demote
            | Action::ScaleUp { .. }
            | Action::Rejoin
            | Action::Release => Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    pub in_flight: bool,
    /// What it tries stops the application.
    pub stops: bool,
    /// No command waits for it.
    pub aside: bool,
    pub failures: u32,
    pub not_before: Moment,
    pub message: Option<String>,
}

impl Attempt {
    pub fn may_begin(&self, now: Moment) -> bool {
        !self.in_flight && now >= self.not_before
    }

    pub fn succeeded(&mut self, now: Moment) {
        *self = Attempt { not_before: now + SETTLING, ..Attempt::default() };
    }

    pub fn must_be_repeated(&mut self, now: Moment) {
        *self = Attempt { not_before: now + PROBE_AGAIN, ..Attempt::default() };
    }

    pub fn failed(&mut self, now: Moment, message: String) {
        self.in_flight = false;
        self.not_before = now + back_off(self.failures);
        self.failures += 1;
        self.message = Some(message);
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reporting {
    pub sent: Option<Report>,
    /// What the last report was made from: the same again needs no new one.
    pub basis: Option<(u64, Standing)>,
    pub inventory_sent: Option<String>,
    pub not_before: Moment,
}

impl Placement {
    pub fn new(name: PlacementName) -> Placement {
        Placement {
            name,
            assignment: None,
            site: None,
            recorded: None,
            writing: Attempt::default(),
            lease: Lease::default(),
            refused_policy: None,
            command: None,
            fence: None,
            attempts: BTreeMap::new(),
            reconcilers: BTreeMap::new(),
            gates: Gates::default(),
            stops_until: Moment::default(),
            unanswered: Vec::new(),
            promised_until: None,
            survey: None,
            survey_before: None,
            surveys: 0,
            reporting: Reporting::default(),
            told_expiry: false,
            refusals: Refusals::default(),
            refused_since: None,
            resync_asked: Moment::default(),
            rest: None,
            followed: Followed::default(),
        }
    }

    pub fn epoch_seen(&self) -> Epoch {
        self.site.as_ref().map_or(Epoch(0), |site| site.epoch_seen)
    }

    pub fn role(&self) -> Role {
        self.site.as_ref().map_or(Role::Unknown, |site| site.role)
    }

    /// What the holder lives by: only what grants have brought (protocol R6), so not always the newest assignment's.
    pub fn policy(&self) -> Option<Policy> {
        let recorded = self.site.as_ref().and_then(|site| site.assignment.as_ref());
        recorded.or(self.assignment.as_ref()).map(|assignment| assignment.policy)
    }

    pub fn targets(&self) -> impl Iterator<Item = &ClusterName> {
        let peers = self.assignment.iter().flat_map(|assignment| &assignment.peers);
        peers.filter(|peer| peer.eligible).map(|peer| &peer.cluster)
    }

    pub fn is_holder_by_assignment(&self, cluster: &ClusterName) -> bool {
        self.assignment.as_ref().is_some_and(|assignment| {
            assignment.holder.as_ref() == Some(cluster) && assignment.epoch == self.epoch_seen()
        })
    }

    /// Whether it asks the hub for a lease. A site that its own deadline has stopped asks as well: as long as the hub
    /// says that nobody else has taken over, its grant starts the application again.
    pub fn renews(&self, cluster: &ClusterName) -> bool {
        match self.role() {
            Role::Holder => true,
            Role::Fenced => self.is_holder_by_assignment(cluster) && !self.is_commanded_to_fence(),
            Role::Promoting | Role::Standby | Role::Unknown => false,
        }
    }

    fn is_commanded_to_fence(&self) -> bool {
        self.command.as_ref().is_some_and(|current| {
            matches!(current.command.action, Action::Fence | Action::ScaleDown | Action::Demote)
        })
    }

    fn has_handed_over(&self) -> bool {
        self.site.as_ref().is_some_and(SiteState::has_handed_over)
    }

    /// Another cluster holds the very epoch that this one has last seen.
    pub fn is_held_elsewhere(&self, cluster: &ClusterName) -> bool {
        self.assignment.as_ref().is_some_and(|assignment| {
            let elsewhere = assignment.holder.as_ref().is_some_and(|holder| holder != cluster);
            elsewhere && assignment.epoch == self.epoch_seen()
        })
    }

    /// Whether what stands here is what the user has: a standby has a copy, and a holder that was cut off may have been
    /// replaced.
    pub fn is_source(&self) -> bool {
        match self.role() {
            Role::Holder | Role::Promoting => true,
            Role::Fenced => self.is_handing_over(),
            Role::Standby | Role::Unknown => self.epoch_seen() == Epoch(0),
        }
    }

    fn is_handing_over(&self) -> bool {
        let commanded = self
            .command
            .as_ref()
            .is_some_and(|current| matches!(current.command.action, Action::ScaleDown | Action::Demote));
        let done = |site: &SiteState| site.has_done(StepKind::ScaleDown) || site.has_done(StepKind::Demote);
        commanded || self.site.as_ref().is_some_and(done)
    }

    pub fn is_being_released(&self) -> bool {
        self.command.as_ref().is_some_and(|current| current.command.action == Action::Release)
    }

    /// A release waits for a fence no longer than stopping may take, so that one that never ends does not keep it.
    pub fn release_is_due(&self, now: Moment) -> bool {
        let stop = self.policy().map_or(Duration::ZERO, |policy| policy.timing.stop);
        self.command.as_ref().is_some_and(|current| now >= current.admitted + stop)
    }

    pub fn is_in_use_while_fenced(&self) -> bool {
        self.fence.is_some() && self.survey.as_ref().is_some_and(|(_, survey)| survey.has_users())
    }

    pub fn fence_is_complete(&self) -> bool {
        self.fence.as_ref().is_some_and(|progress| progress.complete)
    }

    /// A cluster that was unassigned has kept its DRSiteState: letting go of it needs no more than that one names.
    pub fn assign_to_let_go(&mut self, id: &PlacementId) {
        let nothing = || Selector(BTreeMap::new());
        self.assignment.get_or_insert_with(|| Assignment {
            placement: id.clone(),
            name: self.name.clone(),
            epoch: Epoch(0),
            holder: None,
            protect: Protect { volumes: nothing(), workloads: nothing(), objects: Vec::new() },
            replication_class: String::new(),
            // Of the class only that there is one is known, and that is enough to find the group.
            group_class: self.site.as_ref().and_then(|site| site.group.as_ref()).map(|_| String::new()),
            policy: Policy {
                generation: Generation(0),
                timing: Timing::DEFAULT,
                on_silence: OnSilence::Stop,
                fencing: Fencing::SelfFence,
            },
            peers: Vec::new(),
            inventory: None,
        });
    }

    /// The site, made if there is none yet.
    pub fn site_mut(&mut self, id: &PlacementId) -> &mut SiteState {
        let assignment = self.assignment.as_ref().map(without_inventory);
        let name = self.name.clone();
        self.site.get_or_insert_with(|| {
            let mut site = SiteState::new(id.clone(), name);
            site.group = assignment.as_ref().and_then(Assignment::group).map(str::to_owned);
            site.assignment = assignment;
            site
        })
    }

    pub fn enter_role(&mut self, id: &PlacementId, epoch: Epoch, role: Role, now: Moment, wall: WallTime) {
        if epoch > self.epoch_seen() {
            self.lease.enter_epoch();
        }
        let entered = self.role() != role || self.epoch_seen() != epoch;
        self.rest = None;
        let site = self.site_mut(id);
        site.epoch_seen = site.epoch_seen.max(epoch);
        site.role = role;
        if entered {
            // An approval is for one copy at one epoch.
            site.resync = None;
        }
        if matches!(role, Role::Holder | Role::Promoting) {
            site.handed_over = None;
        }
        match role {
            Role::Fenced if entered => {
                site.fenced_at = Some(wall);
                self.fence = Some(FenceProgress::begin(now));
            }
            Role::Fenced => {}
            Role::Holder | Role::Promoting | Role::Standby | Role::Unknown => self.fence = None,
        }
        self.told_expiry = false;
    }

    /// Boot time and wall time have moved apart by `jump` since this cluster promised to wait, or since it was last looked at.
    pub fn wait_longer(&mut self, now: Moment, jump: Duration, boot: &str, clock_offset: Option<i64>) {
        if matches!(self.role(), Role::Holder | Role::Promoting) {
            return;
        }
        let promise = self.site.as_mut().and_then(|site| site.promise.as_mut());
        let Some((promise, until)) = promise.zip(self.promised_until) else { return };
        (promise.boot, promise.clock_offset, promise.until) = (boot.to_owned(), clock_offset, until);
        promise.until = promise.until_by(now, Some(jump));
        self.promised_until = Some(promise.until);
        // It is to be written down, too.
        self.rest = None;
    }

    /// What throws a copy away goes on only while somebody asks for it: the hub repeats the command every two renewals
    /// until it is answered, and an operation that was given up is simply not repeated. True if it is taken back now.
    pub fn withdraw_resync(&mut self, now: Moment) -> bool {
        let is_over = self.resync_ends().is_some_and(|end| end <= now) && kept(Rule::ResyncIsTakenBack);
        let Some(site) = self.site.as_mut().filter(|_| is_over) else { return false };
        site.resync = None;
        self.command.take_if(|current| matches!(current.command.action, Action::Resync { .. }));
        true
    }

    /// Until when a resync goes on that nobody asks for again.
    pub fn resync_ends(&self) -> Option<Moment> {
        self.site.as_ref()?.resync.as_ref()?;
        // The hub repeats by the newest policy, and this cluster may still live by an old one.
        let newest = self.assignment.as_ref().map(|assignment| assignment.policy);
        let patience = |policy: Policy| policy.timing.renew * 4 + policy.timing.rpc;
        let patience = self.policy().into_iter().chain(newest).map(patience).max()?;
        Some(self.resync_asked + patience)
    }

    /// Something beside the world has changed that a survey goes by.
    pub fn survey_anew(&mut self) {
        if let Some((_, survey)) = self.survey.take() {
            self.survey_before = Some(survey);
        }
    }

    /// Another epoch is or will be in force elsewhere: whoever may run here stops.
    pub fn superseded(&mut self, id: &PlacementId, epoch: Epoch, now: Moment, wall: WallTime) {
        let role = match self.role() {
            Role::Holder | Role::Promoting | Role::Fenced => Role::Fenced,
            Role::Standby | Role::Unknown => Role::Standby,
        };
        if epoch > self.epoch_seen() {
            self.site_mut(id).operation = None;
            self.command = None;
        }
        self.enter_role(id, epoch, role, now, wall);
    }

    /// A former holder that remembers nothing, because somebody has deleted its DRSiteState, is known by its volumes: those
    /// of a standby are never meant to be primary.
    fn has_a_copy_of_its_own(&self) -> bool {
        self.survey.as_ref().is_some_and(|(_, survey)| survey.has_primary_volume())
    }

    /// Passes to the role that the newest assignment asks for, as far as its epoch is one that may be entered so.
    pub fn follow_assignment(
        &mut self,
        id: &PlacementId,
        cluster: &ClusterName,
        now: Moment,
        wall: WallTime,
    ) {
        let Some(assignment) = &self.assignment else { return };
        let (epoch, seen) = (assignment.epoch, self.epoch_seen());
        if epoch == Epoch(0) || epoch < seen {
            return;
        }
        let here = assignment.holder.as_ref() == Some(cluster);
        let elsewhere = assignment.holder.is_some() && !here;
        match (self.role(), here) {
            // To hold an epoch that this cluster never entered would be to trust a message more than its own record.
            (Role::Promoting, true) if epoch == seen => self.enter_role(id, epoch, Role::Holder, now, wall),
            (_, true) => {}
            // Its copy has nothing that the holder's lacks, and follows it from now on: it is a target again.
            (Role::Fenced, false) if epoch == seen && elsewhere && self.has_handed_over() => {
                self.enter_role(id, epoch, Role::Standby, now, wall);
            }
            (Role::Standby, false) if epoch == seen && elsewhere && self.has_a_copy_of_its_own() => {
                // Whatever it has handed over before, this copy may have more by now, and no move waits for it.
                let site = self.site_mut(id);
                (site.handed_over, site.operation) = (None, None);
                self.enter_role(id, epoch, Role::Fenced, now, wall);
            }
            (Role::Standby | Role::Fenced, false) if epoch == seen => {}
            (_, false) if elsewhere || epoch > seen && seen > Epoch(0) => {
                self.superseded(id, epoch, now, wall)
            }
            (_, false) => {}
        }
    }

    /// Keeps the recorded assignment in step, except for the policy of a holder, which only a grant may change (R6). One
    /// that has stopped, by its deadline or because it was denied, may be adopted again with its pods still running: what
    /// it echoes decides what waiting for it proves.
    pub fn record_assignment(&mut self) {
        let holds = match self.role() {
            Role::Holder | Role::Promoting | Role::Fenced => true,
            Role::Standby | Role::Unknown => false,
        };
        let Some(assignment) = &self.assignment else { return };
        let Some(site) = &mut self.site else { return };
        let mut recorded = without_inventory(assignment);
        if let (true, Some(lived_by)) = (holds && kept(Rule::PolicyOnlyByGrant), &site.assignment) {
            recorded.policy = lived_by.policy;
        }
        if site.assignment.as_ref() != Some(&recorded) {
            site.group = recorded.group().map(str::to_owned);
            site.assignment = Some(recorded);
        }
    }

    pub fn apply_policy(&mut self, policy: Policy) {
        let recorded = self.site.as_mut().and_then(|site| site.assignment.as_mut());
        // The hub checks too; but what two clusters could both write under is not lived by, whoever says so.
        let sound = policy.timing.check().is_ok();
        if let Some(recorded) = recorded
            && policy.generation > recorded.policy.generation
            && sound
        {
            recorded.policy = policy;
            self.rest = None;
        }
    }

    /// Brings the claims that admission protects in step with what is seen.
    pub fn protect_seen_claims(&mut self) {
        let Some((_, survey)) = &self.survey else { return };
        let Some(site) = &mut self.site else { return };
        match site.role {
            Role::Holder | Role::Standby => site.claims.retain(|claim| survey.claims.contains(claim)),
            Role::Promoting | Role::Fenced | Role::Unknown => {}
        }
        site.protect(survey.claims.iter().cloned());
    }

    pub fn is_dirty(&self) -> bool {
        self.site.is_some() && self.site.as_ref() != self.recorded.as_ref().map(|recorded| &recorded.state)
    }

    pub fn is_durable_at(&self, epoch: Epoch) -> bool {
        self.recorded.as_ref().is_some_and(|recorded| recorded.state.epoch_seen >= epoch)
    }

    pub fn is_stopping(&self) -> bool {
        self.attempts.values().any(|attempt| attempt.in_flight && attempt.stops)
    }

    /// A change that stops the application has ended, was given up, or was left behind by another process.
    pub fn stop_may_still_land(&mut self, now: Moment) {
        self.stops_until = now + MAY_STILL_LAND;
    }

    /// What the workloads had is forgotten only when they have it again and nothing that was begun before can take it
    /// from them any more; until then it is what they have now.
    pub fn started(&mut self, now: Moment) {
        let Some(site) = &mut self.site else { return };
        if now >= self.stops_until {
            site.replicas.clear();
            return;
        }
        let Some((_, survey)) = &self.survey else { return };
        let running = survey.workloads.iter().filter(|workload| workload.wanted > 0);
        site.replicas = running
            .map(|workload| WorkloadReplicas {
                workload: workload.workload.clone(),
                replicas: workload.wanted,
            })
            .collect();
    }

    pub fn notice_refusals(&mut self, world: &World, now: Moment) {
        let (Some((_, survey)), Some(assignment)) = (&self.survey, &self.assignment) else { return };
        self.refusals = refusals(world, assignment, &survey.claims);
        self.refused_since = self.refusals.any.then(|| self.refused_since.unwrap_or(now));
    }

    /// What this placement has paused is followed until it goes on, whatever its objects say.
    pub fn notice_reconcilers(&mut self, id: &PlacementId, world: &World) {
        let Some((_, survey)) = &self.survey else { return };
        self.reconcilers.retain(|reconciler, _| reconcilers::is_paused_for(world, reconciler, id));
        self.reconcilers.extend(survey.reconcilers.clone());
    }

    /// Counted within the running command: what it finds says nothing about it yet.
    pub fn refused_for(&self, now: Moment) -> Duration {
        let admitted = self.command.as_ref().map_or(now, |current| current.admitted);
        self.refused_since.map_or(Duration::ZERO, |since| now.since(since.max(admitted)))
    }

    /// Whether the hub knows what would be restored elsewhere, on this stream. What cannot be told need not be.
    pub fn has_told_inventory(&self) -> bool {
        let seen = self.survey.as_ref().and_then(|(_, survey)| survey.inventory.as_ref());
        seen.is_none_or(|inventory| self.reporting.inventory_sent.as_ref() == Some(&inventory.version))
    }

    /// Nothing of ours is left in the cluster.
    pub fn released(&mut self) {
        self.site = None;
        self.recorded = None;
        self.fence = None;
        self.lease = Lease::default();
        (self.survey, self.survey_before) = (None, None);
    }

    /// Whether something could still be writing to the volumes here.
    pub fn is_running(&self) -> bool {
        self.survey.as_ref().is_some_and(|(_, survey)| {
            survey.pods > 0 || survey.workloads.iter().any(|workload| workload.wanted > 0)
        })
    }
}

/// Field by field, because an inventory is large and this is done often.
pub fn without_inventory(assignment: &Assignment) -> Assignment {
    let Assignment {
        placement,
        name,
        epoch,
        holder,
        protect,
        replication_class,
        group_class,
        policy,
        peers,
        inventory: _,
    } = assignment;
    Assignment {
        placement: placement.clone(),
        name: name.clone(),
        epoch: *epoch,
        holder: holder.clone(),
        protect: protect.clone(),
        replication_class: replication_class.clone(),
        group_class: group_class.clone(),
        policy: *policy,
        peers: peers.clone(),
        inventory: None,
    }
}
