//! What one pass of the stand-in nodes wants done at the API server, and the doing of it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, Pod},
    storage::v1::VolumeAttachment,
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
    core::params::Preconditions,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::plan::PodPlan;
use crate::array::DataClient;

const CALL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub enum Action {
    Bind {
        pod: PodName,
        node: String,
    },
    /// Learns the epoch under which the pod starts; the pod itself is started afterwards.
    Prepare {
        plan: Box<PodPlan>,
        claims: Vec<String>,
    },
    ReportPod {
        pod: PodName,
        status: Value,
    },
    RemovePod {
        pod: PodName,
    },
    MarkInUse {
        node: String,
        mounts: BTreeSet<String>,
    },
    MarkAttached {
        attachment: String,
        finalizers: Vec<String>,
    },
    Detached {
        attachment: String,
        finalizers: Vec<String>,
    },
    Provision {
        volume: Box<PersistentVolume>,
        handle: String,
    },
    Reclaim {
        volume: String,
    },
}

#[derive(Clone, Debug)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What the next steps of this pass need to know of an action that was done.
pub enum Done {
    Nothing,
    Prepared(Box<PodPlan>),
    MarkedInUse { node: String, mounts: BTreeSet<String> },
    Removed { uid: String },
}

impl PodName {
    pub fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
        })
    }

    fn api(&self, client: &Client) -> Api<Pod> {
        Api::namespaced(client.clone(), &self.namespace)
    }
}

impl Action {
    pub fn bind(pod: &Pod, node: &str) -> Option<Self> {
        Some(Self::Bind { pod: PodName::of(pod)?, node: node.to_owned() })
    }

    /// Does it, or says what did not work. The next pass decides anew from what it then sees: nothing is tried twice here.
    pub async fn carry_out(self, client: &Client, array: &Path) -> anyhow::Result<Done> {
        let answer = timeout(CALL_DEADLINE, self.call(client, array)).await;
        answer.with_context(|| format!("no answer within {CALL_DEADLINE:?}"))?
    }

    async fn call(self, client: &Client, array: &Path) -> anyhow::Result<Done> {
        match self {
            Self::Bind { pod, node } => bind(client, &pod, &node).await.map_err(anyhow::Error::from),
            Self::Prepare { mut plan, claims } => {
                plan.epoch = epoch_of(client, &plan.namespace, &claims).await?;
                Ok(Done::Prepared(plan))
            }
            Self::ReportPod { pod, status } => {
                let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
                pod.api(client).patch_status(&pod.name, &PatchParams::default(), &patch).await?;
                Ok(Done::Nothing)
            }
            Self::RemovePod { pod } => {
                let only_this = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
                let at_once = DeleteParams::default().grace_period(0).preconditions(only_this);
                pod.api(client).delete(&pod.name, &at_once).await?;
                Ok(Done::Removed { uid: pod.uid })
            }
            Self::MarkInUse { node, mounts } => {
                let patch = Patch::Merge(json!({"status": {"volumesInUse": mounts}}));
                Api::<Node>::all(client.clone()).patch_status(&node, &PatchParams::default(), &patch).await?;
                Ok(Done::MarkedInUse { node, mounts })
            }
            Self::MarkAttached { attachment, finalizers } => {
                let api = Api::<VolumeAttachment>::all(client.clone());
                finalize(&api, &attachment, &finalizers).await?;
                let patch = Patch::Merge(json!({"status": {"attached": true}}));
                api.patch_status(&attachment, &PatchParams::default(), &patch).await?;
                Ok(Done::Nothing)
            }
            Self::Detached { attachment, finalizers } => {
                finalize(&Api::all(client.clone()), &attachment, &finalizers).await?;
                Ok(Done::Nothing)
            }
            Self::Provision { volume, handle } => {
                tracing::info!(volume = volume.name_any(), "provisioning a new, empty volume");
                DataClient::connect(array).await?.create(&handle).await?;
                Api::all(client.clone()).create(&PostParams::default(), volume.as_ref()).await?;
                Ok(Done::Nothing)
            }
            Self::Reclaim { volume } => {
                let api = Api::<PersistentVolume>::all(client.clone());
                api.delete(&volume, &DeleteParams::default()).await?;
                Ok(Done::Nothing)
            }
        }
    }
}

async fn bind(client: &Client, pod: &PodName, node: &str) -> kube::Result<Done> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let _accepted: Value =
        pod.api(client).create_subresource("binding", &pod.name, &PostParams::default(), &binding).await?;
    Ok(Done::Nothing)
}

async fn finalize(
    api: &Api<VolumeAttachment>,
    attachment: &str,
    finalizers: &[String],
) -> kube::Result<VolumeAttachment> {
    let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    api.patch(attachment, &PatchParams::default(), &patch).await
}

/// The epoch that this cluster's DRSiteState records for any of the claims; 0 where nothing protects them.
async fn epoch_of(client: &Client, namespace: &str, claims: &[String]) -> kube::Result<u64> {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("understudy.dev", "v1alpha1", "DRSiteState"),
        "drsitestates",
    );
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let states = match api.list(&ListParams::default()).await {
        Ok(states) => states.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    let epochs = states
        .iter()
        .filter(|state| protects(state, claims))
        .map(|state| state.data["spec"]["epochSeen"].as_u64().unwrap_or_default());
    Ok(epochs.max().unwrap_or_default())
}

fn protects(state: &DynamicObject, claims: &[String]) -> bool {
    let protected = state.data["spec"]["claims"].as_array();
    protected
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|claim| claims.iter().any(|own| own == claim))
}

/// Others act too: a conflict, or an object that is gone, only says that this pass saw an older cluster.
pub fn is_overtaken(error: &anyhow::Error) -> bool {
    let answer = error.downcast_ref::<kube::Error>();
    matches!(answer, Some(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
}
