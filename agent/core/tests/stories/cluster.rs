//! A small cluster that carries out what the agent decides, and writes down what happens.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::{
    Accounted, Agent, AskId, Change, Decision, Effect, Event, Failed, Failure, Identity, Kind, MemoryRead,
    PathMemory, Promised, Receipt, Recorded, Watched, WorkloadKind,
};
use proto::*;
use serde_json::{Value, json};

pub const PLACEMENT: &str = "shop-uid";

/// Timing small enough to be read: renew 1 s, ttl 10 s, hold 8 s, grace 3 s, stop 5 s.
pub fn timing() -> Timing {
    Timing {
        renew: Duration::from_secs(1),
        rpc: Duration::from_secs(1),
        ttl: Duration::from_secs(10),
        hold: Duration::from_secs(8),
        grace: Duration::from_secs(3),
        stop: Duration::from_secs(5),
        clock_rate_error_ppm: 10_000,
        suspect: Duration::from_secs(3),
        unreachable: Duration::from_secs(5),
    }
}

pub fn policy() -> Policy {
    Policy {
        generation: Generation(1),
        timing: timing(),
        on_silence: OnSilence::Stop,
        fencing: Fencing::SelfFence,
    }
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a name")
}

pub fn placement() -> PlacementId {
    PlacementId::parse(PLACEMENT).expect("a uid")
}

fn selector() -> Selector {
    Selector(BTreeMap::from([("app".to_owned(), "shop".to_owned())]))
}

pub fn workload() -> WorkloadRef {
    WorkloadRef { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "web".into() }
}

