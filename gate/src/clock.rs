//! The gate's two clocks: one that only runs, also in suspend, and one to compare it with (protocol R7).

use proto::{Moment, WallTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub fn now() -> Moment {
    Moment(milliseconds(clock_gettime(ClockId::Boottime)))
}

pub fn wall() -> WallTime {
    WallTime(i64::try_from(milliseconds(clock_gettime(ClockId::Realtime))).unwrap_or(i64::MAX))
}

fn milliseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
