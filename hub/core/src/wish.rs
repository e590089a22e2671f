//! What an owned placement calls for now: a failover, a move, a new copy, or nothing. Who has to be asked first is part of it.

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{ClusterName, Divergence, Role, Rule, StepKind, kept};

use crate::checks;
use crate::decide::intent;
use crate::explain::at_least;
use crate::finding::Finding;
use crate::journal::{Entry, Intent, OperationKind};
use crate::lease::expiry_wait;
use crate::observation::{Observation, SiteView};
use crate::placement::Mode;
use crate::progress::{Ending, Ownership};
use crate::propose;

#[derive(Debug, PartialEq)]
pub enum Wish {
    /// The finding, where there is one, says what stands against it.
    Nothing(Option<Finding>),
    /// It would be right, but not now; a proposal of it stands.
    Hold(OperationKind, Option<Finding>),
    Begin(Box<Intent>),
    /// A human decides; the finding says what about.
    Ask(Box<Intent>, Finding),
    /// Nothing is moved, but something is to be remembered.
    Note(Entry),
}

pub fn wish(o: &Observation, ownership: &Ownership) -> Wish {
    if let Some(held) = hold_until_heard(o) {
        return held;
    }
    if is_silent(o) {
        return fail_over(o);
    }
    if o.progress.highest > ownership.epoch || o.progress.never_started() {
        return readopt(o, &ownership.holder);
    }
    match planned_move(o, ownership) {
        decided @ (Wish::Begin(_) | Wish::Note(_)) => decided,
        otherwise @ (Wish::Nothing(_) | Wish::Hold(..) | Wish::Ask(..)) => {
            new_copy(o, ownership).unwrap_or(otherwise)
        }
    }
}

/// A hub that has just started does not know yet what has become of the reason for asking: what stands keeps its name, so
/// that an answer to it counts.
fn hold_until_heard(o: &Observation) -> Option<Wish> {
    let proposed = &o.progress.proposed.as_ref().filter(|_| kept(Rule::QuestionsOutliveTheHub))?.intent;
    // Its DRCluster may not have been read yet.
    let patience = o.placement.policy.timing.suspect;
    let is_unread = o.hub.listening < patience;
    let mut concerned = o.holder_name().into_iter().chain([&proposed.to]);
    let unknown = concerned.find(|name| o.site(name).map_or(is_unread, |site| site.is_unknown(patience)))?;
    let message = format!(
        "{unknown}: has not said anything about {} since this hub started; {} stands until it does, or counts as silent",
        o.placement.name, proposed.operation
    );
    Some(Wish::Hold(proposed.kind, Some(Finding::new(Reason::NoContact, message))))
}

pub fn is_silent(o: &Observation) -> bool {
    o.holder().is_some_and(SiteView::is_silent)
}

/// An epoch was burned by an abort: the holder, which was told to stop, gets a fresh one.
fn readopt(o: &Observation, holder: &ClusterName) -> Wish {
    let Some(site) = o.site(holder) else {
        return Wish::Nothing(checks::first(checks::HANDOVER, o));
    };
    if !site.is_in_contact() {
        let message =
            format!("{holder}: silent again after it had answered; its agent must answer to go on there");
        return Wish::Nothing(Some(Finding::new(Reason::NoContact, message)));
    }
    let why = match &o.progress.rolled_back {
        Some((to, reason)) => format!("the move to {to} was rolled back: {reason}"),
        None => format!("{holder} answers again"),
    };
    Wish::Begin(Box::new(intent(o, OperationKind::Readopt, holder, vec![why])))
}

/// Whether the holder is lost, and who decides about a failover (protocol §5).
fn fail_over(o: &Observation) -> Wish {
    let (Some(holder), Some(target)) = (o.holder(), o.target()) else {
        return Wish::Nothing(checks::readiness(o));
    };
    let blocked = checks::first(checks::ACCUSATION, o)
        .or_else(|| checks::first(checks::ARMING, o))
        .or_else(|| checks::readiness(o))
        .or_else(|| checks::too_many_move(o));
    let to = &target.cluster.name;
    match blocked {
        None => Wish::Begin(Box::new(intent(
            o,
            OperationKind::FailOver,
            to,
            failover_evidence(o, holder, target),
        ))),
        Some(finding) if may_be_asked(o, holder, to, &finding) => {
            let evidence = offer(o, holder, target, &finding);
            let intent = intent(o, OperationKind::FailOver, to, evidence);
            let asked = format!(
                "{}; approve {} with a DRApproval to fail over to {to}",
                finding.message, intent.operation
            );
            Wish::Ask(Box::new(intent), Finding::ask(finding.reason, asked))
        }
        // What stands is not taken back for what may pass, nor by a hub that has not listened for long enough to ask.
        Some(finding)
            if o.progress.proposed.is_some() && (may_pass(finding.reason) || !is_long_lost(o, holder)) =>
        {
            Wish::Hold(OperationKind::FailOver, Some(finding))
        }
        Some(finding) => Wish::Nothing(Some(finding)),
    }
}

