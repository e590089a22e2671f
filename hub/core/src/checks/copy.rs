//! Whether the copies are good enough to lose the original.

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{ClusterName, Rule, kept};

use crate::explain::at_least;
use crate::finding::Finding;
use crate::observation::{Observation, last_sync};

pub fn target_follows(o: &Observation) -> Option<Finding> {
    not_a_follower(o, &o.target()?.cluster.name)
}

/// csi-addons tells when a volume was synced, not to whom: with more than two clusters the sync times say nothing about
/// one that has neither handed over to the present holder nor been made anew from it.
pub fn not_a_follower(o: &Observation, cluster: &ClusterName) -> Option<Finding> {
    let followers = o.progress.followers.as_ref().filter(|_| kept(Rule::NoFailoverOntoAHalfMadeCopy))?;
    (!followers.contains(cluster)).then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{cluster}: its copy is not known to follow {}, which took over since it was made; see that the storage mirrors to it",
                o.holder_name().map_or("the holder", ClusterName::as_str)
            ),
        )
    })
}

/// Invariant S19. An unknown loss is infinite.
pub fn loss_is_within_the_bound(o: &Observation) -> Option<Finding> {
    let bound = o.loss_bound().filter(|_| kept(Rule::LossBound))?;
    match o.worst_loss(o.lost_by()) {
        Some(loss) if loss <= bound => None,
        Some(loss) => Some(Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: {} of writes would be lost, and maxDataLoss is {}; look at the replication of its volumes",
                o.placement.name,
                at_least(loss),
                shown(bound)
            ),
        )),
        None => Some(Finding::new(
            Reason::StaleCopy,
            format!("{}: the loss would be unlimited: {}", o.placement.name, missing_copy(o)),
        )),
    }
}

/// A handover waits for the last copy to cross, with the application stopped: when no copy has crossed for long, nor would
/// that one (protocol, the link table: no migration while the sites' link is down).
pub fn copies_arrive(o: &Observation) -> Option<Finding> {
    let (bound, loss) = (o.rhythm()?, o.worst_loss(o.lost_by())?);
    (loss > bound).then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: no copy has arrived for {}, more than {}, so the last one would not either, and the application would stand still meanwhile; mend the replication first",
                o.placement.name,
                at_least(loss),
                shown(bound)
            ),
        )
    })
}

/// Volumes that were copied at different times may not fit together, which only the user can judge.
pub fn skew_is_within_the_bound(o: &Observation) -> Option<Finding> {
    let (bound, skew) = (o.placement.max_skew?, o.skew()?);
    (skew > bound).then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: the copies of its volumes lie {} apart, and spec.failover.maxSkew is {}; look at the replication of the oldest",
                o.placement.name,
                at_least(skew),
                shown(bound)
            ),
        )
    })
}

/// Which claim has never been synced, and what to do about it.
pub fn missing_copy(o: &Observation) -> String {
    let volumes = o.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
    let mut missing = volumes.iter().filter(|volume| last_sync(volume).is_none());
    let Some(volume) = missing.next() else {
        return "no volume is known yet; label the claims as spec.protect.volumes says".to_owned();
    };
    let claim = &volume.claim;
    let others = match missing.count() {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    if !volume.bound {
        return format!("claim {claim} is not bound{others}; see its events");
    }
    if volume.replication.is_none() {
        return format!(
            "claim {claim} has no VolumeReplication yet{others}; wait for its agent to make one, or delete the claim if it is a copy that nobody needs"
        );
    }
    format!(
        "claim {claim} waits for its first sync{others}; wait, and look at its VolumeReplication if it does not come"
    )
}