/// Its epoch and holder; the other cluster is a peer that may be promoted.
pub fn assignment(epoch: u64, holder: Option<&str>, peer: &str) -> Assignment {
    Assignment {
        placement: placement(),
        name: PlacementName::parse("shop", "shop").expect("a name"),
        epoch: Epoch(epoch),
        holder: holder.map(cluster),
        protect: Protect { volumes: selector(), workloads: selector() },
        replication_class: "rbd-5m".into(),
        policy: policy(),
        peers: vec![Peer {
            cluster: cluster(peer),
            identity: format!("{peer}-uid"),
            peer_endpoint: Some(format!("{peer}:7444")),
            probe_endpoints: Vec::new(),
            eligible: true,
        }],
        inventory: None,
    }
}

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
    pub nonce: Nonce,
    pub transcript: String,
    /// Whether pods end as soon as their workload is at zero.
    pub pods_obey: bool,
    /// Whether the storage driver does what VolumeReplications say, at once.
    pub storage_obeys: bool,
    /// Whether DRSiteStates can be written.
    pub writable: bool,
    /// Whether watches tell of an effect before the effect itself is answered.
    pub watch_is_faster: bool,
    /// Whether requests to scale to zero are on their way for long.
    pub stops_linger: bool,
    pub lingering: Vec<(PlacementId, Effect)>,
    pub asked: Vec<(ClusterName, Epoch, Moment)>,
    pub hold_requests: Vec<HoldRequest>,
    /// The marks that probes have begun with.
    pub probed: Vec<Mark>,
    /// What the newest heartbeat told of paths.
    pub told_paths: Vec<PathState>,
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
            nonce: Nonce(0),
            transcript: String::new(),
            pods_obey: true,
            storage_obeys: true,
            writable: true,
            watch_is_faster: false,
            stops_linger: false,
            lingering: Vec::new(),
            asked: Vec::new(),
            hold_requests: Vec::new(),
            probed: Vec::new(),
            told_paths: Vec::new(),
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

    fn list_everything(&mut self) {
        let kinds = [
            (Kind::Claim, true),
            (Kind::Volume, false),
            (Kind::StorageClass, false),
            (Kind::Replication, true),
            (Kind::ReplicationClass, false),
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
            Kind::Volume | Kind::StorageClass | Kind::ReplicationClass | Kind::Attachment | Kind::AddonsNode
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
            self.carry_out(decision, &mut events);
        }
        panic!("the agent does not come to rest:\n{}", self.transcript);
    }

    /// The requests that linger reach the API server. Whoever still waits for them is answered.
    pub fn lingering_stops_land(&mut self, answered: bool) {
        self.say("the scale to zero lands");
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

    fn carry_out(&mut self, decision: Decision, events: &mut Vec<Event>) {
        let Decision { remember, keep, apply, send, ask, answer, probe, note: _, reached: _ } = decision;
        self.probed.extend(probe.into_iter().map(|probe| probe.mark));
        for write in remember {
            let site = &write.state;
            let operation = site.operation.as_ref().map_or("-", |operation| operation.0.as_str());
            let promise =
                site.promise.as_ref().map_or(String::new(), |it| format!(", promised until {}", it.until.0));
            let verb = if self.writable { "write" } else { "cannot write" };
            self.line(format!(
                "{verb} DRSiteState {:?} epoch {} by {operation}, claims [{}]{promise}",
                site.role,
                site.epoch_seen,
                site.claims.iter().cloned().collect::<Vec<_>>().join(" ")
            ));
            events.push(self.write_site(write.state));
        }
        if let Some(memory) = keep {
            self.remembered_boot = Some(memory.boot);
            self.leases = memory.leases;
            self.promises = memory.promises;
            self.paths = memory.paths;
            events.push(Event::MemoryWritten { success: true });
        }
        for (placement, effect) in apply {
            self.line(effect.to_string());
            if self.stops_linger && matches!(effect, Effect::Scale { replicas: 0, .. }) {
                self.lingering.push((placement, effect));
                continue;
            }
            let key = effect.key();
            let (result, more) = self.apply(effect);
            let finished = Event::Finished { placement, key, result };
            if self.watch_is_faster {
                events.extend(more);
                events.push(finished);
            } else {
                events.push(finished);
                events.extend(more);
            }
        }
        for message in send {
            self.told(&message);
        }
        for ask in ask {
            self.line(format!("ask {} for a hold at epoch {}", ask.peer.cluster, ask.request.epoch));
            self.hold_requests.push(ask.request.clone());
            self.asked.push((ask.peer.cluster, ask.request.epoch, ask.asked));
        }
        for (AskId(number), answer) in answer {
            self.line(format!("answer question {number}: {answer:?}"));
        }
    }

    fn told(&mut self, message: &FromAgent) {
        match message {
            FromAgent::Hello(_) => self.line("hello".into()),
            FromAgent::Heartbeat(heartbeat) => {
                self.nonce = heartbeat.nonce;
                self.told_paths = heartbeat.paths.clone();
                for renewal in &heartbeat.renewals {
                    self.line(format!("renew epoch {} (echo {})", renewal.epoch, renewal.echo.0));
                }
            }
            FromAgent::Report(report) => {
                let staged = report.staged.as_ref().map_or("", |_| ", staged");
                let inventory = report.inventory.as_ref().map_or("", |_| ", inventory");
                let ailments: Vec<&str> =
                    report.ailments.iter().map(|ailment| ailment.reason.as_str()).collect();
                let ailments = if ailments.is_empty() {
                    String::new()
                } else {
                    format!(", ails {}", ailments.join(" "))
                };
                self.line(format!(
                    "report {:?} at {}, {} pods{staged}{inventory}{ailments}",
                    report.role, report.epoch_seen, report.pods
                ));
            }
            FromAgent::Acknowledgement(answer) => {
                self.line(format!("acknowledge {}: {:?}", answer.command, answer.outcome));
            }
        }
    }

    fn write_site(&mut self, state: agent_core::SiteState) -> Event {
        let placement = state.placement.clone();
        if !self.writable {
            let failed = Failed { failure: Failure::Unavailable, message: "no API server".into() };
            return Event::SiteWritten { placement, result: Err(failed) };
        }
        self.version += 1;
        let recorded = Recorded { state, resource_version: self.version.to_string() };
        self.sites.insert(placement.clone(), recorded.clone());
        Event::SiteWritten { placement, result: Ok(Box::new(recorded)) }
    }

    fn apply(&mut self, effect: Effect) -> (Result<Receipt, Failed>, Vec<Event>) {
        match effect {
            Effect::ProbeFence { claim, .. } => {
                let refused = self
                    .sites
                    .values()
                    .any(|site| site.state.role != Role::Holder && site.state.claims.contains(&claim));
                (Ok(if refused { Receipt::FenceInForce } else { Receipt::FenceNotInForce }), Vec::new())
            }
            Effect::ListUsers { .. } => {
                let lists = vec![self.list(Kind::Pod, true), self.list(Kind::Attachment, false)];
                (Ok(Receipt::Lists(lists)), Vec::new())
            }
            Effect::MarkReplicas { replicas, .. } => self.change(deployments(), "web", |object| {
                object["metadata"]["annotations"]["understudy.dev/replicas"] = json!(replicas.to_string());
            }),
            Effect::UnmarkReplicas { .. } => self.change(deployments(), "web", |object| {
                object["metadata"]["annotations"] = json!({});
            }),
            Effect::Scale { replicas, .. } => {
                let mut result = self.change(deployments(), "web", |object| {
                    object["spec"]["replicas"] = json!(replicas);
                });
                if replicas == 0 && self.pods_obey {
                    result.1.extend(self.pods_end());
                }
                result
            }
            Effect::SuspendCronJob { .. } => panic!("there is no CronJob here"),
            Effect::CreateReplication { claim, class, epoch, .. } => {
                let object = replication(&claim, &class, epoch);
                self.put(Kind::Replication, &claim, object);
                self.replicate(&claim)
            }
            Effect::PromoteReplication { name, epoch, .. } => {
                self.set_replication(&name, "primary", Some(epoch))
            }
            Effect::DemoteReplication { name, epoch, .. } => {
                self.set_replication(&name, "secondary", Some(epoch))
            }
            Effect::MarkReplication { name, epoch, .. } => {
                self.set_replication(&name, "primary", Some(epoch))
            }
            Effect::UnmarkReplication { name, .. } => self.change(Kind::Replication, &name, |object| {
                object["metadata"]["annotations"] = json!({});
            }),
            Effect::Create { object } => self.create(object),
            Effect::ClearClaimReference { volume, .. } => self.change(Kind::Volume, &volume, |object| {
                object["spec"]["claimRef"]["uid"] = Value::Null;
                object["status"]["phase"] = json!("Available");
            }),
            Effect::DeleteSiteState { .. } if !self.writable => {
                let failed = Failed { failure: Failure::Unavailable, message: "no API server".into() };
                (Err(failed), Vec::new())
            }
            Effect::DeleteSiteState { placement, .. } => {
                self.sites.remove(&placement);
                (Ok(Receipt::Applied), vec![Event::SiteSeen { placement, recorded: None }])
            }
        }
    }

    /// Claims bind as soon as their volume is there.
    fn create(&mut self, mut object: Value) -> (Result<Receipt, Failed>, Vec<Event>) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let kind = match object["kind"].as_str().expect("a kind") {
            "PersistentVolume" => Kind::Volume,
            "PersistentVolumeClaim" => Kind::Claim,
            "StorageClass" => Kind::StorageClass,
            _ => Kind::ReplicationClass,
        };
        let mut more = Vec::new();
        if kind == Kind::Claim {
            let volume = object["spec"]["volumeName"].as_str().expect("a volume").to_owned();
            assert!(self.objects.contains_key(&(Kind::Volume, volume.clone())), "a claim before its volume");
            object["metadata"]["uid"] = json!(format!("{}-{name}", self.name));
            object["status"] = json!({"phase": "Bound"});
            let uid = object["metadata"]["uid"].clone();
            let bound =
                self.change(Kind::Volume, &volume, |volume| volume["spec"]["claimRef"]["uid"] = uid.clone());
            if let Ok(Receipt::Object(watched)) = bound.0 {
                more.push(Event::Watched(*watched));
            }
        }
        let watched = self.put(kind, &name, object);
        (Ok(Receipt::Object(Box::new(watched))), more)
    }

    fn set_replication(
        &mut self,
        name: &str,
        state: &str,
        epoch: Option<Epoch>,
    ) -> (Result<Receipt, Failed>, Vec<Event>) {
        let generation = self.version;
        let result = self.change(Kind::Replication, name, |object| {
            object["spec"]["replicationState"] = json!(state);
            object["metadata"]["generation"] = json!(generation);
            if let Some(epoch) = epoch {
                object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
            }
        });
        let (_, more) = self.replicate(name);
        (result.0, more)
    }

    /// The storage driver does what the VolumeReplication of this name says.
    fn replicate(&mut self, name: &str) -> (Result<Receipt, Failed>, Vec<Event>) {
        let result = self.change(Kind::Replication, name, |_| {});
        let more = if self.storage_obeys { vec![self.storage_answers(name)] } else { Vec::new() };
        (result.0, more)
    }

    pub fn storage_answers(&mut self, name: &str) -> Event {
        let (result, _) = self.change(Kind::Replication, name, |object| {
            let state = match object["spec"]["replicationState"].as_str() {
                Some("primary") => "Primary",
                _ => "Secondary",
            };
            object["status"] = json!({
                "state": state,
                "observedGeneration": object["metadata"]["generation"],
                "conditions": [{"type": "Completed", "status": "True", "reason": "Promoted"}],
            });
        });
        match result {
            Ok(Receipt::Object(watched)) => Event::Watched(*watched),
            other => panic!("{other:?}"),
        }
    }

    pub fn put(&mut self, kind: Kind, name: &str, mut object: Value) -> Watched {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert((kind.clone(), name.to_owned()), object.clone());
        Watched { kind, change: Change::Applied(object) }
    }

    fn change(
        &mut self,
        kind: Kind,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> (Result<Receipt, Failed>, Vec<Event>) {
        let mut object = self.objects.get(&(kind.clone(), name.to_owned())).cloned().expect("an object");
        change(&mut object);
        let watched = self.put(kind, name, object);
        (Ok(Receipt::Object(Box::new(watched))), Vec::new())
    }

    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Event> {
        let mut object = self.objects.remove(&(kind.clone(), name.to_owned()))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(Event::Watched(Watched { kind, change: Change::Deleted(object) }))
    }

    /// Pods and attachments go.
    pub fn pods_end(&mut self) -> Vec<Event> {
        let users = [Kind::Pod, Kind::Attachment];
        let names: Vec<(Kind, String)> =
            self.objects.keys().filter(|(kind, _)| users.contains(kind)).cloned().collect();
        names.into_iter().filter_map(|(kind, name)| self.remove(kind, &name)).collect()
    }

    /// An application with these claims, running.
    pub fn run_application(&mut self, claims: &[&str]) {
        self.add_classes();
        for claim in claims {
            let volume = format!("pv-{claim}");
            self.put(Kind::Volume, &volume, volume_object(claim, &self.name));
            self.put(Kind::Claim, claim, claim_object(claim, &self.name));
            self.put(
                Kind::Attachment,
                &format!("va-{claim}"),
                json!({
                    "metadata": {"name": format!("va-{claim}")},
                    "spec": {"source": {"persistentVolumeName": volume}},
                }),
            );
        }
        self.put(deployments(), "web", deployment(2, claims));
        let volumes: Vec<Value> =
            claims.iter().map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})).collect();
        self.put(
            Kind::Pod,
            "web-1",
            json!({
                "metadata": {
                    "name": "web-1", "namespace": "shop",
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-x", "controller": true}],
                },
                "spec": {"volumes": volumes, "terminationGracePeriodSeconds": 2},
                "status": {"phase": "Running"},
            }),
        );
    }

    pub fn add_classes(&mut self) {
        self.put(
            Kind::StorageClass,
            "rbd",
            json!({
                "metadata": {"name": "rbd"}, "provisioner": "rbd.csi", "parameters": {"pool": "replicated"},
            }),
        );
        self.put(
            Kind::ReplicationClass,
            "rbd-5m",
            json!({
                "metadata": {"name": "rbd-5m"},
                "spec": {"provisioner": "rbd.csi", "parameters": {"schedulingInterval": "5m"}},
            }),
        );
    }

    /// The workload as a standby has it: there, and stopped.
    pub fn add_stopped_workload(&mut self, claims: &[&str]) {
        self.put(deployments(), "web", deployment(0, claims));
    }

    pub fn hears(&mut self, message: FromHub) {
        self.event(Event::FromHub(message));
    }

    pub fn hears_assignment(&mut self, assignment: Assignment) {
        self.hears(FromHub::Assignment(Box::new(assignment)));
    }

    /// The hub answers the newest heartbeat.
    pub fn hears_grant(&mut self, epoch: u64) {
        self.hears_grant_of(self.nonce, epoch, policy());
    }

    pub fn hears_grant_of(&mut self, nonce: Nonce, epoch: u64, policy: Policy) {
        self.line(format!("< grant of epoch {epoch}"));
        let grant = Grant { placement: placement(), epoch: Epoch(epoch), policy };
        self.hears(FromHub::Reply(Reply {
            term: Term(1),
            nonce,
            mark: Mark::default(),
            grants: vec![grant],
            denials: Vec::new(),
        }));
    }

    pub fn hears_denial(&mut self, epoch: u64, reason: DenialReason) {
        self.line(format!("< denial {reason:?}, epoch {epoch}"));
        let denial =
            Denial { placement: placement(), epoch: Epoch(epoch), holder: Some(cluster("west")), reason };
        self.hears(FromHub::Reply(Reply {
            term: Term(1),
            nonce: self.nonce,
            mark: Mark::default(),
            grants: Vec::new(),
            denials: vec![denial],
        }));
    }

    pub fn hears_command(&mut self, operation: &str, step: StepKind, epoch: u64, action: Action) {
        self.line(format!("< command {operation}/{step} at epoch {epoch}"));
        self.hears(FromHub::Command(Box::new(Command {
            id: CommandId { placement: placement(), operation: OperationId(operation.into()), step },
            epoch: Epoch(epoch),
            nonce: self.nonce,
            lifetime: Duration::from_secs(5),
            action,
            trace_parent: None,
        })));
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

pub fn promote(claims: &[&str], proof: FenceProof) -> Action {
    Action::Promote { proof, claims: claims.iter().map(|&claim| claim.to_owned()).collect() }
}

pub fn deployments() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "apps/v1".into(), kind: "Deployment".into() })
}

