//! What has been told, so that each thing is told once, and everything that has changed is.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::cluster::Liveness as ShownLiveness;
use crds::conditions::{ConditionType, EventReason, Reason};
use crds::placement::DRPlacementStatus;
use proto::{ClusterName, Moment, OperationId, PlacementId, StepKind, Timing, WallTime};

use crate::checks;
use crate::conditions::{self, is_stalled, summarize};
use crate::decision::{Decision, Explanation};
use crate::event::Now;
use crate::explain::{
    Figures, Happening, OperationView, PlacementView, SiteReport, operation_view, proof_name, proposal_view,
    withdrawn_view,
};
use crate::finding::Finding;
use crate::fleet::{Fleet, Liveness, Site};
use crate::journal::{Entry, OperationKind, StepRecord};
use crate::observation::Observation;
use crate::placement::{Placement, Refused};
use crate::progress::{Ledger, Operation, Proposal};
use crate::wish;

#[derive(Default)]
pub struct Tell {
    placements: BTreeMap<PlacementId, Told>,
    sites: BTreeMap<ClusterName, (SiteReport, Moment)>,
    /// The shortest patience that a placement has with a cluster: suspect, unreachable.
    patience: BTreeMap<ClusterName, (Duration, Duration)>,
}

#[derive(Default)]
struct Told {
    /// What was told otherwise than by a view, and since the last one.
    status: Option<DRPlacementStatus>,
    view: Option<PlacementView>,
    /// What was told of operations, and what that was made from: the same again needs no new view.
    operation: Option<OperationView>,
    operation_of: Option<(Operation, Option<Finding>)>,
    proposal: Option<OperationView>,
    proposal_of: Option<(Proposal, Option<Finding>)>,
    withdrawn_of: Option<(Proposal, String)>,
    /// The holder that is not heard, if it is not.
    lost: Option<ClusterName>,
    refusal: Option<Reason>,
    stalled: Option<Reason>,
    stale: bool,
    witness_silent: bool,
}

/// How often a site's row is written when only the time of its heartbeat has changed.
const SITE_ROW_EVERY: Duration = Duration::from_secs(10);

impl Tell {
    /// What an earlier hub has told, so that the times of transitions live on.
    pub fn knew(&mut self, id: &PlacementId, status: &DRPlacementStatus) {
        let told = self.placements.entry(id.clone()).or_default();
        if told.status().is_none() {
            told.status = Some(status.clone());
        }
    }

    /// Since when the placement's copy has met its bound, as it was last told.
    pub fn protected_since(&self, id: &PlacementId) -> Option<WallTime> {
        let status = self.placements.get(id)?.status()?;
        let protected = status.conditions.iter().find(|condition| {
            condition.type_ == ConditionType::Protected.as_str() && condition.status == "True"
        })?;
        Some(WallTime(protected.last_transition_time.0.as_millisecond()))
    }

    pub fn forget(&mut self, id: &PlacementId) {
        self.placements.remove(id);
    }

    pub fn refused(&mut self, now: Now, refused: &Refused, decision: &mut Decision) {
        let told = self.placements.entry(refused.id.clone()).or_default();
        let status = conditions::refused(told.status(), refused.generation.0, &refused.message, now.wall);
        if told.status() != Some(&status) {
            (told.status, told.view) = (Some(status.clone()), None);
            decision.explain.push(Explanation::Placement(Box::new(PlacementView {
                id: refused.id.clone(),
                name: refused.name.clone(),
                generation: refused.generation,
                status,
                figures: Figures::default(),
                waiting: Some(Finding::new(Reason::InvalidSpec, refused.message.clone())),
            })));
        }
    }

    /// Status, operation and transitions of one placement.
    pub fn placement(
        &mut self,
        o: &Observation,
        waiting: Option<&Finding>,
        refused: Option<&Refused>,
        decision: &mut Decision,
    ) {
        let told = self.placements.entry(o.placement.id.clone()).or_default();
        if refused.is_none() {
            let summary = summarize(o, waiting, told.status());
            let view = PlacementView {
                id: o.placement.id.clone(),
                name: o.placement.name.clone(),
                generation: o.placement.generation,
                status: summary.status,
                figures: summary.figures,
                waiting: waiting.cloned(),
            };
            if told.view.as_ref() != Some(&view) {
                (told.status, told.view) = (None, Some(view.clone()));
                decision.explain.push(Explanation::Placement(Box::new(view)));
            }
        }
        // The end of the one before may not have been told by a hub that died.
        if let (None, Some(before)) = (&told.operation, &o.progress.before) {
            told.operation(before, None, decision);
        }
        if let Some(operation) = &o.progress.operation {
            told.operation(operation, waiting.filter(|_| operation.is_running()), decision);
        }
        if let Some(proposal) = &o.progress.proposed {
            told.standing_proposal(proposal, waiting, decision);
        } else if let Some(withdrawn) = &o.progress.withdrawn {
            let became = o.progress.operation.as_ref().map(|operation| &operation.intent.operation);
            if became != Some(&withdrawn.0.intent.operation) {
                told.withdrawn_proposal(withdrawn, decision);
            }
        }
        told.transitions(o, waiting, decision);
    }

