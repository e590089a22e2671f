//! The fold of the journal: what has been decided about one placement, and how far it has come.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    ClusterName, Epoch, FenceProof, Generation, OperationId, PlacementId, PlacementName, Policy, StepKind,
    Term, WallTime,
};

use crate::journal::{Entry, Intent, OperationKind, StepRecord};

/// More automatic changes of the owner than flapping needs to be told.
const FLIPS_REMEMBERED: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub epoch: Epoch,
    pub holder: ClusterName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepProgress {
    pub issued: Option<WallTime>,
    pub acknowledged: Option<WallTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Committed,
    Aborted {
        reason: String,
    },
    /// The new owner stands, and the rest was given up.
    Cut {
        reason: String,
    },
}

/// One operation, from its intent to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub intent: Intent,
    pub started: WallTime,
    pub steps: BTreeMap<StepKind, StepProgress>,
    pub proof: Option<(FenceProof, WallTime)>,
    pub ended: Option<(Ending, WallTime)>,
    /// The holder's sync times when the outdated copy was made anew (resync only).
    pub syncs: Vec<(String, Option<WallTime>)>,
}

impl Operation {
    pub fn step(&self, step: StepKind) -> StepProgress {
        self.steps.get(&step).copied().unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    /// Past it there is no abort (protocol §3).
    pub fn is_past_no_return(&self) -> bool {
        self.step(StepKind::Promote).issued.is_some()
    }

    /// The owner has changed: what is left is to start the application there.
    pub fn has_moved(&self) -> bool {
        self.step(StepKind::TakeOwnership).acknowledged.is_some()
    }

    /// The first step that is not done: where the operation stands.
    pub fn current_step(&self) -> Option<StepKind> {
        self.intent.plan.iter().copied().find(|step| self.step(*step).acknowledged.is_none())
    }
}

/// What waits for a human's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub intent: Intent,
    pub since: WallTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The automatic failover after which a human should look.
    pub operation: OperationId,
    pub until: WallTime,
}

/// Everything the journal says about one placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub name: Option<PlacementName>,
    pub ownership: Option<Ownership>,
    /// The highest epoch ever entered or burned; the next one is one more.
    pub highest: Epoch,
    /// Policies granted since the last echo, oldest first (R6).
    pub policies: Vec<Policy>,
    /// The clusters that each of these policies came with.
    pub targets: Vec<(Generation, Vec<ClusterName>)>,
    pub echoed: Generation,
    pub operation: Option<Operation>,
    /// The one before it, which has ended.
    pub before: Option<Operation>,
    pub proposed: Option<Proposal>,
    /// The last proposal that no longer stands, and why.
    pub withdrawn: Option<(Proposal, String)>,
    /// Proposals, and operations that enter no epoch, since the last epoch was entered; each has a name of its own.
    pub attempts: BTreeMap<OperationKind, u32>,
    /// What the user preferred when the present owner was decided.
    pub preferred_then: Option<ClusterName>,
    /// The target of the last planned move that was rolled back.
    pub rolled_back: Option<(ClusterName, String)>,
    /// The clusters whose copies are known to follow the present holder: all at the adoption, then those that handed over or
    /// were made anew. csi-addons tells when something was synced, not to whom.
    pub followers: Option<BTreeSet<ClusterName>>,
    /// When the owner has changed by itself, newest last (anti-flap, protocol §7).
    pub flips: Vec<WallTime>,
    pub block: Option<Block>,
    pub needs_human: Option<String>,
    pub released: bool,
}

impl Progress {
    pub const NEW: Progress = Progress {
        name: None,
        ownership: None,
        highest: Epoch(0),
        policies: Vec::new(),
        targets: Vec::new(),
        echoed: Generation(0),
        operation: None,
        before: None,
        proposed: None,
        withdrawn: None,
        attempts: BTreeMap::new(),
        preferred_then: None,
        rolled_back: None,
        followers: None,
        flips: Vec::new(),
        block: None,
        needs_human: None,
        released: false,
    };

    pub fn running(&self) -> Option<&Operation> {
        self.operation.as_ref().filter(|operation| operation.is_running())
    }

    /// The last operation made this cluster the owner, and was cut short before it could start the application.
    pub fn never_started(&self) -> bool {
        self.operation.as_ref().is_some_and(|operation| {
            let cut = matches!(operation.ended, Some((Ending::Cut { .. }, _)));
            cut && operation.step(StepKind::ScaleUp).acknowledged.is_none()
        })
    }

