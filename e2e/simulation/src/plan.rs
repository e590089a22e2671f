//! Which faults happen when: at random from a seed, or chosen for one rule. A plan is a list of groups, a fault and
//! what ends it; whoever looks for the cause of a failure leaves groups out.

use proto::ClusterName;

use crate::application::{CLAIMS, Number};
use crate::faults::Fault;
use crate::random::Random;
use crate::transition::{Happening, Time};
use crate::wishes::{FailoverModeOf, FencingOf};
use crate::witness::WitnessFault;
use crate::world::{Human, World, cluster as cluster_named};

pub type Group = Vec<(Time, Fault)>;

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub groups: Vec<Group>,
    pub lasts: Time,
    /// When all is at rest again: one round for each.
    pub again: Vec<Group>,
    /// How the other applications are to fail over, and what fences them.
    pub wishes: Vec<(Number, FailoverModeOf, FencingOf)>,
    /// More than the fencing level SelfFence covers; then the hub must know better than to act.
    pub beyond_cover: bool,
}

impl Plan {
    /// Of faults at chosen moments.
    pub fn of(lasts: Time, faults: Vec<(Time, Fault)>) -> Plan {
        let groups = faults.into_iter().map(|fault| vec![fault]).collect();
        Plan { groups, lasts, ..Plan::default() }
    }

    /// Faults of every kind, so many at most.
    pub fn at_random(
        random: &mut Random,
        sites: &[ClusterName],
        apps: usize,
        lasts: Time,
        most: u64,
    ) -> Plan {
        let mut groups = Vec::new();
        if random.percent(50) {
            groups.push(vec![(0, Fault::HumanComes(Human::Careful))]);
        }
        if random.percent(75) {
            groups.push(loss(random, lasts));
        }
        for _ in 0..random.within(&(1..=most)) {
            let at = random.within(&(0..=lasts));
            let group = any(random, sites, apps).into_iter();
            groups.push(group.map(|(after, fault)| ((at + after).min(lasts), fault)).collect());
        }
        let rounds = random.within(&(0..=MOST_ROUNDS));
        let again = (0..rounds).map(|_| round(random, sites, apps)).collect();
        Plan { groups, lasts, again, ..Plan::default() }
    }

    /// What the users wish before anything is set going.
    pub fn prepare(&self, world: &mut World) {
        for (app, mode, fencing) in &self.wishes {
            world.apps[*app].differs = Some((*mode, *fencing));
        }
    }

    /// What can be left out by itself.
    pub fn parts(&self) -> usize {
        self.groups.len() + self.again.len()
    }

    /// Without the parts of these numbers, first the groups and then those of the rounds after.
    pub fn without(&self, left_out: &[usize]) -> Plan {
        let mut plan = self.clone();
        let mut number = 0..;
        let mut keep = |_: &Group| number.next().is_some_and(|number| !left_out.contains(&number));
        plan.groups.retain(&mut keep);
        plan.again.retain(&mut keep);
        plan
    }

    /// Sets it going. At its end everything is mended.
    pub fn begin(&self, world: &mut World) {
        world.covered_only = !self.beyond_cover;
        set_going(world, self.groups.iter().flatten());
        mend_at(world, self.lasts + 1);
        if self.groups.iter().flatten().any(|(_, fault)| *fault == Fault::Pause(true)) {
            world.later(self.lasts + 1, Happening::Fails(Fault::Pause(false)));
        }
    }
}

/// One more round, when all is at rest again; says for how long.
pub fn begin_again(world: &mut World, group: &Group) -> Time {
    let lasts = group.iter().map(|(at, _)| *at).max().unwrap_or(0);
    set_going(world, group.iter());
    mend_at(world, lasts + 1);
    lasts
}

fn set_going<'a>(world: &mut World, faults: impl Iterator<Item = &'a (Time, Fault)>) {
    for (at, fault) in faults {
        world.later(*at, Happening::Fails(fault.clone()));
    }
}

fn mend_at(world: &mut World, at: Time) {
    let sites: Vec<ClusterName> = world.sites.keys().cloned().collect();
    let mended =
        sites.iter().flat_map(|site| [Fault::Returns(site.clone()), Fault::ApiReturns(site.clone())]);
    for fault in [Fault::Heal].into_iter().chain(mended).chain([Fault::HubReturns, Fault::HubApiReturns]) {
        world.later(at, Happening::Fails(fault));
    }
}

const MOST_ROUNDS: u64 = 3;

/// The periods of the timing: renew, ttl, W, and those between.
const PERIODS: [Time; 6] = [500, 1_500, 3_000, 4_500, 7_200, 9_000];