    /// What follows for the reader from a record in the journal.
    pub fn recorded(&mut self, entry: &Entry, ledger: &Ledger, decision: &mut Decision) {
        if let Some(happening) = happening(entry, ledger) {
            decision.explain.push(Explanation::Happened(happening));
        }
        if let Entry::Commit { placement, .. }
        | Entry::Cut { placement, .. }
        | Entry::Abort { placement, .. } = entry
        {
            self.ended(placement, ledger, decision);
        }
    }

    /// The next operation may be decided in the same step, and hides this one.
    fn ended(&mut self, placement: &PlacementId, ledger: &Ledger, decision: &mut Decision) {
        let ended = ledger.of(placement).and_then(|progress| progress.operation.as_ref());
        if let Some(operation) = ended.filter(|operation| !operation.is_running()) {
            let told = self.placements.entry(placement.clone()).or_default();
            told.operation(operation, None, decision);
        }
    }

    /// A site is shown as the most impatient of its placements takes it.
    pub fn take_patience<'a>(&mut self, placements: impl Iterator<Item = &'a Placement>) {
        self.patience.clear();
        for placement in placements {
            let timing = &placement.policy.timing;
            for cluster in &placement.clusters {
                let patience =
                    self.patience.entry(cluster.clone()).or_insert((timing.suspect, timing.unreachable));
                *patience = (*patience).min((timing.suspect, timing.unreachable));
            }
        }
    }

    fn patience_with(&self, cluster: &ClusterName) -> (Duration, Duration) {
        let unused = Timing::DEFAULT;
        self.patience.get(cluster).copied().unwrap_or((unused.suspect, unused.unreachable))
    }

    pub fn sites(&mut self, now: Now, fleet: &Fleet, awake_since: Moment, decision: &mut Decision) {
        for site in fleet.sites.values() {
            self.one_site(now, site, awake_since, decision);
        }
    }

    pub fn site(
        &mut self,
        now: Now,
        fleet: &Fleet,
        name: &ClusterName,
        awake_since: Moment,
        decision: &mut Decision,
    ) {
        if let Some(site) = fleet.sites.get(name) {
            self.one_site(now, site, awake_since, decision);
        }
    }

    fn one_site(&mut self, now: Now, site: &Site, awake_since: Moment, decision: &mut Decision) {
        let (suspect, unreachable) = self.patience_with(&site.cluster.name);
        let liveness = match site.liveness(now.boot, awake_since, suspect, unreachable) {
            Liveness::Alive => ShownLiveness::Live,
            Liveness::Unheard => ShownLiveness::Unheard,
            Liveness::Suspect | Liveness::Unreachable if site.heard.is_none() => ShownLiveness::Unheard,
            Liveness::Suspect => ShownLiveness::Suspected,
            Liveness::Unreachable => ShownLiveness::Lost,
        };
        let row = SiteReport {
            cluster: site.cluster.name.clone(),
            liveness,
            last_heartbeat: site.heard.as_ref().map(|heard| heard.at_wall),
            version: site.version.clone(),
        };
        let unchanged = self.sites.get(&row.cluster).is_some_and(|(before, at)| {
            before.liveness == row.liveness
                && before.version == row.version
                && (now.boot.since(*at) < SITE_ROW_EVERY || before.last_heartbeat == row.last_heartbeat)
        });
        if !unchanged {
            self.sites.insert(row.cluster.clone(), (row.clone(), now.boot));
            decision.explain.push(Explanation::Site(row));
        }
    }
}

/// Whether an operation is told as it was when it waited for this.
fn is_same<T: PartialEq>(told: Option<&(T, Option<Finding>)>, of: &T, waiting: Option<&Finding>) -> bool {
    told.is_some_and(|(told_of, told_waiting)| told_waiting.as_ref() == waiting && told_of == of)
}

