//! Sites and copies that are lost, and come back at a bad time.

use super::{east, west};
use crate::faults::Fault;
use crate::plan::Plan;
use crate::random::Random;
use crate::transition::Time;
use crate::wishes::FailoverModeOf;
use crate::world::{Human, cluster};

pub(super) fn stale_copy(_: &mut Random) -> Plan {
    Plan::of(54_000, vec![(0, Fault::CutArrays), (30_000, Fault::Isolate(east()))])
}

pub(super) fn second_loss(random: &mut Random) -> Plan {
    let second = random.within(&(42_000..=48_000));
    lost_again(70_000, 28_000, (second, Fault::Isolate(west())))
}

/// The application has been given back to it meanwhile.
pub(super) fn same_loss(random: &mut Random) -> Plan {
    let again = random.within(&(62_000..=68_000));
    lost_again(84_000, 56_000, (again, Fault::Isolate(east())))
}

pub(super) fn both_in_turn(random: &mut Random) -> Plan {
    let second = random.within(&(42_000..=46_000));
    lost_again(70_000, 28_000, (second, Fault::Isolate(west())))
}

/// East dies and returns, a human answers what is asked until `gone`, and then there is another loss.
fn lost_again(lasts: Time, gone: Time, loss: (Time, Fault)) -> Plan {
    Plan::of(
        lasts,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::Dies(east())),
            (16_000, Fault::Returns(east())),
            (gone, Fault::HumanComes(Human::Absent)),
            loss,
        ],
    )
}

pub(super) fn split_copy(random: &mut Random) -> Plan {
    let second = random.within(&(42_000..=44_000));
    Plan::of(
        70_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndStop)),
            (2_000, Fault::Dies(east())),
            (24_000, Fault::HumanComes(Human::Absent)),
            (24_100, Fault::SetMode(FailoverModeOf::Automatic)),
            (25_000, Fault::Returns(east())),
            (second, Fault::Isolate(west())),
        ],
    )
}

pub(super) fn one_volume(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![(0, Fault::OnePromotionHangs("logs")), (100, Fault::Prefer(west())), (22_000, Fault::Heal)],
    )
}

pub(super) fn resync_given_up(random: &mut Random) -> Plan {
    let cut = random.within(&(33_000..=37_000));
    Plan::of(
        60_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::ResyncHangs),
            (0, Fault::Dies(east())),
            (22_000, Fault::Returns(east())),
            (cut, Fault::CutFromHub(east())),
        ],
    )
}

pub(super) fn slow_crossing(_: &mut Random) -> Plan {
    Plan::of(30_000, vec![(0, Fault::SlowCrossing(6_000)), (100, Fault::Prefer(west()))])
}

pub(super) fn two_dark(_: &mut Random) -> Plan {
    let north = cluster("north");
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (0, Fault::CutFromHub(north))])
}

pub(super) fn too_late(random: &mut Random) -> Plan {
    let back = random.within(&(7_000..=9_500));
    Plan::of(
        24_000,
        vec![
            (0, Fault::PromotionHangs),
            (0, Fault::Isolate(east())),
            (back, Fault::HealPeers),
            (back + 300, Fault::Heal),
        ],
    )
}

/// Its own replicas are none, and must not be taken for what the user wants.
pub(super) fn lost_before_the_start(random: &mut Random) -> Plan {
    let lost = random.within(&(8_000..=8_600));
    Plan::of(20_000, vec![(0, Fault::Dies(east())), (lost, Fault::HubIsMute(west()))])
}

pub(super) fn many_leave(random: &mut Random) -> Plan {
    let at = random.within(&(0..=1_000));
    Plan::of(30_000, vec![(at, Fault::Dies(east())), (20_000, Fault::Returns(east()))])
}