/// What calls for a failover: the first holder is away for longer than the whole wait.
fn loss(random: &mut Random, lasts: Time) -> Group {
    let (site, at) = (cluster_named("east"), random.within(&(0..=lasts / 2)));
    let back = (at + random.within(&(11_000..=25_000))).min(lasts);
    if random.percent(50) {
        return vec![(at, Fault::Isolate(site)), (back, Fault::Heal)];
    }
    vec![(at, Fault::Dies(site.clone())), (back, Fault::Returns(site))]
}

/// Whatever has most is lost, there is somebody who reads what is proposed, and now and then something else goes wrong.
fn round(random: &mut Random, sites: &[ClusterName], apps: usize) -> Group {
    let (at, dies) = (random.within(&(200..=1_500)), random.percent(50));
    let ends = at + random.within(&(11_000..=14_000));
    let mut group = vec![
        (0, Fault::HumanComes(Human::Careful)),
        (at, Fault::OwnersLost { dies }),
        (at + 4_000, Fault::SurvivorsPreferred),
        (ends, Fault::Heal),
    ];
    if random.percent(40) {
        let after = random.within(&(0..=ends));
        let other = any(random, sites, apps).into_iter();
        group.extend(other.map(|(at, fault)| ((after + at).min(ends), fault)));
    }
    group
}

/// What goes wrong with the witness of a world that has one.
pub fn of_the_witness(random: &mut Random, sites: &[ClusterName], lasts: Time) -> Vec<Group> {
    let one = |random: &mut Random| {
        let at = random.within(&(0..=lasts));
        let ends = (at + random.within(&(500..=25_000))).min(lasts);
        let fault = match random.within(&(0..=6)) {
            0 | 1 => WitnessFault::Stops,
            2 => WitnessFault::Forgets,
            3 => WitnessFault::Slow(random.within(&(10..=300))),
            4 | 5 => WitnessFault::CutFromHub,
            _ => WitnessFault::CutFrom(random.one_of(sites).clone()),
        };
        vec![(at, Fault::Witness(fault)), (ends, Fault::Heal)]
    };
    (0..random.within(&(0..=2))).map(|_| one(random)).collect()
}

/// One fault, and what ends it if it does not end by itself.
pub(crate) fn any(random: &mut Random, sites: &[ClusterName], apps: usize) -> Group {
    let site = random.one_of(sites).clone();
    let lasts = random.within(&(200..=25_000));
    match random.within(&(0..=9)) {
        0 => hub(random, lasts),
        1 => agent(random, site, lasts),
        2..=4 => network(random, site, lasts),
        5 | 6 => cluster(random, site, lasts),
        7 => storage(random, lasts),
        _ => of_one(random, apps, |random| people(random, site, lasts)),
    }
}

fn hub(random: &mut Random, lasts: Time) -> Group {
    match random.within(&(0..=9)) {
        0..=3 => vec![(0, Fault::KillHub)],
        4 | 5 => vec![(0, Fault::LoseHub), (lasts, Fault::HubReturns)],
        6 | 7 => vec![(0, Fault::HubApiStops), (lasts, Fault::HubApiReturns)],
        8 => vec![(0, Fault::FreezeHub(random.within(&(500..=15_000))))],
        _ if random.percent(50) => vec![(0, Fault::OldBackup)],
        _ => vec![(0, Fault::KillHub)],
    }
}

fn agent(random: &mut Random, site: ClusterName, lasts: Time) -> Group {
    match random.within(&(0..=5)) {
        0 => vec![(0, Fault::FreezeAgent(site, random.within(&(200..=12_000))))],
        1 => vec![(0, Fault::Suspend(site, random.within(&(2_100..=5_000))))],
        2 if random.percent(50) => vec![(0, Fault::ClocksApart)],
        2 => {
            let seconds = *random.one_of(&[-3_600, -7, 5, 90, 3_600]);
            vec![(0, Fault::WallJump(site, seconds))]
        }
        3 if random.percent(50) => {
            let seconds = *random.one_of(&[4, 90, 3_600]);
            let ahead = Fault::AnotherClock(site.clone(), seconds);
            vec![(0, ahead), (lasts, Fault::AnotherClock(site, -seconds))]
        }
        _ => vec![(0, Fault::KillAgent(site))],
    }
}

