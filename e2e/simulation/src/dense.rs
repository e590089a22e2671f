//! Worlds in which many placements share the site of their holders: it is lost with all of them, and when they run at the
//! other one and are copied back, that one is lost. What else goes wrong meanwhile is drawn as for other worlds.

use proto::ClusterName;

use crate::application::App;
use crate::faults::Fault;
use crate::plan::{self, Group, Plan};
use crate::random::Random;
use crate::reference;
use crate::scenario::edit;
use crate::transition::Ticks;
use crate::wishes::Pace;
use crate::world::{Human, World};

const APPS: std::ops::RangeInclusive<u64> = 20..=40;
const ROUNDS: std::ops::RangeInclusive<u64> = 8..=12;

/// Most have their home in the cluster that is lost first.
pub fn homes(random: &mut Random) -> Vec<&'static str> {
    let apps = random.within(&APPS);
    (0..apps).map(|app| if app == 0 || random.percent(90) { "east" } else { "west" }).collect()
}

/// Everybody lives by the shortest timing that is legal with the time that slow pods need to stop.
pub fn hurry(world: &mut World) {
    world.apps.iter_mut().for_each(|app| app.pace = Pace::SHORTEST);
    world.ticks = Ticks::SELDOM;
}

/// One loss after the other.
pub fn plan(random: &mut Random, sites: &[ClusterName], apps: usize) -> Plan {
    let rounds = random.within(&ROUNDS);
    Plan { again: (0..rounds).map(|_| round(random, sites, apps)).collect(), ..Plan::default() }
}

/// Whatever has most is lost for longer than the whole wait, and what has been failed over stays there: after the first
/// automatic one within an hour it is a human who says yes.
fn round(random: &mut Random, sites: &[ClusterName], apps: usize) -> Group {
    let (at, dies) = (random.within(&(200..=1_000)), random.percent(25));
    let ends = at + random.within(&(9_000..=11_000));
    let mut group = vec![
        (0, Fault::HumanComes(Human::Careful)),
        (at, Fault::OwnersLost { dies }),
        (at + 3_000, Fault::SurvivorsPreferred),
        (ends, Fault::OwnersPreferred),
        (ends, Fault::Heal),
    ];
    if random.percent(30) {
        let after = random.within(&(0..=ends));
        let other = plan::any(random, sites, apps).into_iter();
        group.extend(other.map(|(at, fault)| ((after + at).min(ends), fault)));
    }
    group
}

impl World {
    /// The users wish each placement where it is now, or where it goes.
    pub(crate) fn owners_preferred(&mut self) {
        for app in 0..self.apps.len() {
            let App { wish, lines, .. } = &self.apps[app];
            let goes_to = reference::running(lines).map(|intent| &intent.to);
            let Some(owner) = goes_to.or(reference::owner(lines).map(|(_, owner)| owner)) else { continue };
            let preferred = wish.as_ref().map(|wish| wish.spec.preferred_cluster.as_str());
            if preferred.is_some_and(|preferred| preferred != owner.as_str()) {
                let owner = owner.to_string();
                edit(self, app, |wish| wish.spec.preferred_cluster = owner);
            }
        }
    }
}
