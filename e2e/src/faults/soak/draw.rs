//! The faults that a soak draws from.

use std::fmt;

use super::{EAST, WEST, Who};

const HUB: &str = "hub";
const SITES: [&str; 3] = [HUB, EAST, WEST];

/// One fault, and for how long.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: What,
    pub milliseconds: u64,
    /// Whether the user moves the application right before, and how long before.
    pub moves_before: bool,
    pub lead_milliseconds: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Nothing,
    Cut {
        one: &'static str,
        other: &'static str,
    },
    CutOneWay {
        from: &'static str,
        to: &'static str,
    },
    Isolate {
        site: &'static str,
    },
    Narrow {
        site: &'static str,
    },
    Flap {
        one: &'static str,
        other: &'static str,
        each: u64,
    },
    Freeze {
        who: Who,
    },
    Kill {
        who: Who,
    },
    /// The agent starts by a clock that is so far ahead, and by its own again, and then the site is isolated.
    OtherClock {
        site: &'static str,
        seconds: i64,
    },
    KillPart {
        site: &'static str,
        part: Part,
    },
    PowerCut {
        site: &'static str,
        says_yes: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Part {
    Array,
    CsiAddons,
    Nodes,
}

const PROCESSES: [Who; 6] =
    [Who::Hub, Who::HubApi, Who::HolderAgent, Who::HolderApi, Who::TargetAgent, Who::TargetApi];

impl Fault {
    pub fn draw(random: &mut Random) -> Fault {
        let one = *random.one_of(&SITES);
        let other = *random.one_of(&SITES.into_iter().filter(|site| *site != one).collect::<Vec<_>>());
        let member = *random.one_of(&[EAST, WEST]);
        let who = *random.one_of(&PROCESSES);
        let what = match random.within(0, 99) {
            0..=4 => What::Nothing,
            5..=9 => What::OtherClock { site: member, seconds: *random.one_of(&[-3600, 5, 3600]) },
            10..=17 => What::Cut { one, other },
            18..=29 => What::CutOneWay { from: one, to: other },
            30..=44 => What::Isolate { site: one },
            45..=49 => What::Narrow { site: one },
            50..=56 => What::Flap { one, other, each: *random.one_of(&[500, 1500, 3000]) },
            57..=68 => What::Freeze { who },
            69..=80 => What::Kill { who },
            81..=88 => What::KillPart {
                site: member,
                part: *random.one_of(&[Part::Array, Part::CsiAddons, Part::Nodes]),
            },
            _ => What::PowerCut { site: member, says_yes: random.within(0, 1) == 0 },
        };
        Fault {
            what,
            milliseconds: random.within(1_000, 25_000),
            moves_before: matches!(what, What::Nothing) || random.within(0, 99) < 20,
            lead_milliseconds: random.within(0, 4_000),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self.what {
            What::Nothing => "planned move alone",
            What::Cut { .. } => "link cut",
            What::CutOneWay { .. } => "link cut one way",
            What::Isolate { .. } => "site isolated",
            What::Narrow { .. } => "site's way slow",
            What::Flap { .. } => "link flapping",
            What::Freeze { .. } => "process frozen",
            What::Kill { .. } => "process killed",
            What::OtherClock { .. } => "agent by another clock",
            What::KillPart { .. } => "storage, csi-addons or nodes killed",
            What::PowerCut { .. } => "site without power",
        }
    }

    /// While links are cut, what is proposed for the one that stops itself may be approved: waiting proves that it has.
    pub fn says_yes(&self) -> bool {
        self.lead_milliseconds.is_multiple_of(2)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moves_before {
            write!(f, "a planned move, and {} ms later ", self.lead_milliseconds)?;
        }
        write!(f, "{}: {:?} for {} ms", self.kind(), self.what, self.milliseconds)
    }
}

/// SplitMix64: the same on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.number() % (to - from + 1)
    }

    fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        let last = u64::try_from(things.len().saturating_sub(1)).unwrap_or_default();
        &things[usize::try_from(self.within(0, last)).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_and_every_kind_of_them() {
        let drawn = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| Fault::draw(&mut random)).collect::<Vec<_>>()
        };
        let (one, again) = (drawn(7), drawn(7));
        assert!(one.iter().zip(&again).all(|(one, again)| one.to_string() == again.to_string()));
        let kinds: std::collections::BTreeSet<_> = one.iter().map(Fault::kind).collect();
        assert_eq!(kinds.len(), 11, "{kinds:?}");
    }
}
