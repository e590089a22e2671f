//! Chance from a seed: small, and the same on every machine and in every version.

use std::ops::RangeInclusive;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()) + 1;
        range.start() + self.number() % width
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.number() % 100 < chance
    }

    pub fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        let index = self.within(&(0..=u64::try_from(things.len().saturating_sub(1)).unwrap_or(0)));
        &things[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_says_the_same_on_every_machine() {
        let mut random = Random::new(7);
        assert_eq!([random.number(), random.number()], [7_191_089_600_892_374_487, 309_689_372_594_955_804]);
        assert!((0..1000).all(|_| (3..=9).contains(&random.within(&(3..=9)))));
    }
}
