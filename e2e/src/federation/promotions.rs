//! Notes when each VolumeReplication of a cluster was first seen to be wanted primary: the irreversible act.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;

/// Watches until it is dropped.
pub struct Promotions {
    seen: Arc<Mutex<BTreeMap<String, Timestamp>>>,
    watching: JoinHandle<()>,
}

impl Promotions {
    pub(super) fn watch(client: Client, namespace: &str) -> Promotions {
        let kind = GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
        let replications = Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind));
        let seen = Arc::default();
        let watching = tokio::spawn(note(replications, Arc::clone(&seen)));
        Promotions { seen, watching }
    }

    /// When each was first seen, by claim.
    pub fn seen(&self) -> BTreeMap<String, Timestamp> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Promotions {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn note(replications: Api<DynamicObject>, seen: Arc<Mutex<BTreeMap<String, Timestamp>>>) {
    let changes = watcher(replications, watcher::Config::default()).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    loop {
        match changes.try_next().await {
            Ok(Some(replication)) => {
                let now = Timestamp::now();
                let wanted = replication.data.pointer("/spec/replicationState");
                if wanted.is_some_and(|wanted| wanted == "primary") {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(replication.name_any()).or_insert(now);
                }
            }
            Ok(None) => return,
            // A watch that breaks off is taken up again by itself.
            Err(_) => {}
        }
    }
}
