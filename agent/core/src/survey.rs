//! What is to be said about one placement: the objects it protects, as the contract's values.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    Ailment, Assignment, ClusterName, Divergence, Epoch, Inventory, OperationId, PlacementId, Report, Role,
    Shared, VolumeState, WorkloadState, volume::WorkloadReplicas,
};

use crate::ailments;
use crate::gates::GatedPod;
use crate::group;
use crate::objects;
use crate::reconcilers::{self, Reconciler};
use crate::site_state::SiteState;
use crate::volumes;
use crate::world::{Pod, Workload, World};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    pub claims: BTreeSet<String>,
    pub volumes: Vec<VolumeState>,
    pub workloads: Vec<Workload>,
    /// Pods, not yet finished, that use a protected claim.
    pub pods: u32,
    /// Those of them whose gate asks for this placement.
    pub gated: Vec<GatedPod>,
    pub inventory: Option<Shared<Inventory>>,
    /// What the inventory was made of.
    pub made_of: Option<MadeOf>,
    pub driver_leader: Option<bool>,
    pub ailments: Vec<Ailment>,
    /// What of Argo CD or Flux applies it, each with an object that says so.
    pub reconcilers: BTreeMap<Reconciler, String>,
}

/// As long as this and the assignment are the same, so is the inventory.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeOf {
    revision: u64,
    claims: BTreeSet<String>,
    workloads: Vec<WorkloadReplicas>,
}

impl Survey {
    pub fn has_users(&self) -> bool {
        self.pods > 0 || self.volumes.iter().any(|volume| volume.attached)
    }

    /// A volume that this agent itself has set at this epoch, and that is not meant to be primary.
    pub fn has_demoted_volume(&self, epoch: Epoch) -> bool {
        let mut replications = self.volumes.iter().filter_map(|volume| volume.replication.as_ref());
        replications.any(|replication| replication.epoch == Some(epoch) && replication.desired != "primary")
    }

    pub fn has_primary_volume(&self) -> bool {
        let mut replications = self.volumes.iter().filter_map(|volume| volume.replication.as_ref());
        replications.any(|replication| replication.desired == "primary")
    }
}

/// Everything of a placement in this cluster; `commanded` are the claims that a running command names, `before` is the
/// survey before this one, by the same assignment.
pub fn survey(
    world: &World,
    assignment: &Assignment,
    site: Option<&SiteState>,
    commanded: &[String],
    before: Option<Survey>,
) -> Survey {
    let namespace = assignment.name.namespace.as_str();
    let claims = protected_claims(world, assignment, site, commanded);
    let workloads = protected_workloads(world, assignment, &claims);
    let objects = objects::of_application(world, assignment);
    let mut ailments = ailments::of_cluster(world, assignment, &claims, &workloads);
    ailments.extend(objects.ailments);
    let knows_group = assignment.group().is_none() || world.knows_group_inventory();
    let knows_inventory =
        knows_group && world.knows_inventory(namespace) && objects::are_known(world, assignment);
    let made_of = (knows_inventory && assignment.group().is_none()).then(|| MadeOf {
        revision: world.manifests_revision(namespace),
        claims: claims.clone(),
        workloads: workloads.iter().map(|workload| volumes::wanted(workload, site)).collect(),
    });
    let same = made_of.is_some() && before.as_ref().is_some_and(|before| before.made_of == made_of);
    let has = |inventory: &Shared<Inventory>| inventory.objects == objects.manifests;
    let same = same && before.as_ref().and_then(|before| before.inventory.as_ref()).is_none_or(has);
    let inventory = match (same, before) {
        (true, Some(before)) => before.inventory,
        (_, before) if knows_inventory => {
            let known = before.and_then(|before| before.inventory);
            volumes::inventory(world, assignment, &claims, &workloads, &objects.manifests, site, known)
        }
        (true | false, Some(_) | None) => None,
    };
    let users: Vec<_> = users(world, namespace, &claims).collect();
    let placement = assignment.name.name.as_str();
    let gated = users.iter().filter(|(_, pod)| pod.scheduled && pod.gate.as_deref() == Some(placement));
    let gated = gated.map(|(name, pod)| GatedPod {
        name: (*name).to_owned(),
        uid: pod.uid.clone(),
        started: pod.gate_started,
    });
    Survey {
        volumes: claims.iter().map(|claim| volume_state(world, assignment, claim)).collect(),
        pods: u32::try_from(users.len()).unwrap_or(u32::MAX),
        gated: gated.collect(),
        inventory,
        made_of,
        driver_leader: driver_leader(world, namespace, &claims),
        reconcilers: reconcilers::of_application(world, namespace, &claims, &workloads),
        ailments,
        workloads,
        claims,
    }
}

