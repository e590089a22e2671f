//! A member cluster as a whole: control plane, csi-addons, storage array, nodes and agent, which fall and return together.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;

use crate::array::{self, ArrayOptions, Call, DATA_SOCKET, DataClient};
use crate::assets::Assets;
use crate::control_plane::ControlPlane;
use crate::csi_addons::CsiAddons;
use crate::federation::links::{Carries, Links};
use crate::federation::service::Service;
use crate::installation::{self, AGENT, AGENT_ACCOUNT, NAMESPACE};
use crate::nodes::{self, DRIVER};
use crate::patience::until;
use crate::programs::Programs;

const NODES: usize = 2;
/// How far the ports of the second agent lie above those of the first.
const SECOND_AGENT_PORTS: u16 = 100;
/// Tells an agent which boot it runs in; all sites share the machine's own.
const BOOT_ID_FILE: &str = "UNDERSTUDY_BOOT_ID_FILE";

/// One member cluster. All of it ends when this is dropped.
pub struct Site {
    pub name: String,
    pub control_plane: ControlPlane,
    pub csi_addons: CsiAddons,
    pub array: Service,
    pub nodes: Service,
    pub agent: Service,
    /// Another pod of the same agent, which does not run unless it is started.
    pub second_agent: Service,
    array_folder: PathBuf,
    nodes_folder: PathBuf,
}

/// Where a site's own programs listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub peer: SocketAddr,
    pub gate: SocketAddr,
    pub mirror: SocketAddr,
    pub metrics: SocketAddr,
}

/// What a site is built from.
pub struct Setting<'a> {
    pub assets: &'a Assets,
    pub programs: &'a Programs,
    pub folder: &'a Path,
    /// The agent's certificate and key.
    pub identity: &'a Path,
    pub trust_domain: &'a str,
    pub addresses: Addresses,
    pub links: &'a Links,
    /// The other member cluster.
    pub other: &'a str,
    /// The log outside of all clusters.
    pub writes: &'a Path,
    pub write_interval: Duration,
    pub array_settings: &'a array::Settings,
    /// The argument that names the witness, if there is one.
    pub witness: Option<String>,
}

impl Site {
    /// Builds a member cluster around its control plane. All of it runs, and nothing is deployed.
    pub async fn start(control_plane: ControlPlane, setting: Setting<'_>) -> Result<Site> {
        let name = control_plane.name().to_owned();
        Site::build(control_plane, setting).await.with_context(|| format!("building the site {name}"))
    }

    async fn build(control_plane: ControlPlane, setting: Setting<'_>) -> Result<Site> {
        let folders = Folders::make(setting.folder)?;
        let array = array_service(&control_plane, &setting, &folders)?;
        array.start()?;
        until("the array serves its volumes", async || {
            array.still_runs()?;
            Ok(DataClient::connect(&folders.array.join(DATA_SOCKET)).await.ok())
        })
        .await?;
        let csi_addons = CsiAddons::start(
            &control_plane,
            setting.assets,
            &folders.csi_addons,
            &folders.csi_socket,
            DRIVER,
        );
        let agent_installed = async {
            let installed = control_plane.apply_yaml(&installation::without_workloads(AGENT)?).await;
            installed.context("installing the agent")?;
            let told = control_plane.apply_yaml(&gate_settings(control_plane.name(), &setting)?).await;
            told.context("telling the gates where to ask")
        };
        let (csi_addons, ()) = tokio::try_join!(Box::pin(csi_addons), Box::pin(agent_installed))?;
        let nodes = nodes_service(&control_plane, &setting, &folders)?;
        nodes.start()?;
        let [agent, second_agent] = agent_services(&control_plane, &setting).await?;
        agent.start()?;
        Ok(Site {
            name: control_plane.name().to_owned(),
            control_plane,
            csi_addons,
            array,
            nodes,
            agent,
            second_agent,
            array_folder: folders.array,
            nodes_folder: folders.nodes,
        })
    }

    /// Kills every process of the site in one moment, and waits until they are gone.
    pub fn cut_power(&self) {
        // First all fall, then each is reaped: none may see another's end and act on it.
        self.control_plane.cut_power();
        self.nodes.cut_power();
        self.agent.cut_power();
        self.second_agent.cut_power();
        self.csi_addons.cut_power();
        self.array.cut_power();
        self.control_plane.kill9();
        self.csi_addons.kill9();
        [&self.nodes, &self.agent, &self.second_agent, &self.array].into_iter().for_each(Service::kill9);
    }

