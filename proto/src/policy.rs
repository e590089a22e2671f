//! How long a lease lasts and what happens when it ends: the numbers of protocol.md §4, and the inequality they must keep.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::epoch::Generation;
use crate::rule::{Rule, kept};

/// What a holder does when neither hub nor peers answer before its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnSilence {
    Stop,
    Continue,
}

/// How an old holder is known to be stopped, from weakest to strongest claim on what it covers (protocol §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fencing {
    None,
    SelfFence,
    Gate,
    Storage,
    External,
}

/// The timing of one placement. All spans are real time on the clock of whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often an agent renews.
    pub renew: Duration,
    /// How long one call may take.
    pub rpc: Duration,
    /// A lease lasts this long from the send instant of the renewal it answers (R1).
    pub ttl: Duration,
    /// A peer's promise lasts this long.
    pub hold: Duration,
    /// The largest terminationGracePeriod among the protected pods that the timing allows for.
    pub grace: Duration,
    /// From the deadline until the application is certainly stopped.
    pub stop: Duration,
    /// Bound on each clock's rate error ρ, in parts per million.
    pub clock_rate_error_ppm: u32,
    /// Silence after which a site is suspected.
    pub suspect: Duration,
    /// Silence after which a suspected site may be accused.
    pub unreachable: Duration,
}

/// Allowance inside `stop` for the agent's tick, API calls, the kill itself and its confirmation.
pub const STOP_OVERHEAD: Duration = Duration::from_millis(1500);

/// The largest ρ a timing may claim; beyond it a clock is broken, not drifting.
const LARGEST_RATE_ERROR_PPM: u32 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    #[error(
        "timing.ttl {ttl:?} is too short: renew {renew:?} + 2 x rpc {rpc:?} must fit in half of it; set ttl to {needed:?} or more"
    )]
    TtlTooShort { ttl: Duration, renew: Duration, rpc: Duration, needed: Duration },
    #[error("timing.stop {stop:?} is too short for grace {grace:?}: set stop to {needed:?} or more")]
    StopTooShort { stop: Duration, grace: Duration, needed: Duration },
    #[error(
        "timing.suspect {suspect:?} is too short: three renewals of {renew:?} must fit; set suspect to {needed:?} or more"
    )]
    SuspectTooShort { suspect: Duration, renew: Duration, needed: Duration },
    #[error("timing.unreachable {unreachable:?} must not be shorter than suspect {suspect:?}")]
    UnreachableTooShort { unreachable: Duration, suspect: Duration },
    #[error("timing.{field} must be more than zero")]
    Zero { field: &'static str },
    #[error(
        "timing.clockRateErrorPpm {ppm} is more than {LARGEST_RATE_ERROR_PPM}: set it to your clocks' worst rate error, normally 10000 (1 %)"
    )]
    RateError { ppm: u32 },
}

impl Timing {
    pub const FAST: Timing = Timing {
        renew: Duration::from_secs(2),
        rpc: Duration::from_secs(2),
        ttl: Duration::from_secs(20),
        hold: Duration::from_secs(15),
        grace: Duration::from_secs(10),
        stop: Duration::from_secs(25),
        clock_rate_error_ppm: 10_000,
        suspect: Duration::from_secs(6),
        unreachable: Duration::from_secs(12),
    };
    pub const DEFAULT: Timing = Timing {
        renew: Duration::from_secs(5),
        rpc: Duration::from_secs(5),
        ttl: Duration::from_secs(45),
        hold: Duration::from_secs(30),
        grace: Duration::from_secs(30),
        stop: Duration::from_secs(60),
        clock_rate_error_ppm: 10_000,
        suspect: Duration::from_secs(15),
        unreachable: Duration::from_secs(30),
    };
    pub const CONSERVATIVE: Timing = Timing {
        renew: Duration::from_secs(60),
        rpc: Duration::from_secs(10),
        ttl: Duration::from_secs(600),
        hold: Duration::from_secs(300),
        grace: Duration::from_secs(60),
        stop: Duration::from_secs(90),
        clock_rate_error_ppm: 10_000,
        suspect: Duration::from_secs(180),
        unreachable: Duration::from_secs(360),
    };

    /// Silence after which a human is asked about a failover. By then the survivor has had the time to say what it sees: the
    /// suspicion reaches it with the answer to a renewal, it probes with the next, has its result after a call, and tells
    /// it with the renewal after that (S17).
    pub fn ask_after(&self) -> Duration {
        let told = self.suspect + self.renew * 3 + self.rpc;
        self.unreachable.max(told) + self.rpc * 2
    }

