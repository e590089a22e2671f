//! The real csi-addons manager and sidecar of one cluster, over whatever serves the storage array's socket.
//!
//! Both believe that they run in a pod: they read a token and the authority's certificate from the usual path, so
//! each gets a private view of the mounts with those files in it. The manager finds the sidecar by a pod, and the
//! record of the sidecar lives as long as the owner of that pod does; so there is a real StatefulSet, whose pod is
//! made by the real controllers and only never run by anyone.
//!
//! As in production, the sidecar reads the class's secret from the API server for each call that it passes on, ten at
//! once and then five a second. A promotion takes three calls, a forced one four, and each volume one more whenever
//! the scheduling interval has passed: ten volumes are promoted in five seconds, whatever the array takes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::assets::Assets;
use crate::control_plane::ControlPlane;
use crate::process::{Launch, Process, is_port_collision};

/// The namespace and the account that the manager's own manifests name.
const NAMESPACE: &str = "csi-addons-system";
const MANAGER_ACCOUNT: &str = "csi-addons-controller-manager";
const SIDECAR_ACCOUNT: &str = "array-sidecar";
const POD: &str = "array-0";
/// Bears the array's pod and nothing else.
const NODE: &str = "array";

const POD_DEADLINE: Duration = Duration::from_secs(120);
const CONNECT_DEADLINE: Duration = Duration::from_secs(120);
const CONNECT_POLL: Duration = Duration::from_millis(50);
const START_ATTEMPTS: u32 = 3;

/// What surrounds the pair in the cluster. The sidecar's rights are those that its own calls need.
const SURROUNDINGS: &str = include_str!("csi_addons/surroundings.yaml");

/// Gives a program a pod's view of its service account, then becomes it.
///
/// The signal for the owner's death is asked for once more, as a new user namespace forgets it.
const IN_POD_VIEW: &str = r#"set -e
run="$(readlink -f /var/run)"
mount -t tmpfs -o mode=0755,size=1m tmpfs "$run"
mkdir -p "$run/secrets/kubernetes.io"
cp -r "$1" "$run/secrets/kubernetes.io/serviceaccount"
shift
exec setpriv --pdeathsig KILL -- "$@"
"#;

/// The pair; it ends when this is dropped.
pub struct CsiAddons {
    surroundings: Surroundings,
    processes: Mutex<Option<Processes>>,
}

impl CsiAddons {
    /// Starts the pair over the array's socket, which must be served already, and waits until they are connected.
    pub async fn start(
        control_plane: &ControlPlane,
        assets: &Assets,
        folder: &Path,
        array_socket: &Path,
        driver_name: &str,
    ) -> Result<CsiAddons> {
        let starting = || format!("starting csi-addons in the cluster {}", control_plane.name());
        let mut attempt = 1;
        loop {
            let surroundings =
                Surroundings::prepare(control_plane, assets, folder, array_socket, driver_name)
                    .await
                    .with_context(starting)?;
            match Processes::start(&surroundings).await {
                Ok(processes) => {
                    return Ok(CsiAddons { surroundings, processes: Mutex::new(Some(processes)) });
                }
                Err(error) if attempt < START_ATTEMPTS && is_port_collision(&error) => attempt += 1,
                Err(error) => return Err(error).with_context(starting),
            }
        }
    }

    /// Kills both in one moment, and waits until they are gone.
    pub fn kill9(&self) {
        self.cut_power();
        self.processes().take();
    }

    /// Kills both without waiting for their end.
    pub fn cut_power(&self) {
        if let Some(processes) = &*self.processes() {
            processes.all().iter().for_each(|process| process.cut_power());
        }
    }

    /// Starts both again, after a kill or over one that still runs.
    pub async fn restart(&self) -> Result<()> {
        self.kill9();
        let started = Processes::start(&self.surroundings).await;
        let processes =
            started.with_context(|| format!("restarting csi-addons of {}", self.surroundings.cluster))?;
        *self.processes() = Some(processes);
        Ok(())
    }

    /// An error when one of them has ended of itself, with the end of its log.
    pub fn still_runs(&self) -> Result<()> {
        match &*self.processes() {
            Some(processes) => processes.still_run(),
            None => bail!("csi-addons of {} was killed", self.surroundings.cluster),
        }
    }

