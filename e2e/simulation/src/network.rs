//! The links: hub to each agent, agent to agent, and array to array. Each may be cut, slow, or lose calls.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use proto::ClusterName;

use crate::random::Random;
use crate::transition::Time;

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Hub,
    Agent(ClusterName),
    Array(ClusterName),
}

#[derive(Clone, Debug)]
pub struct Network {
    /// In the order of `Ord`, so that a link has one name.
    cut: BTreeSet<(End, End)>,
    /// Extra delay of one link.
    slow: BTreeMap<(End, End), Time>,
    usual: RangeInclusive<Time>,
    /// Of calls between agents; a stream repeats what is lost, and is only late.
    loss_percent: u64,
}

impl Default for Network {
    fn default() -> Self {
        Network { cut: BTreeSet::new(), slow: BTreeMap::new(), usual: 1..=15, loss_percent: 0 }
    }
}

fn link(a: End, b: End) -> (End, End) {
    if a <= b { (a, b) } else { (b, a) }
}

impl Network {
    pub fn cut(&mut self, a: End, b: End) {
        self.cut.insert(link(a, b));
    }

    pub fn slow_down(&mut self, a: End, b: End, extra: Time) {
        self.slow.insert(link(a, b), extra);
    }

    pub fn lose(&mut self, percent: u64) {
        self.loss_percent = percent;
    }

    /// Every link is up and as fast as usual.
    pub fn heal(&mut self) {
        *self = Network::default();
    }

    pub fn is_up(&self, a: End, b: End) -> bool {
        !self.cut.contains(&link(a, b))
    }

    pub fn delay(&self, a: End, b: End, random: &mut Random) -> Time {
        let extra = self.slow.get(&link(a, b)).copied().unwrap_or(0);
        let late = if random.percent(self.loss_percent) { 200 } else { 0 };
        random.within(&self.usual) + extra + late
    }

    /// Whether one call gets through, and how long it takes.
    pub fn call(&self, a: End, b: End, random: &mut Random) -> Option<Time> {
        let lost = random.percent(self.loss_percent);
        (self.is_up(a.clone(), b.clone()) && !lost).then(|| self.delay(a, b, random))
    }
}