    fn begin(&mut self, intent: &Intent, at: WallTime) {
        if intent.epoch > self.highest {
            self.highest = intent.epoch;
            self.attempts.clear();
        }
        // One that was proposed before has been counted then.
        let proposed = self.proposed.as_ref().map(|proposal| &proposal.intent.operation);
        if !intent.kind.enters_an_epoch() && proposed != Some(&intent.operation) {
            *self.attempts.entry(intent.kind).or_default() += 1;
        }
        self.proposed = None;
        self.before = self.operation.take();
        self.operation = Some(Operation {
            intent: intent.clone(),
            started: at,
            steps: BTreeMap::new(),
            proof: None,
            ended: None,
            syncs: Vec::new(),
        });
    }

    /// The owner is decided: what was wished for then is told from what is wished for later.
    fn settle_wish(&mut self, at: WallTime) {
        let Some(operation) = &self.operation else { return };
        let kind = operation.intent.kind;
        if let (OperationKind::Resync, Some(followers)) = (kind, &mut self.followers) {
            followers.insert(operation.intent.to.clone());
        }
        if !kind.enters_an_epoch() || kind == OperationKind::Readopt {
            return;
        }
        self.preferred_then.clone_from(&operation.intent.preferred);
        if kind.takes_away() {
            let from = operation.intent.from.clone().filter(|_| kind.is_planned_move());
            self.followers = Some(from.into_iter().collect());
        }
        self.rolled_back = None;
        if kind.takes_away() && operation.intent.approval.is_none() && kind != OperationKind::Migrate {
            self.flips.push(at);
            let surplus = self.flips.len().saturating_sub(FLIPS_REMEMBERED);
            self.flips.drain(..surplus);
        }
    }

    fn roll_back(&mut self, operation: &OperationId, reason: &str) {
        let known = self.operation.as_ref().filter(|known| known.intent.operation == *operation);
        if let Some(known) = known.filter(|known| known.intent.kind.is_planned_move()) {
            self.rolled_back = Some((known.intent.to.clone(), reason.to_owned()));
        }
    }

    fn operation_mut(&mut self, id: &OperationId) -> Option<&mut Operation> {
        self.operation.as_mut().filter(|operation| operation.intent.operation == *id)
    }
}

/// The whole journal, folded.
#[derive(Debug, Default)]
pub struct Ledger {
    pub term: Term,
    pub placements: BTreeMap<PlacementId, Progress>,
    /// Placements that are being moved now.
    pub moving: BTreeSet<PlacementId>,
    /// Each cluster that was lost by an automatic failover, and when the last one was decided.
    pub lost: BTreeMap<ClusterName, WallTime>,
    /// Each cluster from which a failover has got through its promotion, and when the last one did.
    pub proven: BTreeMap<ClusterName, WallTime>,
}

impl Ledger {
    pub fn of(&self, placement: &PlacementId) -> Option<&Progress> {
        self.placements.get(placement)
    }

    fn entry(&mut self, placement: &PlacementId) -> &mut Progress {
        self.placements.entry(placement.clone()).or_default()
    }

