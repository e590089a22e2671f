//! One conversation of a site's stand-in nodes with their API server: watch, decide from the whole view, act, again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use futures::{FutureExt, StreamExt, stream};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    action::{Action, Done, is_overtaken},
    attacher,
    containers::PodRuntime,
    echo::Echoes,
    kubelet::{self, InUse},
    pacing::Pacing,
    provisioner,
    registration::Registration,
    scheduler,
    settings::Settings,
    view::{Changes, View},
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const REGISTER_DEADLINE: Duration = Duration::from_secs(20);
/// Calls under way at once: enough to start hundreds of pods quickly, too few to crowd a small API server.
const CALLS_AT_ONCE: usize = 16;
/// Changes are taken together up to this many, so that a burst costs one pass and a flood cannot starve the passes.
const CHANGES_AT_ONCE: usize = 1024;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

pub struct Session {
    client: Client,
    data_socket: PathBuf,
    registration: Registration,
    settings: watch::Receiver<Settings>,
    view: View,
    changes: Changes,
    in_use: InUse,
    pacing: Pacing,
    echoes: Echoes,
}

impl Session {
    /// Connects and registers the nodes; nothing of an earlier session is assumed to be still true.
    pub async fn open(
        kubeconfig: &Path,
        data_socket: &Path,
        registration: &Registration,
        settings: watch::Receiver<Settings>,
    ) -> anyhow::Result<Self> {
        let client = connect(kubeconfig).await?;
        timeout(REGISTER_DEADLINE, registration.register(&client))
            .await
            .with_context(|| format!("registering the nodes took longer than {REGISTER_DEADLINE:?}"))?
            .context("registering the nodes")?;
        let (view, changes) = View::open(&client, registration.nodes.clone());
        Ok(Self {
            client,
            data_socket: data_socket.to_owned(),
            registration: registration.clone(),
            settings,
            view,
            changes,
            in_use: InUse::new(),
            pacing: Pacing::new(Instant::now()),
            echoes: Echoes::default(),
        })
    }

    /// Runs until the API server stays silent or something of our own fails.
    pub async fn run(self, runtime: &mut PodRuntime) -> anyhow::Error {
        let (client, registration) = (self.client.clone(), self.registration.clone());
        tokio::select! {
            error = registration.keep_alive(&client) => error,
            error = self.work(runtime) => error,
        }
    }

    async fn work(mut self, runtime: &mut PodRuntime) -> anyhow::Error {
        let mut failed = false;
        loop {
            self.wait(runtime, failed).await;
            if !self.view.is_complete() {
                continue;
            }
            match self.pass(runtime).await {
                Ok(all_done) => failed = !all_done,
                Err(error) => return error,
            }
        }
    }

    /// Until something has changed, becomes due, or may be tried again.
    async fn wait(&mut self, runtime: &PodRuntime, failed: bool) {
        let again = failed.then(|| Instant::now() + PAUSE_AFTER_FAILURE);
        let wake = [self.pacing.next(), again].into_iter().flatten().min();
        let due = async {
            match wake {
                Some(instant) => sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = self.changes.next() => {}
            () = runtime.changed() => {}
            // The sender lives as long as the process.
            _ = self.settings.changed() => {}
            () = due => {}
        }
        for _ in 0..CHANGES_AT_ONCE {
            if self.changes.next().now_or_never().flatten().is_none() {
                break;
            }
        }
    }

    /// Whether everything that was wanted could be done.
    async fn pass(&mut self, runtime: &mut PodRuntime) -> anyhow::Result<bool> {
        kubelet::end_unwanted(&self.view, runtime)?;
        let actions = self.decide(runtime);
        let (client, array) = (&self.client, self.data_socket.as_path());
        let calls = actions.into_iter().map(async |(what, action)| {
            let outcome = action.carry_out(client, array).await;
            (what, outcome)
        });
        let outcomes: Vec<_> = stream::iter(calls).buffer_unordered(CALLS_AT_ONCE).collect().await;
        let mut all_done = true;
        for (what, outcome) in outcomes {
            match outcome {
                Ok(done) => {
                    self.echoes.note(what, Instant::now());
                    self.follow_up(done, runtime)?;
                }
                Err(error) => {
                    all_done = false;
                    tell(&what, &error);
                }
            }
        }
        Ok(all_done)
    }

    /// What is to be done, each by its description.
    fn decide(&mut self, runtime: &PodRuntime) -> Vec<(String, Action)> {
        let now = Instant::now();
        let mut actions: Vec<_> =
            self.wanted(runtime, now).into_iter().map(|action| (format!("{action:?}"), action)).collect();
        actions.retain(|(what, _)| match self.echoes.awaited(what, now) {
            Some(until) => {
                self.pacing.wake_at(until);
                false
            }
            None => true,
        });
        actions
    }

    fn wanted(&mut self, runtime: &PodRuntime, now: Instant) -> Vec<Action> {
        let settings = self.settings.borrow_and_update().clone();
        let (view, driver) = (&self.view, self.registration.driver.as_str());
        let pacing = &mut self.pacing;
        pacing.begin_pass(now);
        let mut actions = scheduler::decide(view, &settings);
        actions.extend(attacher::decide(view, driver, &settings, pacing));
        actions.extend(provisioner::decide(view, driver, &settings, pacing));
        actions.extend(kubelet::decide(view, runtime, &self.in_use, &settings, pacing));
        actions
    }

    fn follow_up(&mut self, done: Done, runtime: &mut PodRuntime) -> anyhow::Result<()> {
        match done {
            Done::Nothing => Ok(()),
            Done::Prepared(plan) => runtime.start(*plan),
            Done::MarkedInUse { node, mounts } => {
                self.in_use.insert(node, mounts);
                self.pacing.wake_at(Instant::now());
                Ok(())
            }
            Done::Removed { uid } => runtime.forget(&uid),
        }
    }
}

/// Being overtaken is nothing to tell of: the pass saw an older cluster, and the next one decides anew.
fn tell(what: &str, error: &anyhow::Error) {
    if is_overtaken(error) {
        tracing::debug!(what, "overtaken");
    } else {
        tracing::warn!(what, error = format!("{error:#}"), "not done, deciding again");
    }
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("reading the kubeconfig {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("using the kubeconfig {}", kubeconfig.display()))?;
    config.connect_timeout = Some(CONNECT_DEADLINE);
    // A refused call is decided anew in the next pass.
    config.default_retry = false;
    Client::try_from(config).context("making a Kubernetes client")
}
