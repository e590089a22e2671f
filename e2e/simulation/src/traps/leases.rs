//! What a holder may live by: leases, promises, clocks and policies; and how it stops.

use super::{SLOW_STOP, east, west};
use crate::faults::Fault;
use crate::plan::Plan;
use crate::random::Random;
use crate::wishes::FailoverModeOf;
use crate::world::Human;

pub(super) fn hub_dies(random: &mut Random) -> Plan {
    let dies = random.within(&(0..=900));
    Plan::of(
        16_000,
        vec![(0, Fault::SlowPods(SLOW_STOP)), (100, Fault::Isolate(east())), (100 + dies, Fault::KillHub)],
    )
}

pub(super) fn late_answers(random: &mut Random) -> Plan {
    let by = random.within(&(600..=900));
    Plan::of(
        24_000,
        vec![
            (0, Fault::Slow { site: east(), by }),
            (0, Fault::Again { percent: 80, within: 8_000 }),
            (6_000, Fault::HubIsDeaf(east())),
            (6_900, Fault::Isolate(east())),
        ],
    )
}

pub(super) fn clocks_apart(random: &mut Random) -> Plan {
    let cut = random.within(&(3_000..=3_500));
    Plan::of(24_000, vec![(0, Fault::ClocksApart), (cut, Fault::Isolate(east()))])
}

pub(super) fn promise(random: &mut Random) -> Plan {
    let cut = random.within(&(11_000..=13_000));
    Plan::of(30_000, vec![(0, Fault::CutFromHub(east())), (cut, Fault::CutPeers)])
}

pub(super) fn promise_forgotten(random: &mut Random) -> Plan {
    let mut plan = promise(random);
    let dies = plan.groups[1][0].0 + random.within(&(0..=600));
    plan.groups.push(vec![(dies, Fault::KillAgent(west()))]);
    plan
}

pub(super) fn promise_of_another_boot(random: &mut Random) -> Plan {
    let mut plan = promise(random);
    let dies = plan.groups[1][0].0;
    plan.groups.push(vec![(dies, Fault::Dies(west())), (dies + 200, Fault::Returns(west()))]);
    plan
}

pub(super) fn promise_by_another_clock(random: &mut Random) -> Plan {
    let mut plan = promise(random);
    let dies = plan.groups[1][0].0;
    plan.groups.push(vec![(dies, Fault::AnotherClock(west(), 3_600))]);
    plan
}

pub(super) fn lease_by_another_clock(random: &mut Random) -> Plan {
    let (back, cut) = (random.within(&(4_000..=6_000)), random.within(&(10_000..=12_000)));
    let faults = vec![
        (0, Fault::AnotherClock(east(), 3_600)),
        (back, Fault::AnotherClock(east(), -3_600)),
        (cut, Fault::Isolate(east())),
    ];
    Plan::of(30_000, faults)
}

pub(super) fn promise_unwritten(random: &mut Random) -> Plan {
    let cut = random.within(&(4_000..=6_000));
    let mut plan = Plan::of(
        30_000,
        vec![
            (0, Fault::Conflicts(west(), 100)),
            (100, Fault::CutFromHub(east())),
            (cut, Fault::CutPeers),
            (cut, Fault::KillAgent(west())),
            (cut + 100, Fault::Conflicts(west(), 0)),
        ],
    );
    plan.beyond_cover = true;
    plan
}

pub(super) fn policy_unheard(random: &mut Random) -> Plan {
    let strict = random.within(&(3_000..=3_600));
    Plan::of(
        24_000,
        vec![
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndContinue)),
            (strict, Fault::SetMode(FailoverModeOf::Automatic)),
            (strict + 20, Fault::HubIsMute(east())),
            (strict + 900, Fault::Isolate(east())),
        ],
    )
}

pub(super) fn policy_told(random: &mut Random) -> Plan {
    let cut = 1_000 + random.within(&(60..=200));
    let mut plan = Plan::of(
        30_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (999, Fault::Conflicts(east(), 100)),
            (1_000, Fault::SetMode(FailoverModeOf::ConfirmAndContinue)),
            (cut, Fault::Isolate(east())),
            (cut + 50, Fault::Conflicts(east(), 0)),
        ],
    );
    plan.beyond_cover = true;
    plan
}

pub(super) fn policy_unwritten(random: &mut Random) -> Plan {
    let strict = random.within(&(3_000..=3_600));
    let cut = strict + random.within(&(900..=1_500));
    let mut plan = Plan::of(
        30_000,
        vec![
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndContinue)),
            (strict - 100, Fault::Conflicts(east(), 100)),
            (strict, Fault::SetMode(FailoverModeOf::Automatic)),
            (cut, Fault::Isolate(east())),
            (cut, Fault::KillAgent(east())),
            (cut + 50, Fault::Conflicts(east(), 0)),
        ],
    );
    plan.beyond_cover = true;
    plan
}

pub(super) fn hub_alone(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::CutFromHub(east()))])
}

pub(super) fn back_to_peers(random: &mut Random) -> Plan {
    let back = random.within(&(3_300..=3_900));
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (back, Fault::HealPeers)])
}

pub(super) fn sleeps(random: &mut Random) -> Plan {
    let sleeps = random.within(&(100..=500));
    let mut plan =
        Plan::of(24_000, vec![(0, Fault::Isolate(east())), (sleeps, Fault::Suspend(east(), 2_300))]);
    plan.beyond_cover = true;
    plan
}

pub(super) fn cold_start(random: &mut Random) -> Plan {
    let back = random.within(&(400..=14_000));
    Plan::of(30_000, vec![(0, Fault::Dies(east())), (back, Fault::Returns(east()))])
}

pub(super) fn started_again(random: &mut Random) -> Plan {
    let mut faults = vec![(0, Fault::SlowCrossing(3_000)), (0, Fault::Prefer(west()))];
    let span = random.within(&(150..=300));
    faults.extend((1..16).map(|round| (round * span, Fault::Scales { site: east(), replicas: 1 })));
    Plan::of(24_000, faults)
}

pub(super) fn mute_holder(_: &mut Random) -> Plan {
    let mut plan = Plan::of(30_000, vec![(0, Fault::ApiStops(east())), (8_000, Fault::Isolate(east()))]);
    plan.beyond_cover = true;
    plan
}

pub(super) fn mute_and_unheard(_: &mut Random) -> Plan {
    let mut plan = Plan::of(
        24_000,
        vec![
            (0, Fault::ApiStops(east())),
            (1_000, Fault::CutPeers),
            (4_000, Fault::HealPeers),
            (6_000, Fault::CutFromHub(east())),
        ],
    );
    plan.beyond_cover = true;
    plan
}

pub(super) fn mute_and_apart(_: &mut Random) -> Plan {
    let mut plan = Plan::of(14_000, vec![(0, Fault::ApiStops(east())), (1_000, Fault::CutPeers)]);
    plan.beyond_cover = true;
    plan
}

pub(super) fn admission_lags(random: &mut Random) -> Plan {
    let by = random.within(&(5_000..=8_000));
    Plan::of(24_000, vec![(0, Fault::AdmissionLags(east(), by)), (100, Fault::Prefer(west()))])
}
