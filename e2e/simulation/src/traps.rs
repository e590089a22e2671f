//! Plans at chosen moments: each sets the scene in which one rule makes the difference. With every rule kept they end as
//! they must.

use proto::ClusterName;

use crate::adversity::follow;
use crate::faults::Fault;
use crate::plan::Plan;
use crate::random::Random;
use crate::scenario::Run;
use crate::transition::Time;
use crate::wishes::FailoverModeOf;
use crate::world::{Human, World, cluster};

#[derive(Clone, Copy)]
pub struct Trap {
    pub name: &'static str,
    pub clusters: &'static [&'static str],
    /// Of each application.
    pub homes: &'static [&'static str],
    pub plan: fn(&mut Random) -> Plan,
}

impl Trap {
    pub fn plan(&self, seed: u64) -> Plan {
        (self.plan)(&mut Random::new(seed ^ 0x7a7))
    }

    pub fn run(&self, seed: u64) -> Run {
        self.with(seed, &self.plan(seed))
    }

    pub fn with(&self, seed: u64, plan: &Plan) -> Run {
        follow(World::with_apps(seed, self.clusters, self.homes), plan)
    }
}

fn east() -> ClusterName {
    cluster("east")
}

fn west() -> ClusterName {
    cluster("west")
}

const TWO: &[&str] = &["east", "west"];
const ONE: &[&str] = &["east"];
/// A rest that ends nothing: the last pods of a slow stop.
const SLOW_STOP: Time = 1_800;

fn trap(name: &'static str, plan: fn(&mut Random) -> Plan) -> Trap {
    Trap { name, clusters: TWO, homes: ONE, plan }
}

/// All of them.
pub fn all() -> Vec<Trap> {
    let mut traps = vec![
        trap("the hub dies as the holder is cut off", hub_dies),
        trap("answers come late, and then not at all", late_answers),
        trap("the clocks are as far apart as they may be", clocks_apart),
        trap("a second hub commands with the same epochs", second_hub),
        trap("the holder lives by a promise, and then by nothing", promise),
        trap("whoever has promised is started anew", promise_forgotten),
        trap("whoever has promised starts cold", promise_of_another_boot),
        trap("a promise that cannot be written down", promise_unwritten),
        trap("a stricter policy is granted and never heard", policy_unheard),
        trap("a laxer policy is told and never granted", policy_told),
        trap("a stricter policy that is not written down", policy_unwritten),
        trap("what was said before is said again during a move", said_again),
        trap("a move is wished for and taken back, again and again", taken_back),
        trap("the hub cannot read the wish", wish_unread),
        trap("the holder is cut off from the hub alone", hub_alone),
        trap("the holder comes back to its peers before the wait is over", back_to_peers),
        trap("nothing has been mirrored for long", stale_copy),
        trap("a second site is lost", second_loss),
        trap("the same site is lost again", same_loss),
        trap("a paused placement loses its site", paused),
        trap("a pause comes in the middle of a move", paused_move),
        trap("a site is lost in mode Manual", manual),
        trap("a human says yes, and the holder runs on", yes_alone),
        trap("a human says yes to something else", careless),
        trap("the next holder is lost while the copy is split", split_copy),
        trap("the holder's API server stops before it is cut off", mute_holder),
        trap("the holder's API server stops, and the hub hears no more of it", mute_and_unheard),
        trap("the holder is started again while it stops", started_again),
        trap("the holder's machine sleeps while it is cut off", sleeps),
        trap("the holder is back from a power failure", cold_start),
        trap("one volume is not promoted", one_volume),
        trap("the hub's journal is an old one", old_journal),
        trap("the hub's journal is an old one, and the holder is away", old_journal_alone),
        trap("a resync is given up in the middle", resync_given_up),
        trap("a standby is scaled up by others", standby_scaled),
        trap("a planned move whose last writes cross slowly", slow_crossing),
        trap("the holder answers when it is too late", too_late),
        trap("the hub starts while the wish cannot be understood", wish_not_understood),
        trap("the new holder is lost before it is told to start", lost_before_the_start),
        trap("the hub's journal is from before the promotion that it began", old_journal_before_promotion),
        trap("admission learns late that the holder is fenced", admission_lags),
        trap("the hub's journal is from before it gave the placement back", old_journal_after_readoption),
        trap("the holder's API server stops while the sites do not reach each other", mute_and_apart),
    ];
    traps.push(Trap {
        name: "two of three sites are silent",
        clusters: &["east", "west", "north"],
        homes: ONE,
        plan: two_dark,
    });
    traps.push(Trap {
        name: "many placements leave a site",
        clusters: TWO,
        homes: &["east", "east", "east", "west", "east"],
        plan: many_leave,
    });
    traps.push(Trap {
        name: "each site is lost within an hour",
        clusters: TWO,
        homes: &["east", "west", "west"],
        plan: both_in_turn,
    });
    traps
}

