//! The hub's write-ahead record: closed vocabulary, hash chain, and nothing that is not needed to decide again.

use proto::{
    ClusterName, Epoch, FenceProof, Generation, OperationId, PlacementId, PlacementName, Policy, StepKind,
    Term, WallTime,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OperationKind {
    /// Adopts an application where it runs.
    Deploy,
    /// Gives the placement back to a holder that was accused and answered before the point of no return.
    Readopt,
    FailOver,
    /// A planned move because the user prefers another cluster now.
    Migrate,
    /// A planned move back to the preferred cluster, which nobody has asked for since the last owner was decided.
    FailBack,
    /// The outdated copy of a former holder is made anew from the present one.
    Resync,
    /// Lets go of a placement whose DRPlacement is deleted.
    Release,
}

impl OperationKind {
    /// As in names of operations: `shop-failover-2`.
    pub fn as_str(self) -> &'static str {
        match self {
            OperationKind::Deploy => "deploy",
            OperationKind::Readopt => "readopt",
            OperationKind::FailOver => "failover",
            OperationKind::Migrate => "migrate",
            OperationKind::FailBack => "failback",
            OperationKind::Resync => "resync",
            OperationKind::Release => "release",
        }
    }

    /// A move that loses nothing: the old holder is there, and hands over.
    pub fn is_planned_move(self) -> bool {
        match self {
            OperationKind::Migrate | OperationKind::FailBack => true,
            OperationKind::Deploy
            | OperationKind::Readopt
            | OperationKind::FailOver
            | OperationKind::Resync
            | OperationKind::Release => false,
        }
    }

    /// Whether another cluster becomes the holder by it, so that its intent ends the grants to the present one (R2).
    pub fn takes_away(self) -> bool {
        self == OperationKind::FailOver || self.is_planned_move()
    }

    /// Whether it ends with an owner at a fresh epoch. The others change nothing about who owns the placement.
    pub fn enters_an_epoch(self) -> bool {
        match self {
            OperationKind::Deploy
            | OperationKind::Readopt
            | OperationKind::FailOver
            | OperationKind::Migrate
            | OperationKind::FailBack => true,
            OperationKind::Resync | OperationKind::Release => false,
        }
    }
}

/// How much of one volume a failover gives up, frozen when the operation is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLoss {
    pub claim: String,
    pub last_sync: Option<WallTime>,
    /// Milliseconds from the last sync until the loss of the site; none: unknown, which is infinite.
    pub lost_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub operation: OperationId,
    pub placement: PlacementId,
    pub name: PlacementName,
    pub kind: OperationKind,
    pub from: Option<ClusterName>,
    pub to: ClusterName,
    /// The epoch being entered.
    pub epoch: Epoch,
    pub plan: Vec<StepKind>,
    /// The claims whose volumes are promoted by it: all or none.
    pub claims: Vec<String>,
    /// The findings that justified it, in the words the user sees.
    pub evidence: Vec<String>,
    /// When the old holder was last heard (failover only).
    pub lost_at: Option<WallTime>,
    pub losses: Vec<VolumeLoss>,
    /// The wording of the DRPlacement that was looked at.
    #[serde(default)]
    pub generation: Generation,
    /// The cluster that the user preferred then: a later wish is told from this one by it.
    #[serde(default)]
    pub preferred: Option<ClusterName>,
    /// Who said yes, where somebody had to.
    #[serde(default)]
    pub approval: Option<ApprovalRecord>,
}

