//! The choices: from one observation to what is written down next. No clock, no I/O, and nothing remembered between calls.
//!
//! Each call takes at most one transition; the hub calls again until nothing is left to write down.

use proto::{ClusterName, Epoch, OperationId, Rule, StepKind, kept};

use crate::abort::{abort_reason, cut_reason};
use crate::adopt::adopt;
use crate::checks;
use crate::finding::Finding;
use crate::journal::{Entry, Intent, OperationKind, StepRecord, VolumeLoss};
use crate::observation::{Observation, last_sync};
use crate::plan;
use crate::progress::Operation;
use crate::propose;
use crate::step::{self, Standing};
use crate::wish;

/// What to write down, or why nothing is to be written.
#[derive(Debug, PartialEq)]
pub enum Choice {
    Record(Vec<Entry>),
    /// Nothing to do. The finding, where there is one, says what is being waited for.
    Wait(Option<Finding>),
}

pub fn decide(o: &Observation) -> Choice {
    let choice = choose(o);
    match checks::witnesses_were_asked(o) {
        Some(finding) if enters_an_epoch(&choice) => Choice::Wait(Some(finding)),
        Some(_) | None => choice,
    }
}

fn enters_an_epoch(choice: &Choice) -> bool {
    let Choice::Record(entries) = choice else { return false };
    entries.iter().any(|entry| matches!(entry, Entry::Intent(intent) if intent.kind.enters_an_epoch()))
}

fn choose(o: &Observation) -> Choice {
    if o.progress.released {
        return Choice::Wait(None);
    }
    if let Some(operation) = o.progress.running()
        && kept(Rule::OneOperationAtATime)
    {
        return advance(o, operation);
    }
    if o.placement.deleting && !owes_a_restart(o) {
        return start_release(o);
    }
    if o.progress.needs_human.is_some() {
        return Choice::Wait(None);
    }
    match &o.progress.ownership {
        None => adopt(o),
        Some(ownership) => propose::settle(o, wish::wish(o, ownership)),
    }
}

/// A planned move that was rolled back has stopped the application: it is started again before Understudy lets go.
fn owes_a_restart(o: &Observation) -> bool {
    let burned = o.progress.ownership.as_ref().is_some_and(|ownership| o.progress.highest > ownership.epoch);
    let tried = o.progress.operation.as_ref().is_some_and(|operation| {
        let told = operation.step(StepKind::ScaleUp).acknowledged.is_some();
        let ended = operation.ended.as_ref().map(|(_, at)| *at);
        let waited = ended.is_some_and(|at| at.since(operation.started) >= o.placement.move_deadline);
        operation.intent.kind == OperationKind::Readopt && (told || waited)
    });
    burned && o.progress.rolled_back.is_some() && !tried && !wish::is_silent(o)
}

/// Takes the running operation one transition further.
fn advance(o: &Observation, operation: &Operation) -> Choice {
    let intent = &operation.intent;
    if let Some(reason) = abort_reason(o, operation) {
        let abort =
            Entry::Abort { placement: intent.placement.clone(), operation: intent.operation.clone(), reason };
        return Choice::Record(vec![abort]);
    }
    if let Some(reason) = cut_reason(o, operation) {
        let cut =
            Entry::Cut { placement: intent.placement.clone(), operation: intent.operation.clone(), reason };
        return Choice::Record(std::iter::once(cut).chain(block(o, operation)).collect());
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

fn commit(o: &Observation, operation: &Operation) -> Vec<Entry> {
    let intent = &operation.intent;
    let commit = Entry::Commit { placement: intent.placement.clone(), operation: intent.operation.clone() };
    std::iter::once(commit).chain(block(o, operation)).collect()
}

/// A human who has approved has looked.
fn block(o: &Observation, operation: &Operation) -> Option<Entry> {
    let intent = &operation.intent;
    let automatic = intent.kind == OperationKind::FailOver && intent.approval.is_none();
    automatic.then(|| Entry::Block {
        placement: intent.placement.clone(),
        operation: intent.operation.clone(),
        until: o.wall + ONE_AUTOMATIC_FAILOVER_PER,
    })
}

/// Protocol §7.
const ONE_AUTOMATIC_FAILOVER_PER: std::time::Duration = std::time::Duration::from_secs(3600);

pub fn start(o: &Observation, kind: OperationKind, to: &ClusterName, evidence: Vec<String>) -> Choice {
    Choice::Record(vec![Entry::Intent(Box::new(intent(o, kind, to, evidence)))])
}

pub fn intent(o: &Observation, kind: OperationKind, to: &ClusterName, evidence: Vec<String>) -> Intent {
    let failing_over = kind == OperationKind::FailOver;
    let lost_at = failing_over.then(|| o.loss_time());
    let losses = if failing_over { o.losses(o.lost_by()) } else { Vec::new() };
    let highest = o.progress.highest;
    let epoch = if kind.enters_an_epoch() { last(o).next() } else { highest };
    Intent {
        operation: operation_id(o, kind, to, epoch),
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
        generation: o.placement.generation,
        preferred: Some(o.placement.preferred.clone()),
        approval: None,
    }
}

/// The last epoch that was ever entered, whatever has become of it.
fn last(o: &Observation) -> Epoch {
    let owned = o.progress.ownership.as_ref().map_or(Epoch(0), |ownership| ownership.epoch);
    if kept(Rule::BurnedEpochsStayBurned) { o.progress.highest } else { owned }
}

/// Proposals, and operations that enter no epoch, leave the number as it is: each has a name of its own all the same. A
/// proposal that stands keeps its name.
fn operation_id(o: &Observation, kind: OperationKind, to: &ClusterName, epoch: Epoch) -> OperationId {
    let standing = o.progress.proposed.as_ref().map(|proposal| &proposal.intent).filter(|proposed| {
        (proposed.kind, &proposed.to, proposed.epoch, proposed.generation)
            == (kind, to, epoch, o.placement.generation)
    });
    if let Some(proposed) = standing {
        return proposed.operation.clone();
    }
    let name = format!("{}-{}-{epoch}", o.placement.name.name, kind.as_str());
    OperationId(match o.progress.attempts.get(&kind) {
        None => name,
        Some(before) => format!("{name}-{before}"),
    })
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