fn admission_lags(random: &mut Random) -> Plan {
    let by = random.within(&(5_000..=8_000));
    Plan::of(24_000, vec![(0, Fault::AdmissionLags(east(), by)), (100, Fault::Prefer(west()))])
}

/// Accused, and there again before the point of no return: so an epoch is burned, and another one entered.
fn old_journal_after_readoption(random: &mut Random) -> Plan {
    let restored = random.within(&(9_000..=14_000));
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (4_500, Fault::Heal), (restored, Fault::OldBackup)])
}

/// The old holder answers again, and another one has been promoted.
fn old_journal_before_promotion(random: &mut Random) -> Plan {
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

fn mute_and_apart(_: &mut Random) -> Plan {
    let mut plan = Plan::of(14_000, vec![(0, Fault::ApiStops(east())), (1_000, Fault::CutPeers)]);
    plan.beyond_cover = true;
    plan
}

fn many_leave(random: &mut Random) -> Plan {
    let at = random.within(&(0..=1_000));
    Plan::of(30_000, vec![(at, Fault::Dies(east())), (20_000, Fault::Returns(east()))])
}

fn both_in_turn(random: &mut Random) -> Plan {
    let second = random.within(&(42_000..=46_000));
    Plan::of(
        70_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::Dies(east())),
            (16_000, Fault::Returns(east())),
            (28_000, Fault::HumanComes(Human::Absent)),
            (second, Fault::Isolate(west())),
        ],
    )
}

fn hub_dies(random: &mut Random) -> Plan {
    let dies = random.within(&(0..=900));
    Plan::of(
        16_000,
        vec![(0, Fault::SlowPods(SLOW_STOP)), (100, Fault::Isolate(east())), (100 + dies, Fault::KillHub)],
    )
}

fn late_answers(random: &mut Random) -> Plan {
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

fn clocks_apart(random: &mut Random) -> Plan {
    let cut = random.within(&(3_000..=3_500));
    Plan::of(24_000, vec![(0, Fault::ClocksApart), (cut, Fault::Isolate(east()))])
}

fn second_hub(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![(0, Fault::SecondHub), (100, Fault::SlowCrossing(3_000)), (200, Fault::Prefer(west()))],
    )
}

fn promise(random: &mut Random) -> Plan {
    let cut = random.within(&(11_000..=13_000));
    Plan::of(30_000, vec![(0, Fault::CutFromHub(east())), (cut, Fault::CutPeers)])
}

fn promise_forgotten(random: &mut Random) -> Plan {
    let mut plan = promise(random);
    let dies = plan.groups[1][0].0 + random.within(&(0..=600));
    plan.groups.push(vec![(dies, Fault::KillAgent(west()))]);
    plan
}

fn promise_of_another_boot(random: &mut Random) -> Plan {
    let mut plan = promise(random);
    let dies = plan.groups[1][0].0;
    plan.groups.push(vec![(dies, Fault::Dies(west())), (dies + 200, Fault::Returns(west()))]);
    plan
}

fn promise_unwritten(random: &mut Random) -> Plan {
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

fn policy_unheard(random: &mut Random) -> Plan {
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

fn policy_told(random: &mut Random) -> Plan {
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

fn policy_unwritten(random: &mut Random) -> Plan {
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

fn said_again(random: &mut Random) -> Plan {
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

fn taken_back(random: &mut Random) -> Plan {
    let span = random.within(&(900..=2_500));
    let wishes =
        (0..8).map(|round| (round * span, Fault::Prefer(if round % 2 == 0 { west() } else { east() })));
    let mut faults: Vec<(Time, Fault)> = wishes.collect();
    faults.push((0, Fault::Again { percent: 80, within: 2_500 }));
    faults.push((0, Fault::SlowCrossing(6_000)));
    Plan::of(30_000, faults)
}

fn wish_unread(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::HubApiStops), (4_000, Fault::Isolate(east()))])
}

fn hub_alone(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::CutFromHub(east()))])
}

fn back_to_peers(random: &mut Random) -> Plan {
    let back = random.within(&(3_300..=3_900));
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (back, Fault::HealPeers)])
}

fn stale_copy(_: &mut Random) -> Plan {
    Plan::of(54_000, vec![(0, Fault::CutArrays), (30_000, Fault::Isolate(east()))])
}

