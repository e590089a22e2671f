//! What the stand-in nodes see of their cluster: stores that watches keep current, read as a whole in each pass.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, stream, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{StorageClass, VolumeAttachment},
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        utils::Backoff,
        watcher,
    },
};

const WATCH_AGAIN_AFTER: Duration = Duration::from_millis(250);

pub struct View {
    own_nodes: Vec<String>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    attachments: Store<VolumeAttachment>,
    classes: Store<StorageClass>,
}

/// Yields a wake-up without meaning for every change of the view; the view only changes while this is polled.
pub type Changes = BoxStream<'static, ()>;

impl View {
    pub fn open(client: &Client, own_nodes: Vec<String>) -> (Self, Changes) {
        let (nodes, node_changes) = watch(Api::all(client.clone()));
        let (pods, pod_changes) = watch(Api::all(client.clone()));
        let (claims, claim_changes) = watch(Api::all(client.clone()));
        let (volumes, volume_changes) = watch(Api::all(client.clone()));
        let (attachments, attachment_changes) = watch(Api::all(client.clone()));
        let (classes, class_changes) = watch(Api::all(client.clone()));
        let changes = stream::select_all([
            node_changes,
            pod_changes,
            claim_changes,
            volume_changes,
            attachment_changes,
            class_changes,
        ]);
        (Self { own_nodes, nodes, pods, claims, volumes, attachments, classes }, changes.boxed())
    }

    /// Whether every list has arrived once: before that, what is absent may only be unseen.
    pub fn is_complete(&self) -> bool {
        is_listed(&self.nodes)
            && is_listed(&self.pods)
            && is_listed(&self.claims)
            && is_listed(&self.volumes)
            && is_listed(&self.attachments)
            && is_listed(&self.classes)
    }

    pub fn own_nodes(&self) -> &[String] {
        &self.own_nodes
    }

    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.state()
    }

    /// The pods that are bound to this site's nodes.
    pub fn own_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            let node = pod.spec.as_ref().and_then(|specification| specification.node_name.as_ref());
            node.is_some_and(|node| self.own_nodes.contains(node))
        })
    }

    pub fn claims(&self) -> Vec<Arc<PersistentVolumeClaim>> {
        self.claims.state()
    }

    pub fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.state()
    }

    pub fn attachments(&self) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.state()
    }

    pub fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectRef::new(name))
    }

    /// The volumes behind all of a pod's claims, or nothing while one of them is not bound.
    pub fn volumes_of(&self, pod: &Pod) -> Option<Vec<Arc<PersistentVolume>>> {
        let namespace = pod.metadata.namespace.as_deref()?;
        claim_names(pod).map(|claim| self.bound_volume(namespace, claim)).collect()
    }

    fn bound_volume(&self, namespace: &str, claim: &str) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.get(&ObjectRef::new(claim).within(namespace))?;
        if claim.status.as_ref()?.phase.as_deref() != Some("Bound") {
            return None;
        }
        self.volumes.get(&ObjectRef::new(claim.spec.as_ref()?.volume_name.as_deref()?))
    }

    /// Whether the volume may be mounted at the node: attached there, and not about to be detached.
    pub fn is_attached(&self, volume: &PersistentVolume, node: &str) -> bool {
        let attached = self.attachments.find(|attachment| {
            attachment.spec.node_name == node
                && attachment.spec.source.persistent_volume_name == volume.metadata.name
                && attachment.metadata.deletion_timestamp.is_none()
                && attachment.status.as_ref().is_some_and(|status| status.attached)
        });
        attached.is_some()
    }
}

/// The names of the claims that a pod mounts, in the order of its volumes.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|specification| specification.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

fn watch<K>(api: Api<K>) -> (Store<K>, Changes)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K: Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default()).backoff(Steady(WATCH_AGAIN_AFTER)).reflect(writer);
    (store, wake_ups(events).boxed())
}

fn wake_ups<K, S>(events: S) -> impl Stream<Item = ()> + Send
where
    S: Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
{
    events.map(|event| {
        if let Err(error) = event {
            tracing::debug!(%error, "watch interrupted");
        }
    })
}

fn is_listed<K>(store: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never().is_some()
}

/// A test waits for the nodes to see a restarted API server again: no growing pauses.
struct Steady(Duration);

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
