//! One member cluster as a story plays it: it beats while it is up, and does what it is told.

use std::collections::BTreeMap;

use proto::{
    Action, Ailment, ClusterName, Command, Divergence, Epoch, Generation, Mark, Moment, Outcome, PathKind,
    Replication, ReplicationState, Report, Role, StepKind, VolumeState, WallTime, WorkloadState,
};

use super::scene::{cluster, placement, workload};
use crate::later_claims;

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
    /// A step that it cannot carry out, and the reason that it gives.
    pub fails: Option<(StepKind, &'static str)>,
    pub pods: u32,
    pub staged: Option<String>,
    /// Whether it stages what it is told of.
    pub stages: bool,
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
    /// Nothing answers its promotion, and nothing fails.
    pub slow_promotion: bool,
    /// Its Lease advances there.
    pub reaches_witnesses: bool,
    pub(super) nonce: u64,
    pub(super) mark: Mark,
    pub(super) echo: Generation,
    /// What the gates of its pods ask by.
    pub gates: Vec<proto::GateNonce>,
    /// Whether its API server takes writes.
    pub writes: bool,
    pub(super) next_beat: Moment,
    pub(super) connected: bool,
    /// Done with, so that a repeated command gets the same answer.
    pub(super) worked: BTreeMap<(ClusterName, PathKind), Moment>,
}

impl Member {
    pub(super) fn new(name: &str, other: &str) -> Member {
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
            fails: None,
            pods: 0,
            staged: None,
            stages: true,
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
            slow_promotion: false,
            reaches_witnesses: true,
            nonce: 0,
            mark: Mark::default(),
            echo: Generation(0),
            gates: Vec::new(),
            writes: true,
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
            last_sync_bytes: None,
            last_sync_took: None,
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

    /// Answers a command, and plays its consequence.
    pub fn obey(&mut self, command: &Command) -> Outcome {
        let mut outcome = Outcome::Done;
        self.epoch = self.epoch.max(command.epoch);
        match &command.action {
            Action::Fence => {
                (self.role, self.pods, self.wants) = (Role::Fenced, 0, 0);
                self.divergence = Divergence::Unknown;
            }
            Action::ScaleDown if self.slow => {
                (self.role, self.wants) = (Role::Fenced, 0);
                outcome = Outcome::Working { waiting_for: "1 pods to be gone".to_owned() };
            }
            Action::ScaleDown => {
                (self.role, self.pods, self.wants) = (Role::Fenced, 0, 0);
                self.hands_over = true;
            }
            Action::Demote if self.fails.is_some_and(|(step, _)| step == StepKind::Demote) => {
                outcome = self.failing()
            }
            Action::Demote if self.slow_demotion => {
                outcome = Outcome::Working { waiting_for: "the demotion of shop-data to cross".to_owned() };
            }
            Action::Demote => self.divergence = Divergence::No,
            Action::Resync { .. } if self.fails.is_some_and(|(step, _)| step == StepKind::Resync) => {
                outcome = self.failing();
            }
            Action::Resync { .. } => {}
            Action::Rejoin => (self.role, self.divergence) = (Role::Standby, Divergence::No),
            Action::Restore { inventory } => self.staged = Some(inventory.version.clone()),
            Action::Promote { .. } if self.fails.is_some_and(|(step, _)| step == StepKind::Promote) => {
                outcome = self.failing();
            }
            Action::Promote { .. } if self.slow_promotion => {
                outcome = Outcome::Working { waiting_for: "claim shop-data to become primary".to_owned() };
            }
            Action::Promote { .. } => {
                (self.role, self.last_sync, self.hands_over) = (Role::Promoting, None, false);
            }
            Action::ScaleUp { workloads } => {
                let replicas = workloads.iter().map(|workload| workload.replicas).sum();
                let pods = if self.slow { 0 } else { replicas };
                (self.role, self.pods, self.wants) = (Role::Holder, pods, replicas);
            }
            Action::Release => self.role = Role::Unknown,
        }
        outcome
    }

    fn failing(&self) -> Outcome {
        let (step, reason) = self.fails.unwrap_or((StepKind::Promote, "Unknown"));
        Outcome::Failing { reason: reason.to_owned(), message: format!("shop-data: {step} is not possible") }
    }
}
