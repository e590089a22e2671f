//! A stand-in for Flux's kustomize-controller: unless its Kustomization is suspended, it applies one manifest, and again,
//! over whatever anybody has changed; five times a second, where Flux lets minutes pass.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use crds::foreign;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

const NAMESPACE: &str = "flux-system";
const INTERVAL: Duration = Duration::from_millis(200);

/// Reconciles until it is dropped.
pub struct GitOps {
    pub kustomizations: Api<DynamicObject>,
    pub name: String,
    done: Arc<Mutex<Done>>,
    reconciling: JoinHandle<()>,
}

/// What it has done and found.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How often it has applied its manifest.
    pub applied: usize,
    /// How often its manifest was not as in git.
    pub healed: usize,
    /// Whether it found itself suspended: each change of that.
    pub suspended: Vec<bool>,
    /// The last thing that went wrong.
    pub failed: Option<String>,
}

pub fn kustomizations(client: Client) -> Api<DynamicObject> {
    Api::namespaced_with(client, NAMESPACE, &foreign::kustomization())
}

/// The Kustomization of this name.
pub fn kustomization(name: &str, suspended: bool) -> Value {
    let kind = foreign::kustomization();
    let mut spec = json!({"path": format!("./{name}"), "prune": true, "interval": "10m"});
    if suspended {
        spec["suspend"] = json!(true);
    }
    json!({
        "apiVersion": kind.api_version, "kind": kind.kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {"team": "sales"}}, "spec": spec,
    })
}

/// What Flux writes on what a Kustomization of this name applies.
pub fn labelled(mut manifest: Value, name: &str) -> Value {
    manifest["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = json!(name);
    manifest["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/namespace"] = json!(NAMESPACE);
    manifest
}

impl GitOps {
    /// Applies this Deployment, as it is in git, by the Kustomization of this name.
    pub fn start(client: Client, name: &str, in_git: Value) -> Result<GitOps> {
        let namespace = in_git["metadata"]["namespace"].as_str().context("a namespace in the manifest")?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let kustomizations = kustomizations(client);
        let done = Arc::default();
        let work = Work {
            kustomizations: kustomizations.clone(),
            deployments,
            name: name.to_owned(),
            manifest: labelled(in_git, name),
            done: Arc::clone(&done),
        };
        let reconciling = tokio::spawn(work.go_on());
        Ok(GitOps { kustomizations, name: name.to_owned(), done, reconciling })
    }

    pub fn done(&self) -> Done {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub async fn kustomization(&self) -> Result<DynamicObject> {
        let found = self.kustomizations.get(&self.name).await;
        found.with_context(|| format!("reading the Kustomization {}", self.name))
    }
}

impl Drop for GitOps {
    fn drop(&mut self) {
        self.reconciling.abort();
    }
}

struct Work {
    kustomizations: Api<DynamicObject>,
    deployments: Api<Deployment>,
    name: String,
    manifest: Value,
    done: Arc<Mutex<Done>>,
}

impl Work {
    async fn go_on(self) {
        let mut rounds = interval(INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if let Err(error) = self.reconcile().await {
                self.note(|done| done.failed = Some(format!("{error:#}")));
            }
        }
    }

    async fn reconcile(&self) -> Result<()> {
        let own = self.kustomizations.get(&self.name).await.context("reading the Kustomization")?;
        let suspended = own.data["spec"]["suspend"] == json!(true);
        self.note(|done| {
            if done.suspended.last() != Some(&suspended) {
                done.suspended.push(suspended);
            }
        });
        if suspended {
            return Ok(());
        }
        let name = self.manifest["metadata"]["name"].as_str().context("a name in the manifest")?;
        let before = self.deployments.get_opt(name).await.context("reading the Deployment")?;
        let parameters = PatchParams::apply("kustomize-controller").force();
        let applied = self.deployments.patch(name, &parameters, &Patch::Apply(&self.manifest)).await;
        let applied = applied.context("applying the Deployment")?;
        let healed = before.is_some_and(|before| before.metadata.generation != applied.metadata.generation);
        self.note(|done| {
            done.applied += 1;
            done.healed += usize::from(healed);
        });
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Done)) {
        change(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
