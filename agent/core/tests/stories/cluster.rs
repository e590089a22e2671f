//! A small cluster that carries out what the agent decides, and writes down what happens.

mod carrying;
mod groups;
mod hub;
mod kubernetes;
mod objects;
mod scenes;
mod storage;

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::{
    Accounted, Agent, Change, Effect, Event, Failed, Failure, Identity, Kind, MemoryRead, PathMemory,
    Promised, Receipt, Recorded, Watched, WitnessVisit,
};
use proto::*;
use serde_json::Value;

pub use groups::GROUP;
pub use hub::*;
pub use objects::*;
pub use scenes::*;
pub use storage::*;

pub struct Cluster {
    pub agent: Agent,
    pub name: ClusterName,
    pub now: Moment,
    /// Wall clock less boot clock.
    pub wall_offset: i64,
    pub objects: BTreeMap<(Kind, String), Value>,
    pub version: u64,
    pub sites: BTreeMap<PlacementId, Recorded>,
    pub leases: Vec<(PlacementId, Accounted)>,
    pub promises: Vec<(PlacementId, Promised)>,
    pub paths: Vec<PathMemory>,
    pub remembered_boot: Option<String>,
    pub remembered_offset: Option<i64>,
    pub nonce: Nonce,
    pub transcript: String,
    /// Whether pods end as soon as their workload is at zero.
    pub pods_obey: bool,
    /// Whether the storage driver does what VolumeReplications say, at once.
    pub storage_obeys: bool,
    pub array: Array,
    /// Whether DRSiteStates can be written.
    pub writable: bool,
    /// Whether Argo CD and Flux may be paused.
    pub may_steer: bool,
    /// Whether watches tell of an effect before the effect itself is answered.
    pub watch_is_faster: bool,
    /// Whether requests to scale to zero are on their way for long.
    pub stops_linger: bool,
    pub demotions_linger: bool,
    pub lingering: Vec<(PlacementId, Effect)>,
    pub asked: Vec<(ClusterName, Epoch, Moment)>,
    pub hold_requests: Vec<HoldRequest>,
    /// What was passed on to gates.
    pub admitted: Vec<Sealed>,
    /// What was promised to the gates of another cluster.
    pub promised_to_gates: Vec<Sealed>,
    /// The marks that probes have begun with.
    pub probed: Vec<Mark>,
    /// The newest report, with the inventory that the hub has from it or from one before.
    pub reported: Option<Report>,
    /// What the newest heartbeat told of paths.
    pub told_paths: Vec<PathState>,
    pub visits: Vec<WitnessVisit>,
    /// What the newest heartbeat asked for gates.
    pub renewed_gates: Vec<GateNonce>,
}

impl Cluster {
    pub fn new(name: &str) -> Cluster {
        let agent = Agent::new(Identity { cluster: cluster(name), version: "test".into() });
        Cluster {
            agent,
            name: cluster(name),
            now: Moment(0),
            wall_offset: 1_700_000_000_000,
            objects: BTreeMap::new(),
            version: 0,
            sites: BTreeMap::new(),
            leases: Vec::new(),
            promises: Vec::new(),
            paths: Vec::new(),
            remembered_boot: None,
            remembered_offset: None,
            nonce: Nonce(0),
            transcript: String::new(),
            pods_obey: true,
            storage_obeys: true,
            array: Array::Mirrors,
            writable: true,
            may_steer: true,
            watch_is_faster: false,
            stops_linger: false,
            demotions_linger: false,
            lingering: Vec::new(),
            asked: Vec::new(),
            hold_requests: Vec::new(),
            admitted: Vec::new(),
            promised_to_gates: Vec::new(),
            probed: Vec::new(),
            reported: None,
            told_paths: Vec::new(),
            visits: Vec::new(),
            renewed_gates: Vec::new(),
        }
    }

    pub fn say(&mut self, text: &str) {
        self.transcript.push_str(&format!("# {text}\n"));
    }

    fn line(&mut self, text: String) {
        let seconds = self.now.0 as f64 / 1000.0;
        self.transcript.push_str(&format!("{seconds:7.3}  {text}\n"));
    }

