//! A real control plane comes up, and does what the other tests rely on.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::runtime::wait::await_condition;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

const APPLICATION: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: shop, namespace: shop}
spec:
  serviceName: shop
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: shop}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: shop-data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: mirrored
  persistentVolumeReclaimPolicy: Retain
  csi: {driver: array.example, volumeHandle: shop-data}
  claimRef: {namespace: shop, name: data}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: mirrored
  volumeName: shop-data
  resources: {requests: {storage: 1Gi}}
";

#[tokio::test]
async fn controllers_make_pods_and_bind_claims_also_after_a_cold_restart() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    let cluster =
        ControlPlane::start(&assets, "east", folder.path(), Options::at(Ipv4Addr::new(127, 0, 71, 1)))
            .await?;

    cluster.apply_yaml(APPLICATION).await?;
    await_pod(&cluster).await?;
    await_bound(&cluster).await?;

    let token = cluster.token("shop", "default").await?;
    let stranger = cluster.client_as(&token).await?;
    let refusal = Api::<Pod>::namespaced(stranger, "shop").list(&Default::default()).await;
    assert!(
        matches!(refusal, Err(kube::Error::Api(status)) if status.is_forbidden()),
        "an account without a role may list pods"
    );

    cluster.kill9();
    assert!(timeout(DEADLINE, await_pod(&cluster)).await?.is_err(), "a killed control plane answers");
    cluster.restart().await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "shop");
    pods.delete("shop-0", &Default::default()).await?;
    await_pod(&cluster).await
}

async fn await_pod(cluster: &ControlPlane) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), "shop");
    let exists = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
    timeout(DEADLINE, await_condition(pods, "shop-0", exists)).await.context("no pod was made in time")??;
    Ok(())
}

async fn await_bound(cluster: &ControlPlane) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), "shop");
    let is_bound = |claim: Option<&PersistentVolumeClaim>| {
        claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref()) == Some("Bound")
    };
    timeout(DEADLINE, await_condition(claims, "data", is_bound))
        .await
        .context("the claim was not bound in time")??;
    Ok(())
}