impl Told {
    fn status(&self) -> Option<&DRPlacementStatus> {
        self.status.as_ref().or(self.view.as_ref().map(|view| &view.status))
    }

    fn standing_proposal(&mut self, of: &Proposal, waiting: Option<&Finding>, decision: &mut Decision) {
        if !is_same(self.proposal_of.as_ref(), of, waiting) {
            self.proposal(proposal_view(of, waiting), decision);
            self.proposal_of = Some((of.clone(), waiting.cloned()));
        }
    }

    fn withdrawn_proposal(&mut self, of: &(Proposal, String), decision: &mut Decision) {
        if self.withdrawn_of.as_ref() != Some(of) {
            self.proposal(withdrawn_view(&of.0, &of.1), decision);
            self.withdrawn_of = Some(of.clone());
        }
    }

    fn proposal(&mut self, view: OperationView, decision: &mut Decision) {
        (self.proposal_of, self.withdrawn_of) = (None, None);
        if self.proposal.as_ref() != Some(&view) {
            self.proposal = Some(view.clone());
            decision.explain.push(Explanation::Operation(Box::new(view)));
        }
    }

    fn operation(&mut self, of: &Operation, waiting: Option<&Finding>, decision: &mut Decision) {
        if is_same(self.operation_of.as_ref(), of, waiting) {
            return;
        }
        let stuck = waiting.is_some_and(|finding| is_stalled(finding.reason));
        let view = operation_view(of, waiting, stuck);
        self.operation_of = Some((of.clone(), waiting.cloned()));
        if self.operation.as_ref() != Some(&view) {
            self.operation = Some(view.clone());
            decision.explain.push(Explanation::Operation(Box::new(view)));
        }
    }

    fn transitions(&mut self, o: &Observation, waiting: Option<&Finding>, decision: &mut Decision) {
        let mut say = |reason, warning, message: String| {
            decision.explain.push(Explanation::Happened(Happening {
                placement: o.placement.id.clone(),
                name: o.placement.name.clone(),
                reason,
                warning,
                message,
                operation: o.progress.running().map(|operation| operation.intent.operation.clone()),
            }));
        };
        if let Some(holder) = o.holder() {
            let lost = holder.is_silent();
            let name = &holder.cluster.name;
            let was_lost = self.lost.as_ref() == Some(name);
            match (was_lost, lost) {
                (false, true) => say(EventReason::HeartbeatLost, true, format!("{name}: no longer heard")),
                (true, false) => say(EventReason::HeartbeatReturned, false, format!("{name}: heard again")),
                (true, true) | (false, false) => {}
            }
            self.lost = lost.then(|| name.clone());
            // The evidence against a site that is lost takes time to gather: that is no refusal yet.
            let refusal = waiting.filter(|_| wish::is_long_lost(o, holder) && o.progress.running().is_none());
            if refusal.map(Finding::cause) != self.refusal {
                if let Some(finding) = refusal {
                    say(EventReason::FailoverRefused, true, finding.message.clone());
                }
                self.refusal = refusal.map(Finding::cause);
            }
        }
        // One that has not answered a hub that just started is not lost yet.
        let silent = checks::witnesses_answer(o).filter(|_| checks::witnesses_were_asked(o).is_none());
        match (self.witness_silent, &silent) {
            (false, Some(finding)) => say(EventReason::WitnessSilent, true, finding.message.clone()),
            (true, None) => {
                say(EventReason::WitnessReturned, false, "every witness answers".to_owned());
            }
            (false, None) | (true, Some(_)) => {}
        }
        self.witness_silent = silent.is_some();
        let stalled = waiting.filter(|finding| is_stalled(finding.reason));
        if stalled.map(|finding| finding.reason) != self.stalled {
            if let Some(finding) = stalled {
                let unowned = o.progress.ownership.is_none().then_some(EventReason::DeployRefused);
                let stuck = finding.reason == Reason::PromoteStuck;
                let reason = if stuck { Some(EventReason::PromoteStuck) } else { unowned };
                if let Some(reason) = reason {
                    say(reason, true, finding.message.clone());
                }
            }
            self.stalled = stalled.map(|finding| finding.reason);
        }
        let stale = self.status().is_some_and(|status| {
            status.conditions.iter().any(|condition| {
                condition.type_ == ConditionType::Protected.as_str()
                    && condition.reason == Reason::StaleCopy.as_str()
            })
        });
        if stale && !self.stale {
            say(
                EventReason::ReplicationStale,
                true,
                format!("{}: its copy is older than allowed", o.placement.name),
            );
        }
        self.stale = stale;
    }
}

