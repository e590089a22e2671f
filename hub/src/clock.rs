//! The hub's two clocks: one that only runs, also in suspend, and one that is shown to people (protocol R7).

use hub_core::Now;
use proto::{Moment, WallTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub fn now() -> Now {
    let wall = i64::try_from(milliseconds(clock_gettime(ClockId::Realtime))).unwrap_or(i64::MAX);
    Now { boot: Moment(milliseconds(clock_gettime(ClockId::Boottime))), wall: WallTime(wall) }
}

fn milliseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    seconds * 1000 + fraction
}
