//! A hook for crash tests: ends the process, as `kill -9` would, at a point of a command that the environment names.
//!
//! `UNDERSTUDY_CRASH_AT=Promote:Accepted` names the step and the point: Accepted (admitted, and its epoch durable),
//! Applied (all its effects seen), Acknowledged (its answer handed to the stream). `UNDERSTUDY_CRASH_MARKER` is a file
//! that is made first; while it exists nothing crashes, so the process that is started next goes on. Without both
//! variables nothing here does anything.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use agent_core::Point;
use proto::StepKind;

/// The answer that has been handed over leaves the process within this time.
const LEAVING: Duration = Duration::from_millis(50);

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
    pub fn reached(&self, step: StepKind, point: Point) {
        let here = format!("{step}:{}", point.as_str()) == self.at;
        if !here || OpenOptions::new().write(true).create_new(true).open(&self.marker).is_err() {
            return;
        }
        if point == Point::Acknowledged {
            // Whoever is dying hears nothing more: with what the answer brings, it could pass the next points as well.
            tokio::task::block_in_place(|| std::thread::sleep(LEAVING));
        }
        std::process::abort();
    }
}
