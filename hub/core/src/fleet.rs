//! The clusters as configured, and the sites as observed: who was heard when, and what each sees of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{
    ClusterName, Heartbeat, Hello, Mark, Moment, Nonce, PathKind, PathState, PlacementId, Report, Term,
    WallTime,
};
use serde::{Deserialize, Serialize};

/// A DRCluster, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: ClusterName,
    /// The uid in its agent's certificate.
    pub identity: String,
    pub failure_domain: String,
    pub peer_endpoint: Option<String>,
    pub probe_endpoints: Vec<String>,
    pub maintenance: bool,
}

/// What was last heard from a cluster's agent.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Moment,
    pub at_wall: WallTime,
    pub nonce: Nonce,
    pub api_write_age: Option<Duration>,
}

/// A cluster as observed through its agent.
#[derive(Clone, Debug)]
pub struct Site {
    pub cluster: Cluster,
    /// Since when it is configured: before that nobody could be heard.
    pub since: Moment,
    /// When its present stream began.
    pub greeted: Moment,
    /// A stream is open, and its first heartbeat has come: only then is there a nonce that a command can answer (R5).
    pub connected: bool,
    pub version: String,
    /// None since this hub started: unheard, which is not lost.
    pub heard: Option<Heard>,
    /// Its last silences: when each ended, and how long it was; the newest last.
    pub silences: Vec<(Moment, Duration)>,
    pub paths: BTreeMap<(ClusterName, PathKind), Sighting>,
    pub reports: BTreeMap<PlacementId, Report>,
    pub syncs: BTreeMap<PlacementId, Syncs>,
}

/// The newest sync of each claim's volume.
pub type Syncs = BTreeMap<String, Sync>;

/// A sync time is of another cluster's clock: as it was told, and as it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    told: WallTime,
    believed: WallTime,
}

impl Sync {
    /// It was told before it can have been.
    pub fn is_doubted(&self) -> bool {
        self.believed < self.told
    }
}

/// One agent's last word on a path to another cluster, and when the hub got it.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub state: PathState,
    pub received: Moment,
}

#[derive(Debug, Default)]
pub struct Fleet {
    pub sites: BTreeMap<ClusterName, Site>,
}

impl Fleet {
    pub fn cluster_seen(&mut self, now: Moment, cluster: Cluster) {
        match self.sites.get_mut(&cluster.name) {
            Some(site) => site.cluster = cluster,
            None => {
                let site = Site {
                    cluster: cluster.clone(),
                    since: now,
                    greeted: now,
                    connected: false,
                    version: String::new(),
                    heard: None,
                    silences: Vec::new(),
                    paths: BTreeMap::new(),
                    reports: BTreeMap::new(),
                    syncs: BTreeMap::new(),
                };
                self.sites.insert(cluster.name, site);
            }
        }
    }

    pub fn greeted(&mut self, now: Moment, hello: &Hello) {
        if let Some(site) = self.sites.get_mut(&hello.cluster) {
            site.connected = false;
            site.greeted = now;
            // It says everything anew; what it said on another stream may not be so any more.
            site.reports.clear();
            site.version.clone_from(&hello.version);
        }
    }

    pub fn disconnected(&mut self, cluster: &ClusterName) {
        if let Some(site) = self.sites.get_mut(cluster) {
            site.connected = false;
        }
    }

    pub fn heartbeat(&mut self, now: Moment, awake_since: Moment, wall: WallTime, heartbeat: &Heartbeat) {
        let Some(site) = self.sites.get_mut(&heartbeat.cluster) else { return };
        if site.heard.is_some() {
            site.remember_silence(now, awake_since);
        }
        site.connected = true;
        site.heard = Some(Heard {
            at: now,
            at_wall: wall,
            nonce: heartbeat.nonce,
            api_write_age: heartbeat.api_write_age,
        });
        for state in &heartbeat.paths {
            let sighting = Sighting { state: state.clone(), received: now };
            site.paths.insert((state.cluster.clone(), state.path), sighting);
        }
    }

    /// `doubted` are the syncs of this cluster that a hub before this one did not believe.
    pub fn report(&mut self, wall: WallTime, mut report: Report, doubted: Option<&Syncs>) {
        if let Some(site) = self.sites.get_mut(&report.cluster) {
            site.believe_syncs(wall, &mut report, doubted);
            // An agent repeats its inventory only when it has changed.
            let known = site.reports.get_mut(&report.placement).and_then(|before| before.inventory.take());
            report.inventory = report.inventory.or(known);
            site.reports.insert(report.placement.clone(), report);
        }
    }
}

