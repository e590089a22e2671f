//! Whether the holder is there, can hand over, and can be relied upon to stop by itself.

use std::collections::BTreeSet;

use crds::conditions::Reason;
use proto::{Fencing, Report, Role, Rule, Timing, kept};

use super::witness;
use crate::finding::Finding;
use crate::fleet::Heard;
use crate::lease::expiry_wait;
use crate::observation::{Observation, is_ready, what_it_lacks};
use crate::progress::Progress;

/// It runs the application, lives by its lease, and can be told to stop.
pub fn holder_can_hand_over(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    let name = &holder.cluster.name;
    let epoch = o.progress.ownership.as_ref().map(|ownership| ownership.epoch);
    let holds =
        holder.report.is_some_and(|report| report.role == Role::Holder && Some(report.epoch_seen) == epoch);
    let well = holder.is_in_contact() && holds;
    (!well).then(|| {
        Finding::new(
            Reason::NoContact,
            format!("{name}: is not heard as the holder of {} now; look at its agent", o.placement.name),
        )
    })
}

/// The application is ready there, on volumes that are primary: what was promoted by force may be worth nothing.
pub fn holder_works(o: &Observation) -> Option<Finding> {
    let report = o.holder()?.report?;
    let idle = report
        .volumes
        .iter()
        .find(|volume| volume.replication.as_ref().is_some_and(|replication| !replication.is_primary()));
    let wrong = match idle {
        Some(volume) => format!("the volume of claim {} is not primary", volume.claim),
        None if !is_ready(report) => format!("the application is not ready; {}", what_it_lacks(Some(report))),
        None => return None,
    };
    Some(Finding::new(
        Reason::WorkloadNotReady,
        format!(
            "{}: {wrong}, so no other copy of {} is thrown away unasked",
            report.cluster, o.placement.name
        ),
    ))
}

/// What is planned may as well wait until everything for it is there: afterwards the application would wait.
pub fn claims_can_cross(o: &Observation) -> Option<Finding> {
    let report = o.holder()?.report?;
    let never = report.volumes.iter().find(|volume| !volume.bound && volume.replication.is_none())?;
    Some(Finding::new(
        Reason::ReplicationError,
        format!(
            "{}: claim {} is not bound and has no VolumeReplication, so it cannot be moved; see its events, or take its labels away",
            report.cluster, never.claim
        ),
    ))
}

/// Two placements would pull at one volume.
pub fn claims_are_its_own(o: &Observation) -> Option<Finding> {
    let (other, claim) = o.shared_claim.as_ref()?;
    Some(Finding::new(
        Reason::InvalidSpec,
        format!(
            "{}: claim {claim} belongs to {other} as well; use labels that tell the two apart",
            o.placement.name
        ),
    ))
}

pub fn three_failure_domains(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder()?, o.target()?);
    let domains = [o.hub.failure_domain, &holder.cluster.failure_domain, &target.cluster.failure_domain];
    let distinct = domains.into_iter().chain(witness::domains(o)).collect::<BTreeSet<_>>().len();
    (distinct < 3).then(|| {
        Finding::new(
            Reason::TooFewFailureDomains,
            format!(
                "{}: hub ({}), {} ({}) and {} ({}) do not stand in three failure domains, so nobody can tell who is cut off; move the hub, give hub and agents a witness elsewhere, or correct spec.failureDomain of the DRClusters",
                o.placement.name,
                o.hub.failure_domain,
                holder.cluster.name,
                holder.cluster.failure_domain,
                target.cluster.name,
                target.cluster.failure_domain
            ),
        )
    })
}

pub fn expiry_proves_a_fence(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    (expiry_wait(o.progress).is_none() && kept(Rule::WaitingMustProveAFence)).then(|| {
        Finding::new(
            Reason::NotFenceCapable,
            format!(
                "{}: {holder} has not confirmed that it stops when nobody answers, so waiting for it proves nothing; use onSilence: Stop and fencing: SelfFence, and wait until {holder} has renewed once",
                o.placement.name
            ),
        )
    })
}

