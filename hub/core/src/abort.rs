//! When a running operation is given up. Past the point of no return: never (invariant S12).

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{Outcome, Role, Rule, StepKind, kept};

use crate::checks;
use crate::fleet::Liveness;
use crate::journal::OperationKind;
use crate::observation::{Observation, SiteView, what_it_lacks};
use crate::progress::Operation;
use crate::step::{self, Standing};

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
    if operation.is_past_no_return() && kept(Rule::ForwardPastNoReturn) {
        return None;
    }
    if o.placement.deleting {
        return Some(format!("{} was deleted before anything was promoted", o.placement.name));
    }
    let holder = o.site(operation.intent.from.as_ref()?)?;
    if holder.liveness == Liveness::Alive {
        return Some(format!(
            "{} answers again, before anything was promoted elsewhere",
            holder.cluster.name
        ));
    }
    lost_target(o, operation).or_else(|| needs_a_word(o, operation))
}

/// Another cluster could take over, and the chosen one cannot be heard.
fn lost_target(o: &Observation, operation: &Operation) -> Option<String> {
    let to = &operation.intent.to;
    let lost = o.site(to).is_none_or(SiteView::is_unreachable);
    let other = o.standbys.iter().find(|(cluster, flaw)| cluster != to && flaw.is_none())?;
    lost.then(|| format!("{to} is silent, and {} could take over", other.0))
}

/// What stands in the way will not pass by waiting, and nobody can be asked while the operation runs.
fn needs_a_word(o: &Observation, operation: &Operation) -> Option<String> {
    let patience = step::stuck_after(&o.placement.policy.timing);
    let finding = match operation.current_step()? {
        StepKind::AwaitFence => {
            let long = o.wall.since(operation.started) >= patience;
            checks::first(checks::EXPIRY_PROVES, o).filter(|_| long && !is_asserted(operation))
        }
        StepKind::Promote => {
            let since = operation.step(StepKind::AwaitFence).acknowledged?;
            let long = o.wall.since(since) >= patience;
            (step::rule(StepKind::Promote).may_start)(o, operation).filter(|_| long)
        }
        StepKind::Fence
        | StepKind::ScaleDown
        | StepKind::BackUp
        | StepKind::Demote
        | StepKind::Restore
        | StepKind::TakeOwnership
        | StepKind::ScaleUp
        | StepKind::AwaitReady
        | StepKind::Resync
        | StepKind::AwaitSync
        | StepKind::Rejoin
        | StepKind::Release => None,
    };
    let finding = finding.filter(|finding| NEEDS_A_WORD.contains(&finding.reason))?;
    Some(format!("it cannot go on without a human's word: {}", finding.message))
}

fn is_asserted(operation: &Operation) -> bool {
    operation.intent.approval.as_ref().is_some_and(|approval| approval.asserts_off.is_some())
}

/// Of these a human decides; the rest passes, or is mended while the operation waits.
const NEEDS_A_WORD: [Reason; 10] = [
    Reason::Disabled,
    Reason::CoolingDown,
    Reason::Flapping,
    Reason::TooFewFailureDomains,
    Reason::NotFenceCapable,
    Reason::StaleCopy,
    Reason::FenceUnconfirmed,
    Reason::EvidenceMissing,
    Reason::SecondSiteSilent,
    Reason::WitnessUnavailable,
];

/// When an operation whose owner has changed is given up, so that the next one can begin: the new owner is lost, or does
/// not get ready and the user wants something else, or nobody can wait any longer.
pub fn cut_reason(o: &Observation, operation: &Operation) -> Option<String> {
    let intent = &operation.intent;
    if !operation.has_moved() || operation.current_step().is_none() {
        return None;
    }
    let name = &o.placement.name;
    if o.site(&intent.to).is_some_and(SiteView::is_unreachable) {
        return Some(format!("{} is silent, before {name} was ready there", intent.to));
    }
    // What has just been told to start is let go of when it runs, if that does not take long.
    let patience = step::stuck_after(&o.placement.policy.timing);
    let told = operation.step(StepKind::ScaleUp).acknowledged;
    if o.placement.deleting && told.is_some_and(|told| o.wall.since(told) >= patience) {
        return Some(format!("{name} was deleted before it was ready"));
    }
    let begun = operation.step(StepKind::TakeOwnership).acknowledged?;
    let waited = o.wall.since(begun);
    let other_wish = intent.preferred.as_ref().is_some_and(|then| *then != o.placement.preferred);
    if other_wish && waited >= patience {
        return Some(format!(
            "{name} prefers {} now, and is not ready at {}",
            o.placement.preferred, intent.to
        ));
    }
    (waited >= o.placement.move_deadline).then(|| {
        format!(
            "{name} is not ready at {} after {}; {}",
            intent.to,
            shown(o.placement.move_deadline),
            what_it_lacks(o.site(&intent.to).and_then(|site| site.report))
        )
    })
}