    /// The process starts, on this boot of its node.
    pub fn start(&mut self, boot: &str) {
        let identity = Identity { cluster: self.name.clone(), version: "test".into() };
        self.agent = Agent::new(identity);
        let memory = MemoryRead {
            boot: boot.into(),
            wall: self.wall(),
            remembered_boot: self.remembered_boot.clone(),
            remembered_offset: self.remembered_offset,
            leases: self.leases.clone(),
            promises: self.promises.clone(),
            paths: self.paths.clone(),
            sites: self.sites.values().cloned().collect(),
        };
        self.event(Event::Started(memory));
        self.list_everything();
    }

    fn wall(&self) -> WallTime {
        WallTime(self.wall_offset + self.now.0 as i64)
    }

    pub fn list_everything(&mut self) {
        let kinds = [
            (Kind::Claim, true),
            (Kind::Volume, false),
            (Kind::StorageClass, false),
            (Kind::Replication, true),
            (Kind::ReplicationClass, false),
            (Kind::Group, true),
            (Kind::GroupClass, false),
            (Kind::GroupContent, false),
            (Kind::Attachment, false),
            (Kind::Pod, true),
            (deployments(), true),
            (stateful_sets(), true),
            (cron_jobs(), true),
        ];
        for (kind, namespaced) in kinds {
            let list = self.list(kind, namespaced);
            self.event(Event::Watched(list));
        }
    }

    pub fn list_of(&self, kind: Kind) -> Watched {
        let cluster_wide = matches!(
            kind,
            Kind::Volume
                | Kind::StorageClass
                | Kind::ReplicationClass
                | Kind::GroupClass
                | Kind::GroupContent
                | Kind::Attachment
                | Kind::AddonsNode
                | Kind::Policy
                | Kind::PolicyBinding
        );
        self.list(kind, !cluster_wide)
    }

    fn list(&self, kind: Kind, namespaced: bool) -> Watched {
        let objects =
            self.objects.iter().filter(|((of, _), _)| *of == kind).map(|(_, object)| object.clone());
        Watched {
            change: Change::Listed {
                namespace: namespaced.then(|| "shop".to_owned()),
                objects: objects.collect(),
                began: self.now,
            },
            kind,
        }
    }

    /// One event, and everything that follows from it without time passing.
    pub fn event(&mut self, event: Event) {
        let mut events = vec![event];
        for _ in 0..200 {
            let Some(event) = (!events.is_empty()).then(|| events.remove(0)) else { return };
            let decision = self.agent.step(self.now, event);
            assert_eq!(
                self.agent.overlooked(),
                [],
                "at rest, and would be changed by a look:\n{}",
                self.transcript
            );
            self.carry_out(decision, &mut events);
        }
        panic!("the agent does not come to rest:\n{}", self.transcript);
    }

    /// The requests that linger reach the API server. Whoever still waits for them is answered.
    pub fn lingering_stops_land(&mut self, answered: bool) {
        self.say("what lingers lands");
        for (placement, effect) in std::mem::take(&mut self.lingering) {
            let key = effect.key();
            let (result, more) = self.apply(effect);
            let first = match result {
                Ok(Receipt::Object(watched)) if !answered => Event::Watched(*watched),
                result => Event::Finished { placement, key, result },
            };
            self.event(first);
            more.into_iter().for_each(|event| self.event(event));
        }
    }

    /// Nobody waits any longer for the requests that linger; they are still on their way.
    pub fn lingering_stops_are_given_up(&mut self) {
        for (placement, effect) in self.lingering.clone() {
            let failed = Failed { failure: Failure::Unavailable, message: "no answer within 5s".into() };
            self.event(Event::Finished { placement, key: effect.key(), result: Err(failed) });
        }
    }

    /// Time passes in steps of 100 ms.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(100)).min(end);
            self.event(Event::Tick(self.wall()));
        }
    }

    pub fn pass_seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    pub fn scaled_to(&self) -> u64 {
        self.objects[&(deployments(), "web".to_owned())]["spec"]["replicas"].as_u64().expect("replicas")
    }

    pub fn replication_states(&self) -> Vec<(String, String)> {
        let replications = self.objects.iter().filter(|((kind, _), _)| *kind == Kind::Replication);
        let state =
            |object: &Value| object["spec"]["replicationState"].as_str().unwrap_or_default().to_owned();
        replications.map(|((_, name), object)| (name.clone(), state(object))).collect()
    }

    pub fn role(&self) -> Option<(Role, u64)> {
        self.sites.get(&placement()).map(|site| (site.state.role, site.state.epoch_seen.0))
    }
}