pub fn stateful_sets() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "apps/v1".into(), kind: "StatefulSet".into() })
}

pub fn cron_jobs() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "batch/v1".into(), kind: "CronJob".into() })
}

pub fn deployment(replicas: u64, claims: &[&str]) -> Value {
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})).collect();
    json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "shop"}},
        "spec": {"replicas": replicas, "template": {"spec": {"volumes": volumes}}},
        "status": {"readyReplicas": replicas},
    })
}

pub fn volume_object(claim: &str, cluster: &ClusterName) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("pv-{claim}"), "uid": format!("{cluster}-pv-{claim}"),
            "annotations": {"pv.kubernetes.io/provisioned-by": "rbd.csi"}, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "csi": {"driver": "rbd.csi", "volumeHandle": format!("image-{claim}")},
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "rbd",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "shop", "name": claim, "uid": format!("{cluster}-{claim}"), "resourceVersion": "7"},
        },
        "status": {"phase": "Bound"},
    })
}

pub fn claim_object(claim: &str, cluster: &ClusterName) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": "shop", "uid": format!("{cluster}-{claim}"), "labels": {"app": "shop"},
            "annotations": {"pv.kubernetes.io/bind-completed": "yes", "owner": "sales"},
            "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"volumeName": format!("pv-{claim}"), "storageClassName": "rbd",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound"},
    })
}