fn may_pass(reason: Reason) -> bool {
    matches!(reason, Reason::SignOfLife | Reason::HubFrozen | Reason::Queued)
}

/// Evidence takes time to gather: before that nobody is asked. Nor is anybody while the holder is seen alive, or while the
/// hub may be the one cut off (protocol §4, the link table).
fn may_be_asked(o: &Observation, holder: &SiteView, to: &ClusterName, finding: &Finding) -> bool {
    let asked_for = match o.placement.mode {
        Mode::Automatic | Mode::Confirm => true,
        // Only on request: the user prefers the survivor.
        Mode::Manual => o.placement.preferred == *to,
    };
    let standing =
        o.progress.proposed.as_ref().is_some_and(|proposal| {
            proposal.intent.kind == OperationKind::FailOver && proposal.intent.to == *to
        });
    let vetoed = may_pass(finding.reason);
    let possible = checks::first(checks::ASKING, o).is_none() && checks::first(checks::TARGET, o).is_none();
    asked_for && is_long_lost(o, holder) && !vetoed && (possible || standing)
}

/// For so long that a survivor has had the time to say what it sees of it.
pub fn is_long_lost(o: &Observation, holder: &SiteView) -> bool {
    holder.silent >= o.placement.policy.timing.ask_after()
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

/// What a human needs to decide: why the hub does not, what would be lost, and how the old holder would be known to have
/// stopped.
fn offer(o: &Observation, holder: &SiteView, target: &SiteView, finding: &Finding) -> Vec<String> {
    let lost = &holder.cluster.name;
    let mut evidence = vec![format!("not automatic: {}", finding.message)];
    evidence.push(match o.worst_loss(o.lost_by()) {
        Some(loss) => format!("expected loss: {}", at_least(loss)),
        None => "expected loss: unknown, which may be everything".to_owned(),
    });
    evidence.push(match (checks::waiting_proves_nothing(o), expiry_wait(o.progress)) {
        (None, Some(wait)) => {
            format!("fence: {lost} stops by itself; certainly within {} of its last lease", shown(wait))
        }
        (Some(why), _) => format!(
            "fence: waiting proves nothing about {lost} ({}); see that it is off, and say so with spec.assertFenced: {lost}",
            why.message
        ),
        (None, None) => format!(
            "fence: {lost} may run on while nobody answers; see that it is off, and say so with spec.assertFenced: {lost}"
        ),
    });
    evidence.extend(failover_evidence(o, holder, target));
    evidence
}

/// The user prefers another cluster than the one that has the placement.
fn planned_move(o: &Observation, ownership: &Ownership) -> Wish {
    let (progress, to) = (o.progress, &o.placement.preferred);
    if *to == ownership.holder {
        let settled = progress.rolled_back.is_none() && progress.preferred_then.as_ref() == Some(to);
        return if settled {
            Wish::Nothing(None)
        } else {
            Wish::Note(Entry::WishFulfilled { placement: o.placement.id.clone() })
        };
    }
    let edited = progress.preferred_then.as_ref().is_some_and(|then| then != to);
    if edited { migrate(o, to) } else { fail_back(o, to) }
}

/// An edit of the field is the order.
fn migrate(o: &Observation, to: &ClusterName) -> Wish {
    if let Some(finding) = checks::first(checks::HANDOVER, o).or_else(|| checks::too_many_move(o)) {
        return Wish::Hold(OperationKind::Migrate, Some(finding));
    }
    let evidence = vec![format!("{} prefers {to}", o.placement.name)];
    if let Some(finding) = checks::not_a_follower(o, to) {
        let mut intent = intent(o, OperationKind::Migrate, to, evidence);
        intent.evidence.push(finding.message.clone());
        let message =
            format!("{}; approve {} with a DRApproval if it does", finding.message, intent.operation);
        return Wish::Ask(Box::new(intent), Finding::new(Reason::WaitingForApproval, message));
    }
    match &o.progress.rolled_back {
        Some((before, reason)) if before == to => {
            let mut intent = intent(o, OperationKind::Migrate, to, evidence);
            intent.evidence.push(format!("rolled back before: {reason}"));
            let message = format!(
                "{}: the move to {to} was rolled back: {reason}; mend that, then approve {} with a DRApproval, or prefer another cluster",
                o.placement.name, intent.operation
            );
            Wish::Ask(Box::new(intent), Finding::new(Reason::RolledBack, message))
        }
        Some(_) | None => Wish::Begin(Box::new(intent(o, OperationKind::Migrate, to, evidence))),
    }
}

/// Nobody has asked for it since the last owner was decided; the preferred cluster is simply there again.
fn fail_back(o: &Observation, to: &ClusterName) -> Wish {
    let failback = &o.placement.failback;
    let blocked = checks::first(checks::HANDOVER, o).or_else(|| checks::too_many_move(o));
    let Some(since) = o.protected_since.filter(|_| blocked.is_none()) else {
        return Wish::Hold(OperationKind::FailBack, blocked.filter(|_| failback.automatic));
    };
    let protected = o.wall.since(since);
    let evidence = vec![
        format!("{} prefers {to}, and its copy is whole", o.placement.name),
        format!("protected for {}", shown(whole_seconds(protected))),
    ];
    let mut intent = Box::new(intent(o, OperationKind::FailBack, to, evidence));
    if let Some((_, reason)) = o.progress.rolled_back.as_ref().filter(|(before, _)| before == to) {
        intent.evidence.push(format!("rolled back before: {reason}"));
        let message = format!(
            "{}: the move back to {to} was rolled back: {reason}; mend that, then approve {} with a DRApproval",
            o.placement.name, intent.operation
        );
        return Wish::Ask(intent, Finding::new(Reason::RolledBack, message));
    }
    if !failback.automatic || checks::not_a_follower(o, to).is_some() {
        let message = format!(
            "{}: could go back to {to}; approve {} with a DRApproval when it suits",
            o.placement.name, intent.operation
        );
        return Wish::Ask(intent, Finding::new(Reason::FailbackOffered, message));
    }
    match not_yet(o, to, protected) {
        Some(finding) => Wish::Hold(OperationKind::FailBack, Some(finding)),
        None => Wish::Begin(intent),
    }
}

fn not_yet(o: &Observation, to: &ClusterName, protected: Duration) -> Option<Finding> {
    let failback = &o.placement.failback;
    let name = &o.placement.name;
    let later = |message: String| Some(Finding::new(Reason::FailbackOffered, message));
    if protected < failback.stabilization {
        let left = whole_seconds(failback.stabilization.saturating_sub(protected));
        return later(format!("{name}: goes back to {to} in {}, if it stays protected", shown(left)));
    }
    if !failback.windows.is_empty() && !failback.windows.iter().any(|window| window.contains(o.wall)) {
        return later(format!("{name}: goes back to {to} in the next of spec.failback.windows"));
    }
    checks::first(checks::CALM, o).or_else(|| checks::first(checks::COPY, o))
}

fn whole_seconds(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}

/// Why the last attempt to make this copy anew was given up after a long time.
fn given_up(o: &Observation, cluster: &ClusterName) -> Option<String> {
    let last = o.progress.operation.as_ref().filter(|operation| {
        operation.intent.kind == OperationKind::Resync && operation.intent.to == *cluster
    })?;
    let begun = last.step(StepKind::Resync);
    let issued = begun.issued.filter(|_| begun.acknowledged.is_none())?;
    match &last.ended {
        Some((Ending::Aborted { reason }, at)) if at.since(issued) >= o.placement.move_deadline => {
            Some(format!("given up before: {reason}"))
        }
        Some((Ending::Aborted { .. } | Ending::Committed | Ending::Cut { .. }, _)) | None => None,
    }
}

/// A former holder is back, stopped, with a copy that may hold writes nobody else has (protocol §6).
fn new_copy(o: &Observation, ownership: &Ownership) -> Option<Wish> {
    if propose::has_just_ended(o) {
        return None;
    }
    let returned = o.candidates().find(|site| {
        let fenced = site.report.is_some_and(|report| {
            report.role == Role::Fenced
                && report.epoch_seen == ownership.epoch
                && report.divergence != Divergence::No
        });
        fenced && site.is_in_contact()
    })?;
    if let Some(finding) = checks::first(checks::NEW_COPY, o) {
        return Some(Wish::Hold(OperationKind::Resync, Some(finding)));
    }
    let name = &returned.cluster.name;
    let diverged = returned.report.map_or(Divergence::Unknown, |report| report.divergence);
    let state = match diverged {
        Divergence::Yes => "the storage says that it differs",
        Divergence::Unknown | Divergence::No => "nothing shows what had been copied when it stopped",
    };
    let evidence = vec![
        format!("{name}: is back, stopped, and its copy is outdated; {state}"),
        format!(
            "{name}: a resync throws away what only its copy holds; until it is done there is no second copy"
        ),
    ];
    let mut intent = Box::new(intent(o, OperationKind::Resync, name, evidence));
    let doubt = checks::holder_works(o).map(|finding| finding.message).or_else(|| given_up(o, name));
    let declared = o.placement.failback.resync_automatic && doubt.is_none();
    if declared || !kept(Rule::ResyncIsApproved) {
        return Some(Wish::Begin(intent));
    }
    intent.evidence.extend(doubt);
    let message = format!(
        "{}: the copy at {name} is outdated ({state}); save what you need from it, then approve {} with a DRApproval to make it anew",
        o.placement.name, intent.operation
    );
    Some(Wish::Ask(intent, Finding::new(Reason::DivergedData, message)))
}