    fn processes(&self) -> MutexGuard<'_, Option<Processes>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the pair needs before it can start, and again at each restart.
struct Surroundings {
    cluster: String,
    client: Client,
    api: SocketAddr,
    entrance: Vec<String>,
    assets: Assets,
    folder: PathBuf,
    array_socket: PathBuf,
    driver_name: String,
    sidecar_port: u16,
    pod_uid: String,
}

impl Surroundings {
    async fn prepare(
        control_plane: &ControlPlane,
        assets: &Assets,
        folder: &Path,
        array_socket: &Path,
        driver_name: &str,
    ) -> Result<Surroundings> {
        let read =
            |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
        control_plane.apply_yaml(&read(&assets.csi_addons_crds)?).await?;
        control_plane.apply_yaml(SURROUNDINGS).await?;
        control_plane.apply_yaml(&read(&assets.csi_addons_rbac)?).await?;
        for account in [MANAGER_ACCOUNT, SIDECAR_ACCOUNT] {
            write_account(control_plane, folder, account).await?;
        }
        Ok(Surroundings {
            cluster: control_plane.name().to_owned(),
            client: control_plane.client(),
            api: control_plane.api_address(),
            entrance: control_plane.entrance().to_vec(),
            assets: assets.clone(),
            folder: folder.to_owned(),
            array_socket: array_socket.to_owned(),
            driver_name: driver_name.to_owned(),
            sidecar_port: free_port()?,
            pod_uid: place_pod(control_plane).await?,
        })
    }

    fn manager(&self) -> Launch {
        self.in_pod_view("csi-addons-manager", &self.assets.csi_addons_manager, MANAGER_ACCOUNT).arguments([
            format!("--namespace={NAMESPACE}"),
            // Nobody asks whether it is healthy or how it does, so it need not listen.
            "--health-probe-bind-address=0".to_owned(),
            "--metrics-bind-address=0".to_owned(),
        ])
    }

    /// The sidecar listens on every address of the machine: told an address, it would publish that, and the manager
    /// takes none but pods. So each site has a port of its own; it is guarded by TLS and a reviewed token.
    fn sidecar(&self) -> Launch {
        self.in_pod_view("csi-addons-sidecar", &self.assets.csi_addons_sidecar, SIDECAR_ACCOUNT).arguments([
            format!("--csi-addons-address=unix://{}", self.array_socket.display()),
            format!("--node-id={NODE}"),
            format!("--controller-port={}", self.sidecar_port),
            format!("--pod={POD}"),
            format!("--namespace={NAMESPACE}"),
            format!("--pod-uid={}", self.pod_uid),
            format!("--leader-election-namespace={NAMESPACE}"),
        ])
    }

    fn in_pod_view(&self, name: &str, program: &Path, account: &str) -> Launch {
        let mut own_mounts = vec!["--mount"];
        if !rustix::process::geteuid().is_root() {
            // Only a root may mount; anyone may be the root of a user namespace.
            own_mounts.extend(["--user", "--map-root-user"]);
        }
        Launch::new(format!("{name} of {}", self.cluster), "unshare", self.folder.join(format!("{name}.log")))
            .through(&self.entrance)
            .environment("KUBERNETES_SERVICE_HOST", self.api.ip().to_string())
            .environment("KUBERNETES_SERVICE_PORT", self.api.port().to_string())
            .environment("POD_NAME", POD)
            .environment("POD_NAMESPACE", NAMESPACE)
            .arguments(own_mounts)
            .arguments(["--", "sh", "-c", IN_POD_VIEW, "in-pod-view"])
            .argument(account_folder(&self.folder, account))
            .argument(program)
    }
}

struct Processes {
    manager: Process,
    sidecar: Process,
}

impl Processes {
    async fn start(surroundings: &Surroundings) -> Result<Processes> {
        let started = Instant::now();
        forget_connection(surroundings).await?;
        let sidecar = surroundings.sidecar().spawn()?;
        let manager = surroundings.manager().spawn()?;
        let processes = Processes { manager, sidecar };
        processes.await_connected(surroundings).await?;
        tracing::info!(cluster = surroundings.cluster, took = ?started.elapsed(), "csi-addons is connected");
        Ok(processes)
    }

