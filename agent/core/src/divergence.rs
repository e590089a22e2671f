//! Whether the copy of a former holder has writes that the present holder's lacks (protocol §6).

use std::collections::BTreeSet;
use std::time::Duration;

use proto::{Assignment, Divergence, Moment, Role};

use crate::ailments::reason;
use crate::group;
use crate::placement::Placement;
use crate::world::{ReplicationObject, World};

/// A refusal to sync that lasts longer than some turns of csi-addons, which looks again every 15 to 30 s, is the storage's
/// word that the copies do not match.
pub const LASTING: Duration = Duration::from_secs(90);

/// What the VolumeReplications of some claims say against their copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// One cannot be demoted or synced now.
    pub any: bool,
    /// One that is demoted cannot be synced.
    pub to_sync: bool,
    /// One names what it is.
    pub split_brain: bool,
}

pub fn refusals(world: &World, assignment: &Assignment, claims: &BTreeSet<String>) -> Refusals {
    let mut found = Refusals::default();
    for (_, object) in group::replications(world, assignment, claims) {
        let to_sync = refuses(&object, reason::FAILED_TO_RESYNC);
        found.to_sync |= to_sync;
        found.any |= to_sync || refuses(&object, reason::FAILED_TO_DEMOTE);
        found.split_brain |= to_sync && is_split_brain(&object.replication.message);
    }
    found
}

fn refuses(object: &ReplicationObject, why: &str) -> bool {
    let replication = &object.replication;
    replication.desired == "secondary"
        && replication.completed == Some(false)
        && object.reason.as_deref() == Some(why)
}

fn is_split_brain(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("split-brain") || message.contains("split brain")
}

/// Of this cluster's copy, as far as it can be known here.
pub fn divergence(placement: &Placement, now: Moment) -> Divergence {
    let handed_over = placement.site.as_ref().is_some_and(|site| site.has_handed_over());
    match placement.role() {
        Role::Holder | Role::Promoting | Role::Standby | Role::Unknown => Divergence::No,
        Role::Fenced if handed_over => Divergence::No,
        Role::Fenced => {
            let lasts = placement.refused_since.is_some_and(|since| now >= since + LASTING);
            let said = placement.refusals;
            let proven = said.split_brain || (said.to_sync && lasts);
            if proven { Divergence::Yes } else { Divergence::Unknown }
        }
    }
}
