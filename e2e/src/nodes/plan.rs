//! The stand-in kubelet's plan of a pod: all it needs to run the pod again without asking the API server.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod};
use serde::{Deserialize, Serialize};

use super::settings::write_atomically;

/// The image that stands for the append-writer process; every other image just "runs".
pub const APPEND_WRITER_IMAGE: &str = "understudy.dev/append-writer";
const DEFAULT_GRACE_SECONDS: u64 = 30;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub grace_seconds: u64,
    pub restart: Restart,
    pub containers: Vec<ContainerPlan>,
    /// The volume handles that the pod's processes write to.
    pub images: Vec<String>,
    /// The same volumes by the names that a node's status calls them.
    pub mounts: BTreeSet<String>,
    /// The ownership under which the pod was started; a cold restart repeats it, as a kubelet knows no better.
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub name: String,
    pub image: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

impl PodPlan {
    /// Plans `pod` on the node it is bound to, with its volumes resolved; the epoch is not known yet.
    pub fn new(pod: &Pod, volumes: &[impl AsRef<PersistentVolume>]) -> Option<Self> {
        let specification = pod.spec.as_ref()?;
        let csi = volumes.iter().filter_map(|volume| volume.as_ref().spec.as_ref()?.csi.as_ref());
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            node: specification.node_name.clone()?,
            grace_seconds: specification
                .termination_grace_period_seconds
                .map_or(DEFAULT_GRACE_SECONDS, i64::unsigned_abs),
            restart: Restart::of(specification.restart_policy.as_deref()),
            containers: specification.containers.iter().map(ContainerPlan::new).collect(),
            images: csi.clone().map(|source| source.volume_handle.clone()).collect(),
            mounts: csi.map(|source| mount_name(&source.driver, &source.volume_handle)).collect(),
            epoch: 0,
        })
    }
}

impl ContainerPlan {
    fn new(container: &Container) -> Self {
        Self { name: container.name.clone(), image: container.image.clone().unwrap_or_default() }
    }

    pub fn writes(&self) -> bool {
        let untagged = self.image.split(['@', ':']).next();
        untagged == Some(APPEND_WRITER_IMAGE)
    }
}

impl Restart {
    fn of(policy: Option<&str>) -> Self {
        match policy {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// What Kubernetes calls a CSI volume in a node's `volumesInUse` and `volumesAttached`.
fn mount_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The pods of this site's nodes on disk: what a node knows after a power failure.
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    pub fn open(directory: &Path) -> Self {
        Self { path: directory.join("pods.json") }
    }

    pub fn recall(&self) -> anyhow::Result<Vec<PodPlan>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read(&self.path)
            .with_context(|| format!("reading the nodes' pods from {}", self.path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("decoding the nodes' pods in {}", self.path.display()))
    }

    pub fn remember(&self, plans: &[&PodPlan]) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(plans).context("encoding the nodes' pods")?;
        write_atomically(&self.path, &text)
            .with_context(|| format!("writing the nodes' pods to {}", self.path.display()))
    }
}
