//! What stands in the way in this cluster, named for the user. The reasons are API.

use std::collections::BTreeSet;

use proto::gate::ANNOTATION;
use proto::{Ailment, Assignment, Fencing};

use crate::group;
use crate::site_state::CLAIMS_LIMIT;
use crate::survey;
use crate::world::{Workload, World};

/// Reasons of ailments and of failing commands.
pub mod reason {
    pub const BARE_POD_USES_VOLUME: &str = "BarePodUsesVolume";
    pub const DAEMON_SET_USES_VOLUME: &str = "DaemonSetUsesVolume";
    pub const UNSCALABLE_WORKLOAD_USES_VOLUME: &str = "UnscalableWorkloadUsesVolume";
    pub const INVALID_TIMING: &str = "InvalidTiming";
    pub const JOB_USES_VOLUME: &str = "JobUsesVolume";
    pub const NO_CLAIMS: &str = "NoClaims";
    pub const CLAIM_NOT_BOUND: &str = "ClaimNotBound";
    pub const NO_REPLICATION_CLASS: &str = "NoReplicationClass";
    pub const NO_DRIVER_LEADER: &str = "NoDriverLeader";
    pub const STAGING_CONFLICT: &str = "StagingConflict";
    pub const VOLUME_TOO_SMALL: &str = "VolumeTooSmall";
    pub const CLASS_DIFFERS: &str = "ClassDiffers";
    pub const GRACE_TOO_LONG: &str = "GraceTooLong";
    pub const TOO_MANY_CLAIMS: &str = "TooManyClaims";
    pub const WORKLOAD_NOT_SELECTED: &str = "WorkloadNotSelected";
    pub const REQUEST_FAILED: &str = "RequestFailed";
    pub const FAILED_TO_PROMOTE: &str = "FailedToPromote";
    pub const FAILED_TO_DEMOTE: &str = "FailedToDemote";
    pub const FAILED_TO_RESYNC: &str = "FailedToResync";
    pub const OBJECTS_NOT_READ: &str = "ObjectsNotRead";
    pub const TOO_MANY_OBJECTS: &str = "TooManyObjects";
    pub const PODS_REFUSED: &str = "PodsRefused";
    pub const CLAIM_NOT_REPLICATED: &str = "ClaimNotReplicated";
    pub const CLAIM_REPLICATED_OTHERWISE: &str = "ClaimReplicatedOtherwise";
    pub const CLAIM_NOT_IN_GROUP: &str = "ClaimNotInGroup";
    pub const GROUP_NOT_STAGED: &str = "GroupNotStaged";
    pub const STRANGER_IN_GROUP: &str = "StrangerInGroup";
    pub const POD_NOT_GATED: &str = "PodNotGated";
    pub const GATE_SILENT: &str = "GateSilent";
    pub const RECONCILER_NOT_PAUSED: &str = "ReconcilerNotPaused";
    pub const RECONCILER_NOT_RESUMED: &str = "ReconcilerNotResumed";
    pub const POLICY_MISSING: &str = "PolicyMissing";
    pub const POLICY_ALTERED: &str = "PolicyAltered";
    pub const POLICY_NOT_IN_FORCE: &str = "PolicyNotInForce";
}

pub fn ailment(reason: &str, message: String) -> Ailment {
    Ailment { reason: reason.to_owned(), message }
}

/// All that can be seen of this placement without knowing what is to be done with it.
pub fn of_cluster(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    workloads: &[Workload],
) -> Vec<Ailment> {
    let mut found = Vec::new();
    too_many_claims(claims, &mut found);
    unbound_claims(world, assignment, claims, &mut found);
    replication_class(world, assignment, claims, &mut found);
    group::ailments(world, assignment, claims, &mut found);
    driver_leaders(world, assignment, claims, &mut found);
    pods(world, assignment, claims, workloads, &mut found);
    unselected(assignment, workloads, &mut found);
    refused_pods(assignment, workloads, &mut found);
    found.extend(world.enforcement_ailments());
    ungated(world, assignment, claims, workloads, &mut found);
    found
}

fn too_many_claims(claims: &BTreeSet<String>, found: &mut Vec<Ailment>) {
    if claims.len() > CLAIMS_LIMIT {
        let message = format!(
            "placement protects {} claims, and {CLAIMS_LIMIT} is the most: narrow spec.protect.volumes",
            claims.len()
        );
        found.push(ailment(reason::TOO_MANY_CLAIMS, message));
    }
}

fn unbound_claims(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    found: &mut Vec<Ailment>,
) {
    let namespace = &assignment.name.namespace;
    for name in claims {
        if world.claim(namespace, name).is_some_and(|claim| !claim.bound) {
            let message = format!("PersistentVolumeClaim {namespace}/{name} is not bound: see its events");
            found.push(ailment(reason::CLAIM_NOT_BOUND, message));
        }
    }
}

fn replication_class(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    found: &mut Vec<Ailment>,
) {
    let class = &assignment.replication_class;
    let has_claims = claims.iter().any(|claim| world.claim(&assignment.name.namespace, claim).is_some());
    if has_claims && world.replication_class(class).is_none() {
        let message = format!("VolumeReplicationClass {class} does not exist in this cluster: create it");
        found.push(ailment(reason::NO_REPLICATION_CLASS, message));
    }
}