    async fn await_connected(&self, surroundings: &Surroundings) -> Result<()> {
        let connected = async {
            while !(is_connected(surroundings).await? && leads(surroundings).await?) {
                self.still_run()?;
                sleep(CONNECT_POLL).await;
            }
            Ok(())
        };
        timeout(CONNECT_DEADLINE, connected).await.unwrap_or_else(|_| {
            bail!(
                "the manager did not connect to the sidecar within {CONNECT_DEADLINE:?}; the ends of their logs:\n{}\n{}",
                self.manager.log_tail(8),
                self.sidecar.log_tail(8)
            )
        })
    }

    fn all(&self) -> [&Process; 2] {
        [&self.manager, &self.sidecar]
    }

    fn still_run(&self) -> Result<()> {
        self.all().into_iter().try_for_each(Process::still_runs)
    }
}

/// The sidecar's record, in which the manager notes whether they are connected.
fn record(surroundings: &Surroundings) -> (Api<DynamicObject>, String) {
    let kind = GroupVersionKind::gvk("csiaddons.openshift.io", "v1alpha1", "CSIAddonsNode");
    let records = Api::namespaced_with(surroundings.client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind));
    (records, format!("{NODE}-{NAMESPACE}-statefulset-array"))
}

/// Clears what a manager before this one noted.
async fn forget_connection(surroundings: &Surroundings) -> Result<()> {
    let (records, name) = record(surroundings);
    let nothing = Patch::Merge(json!({"status": null}));
    match records.patch_status(&name, &PatchParams::default(), &nothing).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("clearing the status of the CSIAddonsNode {name}")),
    }
}

async fn is_connected(surroundings: &Surroundings) -> Result<bool> {
    let (records, name) = record(surroundings);
    let found = records.get_opt(&name).await.with_context(|| format!("reading the CSIAddonsNode {name}"))?;
    Ok(found
        .is_some_and(|record| record.data.pointer("/status/state").is_some_and(|state| state == "Connected")))
}

/// Whether the sidecar leads: the manager talks to the leader of a driver only.
async fn leads(surroundings: &Surroundings) -> Result<bool> {
    let leases: Api<Lease> = Api::namespaced(surroundings.client.clone(), NAMESPACE);
    let name = format!("{}-csi-addons", surroundings.driver_name.replace('.', "-"));
    let found = leases.get_opt(&name).await.with_context(|| format!("reading the lease {name}"))?;
    Ok(found.and_then(|lease| lease.spec?.holder_identity).is_some_and(|holder| holder == POD))
}

/// Waits for the pod, gives it the address that the manager is to dial, and returns its uid.
async fn place_pod(control_plane: &ControlPlane) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(control_plane.client(), NAMESPACE);
    let exists = |pod: Option<&Pod>| pod.is_some();
    let made = timeout(POD_DEADLINE, await_condition(pods.clone(), POD, exists)).await;
    let pod = made
        .with_context(|| format!("no pod {POD} within {POD_DEADLINE:?}: does the controller manager run?"))?
        .with_context(|| format!("watching the pod {POD}"))?
        .with_context(|| format!("the pod {POD} went away again"))?;
    let address = control_plane.api_address().ip().to_string();
    let placed = Patch::Merge(json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}}));
    pods.patch_status(POD, &PatchParams::default(), &placed)
        .await
        .with_context(|| format!("giving the pod {POD} the address {address}"))?;
    pod.uid().with_context(|| format!("the pod {POD} has no uid"))
}

/// Writes what a kubelet would mount for a service account.
async fn write_account(control_plane: &ControlPlane, folder: &Path, account: &str) -> Result<()> {
    let files = account_folder(folder, account);
    let writing = || format!("writing the files of the service account {account} to {}", files.display());
    let token = control_plane.token(NAMESPACE, account).await?;
    fs::create_dir_all(&files).with_context(writing)?;
    fs::write(files.join("token"), token).with_context(writing)?;
    fs::write(files.join("namespace"), NAMESPACE).with_context(writing)?;
    fs::copy(control_plane.authority_file(), files.join("ca.crt")).with_context(writing)?;
    Ok(())
}

fn account_folder(folder: &Path, account: &str) -> PathBuf {
    folder.join("service-accounts").join(account)
}

/// A port that is free on every address.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("asking for the free port")?.port())
}