/// A human's yes, as it was when it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    /// Name of the DRApproval.
    pub name: String,
    pub approver: String,
    /// The approver vouches that this cluster is off.
    pub asserts_off: Option<ClusterName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepRecord {
    Issued,
    Acknowledged,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    Genesis {
        hub: String,
    },
    /// A leader has started.
    Term {
        term: Term,
    },
    /// The only record that changes who owns a placement.
    Ownership {
        placement: PlacementId,
        name: PlacementName,
        epoch: Epoch,
        holder: ClusterName,
    },
    /// Durable before a grant carries it (R6).
    /// It comes with the clusters that the holder then knows: it asks all of them for a hold.
    Policy {
        placement: PlacementId,
        policy: Policy,
        clusters: Vec<ClusterName>,
    },
    /// The holder lives by this generation: older policies no longer matter (R6).
    Echo {
        placement: PlacementId,
        generation: Generation,
    },
    /// What the hub would do if a human said yes. Its number is not used up by it.
    Proposal(Box<Intent>),
    /// The proposal no longer stands, so that an approval that comes later finds nothing (invariant S25).
    Withdrawn {
        placement: PlacementId,
        operation: OperationId,
        reason: String,
    },
    /// The claims as they are after the present holder has stopped: what a planned move promotes.
    BackedUp {
        placement: PlacementId,
        operation: OperationId,
        claims: Vec<String>,
    },
    /// When each volume had last been synced as its outdated copy was made anew.
    Resynced {
        placement: PlacementId,
        operation: OperationId,
        syncs: Vec<(String, Option<WallTime>)>,
    },
    /// The user prefers the cluster that has the placement: what was rolled back before may be wished for again.
    WishFulfilled {
        placement: PlacementId,
    },
    /// From here no grant leaves for the epoch being left (R2).
    Intent(Box<Intent>),
    Step {
        placement: PlacementId,
        operation: OperationId,
        step: StepKind,
        state: StepRecord,
    },
    Fence {
        placement: PlacementId,
        operation: OperationId,
        proof: FenceProof,
    },
    Commit {
        placement: PlacementId,
        operation: OperationId,
    },
    /// The new owner stands, and the rest of the operation is given up: the application may not be ready there.
    Cut {
        placement: PlacementId,
        operation: OperationId,
        reason: String,
    },
    /// Illegal past the point of no return; the epoch is burned.
    Abort {
        placement: PlacementId,
        operation: OperationId,
        reason: String,
    },
    /// No automatic failover of this placement before `until`, and not until a human has looked (§7).
    Block {
        placement: PlacementId,
        operation: OperationId,
        until: WallTime,
    },
    /// Understudy no longer looks after this placement.
    Released {
        placement: PlacementId,
    },
    /// Somebody knows more than this journal (rejoin): nothing automatic until a human has looked.
    NeedsHuman {
        placement: PlacementId,
        reason: String,
    },
}

/// Hash of a line, over its index, its predecessor's hash, its time and its entry.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// One line of the journal, sealed to all before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub index: u64,
    pub at: WallTime,
    pub entry: Entry,
    pub hash: Hash,
}

#[derive(Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    #[error(
        "journal line {found} stands where line {expected} is due: lines are missing or doubled; restore the journal from a backup, or start with an empty one (every placement then needs a human)"
    )]
    Gap { expected: u64, found: u64 },
    #[error(
        "journal line {index} does not match its hash: it was altered or damaged; restore the journal from a backup, or start with an empty one (every placement then needs a human)"
    )]
    Altered { index: u64 },
}

/// The end of a chain: what the next line is sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    pub next: u64,
    pub hash: Hash,
}

impl Default for Tip {
    fn default() -> Self {
        Tip { next: 0, hash: Hash([0; 32]) }
    }
}

impl Tip {
    /// Makes the next line, and moves on to it.
    pub fn seal(&mut self, at: WallTime, entry: Entry) -> Line {
        let line = Line { index: self.next, at, hash: self.hash_of(at, &entry), entry };
        *self = Tip { next: line.index + 1, hash: line.hash };
        line
    }

    /// Accepts `line` as the next one, or says what is wrong with it.
    pub fn check(&mut self, line: &Line) -> Result<(), ChainError> {
        if line.index != self.next {
            return Err(ChainError::Gap { expected: self.next, found: line.index });
        }
        if line.hash != self.hash_of(line.at, &line.entry) {
            return Err(ChainError::Altered { index: line.index });
        }
        *self = Tip { next: line.index + 1, hash: line.hash };
        Ok(())
    }

    fn hash_of(&self, at: WallTime, entry: &Entry) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(self.next.to_be_bytes());
        hasher.update(self.hash.0);
        hasher.update(at.0.to_be_bytes());
        // Entries are plain values without maps of floats: their JSON form cannot fail and is stable.
        hasher.update(serde_json::to_vec(entry).unwrap_or_default());
        Hash(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<Line> {
        let mut tip = Tip::default();
        let entries = [
            Entry::Genesis { hub: "hub".into() },
            Entry::Term { term: Term(1) },
            Entry::Term { term: Term(2) },
        ];
        entries.into_iter().map(|entry| tip.seal(WallTime(7), entry)).collect()
    }

    fn check(lines: &[Line]) -> Result<(), ChainError> {
        let mut tip = Tip::default();
        lines.iter().try_for_each(|line| tip.check(line))
    }

    #[test]
    fn an_untouched_chain_is_accepted() {
        assert_eq!(check(&chain()), Ok(()));
    }

    #[test]
    fn an_altered_entry_is_found() {
        let mut lines = chain();
        lines[1].entry = Entry::Term { term: Term(9) };
        assert_eq!(check(&lines), Err(ChainError::Altered { index: 1 }));
    }

    #[test]
    fn a_removed_line_is_found() {
        let mut lines = chain();
        lines.remove(1);
        assert_eq!(check(&lines), Err(ChainError::Gap { expected: 1, found: 2 }));
    }
}
