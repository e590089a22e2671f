//! The conversation with the hub's API server about what the hub knows: statuses, operations and events.
//!
//! The newest of each subject is written, the older ones are never missed: a status is a whole value.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::cluster::{DRCluster, DRClusterStatus};
use crds::operation::{DROperation, OperationPhase};
use crds::placement::{DRPlacement, DRPlacementStatus};
use hub_core::Explanation;
use hub_core::explain::{Happening, OperationView, PlacementView, SiteReport, time};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use proto::{ClusterName, OperationId, PlacementId, PlacementName};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::placements;

const MANAGER: &str = "understudy-hub";
/// Writes under way at once; the API server is shared with others.
const WRITES_AT_ONCE: usize = 16;
/// How long one write may take.
const CALL: Duration = Duration::from_secs(5);
/// A status in which only ages have changed is written no more often than this.
const AGES_EVERY: Duration = Duration::from_secs(5);
/// After a failed write.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Events waiting to be written; more than a hub that is alive ever has. The oldest go first.
const MOST_EVENTS: usize = 1024;

/// What is written about; of each, one write is under way at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Placement(PlacementId),
    Operation(PlacementId, OperationId),
    Site(ClusterName),
    Release(PlacementId),
    Event(u64),
}

#[derive(Clone)]
enum Write {
    Placement(Box<PlacementView>),
    Operation(Box<OperationView>),
    Site(SiteReport),
    Release(PlacementId, PlacementName),
    Event(Happening),
}

struct Pending {
    write: Write,
    not_before: Instant,
}

#[derive(Default)]
struct Desk {
    pending: BTreeMap<Subject, Pending>,
    under_way: BTreeSet<Subject>,
    /// The last status written, without its ages, and when.
    written: BTreeMap<PlacementId, (DRPlacementStatus, Instant)>,
    /// Operations whose object stands and is still written to.
    created: BTreeSet<Subject>,
    next_event: u64,
}

/// Writes until nothing can come any more.
pub async fn run(client: Client, mut told: mpsc::Receiver<Explanation>) -> anyhow::Result<()> {
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
    let mut desk = Desk::default();
    let mut writes: JoinSet<(Subject, Write, Result<(), kube::Error>)> = JoinSet::new();
    let mut closing = false;
    loop {
        desk.start(&client, &recorder, &mut writes);
        if closing && writes.is_empty() {
            return Ok(());
        }
        let next = desk.pending.values().map(|pending| pending.not_before).min();
        let wake = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            explanation = told.recv(), if !closing => match explanation {
                Some(explanation) => desk.take(explanation),
                None => closing = true,
            },
            Some(finished) = writes.join_next() => desk.finish(finished?),
            () = tokio::time::sleep_until(wake.max(Instant::now() + Duration::from_millis(1))), if next.is_some() => {}
        }
    }
}

impl Desk {
    fn take(&mut self, explanation: Explanation) {
        let now = Instant::now();
        let (subject, write, not_before) = match explanation {
            Explanation::Placement(view) => {
                let when = self.when(&view, now);
                (Subject::Placement(view.id.clone()), Write::Placement(view), when)
            }
            Explanation::Operation(view) => {
                let subject = Subject::Operation(view.placement.clone(), view.operation.clone());
                (subject, Write::Operation(view), now)
            }
            Explanation::Site(row) => (Subject::Site(row.cluster.clone()), Write::Site(row), now),
            Explanation::Released(id, name) => (Subject::Release(id.clone()), Write::Release(id, name), now),
            Explanation::Happened(happening) => {
                self.make_room_for_an_event();
                self.next_event += 1;
                (Subject::Event(self.next_event), Write::Event(happening), now)
            }
        };
        self.pending.insert(subject, Pending { write, not_before });
    }

    fn when(&self, view: &PlacementView, now: Instant) -> Instant {
        match self.written.get(&view.id) {
            Some((before, at)) if *before == without_ages(&view.status) => (*at + AGES_EVERY).max(now),
            Some(_) | None => now,
        }
    }

    fn make_room_for_an_event(&mut self) {
        let events = self.pending.keys().filter(|subject| matches!(subject, Subject::Event(_)));
        if events.count() < MOST_EVENTS {
            return;
        }
        let oldest = self.pending.keys().find(|subject| matches!(subject, Subject::Event(_))).cloned();
        if let Some(oldest) = oldest {
            tracing::warn!("more events wait than can be written; the oldest is left out");
            self.pending.remove(&oldest);
        }
    }

    fn start(
        &mut self,
        client: &Client,
        recorder: &Recorder,
        writes: &mut JoinSet<(Subject, Write, Result<(), kube::Error>)>,
    ) {
        let now = Instant::now();
        let ready: Vec<Subject> = self
            .pending
            .iter()
            .filter(|(subject, pending)| pending.not_before <= now && !self.under_way.contains(*subject))
            .map(|(subject, _)| subject.clone())
            .take(WRITES_AT_ONCE.saturating_sub(writes.len()))
            .collect();
        for subject in ready {
            let Some(pending) = self.pending.remove(&subject) else { continue };
            self.under_way.insert(subject.clone());
            let exists = self.created.contains(&subject);
            let (client, recorder) = (client.clone(), recorder.clone());
            writes.spawn(async move {
                let outcome =
                    tokio::time::timeout(CALL, carry_out(&client, &recorder, &pending.write, exists)).await;
                let outcome = outcome.unwrap_or_else(|_| {
                    Err(kube::Error::Service("the API server did not answer in time".into()))
                });
                (subject, pending.write, outcome)
            });
        }
    }

