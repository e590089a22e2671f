//! The choices: from one observation to what is written down next. No clock, no I/O, and nothing remembered between calls.
//!
//! Each call takes at most one transition; the hub calls again until nothing is left to write down.

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{ClusterName, Epoch, OperationId, Report};

use crate::checks;
use crate::finding::Finding;
use crate::fleet::Liveness;
use crate::journal::{Entry, Intent, OperationKind, StepRecord, VolumeLoss};
use crate::observation::{Observation, SiteView, last_sync};
use crate::plan;
use crate::progress::Operation;
use crate::step::{self, Standing};

/// What to write down, or why nothing is to be written.
#[derive(Debug, PartialEq)]
pub enum Choice {
    Record(Vec<Entry>),
    /// Nothing to do. The finding, where there is one, says what is being waited for.
    Wait(Option<Finding>),
}

pub fn decide(o: &Observation) -> Choice {
    if o.progress.released {
        return Choice::Wait(None);
    }
    if let Some(operation) = o.progress.running() {
        return advance(o, operation);
    }
    if o.placement.deleting {
        return start_release(o);
    }
    if o.progress.needs_human.is_some() {
        return Choice::Wait(None);
    }
    match &o.progress.ownership {
        None => adopt(o),
        Some(ownership) if o.progress.highest > ownership.epoch && !is_silent(o) => {
            readopt(o, &ownership.holder)
        }
        Some(_) => fail_over(o),
    }
}

/// Takes the running operation one transition further.
fn advance(o: &Observation, operation: &Operation) -> Choice {
    let intent = &operation.intent;
    if let Some(reason) = abort_reason(o, operation) {
        let abort =
            Entry::Abort { placement: intent.placement.clone(), operation: intent.operation.clone(), reason };
        return Choice::Record(vec![abort]);
    }
    let Some(current) = operation.current_step() else { return Choice::Record(commit(o, operation)) };
    let rule = step::rule(current);
    let mark = |state| Entry::Step {
        placement: intent.placement.clone(),
        operation: intent.operation.clone(),
        step: current,
        state,
    };
    if operation.step(current).issued.is_none() {
        return match (rule.may_start)(o, operation) {
            None => Choice::Record(vec![mark(StepRecord::Issued)]),
            Some(finding) => Choice::Wait(Some(finding)),
        };
    }
    match (rule.standing)(o, operation) {
        Standing::Done(mut entries) => {
            entries.push(mark(StepRecord::Acknowledged));
            Choice::Record(entries)
        }
        Standing::Waiting(finding) => Choice::Wait(Some(finding)),
    }
}

/// Before the point of no return, a holder that answers again keeps its application (S16), and so does a user who deletes
/// the placement (S27). Past it: forward only (S12). An operation that gives the placement to the cluster that has it
/// already has no such point: nobody else can hold it.
fn abort_reason(o: &Observation, operation: &Operation) -> Option<String> {
    let name = &o.placement.name;
    match operation.intent.kind {
        OperationKind::FailOver if operation.is_past_no_return() => None,
        OperationKind::FailOver if o.placement.deleting => {
            Some(format!("{name} was deleted before anything was promoted"))
        }
        OperationKind::FailOver => {
            let holder = o.site(operation.intent.from.as_ref()?)?;
            (holder.liveness == Liveness::Alive).then(|| {
                format!("{} answers again, before anything was promoted elsewhere", holder.cluster.name)
            })
        }
        OperationKind::Deploy => {
            o.placement.deleting.then(|| format!("{name} was deleted before it was adopted"))
        }
        OperationKind::Readopt if o.placement.deleting => Some(format!("{name} was deleted")),
        OperationKind::Readopt => {
            let holder = o.site(&operation.intent.to)?;
            (holder.liveness == Liveness::Unreachable)
                .then(|| format!("{} is silent again", holder.cluster.name))
        }
        OperationKind::Release => None,
    }
}

fn commit(o: &Observation, operation: &Operation) -> Vec<Entry> {
    let intent = &operation.intent;
    let mut entries =
        vec![Entry::Commit { placement: intent.placement.clone(), operation: intent.operation.clone() }];
    if intent.kind == OperationKind::FailOver {
        entries.push(Entry::Block {
            placement: intent.placement.clone(),
            operation: intent.operation.clone(),
            until: o.wall + ONE_AUTOMATIC_FAILOVER_PER,
        });
    }
    entries
}

/// Protocol §7.
const ONE_AUTOMATIC_FAILOVER_PER: std::time::Duration = std::time::Duration::from_secs(3600);

fn start(o: &Observation, kind: OperationKind, to: &ClusterName, evidence: Vec<String>) -> Choice {
    // A release enters no epoch: nobody gets to own anything by it.
    let epoch = if kind == OperationKind::Release { o.progress.highest } else { o.progress.highest.next() };
    Choice::Record(vec![Entry::Intent(Box::new(intent(o, kind, to, epoch, evidence)))])
}