/// What was stopped for it is started again where it was.
fn no_planned_move(o: &Observation, operation: &Operation) -> Option<String> {
    if operation.is_past_no_return() && kept(Rule::ForwardPastNoReturn) {
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
        site.filter(|site| site.is_unreachable()).map(|site| site.cluster.name.clone())
    };
    // Once it has handed over it is not needed any more.
    let needed = operation.proof.is_none();
    let from = intent.from.as_ref().filter(|_| needed).and_then(|from| o.site(from));
    if let Some(silent) = lost(from).or_else(|| lost(o.site(&intent.to))) {
        return Some(format!("{silent} is silent, before anything was promoted"));
    }
    if let Some(message) = never_crosses(o, operation) {
        return Some(message);
    }
    let deadline = o.placement.move_deadline;
    (o.wall.since(operation.started) >= deadline).then(|| {
        format!(
            "{name} was not handed over to {} within {} (spec.migration.deadline); {}",
            intent.to,
            shown(deadline),
            where_it_stood(o, operation)
        )
    })
}

/// A claim that came so late that it is not replicated yet, and cannot be once its holder is stopped: waiting for it only
/// keeps the application away.
fn never_crosses(o: &Observation, operation: &Operation) -> Option<String> {
    let from = operation.intent.from.as_ref().filter(|_| operation.proof.is_none())?;
    match o.site(from)?.answers.get(&StepKind::Demote)? {
        Outcome::Failing { reason, message } if reason == "ClaimNotReplicated" => Some(message.clone()),
        Outcome::Failing { .. } | Outcome::Done | Outcome::Working { .. } | Outcome::Refused { .. } => None,
    }
}

/// What was waited for is what has to be mended.
fn where_it_stood(o: &Observation, operation: &Operation) -> String {
    let Some(step) = operation.current_step() else { return "it stood at its end".to_owned() };
    let rule = step::rule(step);
    let waited = match operation.step(step).issued {
        None => (rule.may_start)(o, operation),
        Some(_) => match (rule.standing)(o, operation) {
            Standing::Waiting(finding) => Some(finding),
            Standing::Done(_) => None,
        },
    };
    match waited {
        Some(finding) => format!("it stood at {step} ({})", finding.message),
        None => format!("it stood at {step}"),
    }
}

/// A user who deletes the placement waits until the application has been told to start, and no longer than for a move.
fn no_readoption(o: &Observation, operation: &Operation) -> Option<String> {
    let waited = o.wall.since(operation.started) >= o.placement.move_deadline;
    let told = operation.step(StepKind::ScaleUp).acknowledged.is_some();
    if o.placement.deleting && (told || waited) {
        return Some(format!("{} was deleted", o.placement.name));
    }
    let holder = o.site(&operation.intent.to)?;
    holder.is_unreachable().then(|| format!("{} is silent again", holder.cluster.name))
}

/// Everything else of the placement waits behind it, so what does not come is given up, and proposed anew.
fn no_new_copy_comes(o: &Observation, operation: &Operation) -> Option<String> {
    let (to, name) = (&operation.intent.to, &o.placement.name);
    let preferred = &o.placement.preferred;
    if preferred != to && o.holder_name() != Some(preferred) {
        return Some(format!("{name} prefers {preferred} now"));
    }
    let begun = operation.step(StepKind::Resync).issued?;
    let waited = o.wall.since(begun) >= o.placement.move_deadline;
    let Some(Outcome::Failing { reason, message }) = o.site(to)?.answers.get(&StepKind::Resync) else {
        return None;
    };
    let running = operation.step(StepKind::Resync).acknowledged.is_none();
    (waited && running).then(|| format!("{to}: {reason}: {message}"))
}

fn no_resync(o: &Observation, operation: &Operation) -> Option<String> {
    if o.placement.deleting {
        return Some(format!("{} was deleted", o.placement.name));
    }
    let begun = operation.step(StepKind::Resync);
    let report = o.site(&operation.intent.to).and_then(|site| site.report);
    if begun.acknowledged.is_none() && report.is_some_and(|report| report.role == Role::Standby) {
        return Some(format!("{} is a standby already", operation.intent.to));
    }
    let unasked = operation.intent.approval.is_none()
        && !o.placement.failback.resync_automatic
        && kept(Rule::ResyncIsApproved);
    if begun.issued.is_none() && unasked {
        return Some(format!("{}: spec.failback.resync asks for an approval now", o.placement.name));
    }
    if let Some(reason) = no_new_copy_comes(o, operation) {
        return Some(reason);
    }
    let mut needed = o.holder().into_iter().chain(o.site(&operation.intent.to));
    needed
        .find(|site| site.is_unreachable())
        .map(|site| format!("{} is silent, before the copy was whole", site.cluster.name))
}