    fn finish(&mut self, (subject, write, outcome): (Subject, Write, Result<(), kube::Error>)) {
        self.under_way.remove(&subject);
        match outcome {
            Ok(()) => self.written(subject, &write),
            Err(kube::Error::Api(status)) if status.code == 404 && self.created.remove(&subject) => {
                // Somebody deleted what a human is to answer or to follow: it is made anew.
                self.pending.entry(subject).or_insert(Pending { write, not_before: Instant::now() });
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // The object is gone; so is the wish to write about it.
                tracing::debug!(?subject, "nothing to write to any more");
            }
            Err(error) => {
                tracing::warn!(
                    ?subject,
                    error = &error as &dyn std::error::Error,
                    "writing failed; it is tried again"
                );
                let not_before = Instant::now() + AGAIN_AFTER;
                self.pending.entry(subject).or_insert(Pending { write, not_before });
            }
        }
    }

    fn written(&mut self, subject: Subject, write: &Write) {
        match write {
            Write::Placement(view) => {
                self.written.insert(view.id.clone(), (without_ages(&view.status), Instant::now()));
            }
            Write::Operation(view) if view.status.phase.is_some_and(has_ended) => {
                self.created.remove(&subject);
            }
            Write::Operation(_) => {
                self.created.insert(subject);
            }
            Write::Release(id, _) => {
                self.written.remove(id);
            }
            Write::Site(_) | Write::Event(_) => {}
        }
    }
}

/// Nothing more is told about it, and its object stays.
fn has_ended(phase: OperationPhase) -> bool {
    match phase {
        OperationPhase::Withdrawn
        | OperationPhase::Succeeded
        | OperationPhase::Aborted
        | OperationPhase::Failed => true,
        OperationPhase::Proposed | OperationPhase::Running | OperationPhase::Stuck => false,
    }
}

/// What stays the same while only time passes.
fn without_ages(status: &DRPlacementStatus) -> DRPlacementStatus {
    let mut status = status.clone();
    status.expected_loss = None;
    for volume in &mut status.volumes {
        volume.lag = None;
    }
    status
}

async fn carry_out(
    client: &Client,
    recorder: &Recorder,
    write: &Write,
    exists: bool,
) -> Result<(), kube::Error> {
    match write {
        Write::Placement(view) => placement(client, view).await,
        Write::Operation(view) => operation(client, view, exists).await,
        Write::Site(row) => site(client, row).await,
        Write::Release(id, name) => placements::release(client, id, name).await,
        Write::Event(happening) => event(recorder, happening).await,
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

async fn placement(client: &Client, view: &PlacementView) -> Result<(), kube::Error> {
    let api: Api<DRPlacement> = Api::namespaced(client.clone(), &view.name.namespace);
    let body = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRPlacement",
        // With the uid, so that a status never lands on another object of the same name.
        "metadata": {"name": view.name.name, "uid": view.id},
        "status": view.status,
    });
    api.patch_status(&view.name.name, &apply(), &Patch::Apply(body)).await.map(|_| ())
}

async fn operation(client: &Client, view: &OperationView, exists: bool) -> Result<(), kube::Error> {
    let api: Api<DROperation> = Api::namespaced(client.clone(), &view.name.namespace);
    let name = &view.operation.0;
    let head = json!({
        "name": name,
        "ownerReferences": [{
            "apiVersion": "understudy.dev/v1alpha1",
            "kind": "DRPlacement",
            "name": view.name.name,
            "uid": view.placement,
        }],
    });
    if !exists {
        let body = json!({
            "apiVersion": "understudy.dev/v1alpha1",
            "kind": "DROperation",
            "metadata": head,
            "spec": view.spec,
        });
        api.patch(name, &apply(), &Patch::Apply(body)).await?;
    }
    let body = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DROperation",
        "metadata": {"name": name},
        "status": view.status,
    });
    api.patch_status(name, &apply(), &Patch::Apply(body)).await.map(|_| ())
}

async fn site(client: &Client, row: &SiteReport) -> Result<(), kube::Error> {
    let api: Api<DRCluster> = Api::all(client.clone());
    let status = DRClusterStatus {
        liveness: Some(row.liveness),
        last_heartbeat: row.last_heartbeat.and_then(time),
        agent_version: (!row.version.is_empty()).then(|| row.version.clone()),
        ..DRClusterStatus::default()
    };
    let body = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRCluster",
        "metadata": {"name": row.cluster},
        "status": status,
    });
    api.patch_status(row.cluster.as_str(), &apply(), &Patch::Apply(body)).await.map(|_| ())
}

async fn event(recorder: &Recorder, happening: &Happening) -> Result<(), kube::Error> {
    let event = Event {
        type_: if happening.warning { EventType::Warning } else { EventType::Normal },
        reason: happening.reason.to_string(),
        note: Some(happening.message.chars().take(1000).collect()),
        action: happening.operation.as_ref().map_or("Observe".to_owned(), ToString::to_string),
        secondary: None,
    };
    let about = ObjectReference {
        api_version: Some("understudy.dev/v1alpha1".to_owned()),
        kind: Some("DRPlacement".to_owned()),
        namespace: Some(happening.name.namespace.clone()),
        name: Some(happening.name.name.clone()),
        uid: Some(happening.placement.to_string()),
        ..ObjectReference::default()
    };
    recorder.publish(&event, &about).await
}