    /// W: a hub may promote no earlier than this after the last grant, if nothing else proves the fence.
    pub fn wait(&self) -> Duration {
        let stop = if kept(Rule::HubWaitsForTheStopTime) { self.stop } else { Duration::ZERO };
        stretched(self.ttl + stop, self.clock_rate_error_ppm)
    }

    /// Wp: a target refuses to promote for this long after its last promise.
    pub fn target_wait(&self) -> Duration {
        self.target_wait_for(self.stop)
    }

    /// The same for a holder that lives by another stop time: by this one, if it is longer.
    pub fn target_wait_for(&self, holders_stop: Duration) -> Duration {
        let stop = self.stop.max(holders_stop);
        let stop = if kept(Rule::TargetWaitsForTheStopTime) { stop } else { Duration::ZERO };
        stretched(self.hold.saturating_add(stop), self.clock_rate_error_ppm)
    }

    /// Refuses numbers under which two clusters could write at once, or a healthy link would fence.
    pub fn check(&self) -> Result<(), TimingError> {
        let Timing { renew, rpc, ttl, hold, grace, stop, clock_rate_error_ppm: ppm, suspect, unreachable } =
            *self;
        for (field, span) in [("renew", renew), ("rpc", rpc), ("ttl", ttl), ("hold", hold), ("stop", stop)] {
            if span.is_zero() {
                return Err(TimingError::Zero { field });
            }
        }
        if ppm > LARGEST_RATE_ERROR_PPM {
            return Err(TimingError::RateError { ppm });
        }
        let needed = (renew + rpc * 2) * 2;
        if ttl < needed {
            return Err(TimingError::TtlTooShort { ttl, renew, rpc, needed });
        }
        let needed = grace + STOP_OVERHEAD;
        if stop < needed {
            return Err(TimingError::StopTooShort { stop, grace, needed });
        }
        let needed = renew * 3;
        if suspect < needed {
            return Err(TimingError::SuspectTooShort { suspect, renew, needed });
        }
        if unreachable < suspect {
            return Err(TimingError::UnreachableTooShort { unreachable, suspect });
        }
        Ok(())
    }
}

/// span · (1+ρ)/(1−ρ), rounded up to a millisecond.
fn stretched(span: Duration, ppm: u32) -> Duration {
    if !kept(Rule::ClockRatesDiffer) {
        return span;
    }
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let ppm = u64::from(ppm.min(LARGEST_RATE_ERROR_PPM));
    let scaled = u128::from(millis) * u128::from(1_000_000 + ppm);
    let rounded_up = scaled.div_ceil(u128::from(1_000_000 - ppm));
    Duration::from_millis(u64::try_from(rounded_up).unwrap_or(u64::MAX))
}

/// The parameters a holder lives by, as one generation of its DRPlacement says them. Sent with every grant, echoed with
/// every renewal (protocol R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub generation: Generation,
    pub timing: Timing,
    pub on_silence: OnSilence,
    pub fencing: Fencing,
}

impl Policy {
    /// Whether silence ends the application under this policy, so that waiting proves a fence.
    pub fn expiry_stops(&self) -> bool {
        self.on_silence == OnSilence::Stop && self.fencing >= Fencing::SelfFence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_keep_the_inequality_and_wait_as_long_as_the_protocol_says() {
        for (timing, wait, target_wait) in
            [(Timing::FAST, 46, 41), (Timing::DEFAULT, 108, 92), (Timing::CONSERVATIVE, 704, 398)]
        {
            timing.check().expect("a profile must be valid");
            assert_eq!(timing.wait().as_secs_f64().ceil(), f64::from(wait));
            assert_eq!(timing.target_wait().as_secs_f64().ceil(), f64::from(target_wait));
        }
    }

    #[test]
    fn each_broken_inequality_names_its_field_and_the_least_value_that_works() {
        let too_short = Timing { ttl: Duration::from_secs(5), ..Timing::FAST };
        assert!(too_short.check().expect_err("ttl").to_string().contains("set ttl to 12s"));
        let no_time_to_stop = Timing { stop: Duration::from_secs(10), ..Timing::FAST };
        assert!(no_time_to_stop.check().expect_err("stop").to_string().contains("set stop to 11.5s"));
        let hasty = Timing { suspect: Duration::from_secs(1), ..Timing::FAST };
        assert!(hasty.check().expect_err("suspect").to_string().contains("set suspect to 6s"));
    }
}