    /// Applies one entry. Applying the same prefix twice gives the same value (invariant S10).
    pub fn fold(&mut self, at: WallTime, entry: &Entry) {
        self.overview(at, entry);
        match entry {
            Entry::Genesis { hub: _ } => {}
            Entry::Term { term } => self.term = *term,
            Entry::Ownership { placement, name, epoch, holder } => {
                let progress = self.entry(placement);
                progress.name = Some(name.clone());
                progress.ownership = Some(Ownership { epoch: *epoch, holder: holder.clone() });
                progress.highest = progress.highest.max(*epoch);
                // A new holder has echoed nothing yet: what the old one lived by is of no more use.
                progress.policies.clear();
                progress.targets.clear();
                progress.echoed = Generation(0);
            }
            Entry::Policy { placement, policy, clusters } => {
                let progress = self.entry(placement);
                progress.policies.push(*policy);
                progress.targets.push((policy.generation, clusters.clone()));
            }
            Entry::Echo { placement, generation } => {
                let progress = self.entry(placement);
                progress.echoed = progress.echoed.max(*generation);
                let echoed = progress.echoed;
                progress.policies.retain(|policy| policy.generation >= echoed);
                progress.targets.retain(|(generation, _)| *generation >= echoed);
            }
            Entry::Intent(intent) => {
                let progress = self.entry(&intent.placement);
                progress.name = Some(intent.name.clone());
                progress.begin(intent, at);
            }
            Entry::Proposal(intent) => {
                let progress = self.entry(&intent.placement);
                progress.name = Some(intent.name.clone());
                *progress.attempts.entry(intent.kind).or_default() += 1;
                progress.proposed = Some(Proposal { intent: (**intent).clone(), since: at });
            }
            Entry::Withdrawn { placement, operation, reason } => {
                let progress = self.entry(placement);
                if let Some(proposal) =
                    progress.proposed.take_if(|known| known.intent.operation == *operation)
                {
                    progress.withdrawn = Some((proposal, reason.clone()));
                }
            }
            Entry::BackedUp { placement, operation, claims } => {
                if let Some(operation) = self.entry(placement).operation_mut(operation) {
                    operation.intent.claims.clone_from(claims);
                }
            }
            Entry::Resynced { placement, operation, syncs } => {
                if let Some(operation) = self.entry(placement).operation_mut(operation) {
                    operation.syncs.clone_from(syncs);
                }
            }
            Entry::WishFulfilled { placement } => {
                let progress = self.entry(placement);
                progress.rolled_back = None;
                let holder = progress.ownership.as_ref().map(|ownership| ownership.holder.clone());
                progress.preferred_then = holder;
            }
            Entry::Step { placement, operation, step, state } => {
                if let Some(operation) = self.entry(placement).operation_mut(operation) {
                    let progress = operation.steps.entry(*step).or_default();
                    match state {
                        StepRecord::Issued => progress.issued.get_or_insert(at),
                        StepRecord::Acknowledged => progress.acknowledged.get_or_insert(at),
                    };
                }
            }
            Entry::Fence { placement, operation, proof } => {
                if let Some(operation) = self.entry(placement).operation_mut(operation) {
                    operation.proof.get_or_insert((proof.clone(), at));
                }
            }
            Entry::Commit { placement, operation } => {
                self.end(placement, operation, Ending::Committed, at);
                self.entry(placement).settle_wish(at);
            }
            Entry::Cut { placement, operation, reason } => {
                self.end(placement, operation, Ending::Cut { reason: reason.clone() }, at);
                self.entry(placement).settle_wish(at);
            }
            Entry::Abort { placement, operation, reason } => {
                self.entry(placement).roll_back(operation, reason);
                self.end(placement, operation, Ending::Aborted { reason: reason.clone() }, at);
            }
            Entry::Block { placement, operation, until } => {
                self.entry(placement).block = Some(Block { operation: operation.clone(), until: *until });
            }
            Entry::Released { placement } => self.entry(placement).released = true,
            Entry::NeedsHuman { placement, reason } => {
                self.entry(placement).needs_human.get_or_insert_with(|| reason.clone());
            }
        }
    }

    /// What is known of all placements together, kept in step so that nobody has to look through them all.
    fn overview(&mut self, at: WallTime, entry: &Entry) {
        match entry {
            Entry::Intent(intent) if intent.kind.takes_away() => {
                self.moving.insert(intent.placement.clone());
                if let (OperationKind::FailOver, None, Some(from)) =
                    (intent.kind, &intent.approval, &intent.from)
                {
                    self.lost.insert(from.clone(), at);
                }
            }
            Entry::Step {
                placement,
                operation: _,
                step: StepKind::Promote,
                state: StepRecord::Acknowledged,
            } => {
                let from = self
                    .of(placement)
                    .and_then(Progress::running)
                    .and_then(|operation| operation.intent.from.clone());
                if let Some(from) = from {
                    self.proven.insert(from, at);
                }
                // What is left to do asks nothing of the storage, and may wait for others.
                self.moving.remove(placement);
            }
            Entry::Commit { placement, operation: _ }
            | Entry::Cut { placement, operation: _, reason: _ }
            | Entry::Abort { placement, operation: _, reason: _ }
            | Entry::Released { placement } => {
                self.moving.remove(placement);
            }
            Entry::Genesis { .. }
            | Entry::Term { .. }
            | Entry::Ownership { .. }
            | Entry::Policy { .. }
            | Entry::Echo { .. }
            | Entry::Intent(_)
            | Entry::Proposal(_)
            | Entry::Withdrawn { .. }
            | Entry::BackedUp { .. }
            | Entry::Resynced { .. }
            | Entry::WishFulfilled { .. }
            | Entry::Step { .. }
            | Entry::Fence { .. }
            | Entry::Block { .. }
            | Entry::NeedsHuman { .. } => {}
        }
    }

    fn end(&mut self, placement: &PlacementId, operation: &OperationId, ending: Ending, at: WallTime) {
        if let Some(operation) = self.entry(placement).operation_mut(operation) {
            operation.ended.get_or_insert((ending, at));
        }
    }
}
