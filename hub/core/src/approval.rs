//! A human's answer to a proposal. It counts once, for what it names, and not for anything that comes later (invariant S25).

use crds::approval::DRApproval;
use proto::{ClusterName, Epoch, Generation, Rule, WallTime, kept};

use crate::journal::{ApprovalRecord, Intent};
use crate::placement::Placement;

/// A DRApproval, parsed at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub namespace: String,
    pub name: String,
    pub operation: String,
    pub placement: String,
    pub epoch: Epoch,
    pub generation: Generation,
    pub approver: String,
    pub approve: bool,
    pub asserts_off: Option<ClusterName>,
    pub expires: Option<WallTime>,
    /// When the API server took it.
    pub created: Option<WallTime>,
}

impl Approval {
    /// None: an object that no API server would serve.
    pub fn parse(object: &DRApproval) -> Option<Approval> {
        let spec = &object.spec;
        Some(Approval {
            namespace: object.metadata.namespace.clone()?,
            name: object.metadata.name.clone()?,
            operation: spec.operation.clone(),
            placement: spec.placement.clone(),
            epoch: Epoch(u64::try_from(spec.epoch).ok()?),
            generation: Generation(u64::try_from(spec.generation).ok()?),
            approver: spec.approver.clone(),
            approve: spec.approve,
            asserts_off: spec.assert_fenced.as_deref().map(ClusterName::parse).transpose().ok()?,
            expires: spec.expires.as_ref().map(|at| WallTime(at.0.as_millisecond())),
            created: object.metadata.creation_timestamp.as_ref().map(|at| WallTime(at.0.as_millisecond())),
        })
    }

    pub fn concerns(&self, placement: &Placement) -> bool {
        self.namespace == placement.name.namespace && self.placement == placement.name.name
    }

    /// Why it does not count for this proposal, if it does not; the words go into the status.
    pub fn flaw(&self, proposed: &Intent, placement: &Placement, now: WallTime) -> Option<String> {
        let name = &self.name;
        if !kept(Rule::ApprovalsNameWhatTheyMean) {
            return None;
        }
        // Names, epochs and generations begin anew with a DRPlacement that is made again; both times are the API server's.
        if self.created < placement.created {
            return Some(format!(
                "DRApproval {name}: is older than the DRPlacement, and answers for one that was deleted; make another"
            ));
        }
        if self.epoch != proposed.epoch {
            return Some(format!(
                "DRApproval {name}: spec.epoch is {}, and {} would enter {}; make another",
                self.epoch, proposed.operation, proposed.epoch
            ));
        }
        if self.generation != placement.generation {
            return Some(format!(
                "DRApproval {name}: spec.generation is {}, and the DRPlacement is at {}; look at it again, and make another",
                self.generation.0, placement.generation.0
            ));
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return Some(format!("DRApproval {name}: has expired; make another"));
        }
        let from = proposed.from.as_ref();
        if self.asserts_off.is_some() && self.asserts_off.as_ref() != from {
            return Some(format!(
                "DRApproval {name}: spec.assertFenced names another cluster than {}, which {} leaves; make another",
                from.map_or("none", ClusterName::as_str),
                proposed.operation
            ));
        }
        None
    }

    pub fn record(&self) -> ApprovalRecord {
        ApprovalRecord {
            name: self.name.clone(),
            approver: self.approver.clone(),
            asserts_off: self.asserts_off.clone(),
        }
    }
}