    /// Starts all but the nodes again after a power cut, with the disks as they were, as another boot of the machines.
    pub async fn restart_without_nodes(&self) -> Result<()> {
        let restarting = || format!("restarting the site {}", self.name);
        self.array.start().with_context(restarting)?;
        self.control_plane.restart().await.with_context(restarting)?;
        self.start_agent_of_another_boot()?;
        self.csi_addons.restart().await.with_context(restarting)
    }

    /// Starts the agent in a boot that the machine under the federation has not had.
    pub fn start_agent_of_another_boot(&self) -> Result<()> {
        let boot = self.another_boot()?;
        let started = self.agent.start_with(&[(BOOT_ID_FILE, &boot)]);
        started.with_context(|| format!("restarting the agent of {}", self.name))
    }

    /// Starts the parts that a kubelet would start again when they have ended by themselves: controllers that have lost their
    /// API server for long, as they do on purpose.
    pub async fn restart_what_ended(&self) -> Result<()> {
        if self.csi_addons.still_runs().is_err() {
            self.csi_addons.restart().await?;
        }
        for service in [&self.array, &self.nodes, &self.agent] {
            if !service.runs() {
                service.start()?;
            }
        }
        Ok(())
    }

    /// Starts nodes whose runtime runs their pods again before anybody is asked, as after a power cut that spared it.
    pub fn start_nodes_as_they_were(&self) -> Result<()> {
        self.nodes.start().with_context(|| format!("restarting the nodes of {}", self.name))
    }

    /// Starts nodes that ask their API server before they run anything, as kubelets do that have lost their runtime's state.
    pub fn start_empty_nodes(&self) -> Result<()> {
        nodes::forget_pods(&self.nodes_folder)
            .and_then(|()| self.nodes.start())
            .with_context(|| format!("restarting the nodes of {}", self.name))
    }

    /// Starts all but the agent after a power cut: the nodes run again what they ran, before anybody was asked.
    pub async fn restart_without_agent(&self) -> Result<()> {
        let restarting = || format!("restarting the site {} without its agent", self.name);
        self.array.start().with_context(restarting)?;
        self.nodes.start().with_context(restarting)?;
        self.control_plane.restart().await.with_context(restarting)
    }

    /// What the nodes run again after a power cut has no gates any more.
    pub fn take_gates_away(&self) -> Result<()> {
        nodes::forget_gates(&self.nodes_folder)
            .with_context(|| format!("taking the gates of {} away", self.name))
    }

    /// Names a boot that the machine under the federation has not had.
    fn another_boot(&self) -> Result<String> {
        let file = self.nodes_folder.with_file_name("boot-id");
        let id = Timestamp::now().to_string();
        fs::write(&file, id).with_context(|| format!("writing {}", file.display()))?;
        Ok(file.display().to_string())
    }

    /// The array's data plane.
    pub fn data_socket(&self) -> PathBuf {
        self.array_folder.join(DATA_SOCKET)
    }

    /// Puts delays and bad habits of the array in force.
    pub fn set_array(&self, settings: &array::Settings) -> Result<()> {
        settings.write(&self.array_folder).with_context(|| format!("setting the array of {}", self.name))
    }

    /// All csi-addons calls that the array has answered.
    pub fn calls(&self) -> Result<Vec<Call>> {
        array::calls(&self.array_folder)
            .with_context(|| format!("reading the calls of the array of {}", self.name))
    }

    /// The forced promotions that the array has granted.
    pub fn forced_promotions(&self) -> Result<Vec<Call>> {
        array::forced_promotions(&self.array_folder)
            .with_context(|| format!("reading the calls of the array of {}", self.name))
    }

    /// Makes the nodes slow, stuck or cut off, and waits until they act by it.
    pub async fn set_nodes(&self, settings: &nodes::Settings) -> Result<()> {
        settings.put_in_force(&self.nodes_folder).await
    }

    /// What the pods' own programs have printed.
    pub fn pod_logs(&self) -> Vec<PathBuf> {
        nodes::pod_logs(&self.nodes_folder)
    }

    /// An error that names the first part that has ended of itself, with the end of its log.
    pub fn still_runs(&self) -> Result<()> {
        self.control_plane.still_runs()?;
        self.csi_addons.still_runs()?;
        [&self.array, &self.nodes, &self.agent].into_iter().try_for_each(Service::still_runs)
    }
}

struct Folders {
    array: PathBuf,
    nodes: PathBuf,
    csi_addons: PathBuf,
    csi_socket: PathBuf,
}

