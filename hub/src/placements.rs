//! The conversation with the hub's API server about the users' wishes: DRPlacements and DRClusters, watched and read.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use crds::{DRCluster, DRPlacement};
use futures::{StreamExt, TryStreamExt};
use hub_core::Event;
use hub_core::fleet::Cluster;
use hub_core::placement::{Placement, Unreadable};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use proto::{ClusterName, PlacementId, PlacementName};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::known::Known;
use crate::sessions::KnownClusters;

/// While it stands, a deleted DRPlacement waits until every agent has let go of the application.
pub const FINALIZER: &str = "understudy.dev/release";

/// How long one read or write of a DRPlacement may take.
const CALL: Duration = Duration::from_secs(5);

/// Tells every DRPlacement as it is, until the driver is gone.
pub async fn watch_placements(client: Client, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let api: Api<DRPlacement> = Api::all(client.clone());
    let mut stream = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut known: Known<PlacementId> = Known::new();
    loop {
        let change = match stream.try_next().await {
            Ok(Some(change)) => change,
            Ok(None) => anyhow::bail!("the watch of DRPlacements ended"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "watching DRPlacements failed; it is tried again"
                );
                continue;
            }
        };
        let told = match change {
            watcher::Event::Init => {
                known.begin_list();
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                if let Ok(id) = PlacementId::parse(&object.uid().unwrap_or_default()) {
                    known.listed(id);
                }
                protect(&client, &object).await;
                seen(&object).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                let id = PlacementId::parse(&object.uid().unwrap_or_default());
                id.ok()
                    .map(|id| {
                        known.deleted(&id);
                        Event::PlacementGone(id)
                    })
                    .into_iter()
                    .collect()
            }
            watcher::Event::InitDone => known.end_list().into_iter().map(Event::PlacementGone).collect(),
        };
        for event in told {
            events.send(event).await?;
        }
    }
}

/// Parses at the door. An object that no API server would serve is logged and left out.
fn seen(object: &DRPlacement) -> Option<Event> {
    match Placement::parse(object) {
        Ok(Ok(placement)) => Some(Event::PlacementSeen(Box::new(placement))),
        Ok(Err(refused)) => Some(Event::PlacementRefused(Box::new(refused))),
        Err(unreadable) => {
            tracing::error!(
                error = &unreadable as &dyn std::error::Error,
                "an unreadable DRPlacement is left out"
            );
            None
        }
    }
}

/// Sees to it that a deletion lets go first. Without it a deleted placement would leave its agents with orders.
async fn protect(client: &Client, object: &DRPlacement) {
    let present = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if present || object.metadata.deletion_timestamp.is_some() {
        return;
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    patch_finalizers(client, object, &finalizers).await;
}

/// Lets a deleted DRPlacement go.
pub async fn release(client: &Client, id: &PlacementId, name: &PlacementName) -> Result<(), kube::Error> {
    let api: Api<DRPlacement> = Api::namespaced(client.clone(), &name.namespace);
    let Some(object) = api.get_opt(&name.name).await? else { return Ok(()) };
    if object.uid().as_deref() != Some(id.as_str()) {
        return Ok(());
    }
    let rest: Vec<String> = object.finalizers().iter().filter(|one| *one != FINALIZER).cloned().collect();
    patch_finalizers(client, &object, &rest).await;
    Ok(())
}

/// With the resource version as precondition; whoever loses the race sees the object again and tries anew.
async fn patch_finalizers(client: &Client, object: &DRPlacement, finalizers: &[String]) {
    let Some(namespace) = object.namespace() else { return };
    let api: Api<DRPlacement> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()}});
    let (name, as_usual, patch) = (object.name_any(), PatchParams::default(), Patch::Merge(patch));
    let call = api.patch(&name, &as_usual, &patch);
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::info!(
                placement = object.name_any(),
                error = &error as &dyn std::error::Error,
                "changing the finalizer failed; it is tried again"
            );
        }
        Err(_) => tracing::info!(
            placement = object.name_any(),
            "changing the finalizer took too long; it is tried again"
        ),
    }
}

/// Tells every DRCluster as it is, and lets its agent speak.
pub async fn watch_clusters(
    client: Client,
    events: mpsc::Sender<Event>,
    known_clusters: watch::Sender<KnownClusters>,
) -> anyhow::Result<()> {
    let api: Api<DRCluster> = Api::all(client);
    let mut stream = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut known: Known<ClusterName> = Known::new();
    let mut identities: BTreeMap<ClusterName, String> = BTreeMap::new();
    loop {
        let change = match stream.next().await {
            Some(Ok(change)) => change,
            None => anyhow::bail!("the watch of DRClusters ended"),
            Some(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "watching DRClusters failed; it is tried again"
                );
                continue;
            }
        };
        let told: Vec<Event> = match change {
            watcher::Event::Init => {
                known.begin_list();
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => match cluster(&object) {
                Ok(cluster) => {
                    known.listed(cluster.name.clone());
                    identities.insert(cluster.name.clone(), cluster.identity.clone());
                    vec![Event::ClusterSeen(cluster)]
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "an unreadable DRCluster is left out"
                    );
                    Vec::new()
                }
            },
            watcher::Event::Delete(object) => {
                let name = ClusterName::parse(&object.name_any());
                name.ok()
                    .map(|name| {
                        known.deleted(&name);
                        Event::ClusterGone(name)
                    })
                    .into_iter()
                    .collect()
            }
            watcher::Event::InitDone => known.end_list().into_iter().map(Event::ClusterGone).collect(),
        };
        for event in told {
            if let Event::ClusterGone(name) = &event {
                identities.remove(name);
            }
            // The core knows a cluster before its agent may speak.
            events.send(event).await?;
        }
        known_clusters
            .send_replace(identities.iter().map(|(name, uid)| (uid.clone(), name.clone())).collect());
    }
}

fn cluster(object: &DRCluster) -> Result<Cluster, Unreadable> {
    let spec = object.spec.clone();
    Ok(Cluster {
        name: ClusterName::parse(&object.name_any())?,
        identity: spec.agent_identity,
        failure_domain: spec.failure_domain,
        peer_endpoint: spec.peer_endpoint,
        probe_endpoints: spec.probe_endpoints,
        maintenance: spec.maintenance,
    })
}

/// Reads DRPlacements past every cache, as the core asks for it, one after the other (protocol §4, g).
pub async fn verify_placements(
    client: Client,
    mut wanted: mpsc::Receiver<PlacementName>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    while let Some(name) = wanted.recv().await {
        let began = clock::now().boot;
        let api: Api<DRPlacement> = Api::namespaced(client.clone(), &name.namespace);
        match tokio::time::timeout(CALL, api.get_opt(&name.name)).await {
            Ok(Ok(Some(object))) => {
                let Some(event) = seen(&object) else { continue };
                // A wish that cannot be understood is not the one that is acted on.
                let read = if let Event::PlacementSeen(placement) = &event {
                    Some(placement.id.clone())
                } else {
                    None
                };
                events.send(event).await?;
                if let Some(id) = read {
                    events.send(Event::Verified(id, began)).await?;
                }
            }
            // Gone, or another object by now: the watch tells it; nothing is verified.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(placement = %name, error = &error as &dyn std::error::Error, "reading a DRPlacement afresh failed");
            }
            Err(_) => tracing::warn!(placement = %name, "reading a DRPlacement afresh took too long"),
        }
    }
    Ok(())
}
