//! Who gets a grant gets tickets for the gates of its pods: the same lease, in words that a gate can verify by itself.

use proto::gate::{Statement, Target, Ticket};
use proto::{ClusterName, Grant, PlacementName, Renewal, Sealed};

use crate::fleet::Fleet;

/// One ticket for each nonce of the renewal that is granted; whoever has the hub's key seals them.
pub fn tickets(
    cluster: &ClusterName,
    name: &PlacementName,
    targets: &[Target],
    renewal: &Renewal,
    grant: &Grant,
) -> Vec<Sealed> {
    let timing = grant.policy.timing;
    let ticket = |nonce: &proto::GateNonce| {
        Statement::Ticket(Ticket {
            cluster: cluster.clone(),
            placement: grant.placement.clone(),
            name: name.clone(),
            epoch: grant.epoch,
            generation: grant.policy.generation,
            nonce: nonce.clone(),
            renew: timing.renew,
            rpc: timing.rpc,
            ttl: timing.ttl,
            grace: timing.grace,
            stop: timing.stop,
            targets: targets.to_vec(),
        })
    };
    renewal.gates.iter().map(|nonce| Sealed::of(&ticket(nonce))).collect()
}

/// Every other cluster of the placement, as in its assignment. One without a DRCluster can prove no promise.
pub fn targets<'a>(
    clusters: impl IntoIterator<Item = &'a ClusterName>,
    holder: &ClusterName,
    fleet: &Fleet,
) -> Vec<Target> {
    let others = clusters.into_iter().filter(|cluster| *cluster != holder);
    let target = |cluster: &ClusterName| Target {
        cluster: cluster.clone(),
        identity: fleet.sites.get(cluster).map(|site| site.cluster.identity.clone()).unwrap_or_default(),
    };
    others.map(target).collect()
}
