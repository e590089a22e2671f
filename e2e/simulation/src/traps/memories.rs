//! A hub that says things twice, forgets, or cannot read; and witnesses, which remember more or less.

use super::{east, west};
use crate::faults::Fault;
use crate::plan::Plan;
use crate::random::Random;
use crate::witness::WitnessFault;
use crate::world::{Human, cluster};

pub(super) fn second_hub(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![(0, Fault::SecondHub), (100, Fault::SlowCrossing(3_000)), (200, Fault::Prefer(west()))],
    )
}

pub(super) fn said_again(random: &mut Random) -> Plan {
    let back = random.within(&(1_500..=4_500));
    Plan::of(
        30_000,
        vec![
            (0, Fault::Again { percent: 60, within: 4_000 }),
            (100, Fault::SlowCrossing(6_000)),
            (200, Fault::Prefer(west())),
            (200 + back, Fault::Prefer(east())),
            (12_000, Fault::Prefer(west())),
        ],
    )
}

pub(super) fn wish_unread(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::HubApiStops), (4_000, Fault::Isolate(east()))])
}

/// The hub that starts knows no wish of before, and nobody can promise to wait.
pub(super) fn wish_not_understood(_: &mut Random) -> Plan {
    Plan::of(
        14_000,
        vec![(0, Fault::Prefer(cluster("north"))), (500, Fault::CutPeers), (1_000, Fault::KillHub)],
    )
}

pub(super) fn old_journal(random: &mut Random) -> Plan {
    let restored = random.within(&(500..=12_000));
    Plan::of(24_000, vec![(0, Fault::Prefer(west())), (restored, Fault::OldBackup)])
}

pub(super) fn old_journal_alone(random: &mut Random) -> Plan {
    let lost = random.within(&(300..=900));
    Plan::of(
        24_000,
        vec![
            (0, Fault::SlowCrossing(9_000)),
            (0, Fault::Prefer(west())),
            (lost, Fault::Isolate(east())),
            (lost, Fault::OldBackup),
            (lost + 6_500, Fault::Heal),
        ],
    )
}

/// Accused, and there again before the point of no return: so an epoch is burned, and another one entered.
pub(super) fn old_journal_after_readoption(random: &mut Random) -> Plan {
    let restored = random.within(&(9_000..=14_000));
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (4_500, Fault::Heal), (restored, Fault::OldBackup)])
}

/// The old holder answers again, and another one has been promoted.
pub(super) fn old_journal_before_promotion(random: &mut Random) -> Plan {
    let restored = random.within(&(7_500..=11_000));
    Plan::of(
        24_000,
        vec![
            (0, Fault::Isolate(east())),
            (restored, Fault::BackupBeforePromotion),
            (restored + 1_800, Fault::Heal),
        ],
    )
}

pub(super) fn witness_silent(random: &mut Random) -> Plan {
    let silent = random.within(&(0..=1_500));
    Plan::of(24_000, vec![(silent, Fault::Witness(WitnessFault::Stops)), (1_000, Fault::Isolate(east()))])
}

/// The lease is a long one, so that it lives on when everybody else has missed it for long enough; and only the hub sees that.
pub(super) fn witness_alone(random: &mut Random) -> Plan {
    let cut = random.within(&(4_000..=5_000));
    Plan::of(
        24_000,
        vec![
            (0, Fault::SetTtl(6_000)),
            (cut, Fault::CutPeers),
            (cut, Fault::Witness(WitnessFault::CutFrom(west()))),
            (cut, Fault::CutFromHub(east())),
        ],
    )
}

/// Accused, and there again while the other one is away: an epoch is burned, and only who enters the next one knows of it, and
/// the witness. Then that one is lost, and the hub's cluster as well.
pub(super) fn witness_knows(random: &mut Random) -> Plan {
    let lost = random.within(&(16_000..=18_000));
    Plan::of(
        44_000,
        vec![
            (0, Fault::Dies(east())),
            (4_000, Fault::CutFromHub(west())),
            (4_500, Fault::Returns(east())),
            (lost, Fault::Dies(east())),
            (lost, Fault::Heal),
            (lost, Fault::Witness(WitnessFault::CutFromHub)),
            (lost, Fault::OldCluster),
            (lost, Fault::HumanComes(Human::Careful)),
            (lost + 20_000, Fault::Heal),
            (lost + 20_000, Fault::Returns(east())),
        ],
    )
}

pub(super) fn witness_forgets(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::Witness(WitnessFault::Forgets)), (1_000, Fault::Isolate(east()))])
}
