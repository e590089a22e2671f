//! The stand-in nodes against a real API server and controller manager: what the other tests rely on them to do.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    application::Application,
    array::{DATA_SOCKET, DataClient},
    assets::Assets,
    control_plane::{ControlPlane, Options},
    history::{History, Record},
    nodes::{Arguments, DRIVER, Settings},
    process::{Launch, Process},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::VolumeAttachment,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::runtime::Runtime;

const DEADLINE: Duration = Duration::from_secs(180);
/// Longer than the grace of the application's pods, and than what the nodes need for anything.
const A_WHILE: Duration = Duration::from_secs(3);

const SITE_STATES: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: drsitestates.understudy.dev}
spec:
  group: understudy.dev
  scope: Namespaced
  names: {kind: DRSiteState, plural: drsitestates, singular: drsitestate}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

#[test]
fn a_pod_runs_once_its_volumes_are_attached_and_is_gone_only_after_they_are_detachable() {
    on_a_site("orderly", 10, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        let ready = async || {
            let pod = site.pod().await?;
            Ok(pod_is_ready(&pod).then_some(pod))
        };
        let pod = eventually("the pod that writes is ready", ready).await?;
        let attachments = site.attachments().await?;
        ensure!(attachments.len() == 10, "ten volumes, but {} attachments", attachments.len());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("a pod on a node")?;
        ensure!(site.mounts(&node).await?.len() == 10, "the node does not say that it uses all volumes");
        let all: BTreeSet<_> = site.application.volume_handles().into_iter().collect();
        eventually("it writes to all its volumes", async || {
            let written: BTreeSet<_> = site.records()?.into_iter().map(|record| record.image).collect();
            Ok((written == all).then_some(()))
        })
        .await?;

        site.scale(0).await?;
        site.await_no_pods().await?;
        ensure!(site.mounts(&node).await?.is_empty(), "the pod is gone but its volumes are in use");
        site.await_no_attachments().await?;
        site.ensure_silent().await
    });
}

#[test]
fn a_pod_writes_under_the_epoch_that_its_cluster_records_for_its_claims() {
    on_a_site("epochs", 1, async |site| {
        site.cluster.apply_yaml(SITE_STATES).await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "epochs"}}).to_string();
        site.cluster.apply_yaml(&namespace).await?;
        let state = json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "DRSiteState",
            "metadata": {"name": "a-placement", "namespace": "epochs"},
            "spec": {"epochSeen": 7, "role": "Holder", "claims": ["epochs-data"]},
        });
        site.cluster.apply_yaml(&state.to_string()).await?;
        site.deploy().await?;
        site.await_writing().await?;
        let records = site.records()?;
        let strange = records.iter().find(|record| record.epoch != 7 || record.cluster != "epochs");
        ensure!(strange.is_none(), "wrote {strange:?}");
        Ok(())
    });
}

#[test]
fn a_stuck_pod_goes_on_writing_past_its_grace_and_keeps_its_volume() {
    on_a_site("stuck", 1, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        site.set(Settings { stuck_terminating: vec!["stuck".to_owned()], ..Settings::default() }).await?;
        site.scale(0).await?;
        eventually("the pod is told to end", async || {
            Ok(site.pod().await?.metadata.deletion_timestamp.map(|_| ()))
        })
        .await?;
        tokio::time::sleep(A_WHILE).await;
        site.await_writing().await?;
        ensure!(site.attachments().await?.len() == 1, "the volume of a running pod was detached");

        site.set(Settings::default()).await?;
        site.await_no_pods().await?;
        site.await_no_attachments().await?;
        site.ensure_silent().await
    });
}

#[test]
fn pods_of_cut_off_nodes_go_on_and_end_when_the_nodes_learn_that_they_were_deleted() {
    on_a_site("island", 1, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        site.set(Settings { cut_off: true, ..Settings::default() }).await?;
        site.scale(0).await?;
        let at_once = DeleteParams::default().grace_period(0);
        let pod = site.pod().await?.metadata.name.context("a pod with a name")?;
        site.pods().delete(&pod, &at_once).await?;
        site.await_no_pods().await?;
        site.await_writing().await?;

        site.set(Settings::default()).await?;
        site.await_no_attachments().await?;
        site.ensure_silent().await
    });
}

#[test]
fn after_a_power_cut_the_pods_write_again_before_the_api_server_answers() {
    on_a_site("coldstart", 1, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        let before = site.pod().await?.metadata.uid;
        site.nodes.kill9();
        site.ensure_silent().await?;

        site.cluster.stop_api()?;
        site.restart_nodes()?;
        let written = site.await_writing().await;
        site.cluster.cont_api()?;
        written.context("while the API server was frozen")?;

        eventually("the pod is reported ready again", async || {
            let pod = site.pod().await?;
            Ok((pod.metadata.uid == before && pod_is_ready(&pod)).then_some(()))
        })
        .await?;
        site.scale(0).await?;
        site.await_no_pods().await?;
        site.ensure_silent().await
    });
}