/// How a site stands, by the age of its last sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    Alive,
    /// Nothing heard since this hub started, and not for long enough to say more.
    Unheard,
    Suspect,
    Unreachable,
}

/// A heartbeat that comes later than this is worth remembering.
const SILENCE: Duration = Duration::from_secs(1);
const SILENCES_REMEMBERED: usize = 16;

impl Site {
    /// No sync is later than when it was first heard of: a cluster whose clock runs ahead would make its copies look younger
    /// than they are, and so the loss smaller.
    fn believe_syncs(&mut self, heard: WallTime, report: &mut Report, doubted: Option<&Syncs>) {
        let syncs = self.syncs.entry(report.placement.clone());
        let syncs = syncs.or_insert_with(|| doubted.cloned().unwrap_or_default());
        for volume in &mut report.volumes {
            let Some(replication) = &mut volume.replication else { continue };
            let Some(told) = replication.last_sync else { continue };
            let before = syncs.get(&volume.claim).filter(|sync| sync.told == told);
            let sync = before.copied().unwrap_or(Sync { told, believed: told.min(heard) });
            replication.last_sync = Some(sync.believed);
            syncs.insert(volume.claim.clone(), sync);
        }
    }

    fn remember_silence(&mut self, now: Moment, awake_since: Moment) {
        let silent = self.silent_for(now, awake_since);
        if silent < SILENCE {
            return;
        }
        // A short one does not push out a long one.
        self.silences.retain(|(_, known)| *known > silent);
        self.silences.push((now, silent));
        let surplus = self.silences.len().saturating_sub(SILENCES_REMEMBERED);
        self.silences.drain(..surplus);
    }

    /// How long it has been heard since a silence of at least `suspect`; none: not lost since this hub started.
    pub fn back_for(&self, now: Moment, suspect: Duration) -> Option<Duration> {
        let lost = self.silences.iter().rev().find(|(_, silent)| *silent >= suspect);
        lost.map(|(ended, _)| now.since(*ended))
    }

    /// How long it has been silent: since it was last heard, or since the hub could hear at all.
    pub fn silent_for(&self, now: Moment, hub_awake_since: Moment) -> Duration {
        let audible_since = hub_awake_since.max(self.since);
        now.since(self.heard.as_ref().map_or(audible_since, |heard| heard.at.max(audible_since)))
    }

    pub fn liveness(
        &self,
        now: Moment,
        hub_awake_since: Moment,
        suspect: Duration,
        unreachable: Duration,
    ) -> Liveness {
        let silent = self.silent_for(now, hub_awake_since);
        if silent >= unreachable {
            Liveness::Unreachable
        } else if silent >= suspect {
            Liveness::Suspect
        } else if self.heard.as_ref().is_none_or(|heard| heard.at < hub_awake_since) {
            // Not heard since the hub can hear: that is neither life nor loss.
            Liveness::Unheard
        } else {
            Liveness::Alive
        }
    }
}

/// One path from an observer to an accused site, in ages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: PathKind,
    pub reachable: bool,
    /// The probe began no longer ago than this; none: in another term of the hub, so nobody knows.
    pub gathered_age: Option<Duration>,
    /// Since the path last worked; none: not as long as the observer remembers.
    pub worked_age: Option<Duration>,
}

impl Site {
    /// How long its stream has been heard without a report on this placement.
    pub fn mute(&self, placement: &PlacementId) -> Duration {
        let heard = self.heard.as_ref().filter(|_| !self.reports.contains_key(placement));
        heard.map_or(Duration::ZERO, |heard| heard.at.since(self.greeted))
    }

    /// What this site sees of another.
    pub fn sees(&self, other: &ClusterName, now: Moment, term: Term) -> Vec<Seen> {
        self.paths
            .iter()
            .filter(|((cluster, _), _)| cluster == other)
            .map(|((_, path), sighting)| Seen {
                path: *path,
                reachable: sighting.state.reachable,
                gathered_age: mark_age(sighting.state.mark, now, term),
                worked_age: sighting.state.worked_age.map(|age| age + now.since(sighting.received)),
            })
            .collect()
    }
}

fn mark_age(mark: Mark, now: Moment, term: Term) -> Option<Duration> {
    (mark.term == term.0).then(|| now.since(mark.at))
}
