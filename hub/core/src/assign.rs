//! What each cluster of a placement is told about it.

use proto::{Assignment, ClusterName, Epoch, Inventory, Peer, Shared};

use crate::decision::Remembered;
use crate::fleet::{Cluster, Fleet};
use crate::placement::Placement;
use crate::progress::{Ownership, Progress};

/// But for the holder's inventory, which is large and seldom changes.
pub fn assignment(
    placement: &Placement,
    progress: &Progress,
    fleet: &Fleet,
    cluster: &ClusterName,
) -> Assignment {
    let ownership = ownership(progress);
    let holder = ownership.map(|ownership| ownership.holder.clone());
    let peers = placement
        .clusters
        .iter()
        .filter(|other| *other != cluster)
        .map(|other| fleet.sites.get(other).map_or_else(|| unconfigured(other), |site| peer(&site.cluster)))
        .collect();
    Assignment {
        placement: placement.id.clone(),
        name: placement.name.clone(),
        epoch: ownership.map_or(Epoch(0), |ownership| ownership.epoch),
        holder,
        protect: placement.protect.clone(),
        replication_class: placement.replication_class.clone(),
        group_class: placement.group_class.clone(),
        policy: placement.policy,
        peers,
        inventory: None,
    }
}

/// Whether `told` is the assignment as it is meant now, whatever its inventory: nothing is made only to be compared.
pub fn is_as_meant(
    told: &Assignment,
    placement: &Placement,
    progress: &Progress,
    fleet: &Fleet,
    cluster: &ClusterName,
) -> bool {
    let ownership = ownership(progress);
    let others = placement.clusters.iter().filter(|other| *other != cluster);
    told.epoch == ownership.map_or(Epoch(0), |ownership| ownership.epoch)
        && told.holder.as_ref() == ownership.map(|ownership| &ownership.holder)
        && told.policy == placement.policy
        && told.name == placement.name
        && told.protect == placement.protect
        && told.replication_class == placement.replication_class
        && told.group_class == placement.group_class
        && told.peers.len() == others.clone().count()
        && told.peers.iter().zip(others).all(|(peer, other)| is_peer(peer, other, fleet))
}

fn is_peer(told: &Peer, other: &ClusterName, fleet: &Fleet) -> bool {
    match fleet.sites.get(other).map(|site| &site.cluster) {
        Some(cluster) => {
            told.cluster == cluster.name
                && told.identity == cluster.identity
                && told.peer_endpoint == cluster.peer_endpoint
                && told.probe_endpoints == cluster.probe_endpoints
        }
        None => *told == unconfigured(other),
    }
}

/// What a standby is told to stage.
pub fn inventory<'a>(
    progress: &Progress,
    remembered: Option<&'a Remembered>,
    cluster: &ClusterName,
) -> Option<&'a Shared<Inventory>> {
    let is_standby = ownership(progress).is_some_and(|ownership| ownership.holder != *cluster);
    remembered.filter(|_| is_standby).map(|remembered| &remembered.inventory)
}

/// Where somebody knows more than this journal, its idea of the owner is nobody's order.
fn ownership(progress: &Progress) -> Option<&Ownership> {
    if progress.needs_human.is_none() { progress.ownership.as_ref() } else { None }
}

/// Every cluster of the spec is a target whose promise a holder needs, whatever its DRCluster says at the moment: the set
/// of targets is a parameter that an isolated holder cannot be told about.
fn peer(cluster: &Cluster) -> Peer {
    let Cluster { name, identity, failure_domain: _, peer_endpoint, probe_endpoints, maintenance: _ } =
        cluster;
    Peer {
        cluster: name.clone(),
        identity: identity.clone(),
        peer_endpoint: peer_endpoint.clone(),
        probe_endpoints: probe_endpoints.clone(),
        eligible: true,
    }
}

fn unconfigured(name: &ClusterName) -> Peer {
    Peer {
        cluster: name.clone(),
        identity: format!("{name}.has-no-drcluster"),
        peer_endpoint: None,
        probe_endpoints: Vec::new(),
        eligible: true,
    }
}
