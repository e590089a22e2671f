//! Whether a cluster can take over.

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{Role, Rule, kept};

use crate::finding::Finding;
use crate::fleet::Liveness;
use crate::observation::{Observation, is_meant_to_be_primary};

pub fn preferred_can_take_over(o: &Observation) -> Option<Finding> {
    let preferred = &o.placement.preferred;
    let known =
        o.standbys.iter().any(|(cluster, _)| cluster == preferred) || o.holder_name() == Some(preferred);
    if !known {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: spec.preferredCluster {preferred} has no DRCluster; create it, or prefer another",
                o.placement.name
            ),
        ));
    }
    o.preferred_flaw.clone()
}

pub fn target_is_configured(o: &Observation) -> Option<Finding> {
    if let Some(holder) = o.holder_name().filter(|holder| !o.placement.clusters.contains(holder)) {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: spec.clusters does not name {holder}, which runs it; add it again",
                o.placement.name
            ),
        ));
    }
    if let Some(missing) = o.unconfigured.first() {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: cluster {missing} has no DRCluster; create it, or take it out of spec.clusters",
                o.placement.name
            ),
        ));
    }
    o.target().is_none().then(|| {
        Finding::new(Reason::PeerSilent, format!("{}: there is no cluster to take over", o.placement.name))
    })
}

/// A planned move stops the application first, and would wait for this then.
pub fn preferred_is_staged(o: &Observation) -> Option<Finding> {
    let report = o.site(&o.placement.preferred)?.report?;
    let known = &o.inventory()?.version;
    (report.staged.as_ref() != Some(known)).then(|| {
        let why = report.ailments.first().map_or_else(
            || "wait, and look at its agent's log if it does not come".to_owned(),
            |ailment| format!("{}: {}", ailment.reason, ailment.message),
        );
        Finding::new(
            Reason::ManifestsMissing,
            format!(
                "{}: what belongs to {} is not all staged there; {why}",
                report.cluster, o.placement.name
            ),
        )
    })
}

pub fn target_is_heard(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let name = &target.cluster.name;
    match target.liveness {
        Liveness::Alive if target.connected && target.report.is_some() => None,
        Liveness::Alive => Some(Finding::new(
            Reason::PeerSilent,
            format!("{name}: its agent has not reported yet; wait for it"),
        )),
        Liveness::Unheard | Liveness::Suspect | Liveness::Unreachable => Some(Finding::new(
            Reason::PeerSilent,
            format!("{name}: silent for {}; look at its agent and the link to it", shown(target.silent)),
        )),
    }
}

pub fn target_is_not_in_maintenance(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    target.cluster.maintenance.then(|| {
        Finding::new(
            Reason::TargetUnreachable,
            format!("{}: in maintenance; end it with spec.maintenance: false", target.cluster.name),
        )
    })
}

/// A former holder's copy may have diverged; it is no target before it has been resynced.
pub fn target_is_a_standby(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let report = target.report?;
    if let Some(volume) =
        report.volumes.iter().find(|volume| report.role == Role::Standby && is_meant_to_be_primary(volume))
    {
        return Some(Finding::new(
            Reason::VolumeResyncing,
            format!(
                "{}: says that it is a standby of {}, and its VolumeReplication of {} says primary: its copy has a life of its own; look at it",
                target.cluster.name, o.placement.name, volume.claim
            ),
        ));
    }
    let entering = o.progress.running().is_some_and(|operation| report.epoch_seen >= operation.intent.epoch);
    let ready = match report.role {
        Role::Standby | Role::Promoting | Role::Holder => true,
        Role::Unknown => entering,
        Role::Fenced => !kept(Rule::NoFailoverOntoAHalfMadeCopy),
    };
    (!ready).then(|| {
        Finding::new(
            Reason::VolumeResyncing,
            format!(
                "{}: it is {:?} for {}, and its copy may have diverged; resync it before it can take over",
                target.cluster.name, report.role, o.placement.name
            ),
        )
    })
}

/// Protocol §7: a site that has just come back may go again.
pub fn target_is_steady(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    // Once the application is stopped for it, a blink of the target keeps nobody waiting.
    let running = o.progress.running().is_some_and(|operation| operation.intent.kind.takes_away());
    let back = target.back_for.filter(|_| !running)?;
    (back < o.hub.steady_after).then(|| {
        Finding::new(
            Reason::PeerSilent,
            format!(
                "{}: heard again for {} only, and {} are asked of a target; wait",
                target.cluster.name,
                shown(Duration::from_secs(back.as_secs())),
                shown(o.hub.steady_after)
            ),
        )
    })
}

pub fn manifests_are_known(o: &Observation) -> Option<Finding> {
    o.inventory().is_none_or(|inventory| inventory.volumes.is_empty()).then(|| {
        Finding::new(
            Reason::ManifestsMissing,
            format!(
                "{}: no protected volume is known yet; label the claims as spec.protect.volumes says",
                o.placement.name
            ),
        )
    })
}

pub fn target_has_no_ailment(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let ailment = target.report?.ailments.iter().find(|ailment| blocks_a_target(&ailment.reason))?;
    Some(Finding::new(
        Reason::ManifestsMissing,
        format!("{}: {}: {}", target.cluster.name, ailment.reason, ailment.message),
    ))
}

fn blocks_a_target(reason: &str) -> bool {
    matches!(
        reason,
        "StagingConflict"
            | "ClassDiffers"
            | "NamespaceMissing"
            | "NoReplicationClass"
            | "TooManyClaims"
            | "ClaimReplicatedOtherwise"
            | "StrangerInGroup"
            | "PodNotGated"
    )
}

pub fn target_driver_has_a_leader(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    (target.report?.driver_leader == Some(false)).then(|| {
        Finding::new(
            Reason::NoDriverLeader,
            format!(
                "{}: no csi-addons controller leads for the driver, so nothing can be promoted there; look at its CSIAddonsNodes",
                target.cluster.name
            ),
        )
    })
}