fn network(random: &mut Random, site: ClusterName, lasts: Time) -> Group {
    let healed = |fault| vec![(0, fault), (lasts, Fault::Heal)];
    match random.within(&(0..=11)) {
        0 => healed(Fault::CutFromHub(site)),
        1 => healed(Fault::CutPeers),
        2..=4 => healed(Fault::Isolate(site)),
        5 => healed(Fault::HubIsMute(site)),
        6 => healed(Fault::HubIsDeaf(site)),
        7 => healed(Fault::PeersAreDeaf(site)),
        8 => {
            let most = *random.one_of(&[900, 3_000, 15_000]);
            healed(Fault::Slow { site, by: random.within(&(20..=most)) })
        }
        9 => healed(Fault::Lose { percent: random.within(&(5..=40)) }),
        10 => healed(Fault::Again { percent: random.within(&(5..=60)), within: 15_000 }),
        _ => {
            let period = *random.one_of(&PERIODS);
            let flaps = 0..random.within(&(2..=6));
            let cut = |flap| (flap * period, Fault::CutFromHub(site.clone()));
            flaps.flat_map(|flap| [cut(flap), (flap * period + period / 2, Fault::Heal)]).collect()
        }
    }
}

fn cluster(random: &mut Random, site: ClusterName, lasts: Time) -> Group {
    match random.within(&(0..=9)) {
        0..=2 => vec![(0, Fault::Dies(site.clone())), (lasts + 5_000, Fault::Returns(site))],
        3 if random.percent(40) => vec![
            (0, Fault::ApiStops(site.clone())),
            (5_000, Fault::CutFromHub(site.clone())),
            (5_000 + lasts, Fault::Heal),
            (6_000 + lasts, Fault::ApiReturns(site)),
        ],
        3 => vec![(0, Fault::ApiStops(site.clone())), (lasts, Fault::ApiReturns(site))],
        4 | 5 => {
            let by = random.within(&(300..=6_500));
            vec![(0, Fault::ApiSlow(site.clone(), by)), (lasts, Fault::ApiReturns(site))]
        }
        6 => vec![(0, Fault::Conflicts(site, random.within(&(10..=60)))), (lasts, Fault::Heal)],
        7 if random.percent(40) => {
            vec![(0, Fault::AdmissionLags(site, random.within(&(300..=6_000)))), (lasts, Fault::Heal)]
        }
        7 => vec![(0, Fault::StaleWatch(site, random.within(&(300..=3_000)))), (lasts, Fault::Heal)],
        // Again and again, as an autoscaler does.
        8 => (0..random.within(&(1..=6)))
            .map(|round| (round * 700, Fault::Scales { site: site.clone(), replicas: 1 }))
            .collect(),
        // Still within the time to stop.
        _ => vec![(0, Fault::SlowPods(random.within(&(100..=1_800)))), (lasts, Fault::Heal)],
    }
}

fn storage(random: &mut Random, lasts: Time) -> Group {
    let fault = match random.within(&(0..=6)) {
        0 => Fault::SlowCrossing(lasts / 2),
        1 => Fault::MirrorStalls,
        2 => Fault::PromotionHangs,
        3 => {
            let claim: &&str = random.one_of(&CLAIMS);
            Fault::OnePromotionHangs(claim)
        }
        4 => Fault::DemotionRefused,
        5 => Fault::ResyncHangs,
        _ => Fault::CutArrays,
    };
    vec![(0, fault), (lasts, Fault::Heal)]
}

/// Some of what users do they do to one placement alone.
fn of_one(random: &mut Random, apps: usize, people: impl FnOnce(&mut Random) -> Group) -> Group {
    let app = usize::try_from(random.within(&(0..=u64::try_from(apps - 1).unwrap_or(0)))).unwrap_or(0);
    let alone = random.percent(60);
    let only = |fault: Fault| {
        let edits = !matches!(fault, Fault::HumanComes(_));
        let for_one = edits && (alone || fault == Fault::Delete);
        if for_one { Fault::Of(app, Box::new(fault)) } else { fault }
    };
    people(random).into_iter().map(|(after, fault)| (after, only(fault))).collect()
}

fn people(random: &mut Random, site: ClusterName, lasts: Time) -> Group {
    match random.within(&(0..=13)) {
        0..=5 => vec![(0, Fault::Prefer(site))],
        6 | 7 => {
            let modes = [
                FailoverModeOf::Automatic,
                FailoverModeOf::ConfirmAndStop,
                FailoverModeOf::ConfirmAndContinue,
                FailoverModeOf::Manual,
            ];
            vec![(0, Fault::SetMode(*random.one_of(&modes)))]
        }
        8 => {
            let levels = [
                FencingOf::SelfFence,
                FencingOf::Gate,
                FencingOf::Storage,
                FencingOf::External,
                FencingOf::None,
            ];
            vec![(0, Fault::SetFencing(*random.one_of(&levels)))]
        }
        9 => vec![(0, Fault::SetTtl(random.within(&(3_000..=6_000))))],
        10 => vec![(0, Fault::Pause(true)), (lasts, Fault::Pause(false))],
        11 => vec![(0, Fault::HumanComes(Human::Careless))],
        12 if random.percent(25) => vec![(0, Fault::Delete)],
        _ => vec![(0, Fault::HumanComes(Human::Careful))],
    }
}
