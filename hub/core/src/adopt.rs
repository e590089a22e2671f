//! Adopting an application where it runs: the operation Deploy, and what forbids it.

use crds::conditions::Reason;
use proto::{Ailment, ClusterName, Report};

use crate::checks;
use crate::decide::{Choice, start};
use crate::finding::Finding;
use crate::journal::OperationKind;
use crate::observation::{Observation, SiteView, is_meant_to_be_primary};

/// Adopts the application where it runs, at epoch 1; refused while another cluster shows a sign of owning it.
pub fn adopt(o: &Observation) -> Choice {
    match adoptable(o) {
        Ok((cluster, evidence)) => start(o, OperationKind::Deploy, cluster, evidence),
        Err(finding) => Choice::Wait(Some(finding)),
    }
}

fn adoptable<'a>(o: &'a Observation) -> Result<(&'a ClusterName, Vec<String>), Finding> {
    let name = &o.placement.name;
    if let Some(other) = o.overlapping {
        return Err(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{name}: spec.protect selects what {other} selects as well; use labels that tell the two apart"
            ),
        ));
    }
    if let Some(shared) = checks::claims_are_its_own(o) {
        return Err(shared);
    }
    if let Some(missing) = o.unconfigured.first() {
        return Err(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{name}: spec.clusters names {missing}, which has no DRCluster; create it, or take it out"
            ),
        ));
    }
    if let Some(paused) = checks::not_paused(o) {
        return Err(paused);
    }
    let mut owning = Vec::new();
    for site in &o.sites {
        let cluster = &site.cluster.name;
        let Some(report) = site.report.filter(|_| site.is_in_contact()) else {
            return Err(Finding::new(
                Reason::NoContact,
                format!(
                    "{cluster}: has not reported on {name} yet; every cluster is heard before one is adopted, look at its agent"
                ),
            ));
        };
        let signs = signs_of_owning(report);
        if !signs.is_empty() {
            owning.push((site, signs));
        }
    }
    if let [(first, some), (second, others), ..] = owning.as_slice() {
        return Err(Finding::new(
            Reason::NeedsHuman,
            format!(
                "{name}: {} ({}) and {} ({}) both show signs of owning it; stop it in one of them",
                first.cluster.name,
                some.join(", "),
                second.cluster.name,
                others.join(", ")
            ),
        ));
    }
    let (site, signs) = match owning.into_iter().next() {
        Some(found) => found,
        None => (preferred_with_volumes(o)?, vec!["it is preferred and has the volumes".to_owned()]),
    };
    let Some(inventory) = site.report.and_then(|report| report.inventory.as_ref()) else {
        return Err(no_volumes(o, site));
    };
    if inventory.volumes.is_empty() {
        return Err(no_volumes(o, site));
    }
    if let Some(ailment) = site.report.and_then(|report| report.ailments.iter().find(stands_against)) {
        let reason = match ailment.reason.as_str() {
            "NoReplicationClass" => Reason::NoReplicationClass,
            _ => Reason::InvalidSpec,
        };
        return Err(Finding::new(reason, format!("{}: {}", ailment.reason, ailment.message)));
    }
    let evidence = signs.into_iter().map(|sign| format!("{}: {sign}", site.cluster.name)).collect();
    Ok((&site.cluster.name, evidence))
}

/// Whether Argo CD or Flux is paused has no bearing on who owns it.
fn stands_against(ailment: &&Ailment) -> bool {
    !matches!(ailment.reason.as_str(), "ReconcilerNotPaused" | "ReconcilerNotResumed")
}

fn preferred_with_volumes<'a, 'b>(o: &'b Observation<'a>) -> Result<&'b SiteView<'a>, Finding> {
    o.site(&o.placement.preferred).ok_or_else(|| {
        Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: spec.preferredCluster {} has no DRCluster; create it",
                o.placement.name, o.placement.preferred
            ),
        )
    })
}

fn no_volumes(o: &Observation, site: &SiteView) -> Finding {
    Finding::new(
        Reason::ManifestsMissing,
        format!(
            "{}: {} has no bound claim with the labels of spec.protect.volumes; create or label the claims",
            o.placement.name, site.cluster.name
        ),
    )
}

fn signs_of_owning(report: &Report) -> Vec<String> {
    let mut signs = Vec::new();
    if report.pods > 0 {
        signs.push(format!("{} pods use its claims", report.pods));
    }
    for volume in &report.volumes {
        if volume.attached {
            signs.push(format!("the volume of {} is attached", volume.claim));
        }
        if is_meant_to_be_primary(volume) {
            signs.push(format!("the VolumeReplication of {} is primary", volume.claim));
        }
    }
    signs
}