fn replication(claim: &str, class: &str, epoch: Epoch) -> Value {
    json!({
        "metadata": {"name": claim, "namespace": "shop", "generation": 1,
            "annotations": {"understudy.dev/epoch": epoch.to_string()}},
        "spec": {"volumeReplicationClass": class, "replicationState": "primary", "autoResync": false,
            "dataSource": {"kind": "PersistentVolumeClaim", "name": claim}},
    })
}

/// East holds the placement at epoch 1 with a fresh grant, its application running on two claims.
pub fn holding_east() -> Cluster {
    let mut east = Cluster::new("east");
    east.run_application(&["data", "logs"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.hears_command(
        "shop-deploy-1",
        StepKind::Promote,
        1,
        promote(&["data", "logs"], FenceProof::NeverHeld),
    );
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.hears_grant(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.pass(Duration::from_millis(500));
    east
}

/// West is standby at epoch 1 with east's inventory staged.
pub fn standby_west() -> Cluster {
    let east = holding_east();
    let mut west = Cluster::new("west");
    west.add_classes();
    west.add_stopped_workload(&["data", "logs"]);
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(Assignment {
        inventory: Some(inventory_of(&east)),
        ..assignment(1, Some("east"), "east")
    });
    west.pass(Duration::from_millis(500));
    assert_eq!(west.role(), Some((Role::Standby, 1)));
    west
}

/// What the agent of this cluster tells of its volumes.
pub fn inventory_of(cluster: &Cluster) -> Inventory {
    let mut fresh = Agent::new(Identity { cluster: cluster.name.clone(), version: "test".into() });
    let memory = MemoryRead { boot: "b".into(), ..MemoryRead::default() };
    fresh.step(Moment(1), Event::Started(memory));
    fresh.step(Moment(1), Event::HubUp);
    fresh.step(Moment(1), Event::FromHub(FromHub::Assignment(Box::new(assignment(0, None, "west")))));
    for ((kind, _), object) in &cluster.objects {
        let change = Change::Applied(object.clone());
        fresh.step(Moment(1), Event::Watched(Watched { kind: kind.clone(), change }));
    }
    let mut lists = Cluster::new("east");
    lists.objects = cluster.objects.clone();
    let mut told = None;
    let mut now = Moment(100);
    for (kind, namespaced) in [
        (Kind::Claim, true),
        (Kind::Volume, false),
        (Kind::StorageClass, false),
        (Kind::Replication, true),
        (Kind::ReplicationClass, false),
        (Kind::Attachment, false),
        (Kind::Pod, true),
        (deployments(), true),
        (stateful_sets(), true),
        (cron_jobs(), true),
    ] {
        now = now + Duration::from_millis(100);
        let decision = fresh.step(now, Event::Watched(lists.list(kind, namespaced)));
        for message in decision.send {
            if let FromAgent::Report(report) = message {
                told = report.inventory.or(told);
            }
        }
    }
    told.expect("an inventory")
}
