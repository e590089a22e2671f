//! What people wish, forbid, and answer.

use super::{east, west};
use crate::faults::Fault;
use crate::plan::Plan;
use crate::random::Random;
use crate::transition::Time;
use crate::wishes::FailoverModeOf;
use crate::world::Human;

pub(super) fn taken_back(random: &mut Random) -> Plan {
    let span = random.within(&(900..=2_500));
    let wishes =
        (0..8).map(|round| (round * span, Fault::Prefer(if round % 2 == 0 { west() } else { east() })));
    let mut faults: Vec<(Time, Fault)> = wishes.collect();
    faults.push((0, Fault::Again { percent: 80, within: 2_500 }));
    faults.push((0, Fault::SlowCrossing(6_000)));
    Plan::of(30_000, faults)
}

pub(super) fn paused(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::Pause(true)), (4_000, Fault::Isolate(east()))])
}

pub(super) fn paused_move(random: &mut Random) -> Plan {
    let pause = random.within(&(300..=2_000));
    Plan::of(
        24_000,
        vec![
            (0, Fault::SlowCrossing(6_000)),
            (100, Fault::Prefer(west())),
            (100 + pause, Fault::Pause(true)),
        ],
    )
}

pub(super) fn manual(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::SetMode(FailoverModeOf::Manual)), (4_000, Fault::Isolate(east()))])
}

pub(super) fn yes_alone(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndContinue)),
            (4_000, Fault::Isolate(east())),
        ],
    )
}

pub(super) fn careless(_: &mut Random) -> Plan {
    Plan::of(
        60_000,
        vec![
            (0, Fault::HumanComes(Human::Careless)),
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndStop)),
            (4_000, Fault::Dies(east())),
            (30_000, Fault::Returns(east())),
        ],
    )
}

pub(super) fn question_stands(random: &mut Random) -> Plan {
    let killed = random.within(&(10_000..=14_000));
    Plan::of(
        24_000,
        vec![
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndStop)),
            (1_000, Fault::Isolate(east())),
            (killed, Fault::KillHub),
        ],
    )
}

pub(super) fn standby_scaled(_: &mut Random) -> Plan {
    Plan::of(6_000, vec![(0, Fault::Scales { site: west(), replicas: 1 })])
}