fn second_loss(random: &mut Random) -> Plan {
    let second = random.within(&(42_000..=48_000));
    Plan::of(
        70_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::Dies(east())),
            (16_000, Fault::Returns(east())),
            (28_000, Fault::HumanComes(Human::Absent)),
            (second, Fault::Isolate(west())),
        ],
    )
}

/// The application has been given back to it meanwhile.
fn same_loss(random: &mut Random) -> Plan {
    let again = random.within(&(62_000..=68_000));
    Plan::of(
        84_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::Dies(east())),
            (16_000, Fault::Returns(east())),
            (56_000, Fault::HumanComes(Human::Absent)),
            (again, Fault::Isolate(east())),
        ],
    )
}

fn paused(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::Pause(true)), (4_000, Fault::Isolate(east()))])
}

fn paused_move(random: &mut Random) -> Plan {
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

fn manual(_: &mut Random) -> Plan {
    Plan::of(24_000, vec![(0, Fault::SetMode(FailoverModeOf::Manual)), (4_000, Fault::Isolate(east()))])
}

fn yes_alone(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![
            (0, Fault::HumanComes(Human::Careful)),
            (0, Fault::SetMode(FailoverModeOf::ConfirmAndContinue)),
            (4_000, Fault::Isolate(east())),
        ],
    )
}

fn careless(_: &mut Random) -> Plan {
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

fn split_copy(random: &mut Random) -> Plan {
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

fn mute_holder(_: &mut Random) -> Plan {
    let mut plan = Plan::of(30_000, vec![(0, Fault::ApiStops(east())), (8_000, Fault::Isolate(east()))]);
    plan.beyond_cover = true;
    plan
}

fn mute_and_unheard(_: &mut Random) -> Plan {
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

fn started_again(random: &mut Random) -> Plan {
    let mut faults = vec![(0, Fault::SlowCrossing(3_000)), (0, Fault::Prefer(west()))];
    let span = random.within(&(150..=300));
    faults.extend((1..16).map(|round| (round * span, Fault::Scales { site: east(), replicas: 1 })));
    Plan::of(24_000, faults)
}

fn sleeps(random: &mut Random) -> Plan {
    let sleeps = random.within(&(100..=500));
    let mut plan =
        Plan::of(24_000, vec![(0, Fault::Isolate(east())), (sleeps, Fault::Suspend(east(), 2_300))]);
    plan.beyond_cover = true;
    plan
}

fn cold_start(random: &mut Random) -> Plan {
    let back = random.within(&(400..=14_000));
    Plan::of(30_000, vec![(0, Fault::Dies(east())), (back, Fault::Returns(east()))])
}

fn one_volume(_: &mut Random) -> Plan {
    Plan::of(
        30_000,
        vec![(0, Fault::OnePromotionHangs("logs")), (100, Fault::Prefer(west())), (22_000, Fault::Heal)],
    )
}

fn old_journal(random: &mut Random) -> Plan {
    let restored = random.within(&(500..=12_000));
    Plan::of(24_000, vec![(0, Fault::Prefer(west())), (restored, Fault::OldBackup)])
}

fn old_journal_alone(random: &mut Random) -> Plan {
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

fn resync_given_up(random: &mut Random) -> Plan {
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

fn standby_scaled(_: &mut Random) -> Plan {
    Plan::of(6_000, vec![(0, Fault::Scales { site: west(), replicas: 1 })])
}

fn slow_crossing(_: &mut Random) -> Plan {
    Plan::of(30_000, vec![(0, Fault::SlowCrossing(6_000)), (100, Fault::Prefer(west()))])
}

fn two_dark(_: &mut Random) -> Plan {
    let north = cluster("north");
    Plan::of(24_000, vec![(0, Fault::Isolate(east())), (0, Fault::CutFromHub(north))])
}

fn too_late(random: &mut Random) -> Plan {
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

/// The hub that starts knows no wish of before, and nobody can promise to wait.
fn wish_not_understood(_: &mut Random) -> Plan {
    Plan::of(
        14_000,
        vec![(0, Fault::Prefer(cluster("north"))), (500, Fault::CutPeers), (1_000, Fault::KillHub)],
    )
}

/// Its own replicas are none, and must not be taken for what the user wants.
fn lost_before_the_start(random: &mut Random) -> Plan {
    let lost = random.within(&(8_000..=8_600));
    Plan::of(20_000, vec![(0, Fault::Dies(east())), (lost, Fault::HubIsMute(west()))])
}
