//! The append-writer: every write gets the next number, and nobody ever takes one back.

use proto::ClusterName;

use crate::transition::Time;

/// One write that the application has been told is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub at: Time,
    pub site: ClusterName,
}

/// All writes that were ever acknowledged; a write's number is its place here.
#[derive(Debug, Default)]
pub struct History {
    pub writes: Vec<Written>,
}

impl History {
    pub fn write(&mut self, at: Time, site: &ClusterName) -> u32 {
        self.writes.push(Written { at, site: site.clone() });
        u32::try_from(self.writes.len() - 1).unwrap_or(u32::MAX)
    }

    /// The acknowledged writes that an image lacks, oldest first.
    pub fn missing_in(&self, log: &[u32]) -> Vec<u32> {
        let held: std::collections::BTreeSet<u32> = log.iter().copied().collect();
        let all = 0..u32::try_from(self.writes.len()).unwrap_or(u32::MAX);
        all.filter(|number| !held.contains(number)).collect()
    }

    pub fn at(&self, number: u32) -> Option<Time> {
        self.writes.get(usize::try_from(number).ok()?).map(|written| written.at)
    }

    pub fn since(&self, time: Time) -> usize {
        self.writes.iter().filter(|written| written.at >= time).count()
    }
}
