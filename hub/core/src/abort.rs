//! When a running operation is given up. Past the point of no return: never (invariant S12).

use crds::span::format as shown;
use proto::StepKind;

use crate::fleet::Liveness;
use crate::journal::OperationKind;
use crate::observation::{Observation, SiteView};
use crate::progress::Operation;

/// Before the point of no return, a holder that answers again keeps its application (S16), and so does a user who deletes
/// the placement (S27) or takes the wish for a move back. An operation that gives the placement to the cluster that has
/// it already has no such point: nobody else can hold it.
pub fn abort_reason(o: &Observation, operation: &Operation) -> Option<String> {
    match operation.intent.kind {
        OperationKind::FailOver => no_failover(o, operation),
        OperationKind::Migrate | OperationKind::FailBack => no_planned_move(o, operation),
        OperationKind::Deploy => {
            o.placement.deleting.then(|| format!("{} was deleted before it was adopted", o.placement.name))
        }
        OperationKind::Readopt => no_readoption(o, operation),
        OperationKind::Resync => no_resync(o, operation),
        OperationKind::Release => None,
    }
}

fn no_failover(o: &Observation, operation: &Operation) -> Option<String> {
    if operation.is_past_no_return() {
        return None;
    }
    if o.placement.deleting {
        return Some(format!("{} was deleted before anything was promoted", o.placement.name));
    }
    let holder = o.site(operation.intent.from.as_ref()?)?;
    (holder.liveness == Liveness::Alive)
        .then(|| format!("{} answers again, before anything was promoted elsewhere", holder.cluster.name))
}

/// What was stopped for it is started again where it was.
fn no_planned_move(o: &Observation, operation: &Operation) -> Option<String> {
    if operation.is_past_no_return() {
        return None;
    }
    let (intent, name) = (&operation.intent, &o.placement.name);
    if o.placement.deleting {
        return Some(format!("{name} was deleted before anything was promoted"));
    }
    if o.placement.preferred != intent.to {
        return Some(format!("{name} prefers {} now, not {}", o.placement.preferred, intent.to));
    }
    let lost = |site: Option<&SiteView>| {
        site.filter(|site| site.liveness == Liveness::Unreachable).map(|site| site.cluster.name.clone())
    };
    let from = intent.from.as_ref().and_then(|from| o.site(from));
    if let Some(silent) = lost(from).or_else(|| lost(o.site(&intent.to))) {
        return Some(format!("{silent} is silent, before anything was promoted"));
    }
    let deadline = o.placement.move_deadline;
    let step = operation.current_step().map_or("its end", StepKind::as_str);
    (o.wall.since(operation.started) >= deadline).then(|| {
        format!(
            "{name} was not handed over to {} within {} (spec.migration.deadline); it stood at {step}",
            intent.to,
            shown(deadline)
        )
    })
}

/// A user who deletes the placement waits until the application has been told to start, and no longer than for a move.
fn no_readoption(o: &Observation, operation: &Operation) -> Option<String> {
    let waited = o.wall.since(operation.started) >= o.placement.move_deadline;
    let told = operation.step(StepKind::ScaleUp).acknowledged.is_some();
    if o.placement.deleting && (told || waited) {
        return Some(format!("{} was deleted", o.placement.name));
    }
    let holder = o.site(&operation.intent.to)?;
    (holder.liveness == Liveness::Unreachable).then(|| format!("{} is silent again", holder.cluster.name))
}

fn no_resync(o: &Observation, operation: &Operation) -> Option<String> {
    if o.placement.deleting {
        return Some(format!("{} was deleted", o.placement.name));
    }
    let silent = |site: &SiteView| site.liveness == Liveness::Unreachable;
    let holder = o.holder().filter(|site| silent(site));
    let returned = o.site(&operation.intent.to).filter(|site| silent(site));
    holder.or(returned).map(|site| format!("{} is silent, before the copy was whole", site.cluster.name))
}