#[test]
fn a_site_that_was_killed_as_a_whole_comes_back_with_its_pod() {
    on_a_site("blackout", 1, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        let before = site.pod().await?.metadata.uid;
        site.nodes.cut_power();
        site.array.cut_power();
        site.cluster.kill9();
        site.nodes.kill9();
        site.array.kill9();

        site.array = launch_array(&site.arguments)?;
        site.restart_nodes()?;
        site.await_writing().await.context("without an API server")?;
        site.cluster.restart().await?;
        eventually("the pod is reported as restarted", async || {
            let pod = site.pod().await?;
            Ok((pod.metadata.uid == before && pod_is_ready(&pod)).then_some(()))
        })
        .await?;
        site.scale(0).await?;
        site.await_no_pods().await?;
        site.await_no_attachments().await?;
        site.ensure_silent().await
    });
}

#[test]
fn a_container_that_exits_is_started_again_and_counted() {
    on_a_site("crash", 1, async |site| {
        site.deploy().await?;
        site.await_writing().await?;
        site.array.kill9();
        eventually("the exit is reported", async || {
            let pod = site.pod().await?;
            let containers = pod.status.clone().unwrap_or_default().container_statuses.unwrap_or_default();
            let exit = containers.into_iter().find_map(|one| one.last_state?.terminated);
            Ok(exit.filter(|exit| exit.exit_code != 0 && !pod_is_ready(&pod)))
        })
        .await?;
        site.array = launch_array(&site.arguments)?;
        site.await_writing().await?;
        eventually("the pod is reported ready again", async || {
            let pod = site.pod().await?;
            let containers = pod.status.clone().unwrap_or_default().container_statuses.unwrap_or_default();
            Ok((pod_is_ready(&pod) && containers.iter().all(|one| one.restart_count > 0)).then_some(()))
        })
        .await
    });
}

#[test]
fn a_claim_without_its_volume_gets_a_new_and_empty_one() {
    on_a_site("careless", 1, async |site| {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "careless-data", "namespace": "careless"},
            "spec": {"storageClassName": "rbd", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        site.cluster.apply_yaml(&site.application.standby_manifest()).await?;
        site.cluster.apply_yaml(&claim.to_string()).await?;
        let claims = Api::<PersistentVolumeClaim>::namespaced(site.cluster.client(), "careless");
        let volume = eventually("the claim is bound", async || {
            let claim = claims.get("careless-data").await?;
            let bound = claim.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
            Ok(claim.spec.and_then(|spec| spec.volume_name).filter(|_| bound))
        })
        .await?;
        let volume = Api::<PersistentVolume>::all(site.cluster.client()).get(&volume).await?;
        let spec = volume.spec.context("a volume with a spec")?;
        ensure!(spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain"));
        let handle = spec.csi.context("a CSI volume")?.volume_handle;
        let old = site.application.volume_handles();
        ensure!(!old.contains(&handle), "the old volume came back: {handle}");
        let mut array = DataClient::connect(&site.arguments.data_socket).await?;
        ensure!(array.read(&handle).await?.is_empty(), "the new volume is not empty");
        Ok(())
    });
}

/// The tests of this file share a control plane, and take turns. It ends with the last of them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
static TURN: Mutex<()> = Mutex::new(());

struct Cluster {
    control_plane: ControlPlane,
    folder: tempfile::TempDir,
}

/// A test's own array, nodes and application in the shared cluster, all named after the test.
struct Site<'a> {
    cluster: &'a ControlPlane,
    application: Application,
    arguments: Arguments,
    array: Process,
    nodes: Process,
    log: PathBuf,
}

fn on_a_site(name: &str, volumes: usize, story: impl AsyncFnOnce(&mut Site) -> Result<()>) {
    let cluster = shared_cluster().expect("a control plane");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let told = RUNTIME.block_on(async {
        let mut site = Site::start(&cluster, name, volumes)?;
        let outcome = story(&mut site).await;
        outcome.with_context(|| format!("the nodes said:\n{}", site.nodes.log_tail(30)))
    });
    if let Err(error) = told {
        panic!("{error:?}");
    }
}

fn shared_cluster() -> Result<Arc<Cluster>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = shared.upgrade() {
        return Ok(cluster);
    }
    let cluster = Arc::new(RUNTIME.block_on(start_cluster())?);
    *shared = Arc::downgrade(&cluster);
    Ok(cluster)
}

async fn start_cluster() -> Result<Cluster> {
    // A process has one TLS provider; an earlier cluster of this file may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let assets = Assets::ensure(|line| println!("{line}"))?;
    let address = Options::at(Ipv4Addr::new(127, 0, 43, 1));
    let control_plane = ControlPlane::start(&assets, "nodes", folder.path(), address).await?;
    Ok(Cluster { control_plane, folder })
}

