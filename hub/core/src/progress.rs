//! The fold of the journal: what has been decided about one placement, and how far it has come.

use std::collections::BTreeMap;

use proto::{
    ClusterName, Epoch, FenceProof, Generation, OperationId, PlacementId, PlacementName, Policy, StepKind,
    Term, WallTime,
};

use crate::journal::{Entry, Intent, StepRecord};

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
    Aborted { reason: String },
}

/// One operation, from its intent to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub intent: Intent,
    pub started: WallTime,
    pub steps: BTreeMap<StepKind, StepProgress>,
    pub proof: Option<(FenceProof, WallTime)>,
    pub ended: Option<(Ending, WallTime)>,
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

    /// The first step that is not done: where the operation stands.
    pub fn current_step(&self) -> Option<StepKind> {
        self.intent.plan.iter().copied().find(|step| self.step(*step).acknowledged.is_none())
    }
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
        block: None,
        needs_human: None,
        released: false,
    };

    pub fn running(&self) -> Option<&Operation> {
        self.operation.as_ref().filter(|operation| operation.is_running())
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
                progress.highest = progress.highest.max(intent.epoch);
                progress.operation = Some(Operation {
                    intent: (**intent).clone(),
                    started: at,
                    steps: BTreeMap::new(),
                    proof: None,
                    ended: None,
                });
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
            Entry::Commit { placement, operation } => self.end(placement, operation, Ending::Committed, at),
            Entry::Abort { placement, operation, reason } => {
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

    fn end(&mut self, placement: &PlacementId, operation: &OperationId, ending: Ending, at: WallTime) {
        if let Some(operation) = self.entry(placement).operation_mut(operation) {
            operation.ended.get_or_insert((ending, at));
        }
    }
}
