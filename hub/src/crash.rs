//! A hook for crash tests: ends the process, as `kill -9` would, at the effects that the environment names.
//!
//! `UNDERSTUDY_CRASH_AT` lists points, separated by commas, such as `Recorded:Intent` or `Sent:Step/Promote/Issued`: a
//! boundary of carrying out a decision (Decided: nothing is durable yet; Recorded: durable, and nothing sent; Sent: sent,
//! and nothing told), and a journal record. `UNDERSTUDY_CRASH_MARKER` is a folder in which each point leaves a file
//! before the process ends: such a point never crashes again, so that the process that is started next goes on. Without
//! the first variable nothing here does anything.
//!
//! The records of one decision become durable together, so between two of them nobody can die: one crash stands for all
//! points of its decision at that boundary, and marks them all. A record is written once, so that of Recorded and Sent
//! of one decision only the first that is listed can ever be reached.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use hub_core::journal::{Entry, StepRecord};

#[derive(Debug)]
pub struct CrashPoint {
    at: Vec<String>,
    markers: PathBuf,
}

impl CrashPoint {
    pub fn from_environment() -> Option<CrashPoint> {
        let at = std::env::var("UNDERSTUDY_CRASH_AT").ok()?;
        let markers = PathBuf::from(std::env::var("UNDERSTUDY_CRASH_MARKER").ok()?);
        Some(CrashPoint { at: at.split(',').map(|point| point.trim().to_owned()).collect(), markers })
    }

    /// Does not return if this is a listed point, and it is the first time.
    pub fn reached(&self, boundary: &str, entries: &[Entry]) {
        if self.marks_anew(boundary, entries) {
            std::process::abort();
        }
    }

    /// Marks every listed point that this decision passes at the boundary; true if one of them was not marked yet.
    fn marks_anew(&self, boundary: &str, entries: &[Entry]) -> bool {
        let passed = entries.iter().map(|entry| format!("{boundary}:{}", name(entry)));
        let listed = passed.filter(|point| self.at.contains(point));
        listed.filter(|point| self.mark(point)).count() > 0
    }

    fn mark(&self, point: &str) -> bool {
        fs::create_dir_all(&self.markers).is_ok()
            && OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(self.markers.join(marker_name(point)))
                .is_ok()
    }
}

/// The file in the folder of markers that says that the point was reached.
pub fn marker_name(point: &str) -> String {
    point.replace([':', '/'], "-")
}

/// How a record is called in the name of a point.
pub fn name(entry: &Entry) -> String {
    match entry {
        Entry::Step { placement: _, operation: _, step, state } => {
            let state = match state {
                StepRecord::Issued => "Issued",
                StepRecord::Acknowledged => "Acknowledged",
            };
            format!("Step/{step}/{state}")
        }
        Entry::Genesis { .. } => "Genesis".to_owned(),
        Entry::Term { .. } => "Term".to_owned(),
        Entry::Ownership { .. } => "Ownership".to_owned(),
        Entry::Policy { .. } => "Policy".to_owned(),
        Entry::Echo { .. } => "Echo".to_owned(),
        Entry::Proposal(_) => "Proposal".to_owned(),
        Entry::Withdrawn { .. } => "Withdrawn".to_owned(),
        Entry::Cut { .. } => "Cut".to_owned(),
        Entry::BackedUp { .. } => "BackedUp".to_owned(),
        Entry::Resynced { .. } => "Resynced".to_owned(),
        Entry::WishFulfilled { .. } => "WishFulfilled".to_owned(),
        Entry::Intent(_) => "Intent".to_owned(),
        Entry::Fence { .. } => "Fence".to_owned(),
        Entry::Commit { .. } => "Commit".to_owned(),
        Entry::Abort { .. } => "Abort".to_owned(),
        Entry::Block { .. } => "Block".to_owned(),
        Entry::Released { .. } => "Released".to_owned(),
        Entry::NeedsHuman { .. } => "NeedsHuman".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proto::{OperationId, PlacementId, StepKind, Term};

    use super::*;

    fn step(step: StepKind, state: StepRecord) -> Entry {
        let placement = PlacementId::parse("uid-shop").expect("a uid");
        Entry::Step { placement, operation: OperationId("shop-failover-2".to_owned()), step, state }
    }

    #[test]
    fn one_crash_stands_for_all_listed_points_of_a_decision_and_each_is_reached_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = ["Recorded:Step/Fence/Issued", "Recorded:Step/Fence/Acknowledged", "Decided:Term"];
        let markers = folder.path().join("markers");
        let crash = CrashPoint { at: at.map(str::to_owned).to_vec(), markers: markers.clone() };
        let decision =
            [step(StepKind::Fence, StepRecord::Issued), step(StepKind::Fence, StepRecord::Acknowledged)];
        assert!(!crash.marks_anew("Sent", &decision), "not listed");
        assert!(crash.marks_anew("Recorded", &decision), "the first time");
        assert!(!crash.marks_anew("Recorded", &decision[1..]), "marked together with the first");
        assert!(crash.marks_anew("Decided", &[Entry::Term { term: Term(2) }]));
        assert!(at.iter().all(|point| markers.join(marker_name(point)).exists()));
    }
}
