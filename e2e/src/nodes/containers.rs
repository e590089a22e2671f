//! Stands in for a node's container runtime: keeps pods' processes running, restarts them, ends them; knows no API server.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    plan::{ContainerPlan, Memory, PodPlan, Restart},
    sandbox::{Sandbox, child_of},
    settings::Settings,
};

const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A container that ran this long has recovered: its next restart pauses as briefly as the first.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
const COULD_NOT_START: i32 = 128;
const KILLED: i32 = 137;
/// What an init container that stays has for its end, when the others are over.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// How a pod fares, for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReport {
    pub started: Timestamp,
    pub containers: Vec<ContainerReport>,
    /// No process of the pod is left and none will be started.
    pub ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerReport {
    pub plan: ContainerPlan,
    pub state: ContainerState,
    pub last_exit: Option<Exit>,
    pub restarts: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Creating,
    Running { since: Timestamp },
    BackingOff { pause: Duration },
    Ended(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// All pods of this site's nodes. Dropping it kills every process.
pub struct PodRuntime {
    launcher: Arc<Launcher>,
    memory: Memory,
    settings: watch::Receiver<Settings>,
    changed: Arc<Notify>,
    pods: BTreeMap<String, RunningPod>,
}

struct RunningPod {
    plan: PodPlan,
    stop: watch::Sender<Option<Duration>>,
    report: watch::Receiver<PodReport>,
    task: JoinHandle<()>,
}

impl PodRuntime {
    /// A cold restart: every remembered pod runs again at once, before anybody was asked whether it should.
    pub fn restart(
        launcher: Launcher,
        memory: Memory,
        settings: watch::Receiver<Settings>,
    ) -> anyhow::Result<Self> {
        let remembered = memory.recall()?;
        let changed = Arc::new(Notify::new());
        let mut runtime =
            Self { launcher: Arc::new(launcher), memory, settings, changed, pods: BTreeMap::new() };
        for plan in remembered {
            tracing::info!(pod = plan.name, namespace = plan.namespace, "pod runs again after a restart");
            runtime.launch(plan);
        }
        Ok(runtime)
    }

    /// Remembers the pod, then runs it.
    pub fn start(&mut self, plan: PodPlan) -> anyhow::Result<()> {
        if self.pods.contains_key(&plan.uid) {
            return Ok(());
        }
        tracing::info!(pod = plan.name, namespace = plan.namespace, epoch = plan.epoch, "pod starts");
        let remembered: Vec<_> = self.pods.values().map(|pod| &pod.plan).chain([&plan]).collect();
        self.memory.remember(&remembered)?;
        self.launch(plan);
        Ok(())
    }

    /// Asks the pod's processes to end within `grace`; asking again changes nothing.
    pub fn stop(&self, uid: &str, grace: Duration) {
        let Some(pod) = self.pods.get(uid) else { return };
        let first = pod.stop.send_if_modified(|wanted| wanted.replace(grace).is_none());
        if first {
            tracing::info!(pod = pod.plan.name, namespace = pod.plan.namespace, ?grace, "pod stops");
        }
    }

    /// Forgets a pod whose processes have ended.
    pub fn forget(&mut self, uid: &str) -> anyhow::Result<()> {
        if self.pods.remove(uid).is_some() {
            let remembered: Vec<_> = self.pods.values().map(|pod| &pod.plan).collect();
            self.memory.remember(&remembered)?;
        }
        Ok(())
    }

    pub fn pods(&self) -> impl Iterator<Item = (&PodPlan, PodReport)> {
        self.pods.values().map(|pod| (&pod.plan, pod.report.borrow().clone()))
    }

    pub fn pod(&self, uid: &str) -> Option<(&PodPlan, PodReport)> {
        self.pods.get(uid).map(|pod| (&pod.plan, pod.report.borrow().clone()))
    }

    /// Resolves when any pod's report has changed since the last call.
    pub fn changed(&self) -> impl Future<Output = ()> + use<> {
        let changed = self.changed.clone();
        async move { changed.notified().await }
    }

    fn launch(&mut self, plan: PodPlan) {
        let (stop, stop_wanted) = watch::channel(None);
        let (reporter, report) = watch::channel(PodReport::creating(&plan));
        let run = PodRun {
            plan: plan.clone(),
            launcher: self.launcher.clone(),
            settings: self.settings.clone(),
            stop_wanted,
            reporter,
            changed: self.changed.clone(),
        };
        let task = tokio::spawn(run.run());
        self.pods.insert(plan.uid.clone(), RunningPod { plan, stop, report, task });
    }
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        // The child processes are killed as their task drops them.
        self.task.abort();
    }
}

impl PodReport {
    fn creating(plan: &PodPlan) -> Self {
        let containers = plan.containers.iter().map(|container| ContainerReport {
            plan: container.clone(),
            state: ContainerState::Creating,
            last_exit: None,
            restarts: 0,
        });
        Self { started: Timestamp::now(), containers: containers.collect(), ended: false }
    }

    /// Everything was killed at once.
    fn begin_anew(&mut self) {
        let now = Timestamp::now();
        for container in &mut self.containers {
            if let ContainerState::Running { since } = container.state {
                container.last_exit = Some(Exit { code: KILLED, started: since, finished: now });
                container.restarts += 1;
            }
            container.state = ContainerState::Creating;
        }
    }
}

/// The task that one pod is.
struct PodRun {
    plan: PodPlan,
    launcher: Arc<Launcher>,
    settings: watch::Receiver<Settings>,
    stop_wanted: watch::Receiver<Option<Duration>>,
    reporter: watch::Sender<PodReport>,
    changed: Arc<Notify>,
}

/// The init containers of a pod that stay, each run by a future of its own.
struct JoinedSidecars<'a>(FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>);

impl<'a> JoinedSidecars<'a> {
    fn new() -> Self {
        Self(FuturesUnordered::new())
    }

    fn push(&mut self, sidecar: impl Future<Output = ()> + Send + 'a) {
        self.0.push(Box::pin(sidecar));
    }

    /// Lets them run, for as long as something else is waited for.
    async fn run(&mut self) -> Infallible {
        while self.0.next().await.is_some() {}
        std::future::pending().await
    }

    /// Once they have been told that the others are over.
    async fn end(mut self) {
        while self.0.next().await.is_some() {}
    }
}

enum Outcome {
    Exited(i32),
    Stopped(i32),
}

impl PodRun {
    async fn run(self) {
        if self.plan.shares_processes {
            self.run_in_sandboxes().await;
        } else {
            self.run_containers(None).await;
        }
        self.report(|report| report.ended = true);
    }

    /// As a kubelet does it: a pod whose sandbox has ended gets another, and begins anew with its init containers.
    async fn run_in_sandboxes(&self) {
        loop {
            let mut sandbox = match Sandbox::begin(&self.launcher.pause).await {
                Ok(sandbox) => sandbox,
                Err(error) => {
                    tracing::error!(pod = self.plan.name, error = format!("{error:#}"), "no sandbox");
                    self.stop_in_force().await;
                    return;
                }
            };
            let entrance = sandbox.entrance();
            let ran_to_its_end = tokio::select! {
                biased;
                () = sandbox.ended() => false,
                () = self.run_containers(Some(&entrance)) => true,
            };
            if ran_to_its_end {
                return;
            }
            tracing::info!(pod = self.plan.name, "the sandbox has ended");
            self.report(PodReport::begin_anew);
            tokio::select! {
                () = sleep(self.restart_delay()) => {}
                _ = self.stop_in_force() => return,
            }
        }
    }

    /// Init containers one after the other, then all others; an init container that stays ends after them.
    async fn run_containers(&self, entrance: Option<&[String]>) {
        let (over, all_over) = watch::channel(false);
        let mut staying = JoinedSidecars::new();
        for container in &self.plan.first {
            if container.stays {
                staying.push(self.stay(container, entrance, all_over.clone()));
                continue;
            }
            let completed = tokio::select! {
                completed = self.complete(container, entrance) => completed,
                never = staying.run() => match never {},
            };
            if !completed {
                let _nobody_stays = over.send(true);
                staying.end().await;
                return;
            }
        }
        let others =
            join_all((0..self.plan.containers.len()).map(|index| self.keep_running(index, entrance)));
        tokio::select! {
            _ = others => {}
            never = staying.run() => match never {},
        }
        let _nobody_stays = over.send(true);
        staying.end().await;
    }

    /// Whether it ended well; it is tried until it does, or until the pod is to stop.
    async fn complete(&self, container: &ContainerPlan, entrance: Option<&[String]>) -> bool {
        loop {
            match self.run_once(container, entrance, || {}).await {
                Outcome::Exited(0) => return true,
                Outcome::Stopped(_) => return false,
                Outcome::Exited(_) => {}
            }
            tokio::select! {
                () = sleep(self.restart_delay()) => {}
                _ = self.stop_in_force() => return false,
            }
        }
    }

    /// Runs beside the others, and is started again whenever it ends, until they are over.
    async fn stay(
        &self,
        container: &ContainerPlan,
        entrance: Option<&[String]>,
        mut all_over: watch::Receiver<bool>,
    ) {
        while !*all_over.borrow() {
            let launched = self.launcher.launch(&self.plan, container, entrance);
            let mut child = match launched {
                Ok(child) => child,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(pod = self.plan.name, error, "container could not be started");
                    sleep(self.restart_delay()).await;
                    continue;
                }
            };
            tokio::select! {
                _ = child.wait() => {}
                // An error says that the pod itself is over.
                () = async { let _ = all_over.wait_for(|over| *over).await; } => {
                    end(&mut child, SIDECAR_GRACE, entrance.is_some()).await;
                    return;
                }
            }
            sleep(self.restart_delay()).await;
        }
    }

    async fn keep_running(&self, index: usize, entrance: Option<&[String]>) {
        let mut pause = self.restart_delay();
        loop {
            let (started, ran_since) = (Timestamp::now(), Instant::now());
            let container = &self.plan.containers[index];
            let outcome = self.run_once(container, entrance, || self.report_running(index)).await;
            let code = match outcome {
                Outcome::Exited(code) | Outcome::Stopped(code) => code,
            };
            let exit = Exit { code, started, finished: Timestamp::now() };
            if matches!(outcome, Outcome::Stopped(_)) || !self.plan.restart.follows(code) {
                self.report_container(index, |container| container.state = ContainerState::Ended(exit));
                return;
            }
            if ran_since.elapsed() > RECOVERED_AFTER {
                pause = self.restart_delay();
            }
            self.report_container(index, |container| {
                container.state = ContainerState::BackingOff { pause };
                container.last_exit = Some(exit.clone());
            });
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop_in_force() => {
                    self.report_container(index, |container| container.state = ContainerState::Ended(exit));
                    return;
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.report_container(index, |container| container.restarts += 1);
        }
    }

    async fn run_once(
        &self,
        container: &ContainerPlan,
        entrance: Option<&[String]>,
        runs: impl Fn(),
    ) -> Outcome {
        let is_a_program = container.is_a_gate() || (container.writes() && !self.plan.images.is_empty());
        if !is_a_program {
            runs();
            self.stop_in_force().await;
            return Outcome::Stopped(0);
        }
        match self.launcher.launch(&self.plan, container, entrance) {
            Ok(mut child) => {
                runs();
                tokio::select! {
                    status = child.wait() => Outcome::Exited(exit_code(status)),
                    grace = self.stop_in_force() => {
                        Outcome::Stopped(end(&mut child, grace, entrance.is_some()).await)
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    pod = self.plan.name,
                    error = format!("{error:#}"),
                    "container could not be started"
                );
                Outcome::Exited(COULD_NOT_START)
            }
        }
    }

    /// Resolves, with the grace, once the pod is to stop and nothing holds it: a stuck pod does not even hear of it.
    async fn stop_in_force(&self) -> Duration {
        let mut stop_wanted = self.stop_wanted.clone();
        let grace = match stop_wanted.wait_for(Option::is_some).await {
            Ok(grace) => grace.unwrap_or_default(),
            Err(_) => return Duration::ZERO,
        };
        let mut settings = self.settings.clone();
        // An error says that the whole process ends, and with it the pod.
        let _ = settings.wait_for(|settings| !settings.is_stuck(&self.plan.name)).await;
        grace
    }

    fn restart_delay(&self) -> Duration {
        self.settings.borrow().restart_delay
    }

    fn report_running(&self, index: usize) {
        let since = Timestamp::now();
        self.report_container(index, |container| container.state = ContainerState::Running { since });
    }

    fn report_container(&self, index: usize, change: impl FnOnce(&mut ContainerReport)) {
        self.report(|report| change(&mut report.containers[index]));
    }

    fn report(&self, change: impl FnOnce(&mut PodReport)) {
        self.reporter.send_modify(change);
        self.changed.notify_one();
    }
}

impl Restart {
    fn follows(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// SIGTERM, then SIGKILL when the grace is over.
async fn end(child: &mut Child, grace: Duration, in_sandbox: bool) -> i32 {
    // In a sandbox the child is nsenter, which waits for the program and tells nobody of signals.
    let own = |id: u32| i32::try_from(id).ok().and_then(Pid::from_raw);
    let pid = child.id().and_then(|id| if in_sandbox { child_of(id) } else { own(id) });
    if let Some(pid) = pid {
        // It may have ended by itself just now, which the wait below sees.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = timeout(grace, child.wait()).await {
        return exit_code(status);
    }
    if let Some(pid) = pid.filter(|_| in_sandbox) {
        let _ = kill_process(pid, Signal::KILL);
    } else if let Err(error) = child.start_kill() {
        tracing::warn!(%error, "container could not be killed");
    }
    exit_code(child.wait().await)
}

fn exit_code(status: std::io::Result<ExitStatus>) -> i32 {
    match status {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        Err(error) => {
            tracing::warn!(%error, "container's exit not seen");
            COULD_NOT_START
        }
    }
}

/// How a container of the append-writer's image becomes a process.
pub struct Launcher {
    pub append_writer: PathBuf,
    pub gate: PathBuf,
    /// Holds a sandbox.
    pub pause: PathBuf,
    /// Volumes of the pods' own.
    pub volumes_directory: PathBuf,
    pub data_socket: PathBuf,
    pub outside_log: PathBuf,
    pub site: String,
    pub write_interval: Duration,
    pub output_directory: PathBuf,
}

impl Launcher {
    fn launch(
        &self,
        plan: &PodPlan,
        container: &ContainerPlan,
        entrance: Option<&[String]>,
    ) -> anyhow::Result<Child> {
        let output = self.output(plan, container)?;
        // A site is lost with its pods: setpriv, of util-linux, lets them die with this process.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(entrance.unwrap_or_default());
        if container.is_a_gate() {
            self.gate_command(&mut command, plan, container)?;
        } else {
            self.writer_command(&mut command, plan);
        }
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the container's output file")?)
            .stderr(output)
            .kill_on_drop(true);
        command.spawn().with_context(|| format!("starting {} of pod {}", container.name, plan.name))
    }

    fn writer_command(&self, command: &mut Command, plan: &PodPlan) {
        command
            .arg(&self.append_writer)
            .arg("--data-socket")
            .arg(&self.data_socket)
            .args(["--images", &plan.images.join(",")])
            .args(["--cluster", &self.site])
            .args(["--epoch", &plan.epoch.to_string()])
            .arg("--log")
            .arg(&self.outside_log)
            .args(["--interval", &format!("{}ms", self.write_interval.as_millis())]);
    }

    /// All containers see this machine's files: where the environment names a folder of the pod's own, it names that one.
    fn gate_command(
        &self,
        command: &mut Command,
        plan: &PodPlan,
        container: &ContainerPlan,
    ) -> anyhow::Result<()> {
        command.arg(&self.gate).args(&container.arguments);
        for (name, value) in &container.environment {
            let folder = container.folders.iter().find(|(path, _)| path == value);
            let value = match folder {
                Some((_, volume)) => self.volume(plan, volume)?.into_os_string(),
                None => value.into(),
            };
            command.env(name, value);
        }
        Ok(())
    }

    fn volume(&self, plan: &PodPlan, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.volumes_directory.join(&plan.uid).join(name);
        fs::create_dir_all(&folder).with_context(|| format!("making the volume {}", folder.display()))?;
        Ok(folder)
    }

    fn output(&self, plan: &PodPlan, container: &ContainerPlan) -> anyhow::Result<File> {
        fs::create_dir_all(&self.output_directory)
            .with_context(|| format!("making the folder {}", self.output_directory.display()))?;
        let path = self.output_directory.join(format!("{}-{}.log", plan.name, container.name));
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening the container's output {}", path.display()))
    }
}
