//! Which paths to other clusters work, and when they last did.

use std::collections::BTreeMap;

use proto::{ClusterName, Mark, Moment, PathKind, PathState};
use serde::{Deserialize, Serialize};

/// What is remembered of one path across a restart on the same boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMemory {
    pub cluster: ClusterName,
    pub path: PathKind,
    pub worked: Moment,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// Reachable, and the hub's mark at the begin of the probe; none: not probed since the start.
    last: Option<(bool, Mark)>,
    worked: Option<Moment>,
}

#[derive(Debug, Default)]
pub struct Paths {
    seen: BTreeMap<(ClusterName, PathKind), Seen>,
}

impl Paths {
    pub fn recall(&mut self, memory: Vec<PathMemory>) {
        for PathMemory { cluster, path, worked } in memory {
            self.seen.entry((cluster, path)).or_default().worked = Some(worked);
        }
    }

    pub fn probed(
        &mut self,
        cluster: ClusterName,
        path: PathKind,
        reachable: bool,
        mark: Mark,
        began: Moment,
    ) {
        let seen = self.seen.entry((cluster, path)).or_default();
        seen.last = Some((reachable, mark));
        if reachable {
            seen.worked = seen.worked.max(Some(began));
        }
    }

    /// What was found for another hub, or for this one before the stream broke, is no evidence; when a path last worked
    /// stays true.
    pub fn forget_evidence(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.last = None);
    }

    /// Only peers that some placement still has.
    pub fn keep_only(&mut self, clusters: &[&ClusterName]) {
        self.seen.retain(|(cluster, _), _| clusters.contains(&cluster));
    }

    pub fn states(&self, now: Moment) -> Vec<PathState> {
        let probed = self.seen.iter().filter_map(|(key, seen)| Some((key, seen.last?, seen.worked)));
        probed
            .map(|((cluster, path), (reachable, mark), worked)| PathState {
                cluster: cluster.clone(),
                path: *path,
                reachable,
                mark,
                worked_age: worked.map(|worked| now.since(worked)),
            })
            .collect()
    }

    pub fn memory(&self) -> Vec<PathMemory> {
        let worked = self.seen.iter().filter_map(|(key, seen)| Some((key, seen.worked?)));
        worked
            .map(|((cluster, path), worked)| PathMemory { cluster: cluster.clone(), path: *path, worked })
            .collect()
    }
}
