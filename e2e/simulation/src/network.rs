//! The links: hub to each agent, agent to agent, array to array, and to the witness. Each direction may be cut by itself; a link may be
//! slow, lose calls, and deliver again what it has delivered before.

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
    Witness,
}

/// Messages that arrive once more: how many of a hundred, and how much later at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    pub percent: u64,
    pub within: Time,
}

#[derive(Clone, Debug)]
pub struct Network {
    /// From one end to the other.
    cut: BTreeSet<(End, End)>,
    /// Extra delay of one link, in both directions.
    slow: BTreeMap<(End, End), Time>,
    usual: RangeInclusive<Time>,
    /// Of calls between agents; a stream repeats what is lost, and is only late.
    loss_percent: u64,
    pub echo: Echo,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            usual: 1..=15,
            loss_percent: 0,
            echo: Echo::default(),
        }
    }
}

/// In the order of `Ord`, so that a link has one name.
fn link(a: End, b: End) -> (End, End) {
    if a <= b { (a, b) } else { (b, a) }
}

impl Network {
    pub fn cut(&mut self, a: End, b: End) {
        self.cut_one_way(a.clone(), b.clone());
        self.cut_one_way(b, a);
    }

    pub fn cut_one_way(&mut self, from: End, to: End) {
        self.cut.insert((from, to));
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

    /// Both ways: what is answered needs both.
    pub fn is_up(&self, a: End, b: End) -> bool {
        self.cut.is_empty() || (self.carries(a.clone(), b.clone()) && self.carries(b, a))
    }

    pub fn carries(&self, from: End, to: End) -> bool {
        self.cut.is_empty() || !self.cut.contains(&(from, to))
    }

    /// Nothing is slow or lost, so what is told is known at once.
    pub fn is_calm(&self) -> bool {
        self.slow.is_empty() && self.loss_percent == 0
    }

    pub fn is_whole(&self) -> bool {
        self.cut.is_empty() && self.slow.is_empty() && self.loss_percent == 0
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

    /// How much later the same message arrives once more, if it does.
    pub fn again(&self, random: &mut Random) -> Option<Time> {
        let Echo { percent, within } = self.echo;
        (percent > 0 && random.percent(percent)).then(|| random.within(&(1..=within)))
    }
}