fn driver_leaders(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    found: &mut Vec<Ailment>,
) {
    let namespace = &assignment.name.namespace;
    let volumes =
        claims.iter().filter_map(|claim| world.volume(world.claim(namespace, claim)?.volume.as_deref()?));
    let drivers: BTreeSet<&str> = volumes.filter_map(|volume| volume.driver.as_deref()).collect();
    for driver in drivers {
        if world.driver_is_led(driver) == Some(false) {
            let message = format!(
                "driver {driver} has no connected CSIAddonsNode: check its csi-addons sidecar and the controller"
            );
            found.push(ailment(reason::NO_DRIVER_LEADER, message));
        }
    }
}

fn pods(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    workloads: &[Workload],
    found: &mut Vec<Ailment>,
) {
    let namespace = &assignment.name.namespace;
    let allowed = assignment.policy.timing.grace.as_secs();
    let mut too_long = None;
    for (name, pod) in world.pods(namespace) {
        if pod.finished || pod.claims.is_disjoint(claims) {
            continue;
        }
        let owner = pod.owner.as_ref().map(|(kind, owner)| (kind.as_str(), owner.as_str()));
        match owner {
            None => found.push(ailment(
                reason::BARE_POD_USES_VOLUME,
                format!(
                    "Pod {namespace}/{name} uses a protected claim and cannot be stopped by scaling: run it from a Deployment or StatefulSet"
                ),
            )),
            Some(("DaemonSet", owner)) => found.push(ailment(
                reason::DAEMON_SET_USES_VOLUME,
                format!(
                    "DaemonSet {namespace}/{owner} uses a protected claim and cannot be scaled: use a Deployment or StatefulSet"
                ),
            )),
            Some(("Job", owner)) => found.push(ailment(
                reason::JOB_USES_VOLUME,
                format!(
                    "Job {namespace}/{owner} uses a protected claim, and runs to its end before a fence is complete: keep it short or move it off the claim"
                ),
            )),
            Some((kind, owner)) if !is_scaled(workloads, kind, owner) => found.push(ailment(
                reason::UNSCALABLE_WORKLOAD_USES_VOLUME,
                format!(
                    "{kind} {namespace}/{owner} uses a protected claim, and this agent cannot scale it: use a Deployment, a StatefulSet or another kind with a scale subresource, labelled as spec.protect.workloads says"
                ),
            )),
            Some(_) => {}
        }
        if pod.grace_seconds > allowed {
            too_long = too_long.max(Some((pod.grace_seconds, name)));
        }
    }
    if let Some((seconds, name)) = too_long {
        found.push(ailment(
            reason::GRACE_TOO_LONG,
            format!(
                "Pod {namespace}/{name} may take {seconds} s to stop, and the placement's timing allows {allowed} s: raise timing.grace and timing.stop, or shorten the pod's terminationGracePeriodSeconds"
            ),
        ));
    }
    found.dedup();
}

/// Whether scaling one of these workloads ends the pods of this controller. A ReplicaSet is named after what made it.
fn is_scaled(workloads: &[Workload], kind: &str, owner: &str) -> bool {
    workloads.iter().map(|workload| &workload.workload).any(|scaled| match kind {
        "ReplicaSet" => owner.rsplit_once('-').is_some_and(|(maker, _)| maker == scaled.name),
        _ => scaled.kind == kind && scaled.name == owner,
    })
}

/// Nobody can look at pods that were never made.
fn refused_pods(assignment: &Assignment, workloads: &[Workload], found: &mut Vec<Ailment>) {
    for workload in workloads.iter().filter(|it| it.wanted > it.ready) {
        let Some(why) = &workload.refused else { continue };
        let message = format!(
            "pods of {} {}/{} are refused: {why}",
            workload.workload.kind, assignment.name.namespace, workload.workload.name
        );
        found.push(ailment(reason::PODS_REFUSED, message));
    }
}

/// Where the gates are relied upon, whatever has none could run on with a dead agent.
fn ungated(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    workloads: &[Workload],
    found: &mut Vec<Ailment>,
) {
    if assignment.policy.fencing != Fencing::Gate {
        return;
    }
    let (namespace, placement) = (&assignment.name.namespace, assignment.name.name.as_str());
    let bare = workloads.iter().find(|it| it.has_template && it.gate.as_deref() != Some(placement));
    if let Some(workload) = bare {
        let message = format!(
            "{} {namespace}/{}: spec.failover.fencing is Gate, and its pods would have none: annotate its pod template with {ANNOTATION}: {placement}",
            workload.workload.kind, workload.workload.name
        );
        found.push(ailment(reason::POD_NOT_GATED, message));
        return;
    }
    let mut users = survey::users(world, namespace, claims);
    if let Some((name, _)) = users.find(|(_, pod)| pod.gate.as_deref() != Some(placement)) {
        let message = format!(
            "Pod {namespace}/{name}: spec.failover.fencing is Gate, and it runs without one: delete it, so that it is made anew with the gate that admission injects"
        );
        found.push(ailment(reason::POD_NOT_GATED, message));
    }
}

fn unselected(assignment: &Assignment, workloads: &[Workload], found: &mut Vec<Ailment>) {
    for workload in workloads.iter().filter(|it| !assignment.protect.workloads.matches(&it.labels)) {
        let message = format!(
            "{} {}/{} uses a protected claim but is not selected by spec.protect.workloads: add its labels ({})",
            workload.workload.kind,
            assignment.name.namespace,
            workload.workload.name,
            assignment.protect.workloads.query()
        );
        found.push(ailment(reason::WORKLOAD_NOT_SELECTED, message));
    }
}