/// One event per transition, in the past tense.
fn happening(entry: &Entry, ledger: &Ledger) -> Option<Happening> {
    let (placement, reason, warning, message) = match entry {
        Entry::Intent(intent) => {
            let reason = match intent.kind {
                OperationKind::Deploy | OperationKind::Readopt => EventReason::DeployStarted,
                OperationKind::FailOver => EventReason::FailoverStarted,
                OperationKind::Migrate => EventReason::MigrationStarted,
                OperationKind::FailBack => EventReason::FailbackStarted,
                OperationKind::Resync => EventReason::ResyncStarted,
                OperationKind::Release => return None,
            };
            (&intent.placement, reason, intent.kind == OperationKind::FailOver, intent.evidence.join("; "))
        }
        Entry::Proposal(intent) => (
            &intent.placement,
            EventReason::OperationProposed,
            intent.kind != OperationKind::FailBack,
            format!("{}: {}", intent.operation, intent.evidence.join("; ")),
        ),
        Entry::Withdrawn { placement, operation, reason } => {
            (placement, EventReason::OperationWithdrawn, false, format!("{operation}: {reason}"))
        }
        Entry::Step {
            placement,
            operation: _,
            step: StepKind::ScaleDown,
            state: StepRecord::Acknowledged,
        } => (
            placement,
            EventReason::ScaledDown,
            false,
            "no pod and no attachment uses the volumes".to_owned(),
        ),
        Entry::Step { placement, operation: _, step: StepKind::Demote, state: StepRecord::Acknowledged } => {
            (placement, EventReason::HandedOver, false, "everything written has crossed".to_owned())
        }
        Entry::Fence { placement, operation: _, proof } => {
            (placement, EventReason::FenceConfirmed, false, format!("proof: {}", proof_name(proof)))
        }
        Entry::Step { placement, operation: _, step: StepKind::Promote, state: StepRecord::Acknowledged } => {
            (placement, EventReason::Promoted, false, "every volume is primary".to_owned())
        }
        Entry::Commit { placement, operation } => {
            let kind = ledger.of(placement)?.operation.as_ref()?.intent.kind;
            let reason = match kind {
                OperationKind::Deploy | OperationKind::Readopt => EventReason::Deployed,
                OperationKind::FailOver => EventReason::FailoverCompleted,
                OperationKind::Migrate => EventReason::MigrationCompleted,
                OperationKind::FailBack => EventReason::FailbackCompleted,
                OperationKind::Resync => EventReason::ResyncCompleted,
                OperationKind::Release => return None,
            };
            (placement, reason, false, operation.to_string())
        }
        Entry::Abort { placement, operation: _, reason } => {
            let kind = ledger.of(placement)?.operation.as_ref()?.intent.kind;
            let event = match kind {
                OperationKind::Migrate | OperationKind::FailBack => EventReason::RolledBack,
                OperationKind::Resync => EventReason::ResyncAborted,
                OperationKind::FailOver
                | OperationKind::Deploy
                | OperationKind::Readopt
                | OperationKind::Release => EventReason::FailoverAborted,
            };
            (placement, event, true, reason.clone())
        }
        Entry::Cut { placement, operation: _, reason } => {
            (placement, EventReason::OperationCut, true, reason.clone())
        }
        Entry::Released { placement } => {
            (placement, EventReason::Released, false, "the application stays as it is".to_owned())
        }
        Entry::NeedsHuman { placement, reason } => (placement, EventReason::NeedsHuman, true, reason.clone()),
        Entry::Genesis { hub: _ }
        | Entry::Term { term: _ }
        | Entry::Ownership { .. }
        | Entry::Policy { .. }
        | Entry::Echo { .. }
        | Entry::Step { .. }
        | Entry::BackedUp { .. }
        | Entry::Resynced { .. }
        | Entry::WishFulfilled { .. }
        | Entry::Block { .. } => return None,
    };
    let progress = ledger.of(placement)?;
    let begun = progress.operation.as_ref().map(|operation| operation.intent.operation.clone());
    Some(Happening {
        placement: placement.clone(),
        name: progress.name.clone()?,
        reason,
        warning,
        message,
        operation: proposal(entry).or(begun),
    })
}

/// A proposal is told beside the operation that was begun before it.
fn proposal(entry: &Entry) -> Option<OperationId> {
    if let Entry::Proposal(intent) = entry {
        return Some(intent.operation.clone());
    }
    if let Entry::Withdrawn { placement: _, operation, reason: _ } = entry {
        return Some(operation.clone());
    }
    None
}
