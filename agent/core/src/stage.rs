//! Keeping the holder's volumes and claims bound here, so that a failover reads nothing from a dead site. The volume
//! always comes before its claim: a claim without its volume would get a new, empty one.

use std::time::Duration;

use proto::{Inventory, Outcome, Rule, VolumeManifest, kept};
use serde_json::{Value, json};

use crate::ailments::{ailment, reason};
use crate::capacity;
use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::fence;
use crate::group;
use crate::keeping;
use crate::objects;
use crate::parse::{STAGED_ANNOTATION, text};
use crate::volumes::{self, Staged};
use crate::workloads;

pub fn stage(view: &View<'_>, inventory: Option<&Inventory>) -> Next {
    let mut next = Next::done();
    workloads::remember(view, &mut next);
    if !view.is_durable() {
        next.wait_also_for("the DRSiteState to say Standby");
        return next;
    }
    if kept(Rule::OtherPodsStopAtAStandby) {
        workloads::stop(view, &mut next);
    }
    if kept(Rule::AutoResyncEndsWithTheResync) {
        end_resyncs(view, &mut next);
    }
    keeping::mark_volumes(view, &mut next);
    let Some(inventory) = inventory else { return next };
    let mut staging = Next::done();
    stage_volumes(view, inventory, false, &mut staging);
    objects::stage(view, inventory, &mut staging);
    if staging.outcome == Outcome::Done {
        next.staged = Some(inventory.version.clone());
    }
    next.effects.append(&mut staging.effects);
    next.ailments.append(&mut staging.ailments);
    next
}

/// What an operation that was given up has left behind: at a standby nothing may throw a copy away by itself (rule 8).
fn end_resyncs(view: &View<'_>, next: &mut Next) {
    for (target, object) in view.replications() {
        if object.auto_resync && object.replication.desired == "secondary" {
            next.effects.push(fence::demotion(view, target));
        }
    }
}

pub fn restore(view: &View<'_>, inventory: &Inventory) -> Next {
    if !view.is_durable() {
        return Next::waiting_for(format!("the DRSiteState to say epoch {}", view.site.epoch_seen));
    }
    let mut next = Next::done();
    stage_volumes(view, inventory, true, &mut next);
    let mut objects = Next::done();
    objects::stage(view, inventory, &mut objects);
    if next.outcome == Outcome::Done && objects.outcome == Outcome::Done {
        next.staged = Some(inventory.version.clone());
    }
    next.effects.append(&mut objects.effects);
    next.ailments.append(&mut objects.ailments);
    // A copy that is refused here is told, and keeps no application away that may start without it.
    if next.outcome == Outcome::Done && view.commanded_for < OBJECTS_PATIENCE {
        next.outcome = objects.outcome;
    }
    next
}

/// What is copied beside the volumes is created within a second or two, or there is something wrong with it.
pub const OBJECTS_PATIENCE: Duration = Duration::from_secs(10);

fn stage_volumes(view: &View<'_>, inventory: &Inventory, restoring: bool, next: &mut Next) {
    for class in &inventory.classes {
        stage_class(view, class, next);
    }
    for manifest in &inventory.volumes {
        match volumes::is_allowed(view.namespace(), manifest) {
            Ok(()) => stage_volume(view, manifest, restoring, next),
            Err(message) => conflict(message, next),
        }
    }
}

/// A class that differs is reported, not changed: what it says here may be right for this cluster.
fn stage_class(view: &View<'_>, class: &Value, next: &mut Next) {
    let kind = text(class, "/kind").unwrap_or_default();
    let name = text(class, "/metadata/name").unwrap_or_default();
    let present = match kind {
        "StorageClass" => view.world.storage_class(name),
        "VolumeReplicationClass" => view.world.replication_class(name),
        "VolumeGroupReplicationClass" => view.world.group_class(name),
        "VolumeGroupReplicationContent" => return group::stage_content(view, class, next),
        _ => {
            return conflict(
                format!("{kind} {name} is not a kind that may be restored: check its cluster"),
                next,
            );
        }
    };
    match present {
        None => next.effects.push(Effect::Create { object: class.clone() }),
        Some(present) if !volumes::class_is_equal(class, present) => {
            let message = format!(
                "{kind} {name} differs from the holder's: compare their parameters and make them fit this cluster"
            );
            next.ailments.push(ailment(reason::CLASS_DIFFERS, message));
        }
        Some(_) => {}
    }
}

fn stage_volume(view: &View<'_>, manifest: &VolumeManifest, restoring: bool, next: &mut Next) {
    let claim = &manifest.claim;
    match volumes::staged(view.world, view.namespace(), manifest) {
        Staged::Equal => capacity::enlarge(view, manifest, next),
        Staged::VolumeMissing => {
            next.wait_also_for(format!("the PersistentVolume of claim {claim} to exist"));
            next.effects.push(Effect::Create { object: manifest.persistent_volume.clone() });
        }
        Staged::ClaimMissing => {
            next.wait_also_for(format!("PersistentVolumeClaim {claim} to exist"));
            next.effects.push(Effect::Create { object: marked_as_copy(&manifest.persistent_volume_claim) });
        }
        Staged::Binding => next.wait_also_for(format!("PersistentVolumeClaim {claim} to be bound")),
        Staged::Released if restoring => {
            next.wait_also_for(format!("the PersistentVolume of claim {claim} to be freed"));
            next.effects.push(Effect::ClearClaimReference {
                volume: text(&manifest.persistent_volume, "/metadata/name").unwrap_or_default().to_owned(),
                claim_namespace: view.namespace().to_owned(),
                claim: claim.clone(),
            });
        }
        Staged::Released => next.wait_also_for(format!("a failover to free the volume of claim {claim}")),
        Staged::Conflict(message) => conflict(message, next),
    }
}

/// What is staged here is never taken for a claim that was created here.
fn marked_as_copy(claim: &Value) -> Value {
    let mut copy = claim.clone();
    if let Some(Value::Object(metadata)) = copy.get_mut("metadata") {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert(STAGED_ANNOTATION.into(), json!("true"));
        }
    }
    copy
}

pub fn conflict(message: String, next: &mut Next) {
    next.fail(reason::STAGING_CONFLICT, message.clone());
    next.ailments.push(ailment(reason::STAGING_CONFLICT, message));
}