fn intent(
    o: &Observation,
    kind: OperationKind,
    to: &ClusterName,
    epoch: Epoch,
    evidence: Vec<String>,
) -> Intent {
    let failing_over = kind == OperationKind::FailOver;
    let lost_at = failing_over.then(|| o.loss_time());
    let losses = if failing_over { o.losses(o.lost_by()) } else { Vec::new() };
    Intent {
        operation: OperationId(format!("{}-{}-{epoch}", o.placement.name.name, kind.as_str())),
        placement: o.placement.id.clone(),
        name: o.placement.name.clone(),
        kind,
        from: o.holder_name().filter(|_| kind != OperationKind::Deploy).cloned(),
        to: to.clone(),
        epoch,
        plan: plan::steps(kind).to_vec(),
        claims: claims(o, to),
        evidence,
        lost_at,
        losses: losses
            .into_iter()
            .map(|(volume, lost)| VolumeLoss {
                claim: volume.claim.clone(),
                last_sync: last_sync(volume),
                lost_ms: lost.and_then(|span| u64::try_from(span.as_millis()).ok()),
            })
            .collect(),
    }
}

fn claims(o: &Observation, to: &ClusterName) -> Vec<String> {
    let own = o.site(to).and_then(|site| site.report).and_then(|report| report.inventory.as_ref());
    let inventory = o.inventory().or(own);
    inventory
        .map(|inventory| inventory.volumes.iter().map(|volume| volume.claim.clone()).collect())
        .unwrap_or_default()
}

fn start_release(o: &Observation) -> Choice {
    let Some(to) = o.holder_name().or_else(|| o.placement.clusters.first()) else {
        return Choice::Wait(None);
    };
    start(o, OperationKind::Release, to, vec![format!("{} is deleted", o.placement.name)])
}

/// Adopts the application where it runs, at epoch 1; refused while another cluster shows a sign of owning it.
fn adopt(o: &Observation) -> Choice {
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
    if let Some(missing) = o.unconfigured.first() {
        return Err(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{name}: spec.clusters names {missing}, which has no DRCluster; create it, or take it out"
            ),
        ));
    }
    if o.placement.paused {
        return Err(Finding::new(
            Reason::Paused,
            format!("{name} is paused; set spec.paused: false to go on"),
        ));
    }
    let mut owning = Vec::new();
    for site in &o.sites {
        let cluster = &site.cluster.name;
        let Some(report) = site.report.filter(|_| site.connected && site.liveness == Liveness::Alive) else {
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
    if let Some(ailment) = site.report.and_then(|report| report.ailments.first()) {
        let reason = match ailment.reason.as_str() {
            "NoReplicationClass" => Reason::NoReplicationClass,
            _ => Reason::InvalidSpec,
        };
        return Err(Finding::new(reason, format!("{}: {}", ailment.reason, ailment.message)));
    }
    let evidence = signs.into_iter().map(|sign| format!("{}: {sign}", site.cluster.name)).collect();
    Ok((&site.cluster.name, evidence))
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
        if volume.replication.as_ref().is_some_and(|replication| replication.desired == "primary") {
            signs.push(format!("the VolumeReplication of {} is primary", volume.claim));
        }
    }
    signs
}

fn is_silent(o: &Observation) -> bool {
    o.holder().is_some_and(|holder| matches!(holder.liveness, Liveness::Suspect | Liveness::Unreachable))
}

/// An epoch was burned by an abort: the holder, which was told to stop, gets a fresh one.
fn readopt(o: &Observation, holder: &ClusterName) -> Choice {
    let Some(site) = o.site(holder) else { return Choice::Wait(None) };
    if site.liveness != Liveness::Alive || !site.connected {
        let message =
            format!("{holder}: silent again after it had answered; its agent must answer to go on there");
        return Choice::Wait(Some(Finding::new(Reason::NoContact, message)));
    }
    start(o, OperationKind::Readopt, holder, vec![format!("{holder} answers again")])
}

/// Whether the holder is lost, and everything allows a failover (protocol §5).
fn fail_over(o: &Observation) -> Choice {
    let (Some(holder), Some(target)) = (o.holder(), o.target()) else {
        return Choice::Wait(checks::first(checks::READINESS, o));
    };
    if !is_silent(o) {
        return Choice::Wait(None);
    }
    let blocked = checks::first(checks::ACCUSATION, o)
        .or_else(|| checks::first(checks::ARMING, o))
        .or_else(|| checks::first(checks::READINESS, o));
    match blocked {
        Some(finding) => Choice::Wait(Some(finding)),
        None => start(o, OperationKind::FailOver, &target.cluster.name, failover_evidence(o, holder, target)),
    }
}

fn failover_evidence(o: &Observation, holder: &SiteView, target: &SiteView) -> Vec<String> {
    let lost = &holder.cluster.name;
    let mut evidence = vec![format!("hub: {lost} silent for {}", shown(holder.silent))];
    for seen in &target.sees_holder {
        let path = checks::path_name(seen.path);
        let worked = seen.worked_age.map_or("never".to_owned(), |age| format!("{} ago", shown(age)));
        evidence
            .push(format!("{}: {path} of {lost} out of reach, last worked {worked}", target.cluster.name));
    }
    if let (Some(loss), Some(bound)) = (o.worst_loss(o.lost_by()), o.loss_bound()) {
        evidence.push(format!("loss {} of at most {}", shown(loss), shown(bound)));
    }
    evidence
}
