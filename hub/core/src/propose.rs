//! Asking a human: a proposal is written down, stands as long as its reason does, and becomes the operation by an approval that
//! names it (invariants S25, S29).

use proto::{ClusterName, Rule, kept};

use crate::approval::Approval;
use crate::checks;
use crate::decide::Choice;
use crate::finding::Finding;
use crate::journal::{Entry, Intent, OperationKind};
use crate::observation::Observation;
use crate::progress::Proposal;
use crate::wish::Wish;

/// From a wish to what is written down.
pub fn settle(o: &Observation, wish: Wish) -> Choice {
    let standing = o.progress.proposed.as_ref();
    match wish {
        Wish::Ask(wanted, finding) => match standing {
            Some(proposal) if is_same(&proposal.intent, &wanted) => answer(o, proposal, *wanted, finding),
            // What has just ended may still be on its way into the reports.
            None if has_just_ended(o) => Choice::Wait(Some(finding)),
            standing => {
                let mut entries = withdraw(standing, "something else is asked for now");
                entries.push(Entry::Proposal(wanted));
                Choice::Record(entries)
            }
        },
        Wish::Begin(intent) => {
            let mut entries = withdraw(standing, "it needs no approval any more");
            entries.push(Entry::Intent(intent));
            Choice::Record(entries)
        }
        Wish::Note(entry) => {
            let mut entries = withdraw(standing, "the wish is fulfilled");
            entries.push(entry);
            Choice::Record(entries)
        }
        Wish::Hold(kind, finding) if standing.is_none_or(|proposal| proposal.intent.kind == kind) => {
            Choice::Wait(finding)
        }
        Wish::Hold(_, _) => Choice::Record(withdraw(standing, "its reason is gone")),
        Wish::Nothing(finding) if standing.is_some() => {
            let why = finding.map_or_else(|| "its reason is gone".to_owned(), |finding| finding.message);
            Choice::Record(withdraw(standing, &why))
        }
        Wish::Nothing(finding) => Choice::Wait(finding),
    }
}

/// Reports of what it has done may still be on their way.
pub fn has_just_ended(o: &Observation) -> bool {
    let ended = o.progress.operation.as_ref().and_then(|operation| operation.ended.as_ref());
    ended.is_some_and(|(_, at)| o.wall.since(*at) < o.placement.policy.timing.suspect)
}

/// What was looked at is what is approved: another wording of the DRPlacement is another proposal.
fn is_same(proposed: &Intent, wanted: &Intent) -> bool {
    proposed.kind == wanted.kind
        && proposed.from == wanted.from
        && proposed.to == wanted.to
        && proposed.epoch == wanted.epoch
        && proposed.generation == wanted.generation
}

fn withdraw(standing: Option<&Proposal>, why: &str) -> Vec<Entry> {
    let withdrawn = standing.map(|proposal| Entry::Withdrawn {
        placement: proposal.intent.placement.clone(),
        operation: proposal.intent.operation.clone(),
        reason: why.to_owned(),
    });
    withdrawn.into_iter().collect()
}

/// A no counts more than a yes; a yes that does not fit says why not.
fn answer(o: &Observation, proposal: &Proposal, wanted: Intent, finding: Finding) -> Choice {
    let proposed = &proposal.intent;
    let answers: Vec<&Approval> =
        o.approvals.iter().copied().filter(|approval| approval.operation == proposed.operation.0).collect();
    if let Some(no) = answers.iter().find(|answer| !answer.approve) {
        let message = format!(
            "{}: {} has declined {} (DRApproval {}); delete that to decide anew",
            o.placement.name, no.approver, proposed.operation, no.name
        );
        return Choice::Wait(Some(Finding::new(finding.reason, message)));
    }
    let mut flaw = None;
    for yes in answers {
        match yes.flaw(proposed, o.placement, o.wall).or_else(|| unproven(o, proposed, yes)) {
            None => return begin(o, proposal, wanted, yes),
            Some(why) => flaw = Some(why),
        }
    }
    Choice::Wait(Some(match flaw {
        Some(why) => Finding::new(finding.reason, why),
        None => finding,
    }))
}

/// A yes alone does not stop the old holder: where waiting proves nothing, somebody has to vouch for it.
fn unproven(o: &Observation, proposed: &Intent, yes: &Approval) -> Option<String> {
    let by_time = proposed.kind == OperationKind::FailOver && kept(Rule::WaitingMustProveAFence);
    if !by_time || yes.asserts_off.is_some() {
        return None;
    }
    let why = checks::waiting_proves_nothing(o)?;
    let from = proposed.from.as_ref().map_or("the old holder", ClusterName::as_str);
    Some(format!(
        "DRApproval {}: says nothing about {from}, and waiting proves nothing ({}); see that it is off, and make another with spec.assertFenced: {from}",
        yes.name, why.message
    ))
}

/// The proposal's own reason is what the human has overruled; nothing else may have come up.
fn begin(o: &Observation, proposal: &Proposal, wanted: Intent, yes: &Approval) -> Choice {
    if let Some(blocked) = checks::first(checks::CONSENT, o).or_else(|| checks::too_many_move(o)) {
        return Choice::Wait(Some(blocked));
    }
    Choice::Record(vec![Entry::Intent(Box::new(Intent {
        operation: proposal.intent.operation.clone(),
        approval: Some(yes.record()),
        ..wanted
    }))])
}