impl Folders {
    fn make(folder: &Path) -> Result<Folders> {
        let made = |name: &str| {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making the folder {}", path.display()))?;
            anyhow::Ok(path)
        };
        let array = made("array")?;
        Ok(Folders {
            csi_socket: array.join("csi.sock"),
            array,
            nodes: made("nodes")?,
            csi_addons: made("csi-addons")?,
        })
    }
}

fn array_service(control_plane: &ControlPlane, setting: &Setting<'_>, folders: &Folders) -> Result<Service> {
    let name = control_plane.name();
    let options = ArrayOptions {
        site: name.to_owned(),
        dir: folders.array.clone(),
        socket: folders.csi_socket.clone(),
        listen: setting.addresses.mirror,
        peer: Some(setting.links.address(name, setting.other, Carries::Mirror)?.to_string()),
        driver: DRIVER.to_owned(),
    };
    setting.array_settings.write(&folders.array).with_context(|| format!("setting the array of {name}"))?;
    let log = setting.folder.join("array.log");
    Ok(Service::new(&format!("array of {name}"), &setting.programs.array, &log, |launch| {
        launch.through(control_plane.entrance()).arguments(options.arguments())
    }))
}

fn nodes_service(control_plane: &ControlPlane, setting: &Setting<'_>, folders: &Folders) -> Result<Service> {
    let name = control_plane.name();
    let arguments = nodes::Arguments {
        kubeconfig: control_plane.kubeconfig(control_plane.admin_token())?,
        site: name.to_owned(),
        nodes: NODES,
        data_socket: folders.array.join(DATA_SOCKET),
        log: setting.writes.to_owned(),
        dir: folders.nodes.clone(),
        driver: DRIVER.to_owned(),
        write_interval_ms: u64::try_from(setting.write_interval.as_millis())?,
        append_writer: Some(setting.programs.append_writer.clone()),
        pause: Some(setting.programs.pause.clone()),
        gate: Some(setting.programs.gate.clone()),
    };
    let log = setting.folder.join("nodes.log");
    Ok(Service::new(&format!("nodes of {name}"), &setting.programs.nodes, &log, |launch| {
        launch.through(control_plane.entrance()).arguments(arguments.command_line())
    }))
}

/// What admission writes into the gates of annotated pods.
fn gate_settings(cluster: &str, setting: &Setting<'_>) -> Result<String> {
    let authority = setting.identity.join("ca.crt");
    let authority =
        fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?;
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "understudy-gate", "namespace": NAMESPACE},
        "data": {
            "IMAGE": nodes::GATE_IMAGE, "CLUSTER": cluster, "TRUST_DOMAIN": setting.trust_domain,
            "AGENT": setting.addresses.gate.to_string(), "CA": authority,
        },
    });
    Ok(settings.to_string())
}

/// The agent gets the rights of its service account, by its token, and nothing more. Two pods of it have their own names, and
/// ports, as they share an address here.
async fn agent_services(control_plane: &ControlPlane, setting: &Setting<'_>) -> Result<[Service; 2]> {
    let name = control_plane.name();
    let token = control_plane.token(NAMESPACE, AGENT_ACCOUNT).await?;
    let kubeconfig = control_plane.kubeconfig(&token)?;
    let hub = setting.links.address(name, "hub", Carries::Session)?;
    let file = |flag: &str, file: &str| format!("--{flag}={}", setting.identity.join(file).display());
    let pod = |pod: &str, log: &str, beside: u16| {
        let at = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + beside);
        let log = setting.folder.join(log);
        Service::new(&format!("{pod} of {name}"), &setting.programs.agent, &log, |launch| {
            launch
                .through(control_plane.entrance())
                .argument("run")
                .argument(format!("--cluster={name}"))
                .argument(format!("--hub=https://{hub}"))
                .argument(format!("--trust-domain={}", setting.trust_domain))
                .argument(format!("--peer-listen={}", at(setting.addresses.peer)))
                .argument(format!("--gate-listen={}", at(setting.addresses.gate)))
                .argument(format!("--metrics-listen={}", at(setting.addresses.metrics)))
                .argument(format!("--namespace={NAMESPACE}"))
                .arguments(setting.witness.iter())
                .arguments([file("cert", "tls.crt"), file("key", "tls.key"), file("ca", "ca.crt")])
                .environment("KUBECONFIG", &kubeconfig)
                .environment("POD_NAME", format!("understudy-{pod}-of-{name}"))
        })
    };
    Ok([pod("agent", "agent.log", 0), pod("second-agent", "second-agent.log", SECOND_AGENT_PORTS)])
}
