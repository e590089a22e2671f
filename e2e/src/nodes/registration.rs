//! Stands in for the part of a kubelet that says "I am here": Node, Lease, status, and the CSI driver on the node.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::Node,
    storage::v1::{CSIDriver, CSINode},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

pub const FIELD_MANAGER: &str = "understudy-e2e-nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(1);
const STATUS_EVERY_RENEWALS: u32 = 5;
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// As a kubelet does, a node whose heartbeats fail for so long gives up its connections and makes new ones.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The nodes of one site and the storage driver that they all run.
#[derive(Clone, Debug)]
pub struct Registration {
    pub nodes: Vec<String>,
    pub driver: String,
}

impl Registration {
    pub fn new(site: &str, count: usize, driver: &str) -> Self {
        let nodes = (0..count).map(|number| format!("node-{site}-{number}")).collect();
        Self { nodes, driver: driver.to_owned() }
    }

    pub fn labels(node: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), node.to_owned()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ])
    }

    /// Makes, or repairs, all objects that stand for the nodes.
    pub async fn register(&self, client: &Client) -> anyhow::Result<()> {
        let driver = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": self.driver},
            "spec": {"attachRequired": true, "podInfoOnMount": false},
        });
        apply(&Api::<CSIDriver>::all(client.clone()), &self.driver, &driver).await?;
        for node in &self.nodes {
            self.register_node(client, node).await?;
        }
        Ok(())
    }

    async fn register_node(&self, client: &Client, node: &str) -> anyhow::Result<()> {
        // The annotation hands attaching and detaching to the real controller manager.
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": node, "labels": Self::labels(node),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
        });
        let registered = apply(&Api::<Node>::all(client.clone()), node, &object).await?;
        report_status(client, node).await?;
        renew_lease(client, node).await?;
        let csi = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": {
                "name": node,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": registered.metadata.uid}],
            },
            "spec": {"drivers": [{"name": self.driver, "nodeID": node, "topologyKeys": []}]},
        });
        apply(&Api::<CSINode>::all(client.clone()), node, &csi).await?;
        Ok(())
    }

    /// Keeps leases and statuses fresh; ends when they could not be kept so for ten seconds.
    pub async fn keep_alive(&self, client: &Client) -> anyhow::Error {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_success = Instant::now();
        let mut renewals: u32 = 0;
        loop {
            ticks.tick().await;
            renewals = renewals.wrapping_add(1);
            match self.beat(client, renewals.is_multiple_of(STATUS_EVERY_RENEWALS)).await {
                Ok(()) => last_success = Instant::now(),
                Err(error) if last_success.elapsed() > GIVE_UP_AFTER => {
                    return error.context(format!("no heartbeat got through for {GIVE_UP_AFTER:?}"));
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "heartbeat failed"),
            }
        }
    }

    async fn beat(&self, client: &Client, with_status: bool) -> anyhow::Result<()> {
        for node in &self.nodes {
            renew_lease(client, node).await?;
            if with_status {
                report_status(client, node).await?;
            }
        }
        Ok(())
    }
}

async fn renew_lease(client: &Client, node: &str) -> anyhow::Result<()> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASE_NAMESPACE},
        "spec": {
            "holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    });
    apply(&Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE), node, &lease).await?;
    Ok(())
}

async fn report_status(client: &Client, node: &str) -> anyhow::Result<()> {
    let api = Api::<Node>::all(client.clone());
    let transition = match within_deadline("reading", node, api.get_status(node)).await?.status {
        Some(status) => status.conditions.unwrap_or_default(),
        None => Vec::new(),
    };
    let condition = |kind: &str, status: &str, reason: &str| {
        let before =
            transition.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
        json!({
            "type": kind, "status": status, "reason": reason, "message": "node stand-in",
            "lastHeartbeatTime": seconds(Timestamp::now()),
            "lastTransitionTime": seconds(since.unwrap_or_else(Timestamp::now)),
        })
    };
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"});
    let status = json!({"status": {
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "capacity": room, "allocatable": room,
        "addresses": [{"type": "Hostname", "address": node}],
    }});
    let patch = Patch::Strategic(status);
    within_deadline("reporting the status of", node, api.patch_status(node, &PatchParams::default(), &patch))
        .await?;
    Ok(())
}

/// The precision that Kubernetes keeps.
pub fn seconds(time: Timestamp) -> String {
    format!("{:.0}", time)
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> anyhow::Result<K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within_deadline("applying", name, api.patch(name, &params, &Patch::Apply(object))).await
}

async fn within_deadline<T>(
    what: &str,
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> anyhow::Result<T> {
    timeout(CALL_DEADLINE, call)
        .await
        .with_context(|| format!("{what} {name}: no answer within {CALL_DEADLINE:?}"))?
        .with_context(|| format!("{what} {name}"))
}
