//! A real control plane and the real csi-addons come up, and do what the other tests rely on.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::array::{DATA_SOCKET, DataClient, calls};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use e2e::csi_addons::CsiAddons;
use e2e::nodes::DRIVER;
use e2e::process::{Launch, Process};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::wait::await_condition;
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(120);

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

const STORAGE: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: mirrored}
provisioner: rook-ceph.rbd.csi.ceph.com
---
apiVersion: v1
kind: Secret
metadata: {name: array, namespace: shop}
stringData: {user: array}
---
apiVersion: replication.storage.openshift.io/v1alpha1
kind: VolumeReplicationClass
metadata: {name: every-2s}
spec:
  provisioner: rook-ceph.rbd.csi.ceph.com
  parameters:
    schedulingInterval: 2s
    replication.storage.openshift.io/replication-secret-name: array
    replication.storage.openshift.io/replication-secret-namespace: shop
";

#[tokio::test]
async fn csi_addons_promotes_volumes_also_after_it_was_killed() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    let array = StorageArray::start(folder.path()).await?;
    let cluster =
        ControlPlane::start(&assets, "west", folder.path(), Options::at(Ipv4Addr::new(127, 0, 72, 1)))
            .await?;
    let csi_addons =
        CsiAddons::start(&cluster, &assets, &folder.path().join("csi-addons"), &array.socket, DRIVER).await?;
    cluster.apply_yaml(APPLICATION).await?;
    cluster.apply_yaml(STORAGE).await?;
    await_bound(&cluster).await?;

    await_promotion(&cluster, "data").await?;
    csi_addons.still_runs()?;
    let promotions = calls(&array.folder)?.iter().filter(|call| call.method == "PromoteVolume").count();
    assert!(promotions >= 1, "the array was never asked to promote");

    csi_addons.kill9();
    csi_addons.restart().await?;
    delete_replication(&cluster, "data").await?;
    await_promotion(&cluster, "data").await?;
    csi_addons.still_runs()
}

/// The stand-in for a storage array, as a process of its own, with one volume.
struct StorageArray {
    socket: PathBuf,
    folder: PathBuf,
    _process: Process,
}

impl StorageArray {
    async fn start(folder: &Path) -> Result<StorageArray> {
        let (folder, socket) = (folder.join("array"), folder.join("csi-addons.sock"));
        let process = Launch::new("array", env!("CARGO_BIN_EXE_array"), folder.with_extension("log"))
            .arguments(["--site=west", "--listen=127.0.0.1:0"])
            .argument(format!("--driver={DRIVER}"))
            .argument("--dir")
            .argument(&folder)
            .argument("--socket")
            .argument(&socket)
            .spawn()?;
        let started = Instant::now();
        let mut data = loop {
            match DataClient::connect(&folder.join(DATA_SOCKET)).await {
                Ok(data) => break data,
                Err(error) if started.elapsed() > DEADLINE => {
                    return Err(error).context("reaching the array");
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        data.create("shop-data").await?;
        Ok(StorageArray { socket, folder, _process: process })
    }
}

fn replications(cluster: &ControlPlane) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
    Api::namespaced_with(cluster.client(), "shop", &ApiResource::from_gvk(&kind))
}

async fn await_promotion(cluster: &ControlPlane, claim: &str) -> Result<()> {
    let replication = format!(
        "apiVersion: replication.storage.openshift.io/v1alpha1
kind: VolumeReplication
metadata: {{name: {claim}, namespace: shop}}
spec:
  volumeReplicationClass: every-2s
  replicationState: primary
  autoResync: false
  dataSource: {{apiGroup: \"\", kind: PersistentVolumeClaim, name: {claim}}}
"
    );
    cluster.apply_yaml(&replication).await?;
    let is_primary = |found: Option<&DynamicObject>| {
        found.is_some_and(|found| found.data.pointer("/status/state").is_some_and(|state| state == "Primary"))
    };
    let promotion = timeout(DEADLINE, await_condition(replications(cluster), claim, is_primary)).await;
    promotion.context("the volume was not promoted in time")??;
    Ok(())
}

async fn delete_replication(cluster: &ControlPlane, name: &str) -> Result<()> {
    replications(cluster).delete(name, &Default::default()).await?;
    let is_gone = |found: Option<&DynamicObject>| found.is_none();
    timeout(DEADLINE, await_condition(replications(cluster), name, is_gone))
        .await
        .context("not deleted in time")??;
    Ok(())
}

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
