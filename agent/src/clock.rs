//! The agent's two clocks: one that only runs, also in suspend, and one that is shown to people (protocol R7).

use std::path::Path;

use anyhow::Context;
use proto::{Moment, WallTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub fn now() -> Moment {
    Moment(milliseconds(clock_gettime(ClockId::Boottime)))
}

pub fn wall() -> WallTime {
    WallTime(i64::try_from(milliseconds(clock_gettime(ClockId::Realtime))).unwrap_or(i64::MAX))
}

/// Which boot of the node the first clock counts from.
pub fn boot_id(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading which boot of the node this is from {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn milliseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds * 1000 + fraction
}