pub fn holder_can_fence_itself(o: &Observation) -> Option<Finding> {
    let holder = o.holder().filter(|_| kept(Rule::FenceCapableOnly))?;
    let unfenceable = match (holder.heard, holder.report) {
        (Some(heard), Some(report)) => unfenceable(&o.placement.policy.timing, o.progress, heard, report),
        // It renews, and does not say what it sees: then it may not see what it would have to stop.
        (Some(_), None) if holder.mute >= o.placement.policy.timing.unreachable => Some(format!(
            "{}: its agent has not reported since it connected; look at its log",
            holder.cluster.name
        )),
        // Not heard since this hub started, or just connected: what was known before still holds.
        (Some(_) | None, _) => o.remembered.and_then(|kept| kept.unfenceable.clone()),
    };
    unfenceable.map(|why| Finding::new(Reason::NotFenceCapable, why))
}

/// A holder that the hub cannot reach holds through the promises of the targets it knows. One that it was not told of has
/// promised nothing, so waiting says nothing about it (the same as R6 says of policies).
pub fn holder_knows_the_target(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder_name()?, &o.target()?.cluster.name);
    let known = o.progress.targets.iter().all(|(_, clusters)| clusters.contains(target));
    (!known).then(|| {
        Finding::new(
            Reason::NotFenceCapable,
            format!(
                "{}: {target} was added to spec.clusters after {holder} last confirmed them; wait until {holder} renews",
                o.placement.name
            ),
        )
    })
}

/// Why the holder cannot be relied upon to stop by itself, if so: what it cannot stop, and what it does not live by.
pub fn unfenceable(timing: &Timing, progress: &Progress, heard: &Heard, report: &Report) -> Option<String> {
    let name = &report.cluster;
    let by_its_agent = !is_ended_by_its_gates(progress);
    if by_its_agent && heard.api_write_age.is_none_or(|age| age > timing.suspect) {
        return Some(format!(
            "{name}: its agent cannot write to its own API server, and could not stop the application; mend that API server"
        ));
    }
    if let Some(ailment) =
        report.ailments.iter().find(|ailment| UNFENCEABLE.contains(&ailment.reason.as_str()))
    {
        return Some(format!("{name}: {}: {}", ailment.reason, ailment.message));
    }
    let owned = progress.ownership.as_ref().is_some_and(|ownership| ownership.epoch == report.epoch_seen);
    let lives_by_its_lease = owned && matches!(report.role, Role::Holder | Role::Fenced);
    let moving = progress.running().is_some()
        || progress.ownership.as_ref().is_some_and(|ownership| progress.highest > ownership.epoch);
    (!lives_by_its_lease && !moving).then(|| {
        format!(
            "{name}: says that it is {:?} at epoch {}, and does not live by the lease of epoch {}; look at its DRSiteState",
            report.role,
            report.epoch_seen,
            progress.ownership.as_ref().map_or(proto::Epoch(0), |ownership| ownership.epoch)
        )
    })
}

/// The gates end the pods without the API server, whatever its agent can write. That level counts only when the holder has
/// confirmed it: its echo says that every gate lives by such a policy, and its report names what has no gate.
fn is_ended_by_its_gates(progress: &Progress) -> bool {
    let policies = &progress.policies;
    let confirmed = policies.iter().any(|policy| policy.generation == progress.echoed);
    confirmed && policies.iter().all(|policy| policy.fencing == Fencing::Gate)
}

/// What an agent reports that neither a self-fence nor the gates can stop in time.
const UNFENCEABLE: [&str; 11] = [
    "GraceTooLong",
    "BarePodUsesVolume",
    "DaemonSetUsesVolume",
    "JobUsesVolume",
    "UnscalableWorkloadUsesVolume",
    "TooManyClaims",
    // Whatever makes pods there would start the application again.
    "PolicyMissing",
    "PolicyAltered",
    "PolicyNotInForce",
    "PodNotGated",
    "GateSilent",
];

pub fn loss_bound_is_known(o: &Observation) -> Option<Finding> {
    o.loss_bound().is_none().then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: no loss bound: the class {} names no schedulingInterval that can be read; set spec.failover.maxDataLoss",
                o.placement.name, o.placement.replication_class
            ),
        )
    })
}

pub fn holder_is_configured(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    o.holder().is_none().then(|| {
        Finding::new(
            Reason::InvalidSpec,
            format!("{}: its holder {holder} has no DRCluster any more; create it again", o.placement.name),
        )
    })
}