impl<'a> Site<'a> {
    fn start(shared: &'a Cluster, name: &str, volumes: usize) -> Result<Self> {
        let Cluster { control_plane: cluster, folder } = shared;
        let dir = folder.path().join(name);
        fs::create_dir_all(&dir)?;
        let log = dir.join("outside.jsonl");
        let arguments = Arguments {
            kubeconfig: cluster.kubeconfig(cluster.admin_token())?,
            site: name.to_owned(),
            nodes: 2,
            data_socket: dir.join("array").join(DATA_SOCKET),
            log: log.clone(),
            dir,
            driver: DRIVER.to_owned(),
            write_interval_ms: 20,
            append_writer: Some(env!("CARGO_BIN_EXE_append-writer").into()),
            pause: None,
            gate: None,
        };
        let array = launch_array(&arguments)?;
        let nodes = launch_nodes(&arguments)?;
        let application = Application::named(name, volumes);
        Ok(Self { cluster, application, arguments, array, nodes, log })
    }

    fn restart_nodes(&mut self) -> Result<()> {
        self.nodes = launch_nodes(&self.arguments)?;
        Ok(())
    }

    async fn set(&self, settings: Settings) -> Result<()> {
        settings.put_in_force(&self.arguments.dir).await
    }

    async fn deploy(&self) -> Result<()> {
        eventually("the array makes the volumes", async || {
            self.application.provision(&self.arguments.data_socket).await.map(Some)
        })
        .await?;
        self.cluster.apply_yaml(&self.application.manifest()).await
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.cluster.client(), &self.application.namespace);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale(&self.application.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.cluster.client(), &self.application.namespace)
    }

    async fn pod(&self) -> Result<Pod> {
        let pods = self.pods().list(&ListParams::default()).await?.items;
        ensure!(pods.len() == 1, "one pod expected, there are {}", pods.len());
        pods.into_iter().next().context("a pod")
    }

    async fn await_no_pods(&self) -> Result<()> {
        let pods = self.pods();
        eventually("no pod is left", async || {
            Ok(pods.list(&ListParams::default()).await?.items.is_empty().then_some(()))
        })
        .await
    }

    /// The attachments of this test's volumes.
    async fn attachments(&self) -> Result<Vec<VolumeAttachment>> {
        let mut attachments = list::<VolumeAttachment>(self.cluster.client()).await?;
        let prefix = format!("{}-", self.application.namespace);
        attachments.retain(|attachment| {
            let volume = &attachment.spec.source.persistent_volume_name;
            volume.as_ref().is_some_and(|volume| volume.starts_with(&prefix))
        });
        Ok(attachments)
    }

    async fn await_no_attachments(&self) -> Result<()> {
        eventually("no volume is attached", async || Ok(self.attachments().await?.is_empty().then_some(())))
            .await
    }

    async fn mounts(&self, node: &str) -> Result<Vec<String>> {
        let node = Api::<Node>::all(self.cluster.client()).get(node).await?;
        Ok(node.status.unwrap_or_default().volumes_in_use.unwrap_or_default())
    }

    fn lines(&self) -> usize {
        fs::read_to_string(&self.log).map_or(0, |text| text.lines().count())
    }

    fn records(&self) -> Result<Vec<Record>> {
        Ok(History::read(&self.log)?.records().to_vec())
    }

    /// Until several more lines were written than there were when this was called.
    async fn await_writing(&self) -> Result<()> {
        let before = self.lines();
        eventually("the application writes", async || Ok((self.lines() > before + 5).then_some(()))).await
    }

    async fn ensure_silent(&self) -> Result<()> {
        let before = self.lines();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let more = self.lines() - before;
        ensure!(more == 0, "{more} more lines were written by a pod that should be gone");
        Ok(())
    }
}

fn launch_nodes(arguments: &Arguments) -> Result<Process> {
    let log = arguments.dir.join("nodes.log");
    Launch::new("nodes", env!("CARGO_BIN_EXE_nodes"), log).arguments(arguments.command_line()).spawn()
}

/// Without a peer: nothing is mirrored here.
fn launch_array(arguments: &Arguments) -> Result<Process> {
    let dir = arguments.data_socket.parent().context("a folder for the array")?;
    fs::create_dir_all(dir)?;
    Launch::new("array", env!("CARGO_BIN_EXE_array"), dir.join("array.log"))
        .arguments(["--site", &arguments.site, "--listen", "127.0.43.1:0"])
        .argument("--dir")
        .argument(dir)
        .argument("--socket")
        .argument(dir.join("csi-addons.sock"))
        .spawn()
}

async fn list<K>(client: Client) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    Ok(Api::<K>::all(client).list(&ListParams::default()).await?.items)
}

fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Asks until there is an answer; an error on the way is only told when time is over.
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) if begun.elapsed() > DEADLINE => bail!("not seen within {DEADLINE:?}: {what}"),
            Err(error) if begun.elapsed() > DEADLINE => return Err(error).with_context(|| what.to_owned()),
            Ok(None) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
