//! The stand-in kubelet's plan of a pod: all it needs to run the pod again without asking the API server.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Container, EnvVar, PersistentVolume, Pod};
use serde::{Deserialize, Serialize};

use super::settings::write_atomically;

/// The image that stands for the append-writer process; every other image just "runs".
pub const APPEND_WRITER_IMAGE: &str = "understudy.dev/append-writer";
/// The image that stands for the gate, the real one.
pub const GATE_IMAGE: &str = "understudy.dev/gate";
const DEFAULT_GRACE_SECONDS: u64 = 30;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub grace_seconds: u64,
    pub restart: Restart,
    /// Init containers: one after the other, before all others, and again in each new sandbox.
    pub first: Vec<ContainerPlan>,
    pub containers: Vec<ContainerPlan>,
    /// All containers see each other's processes.
    pub shares_processes: bool,
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
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Where it has volumes of the pod's own, by their names.
    pub folders: Vec<(String, String)>,
    /// An init container that goes on beside the others.
    pub stays: bool,
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
            first: containers(pod, specification.init_containers.as_deref().unwrap_or_default()),
            containers: containers(pod, &specification.containers),
            shares_processes: specification.share_process_namespace.unwrap_or_default(),
            images: csi.clone().map(|source| source.volume_handle.clone()).collect(),
            mounts: csi.map(|source| mount_name(&source.driver, &source.volume_handle)).collect(),
            epoch: 0,
        })
    }
}

impl ContainerPlan {
    fn new(pod: &Pod, container: &Container) -> Self {
        let folders = container.volume_mounts.iter().flatten();
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            arguments: container.args.clone().unwrap_or_default(),
            environment: environment(pod, container),
            folders: folders
                .filter(|mount| is_of_the_pod(pod, &mount.name))
                .map(|mount| (mount.mount_path.clone(), mount.name.clone()))
                .collect(),
            stays: container.restart_policy.as_deref() == Some("Always"),
        }
    }

    pub fn writes(&self) -> bool {
        self.untagged() == APPEND_WRITER_IMAGE
    }

    pub fn is_a_gate(&self) -> bool {
        self.untagged() == GATE_IMAGE
    }

    fn untagged(&self) -> &str {
        self.image.split(['@', ':']).next().unwrap_or_default()
    }
}

fn containers(pod: &Pod, containers: &[Container]) -> Vec<ContainerPlan> {
    containers.iter().map(|container| ContainerPlan::new(pod, container)).collect()
}

fn is_of_the_pod(pod: &Pod, volume: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|specification| specification.volumes.iter().flatten());
    volumes.any(|known| known.name == volume && known.empty_dir.is_some())
}

fn environment(pod: &Pod, container: &Container) -> Vec<(String, String)> {
    let field = |path: &str| match path {
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        _ => None,
    };
    let variables = container.env.iter().flatten();
    let value = |variable: &EnvVar| {
        let source = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
        variable.value.clone().or_else(|| field(&source?.field_path))
    };
    variables.filter_map(|variable| Some((variable.name.clone(), value(variable)?))).collect()
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