/// Pods, not yet finished, that use a protected claim.
pub fn users<'a>(
    world: &'a World,
    namespace: &'a str,
    claims: &'a BTreeSet<String>,
) -> impl Iterator<Item = (&'a str, &'a Pod)> {
    world.pods(namespace).filter(|(_, pod)| !pod.finished && !pod.claims.is_disjoint(claims))
}

/// A claim is protected by its label, by the copy that is staged here, by a command, or because it was before.
fn protected_claims(
    world: &World,
    assignment: &Assignment,
    site: Option<&SiteState>,
    commanded: &[String],
) -> BTreeSet<String> {
    let namespace = assignment.name.namespace.as_str();
    let selected =
        world.claims(namespace).filter(|(_, claim)| assignment.protect.volumes.matches(&claim.labels));
    let mut claims: BTreeSet<String> = selected.map(|(name, _)| name.to_owned()).collect();
    let staged = assignment.inventory.iter().flat_map(|inventory| &inventory.volumes);
    claims.extend(staged.map(|volume| volume.claim.clone()));
    claims.extend(commanded.iter().cloned());
    if let Some(site) = site {
        let stays = |claim: &&String| {
            matches!(site.role, Role::Fenced | Role::Promoting) || world.claim(namespace, claim).is_some()
        };
        claims.extend(site.claims.iter().filter(stays).cloned());
    }
    claims
}

/// A workload is protected by its label, or because its pods use a protected claim.
fn protected_workloads(world: &World, assignment: &Assignment, claims: &BTreeSet<String>) -> Vec<Workload> {
    let workloads = world.workloads(&assignment.name.namespace);
    let protected = workloads.filter(|workload| {
        assignment.protect.workloads.matches(&workload.labels) || uses_protected(workload, claims)
    });
    protected.filter(|workload| workload.workload.kind != "DaemonSet").cloned().collect()
}

fn uses_protected(workload: &Workload, claims: &BTreeSet<String>) -> bool {
    claims.iter().any(|claim| uses(workload, claim))
}

/// By name, or made from one of its templates.
pub fn uses(workload: &Workload, claim: &str) -> bool {
    workload.claims.contains(claim) || workload.claim_prefixes.iter().any(|prefix| claim.starts_with(prefix))
}

fn volume_state(world: &World, assignment: &Assignment, claim: &str) -> VolumeState {
    let seen = world.claim(&assignment.name.namespace, claim);
    let name = seen.and_then(|claim| claim.volume.as_deref());
    let volume = name.and_then(|name| world.volume(name));
    let replication = group::replication_of(world, assignment, claim);
    VolumeState {
        claim: claim.to_owned(),
        handle: volume.and_then(|volume| volume.handle.clone()),
        bound: seen.is_some_and(|claim| claim.bound),
        attached: name.is_some_and(|name| world.is_attached(name)),
        replication: replication.map(|(_, object)| object.replication.clone()),
    }
}

/// None as soon as one driver's leader is not known; false as soon as one has none.
fn driver_leader(world: &World, namespace: &str, claims: &BTreeSet<String>) -> Option<bool> {
    let volumes =
        claims.iter().filter_map(|claim| world.volume(world.claim(namespace, claim)?.volume.as_deref()?));
    let drivers: BTreeSet<&str> = volumes.filter_map(|volume| volume.driver.as_deref()).collect();
    let led: Vec<Option<bool>> = drivers.into_iter().map(|driver| world.driver_is_led(driver)).collect();
    if led.contains(&Some(false)) {
        return Some(false);
    }
    if led.is_empty() || led.contains(&None) { None } else { Some(true) }
}

/// What a report says beside the survey.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub epoch_seen: Epoch,
    pub role: Role,
    pub operation: Option<OperationId>,
    pub staged: Option<String>,
    pub ailments: Vec<Ailment>,
    /// What stands here is what the user has, so its inventory is told.
    pub source: bool,
    pub divergence: Divergence,
}

pub fn report(cluster: &ClusterName, placement: &PlacementId, survey: &Survey, standing: Standing) -> Report {
    let Standing { epoch_seen, role, operation, staged, ailments, source, divergence } = standing;
    Report {
        cluster: cluster.clone(),
        placement: placement.clone(),
        epoch_seen,
        role,
        operation,
        staged,
        inventory: survey.inventory.clone().filter(|_| source),
        volumes: survey.volumes.clone(),
        workloads: survey.workloads.iter().map(workload_state).collect(),
        pods: survey.pods,
        driver_leader: survey.driver_leader,
        ailments: survey.ailments.iter().cloned().chain(ailments).collect(),
        divergence,
    }
}

fn workload_state(workload: &Workload) -> WorkloadState {
    WorkloadState { workload: workload.workload.clone(), wanted: workload.wanted, ready: workload.ready }
}
