//! A hook for crash tests: ends the process, as `kill -9` would, right after an effect that the environment names.
//!
//! `UNDERSTUDY_CRASH_AT=Recorded:Intent` (or `Sent:...`) names the boundary and the journal record; steps are named
//! `Step/Promote/Issued`. `UNDERSTUDY_CRASH_MARKER` is a file that is made first; while it exists nothing crashes, so
//! the process that is started next goes on. Without the first variable nothing here does anything.

use std::fs::OpenOptions;
use std::path::PathBuf;

use hub_core::journal::{Entry, StepRecord};

#[derive(Debug)]
pub struct CrashPoint {
    at: String,
    marker: PathBuf,
}

impl CrashPoint {
    pub fn from_environment() -> Option<CrashPoint> {
        let at = std::env::var("UNDERSTUDY_CRASH_AT").ok()?;
        let marker = PathBuf::from(std::env::var("UNDERSTUDY_CRASH_MARKER").ok()?);
        Some(CrashPoint { at, marker })
    }

    /// Does not return if this is the place, and it is the first time.
    pub fn reached(&self, boundary: &str, entries: &[Entry]) {
        let here = entries.iter().any(|entry| format!("{boundary}:{}", name(entry)) == self.at);
        if here && OpenOptions::new().write(true).create_new(true).open(&self.marker).is_ok() {
            std::process::abort();
        }
    }
}

fn name(entry: &Entry) -> String {
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
        Entry::Intent(_) => "Intent".to_owned(),
        Entry::Fence { .. } => "Fence".to_owned(),
        Entry::Commit { .. } => "Commit".to_owned(),
        Entry::Abort { .. } => "Abort".to_owned(),
        Entry::Block { .. } => "Block".to_owned(),
        Entry::Released { .. } => "Released".to_owned(),
        Entry::NeedsHuman { .. } => "NeedsHuman".to_owned(),
    }
}
