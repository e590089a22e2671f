//! The admission policies that this agent relies on: what they have to say, and a try, again and again, of what they must
//! refuse. A policy that is there and refuses nothing, because its binding, its parameters or the API server's cache fail
//! it, is seen only so.

use std::time::Duration;

use agent_core::Event;
use anyhow::Context;
use crds::DRSiteState;
use crds::site_state::{DRSiteStateSpec, SiteRole};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::apply::{ask_admission, is_admissions_refusal};

/// As they are installed; `agent_core::enforcement` compares them with what is there.
const INSTALLED: [&str; 8] = [
    include_str!("../../deploy/admission/agent-limits.yaml"),
    include_str!("../../deploy/admission/claims-are-kept.yaml"),
    include_str!("../../deploy/admission/claims-need-their-holder.yaml"),
    include_str!("../../deploy/admission/gate.yaml"),
    include_str!("../../deploy/admission/promotion-needs-its-epoch.yaml"),
    include_str!("../../deploy/admission/replications-belong-to-the-agent.yaml"),
    include_str!("../../deploy/admission/resync-needs-its-operation.yaml"),
    include_str!("../../deploy/admission/site-states-belong-to-the-agent.yaml"),
];

/// A DRSiteState of no placement, always fenced, in the agent's own namespace: what is tried is judged by it.
pub const TRIAL: &str = "understudy-trial";
/// How often the policies are tried. Until the next time a policy that has stopped refusing goes unnoticed, if it still
/// says what it should.
const EVERY: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);
/// A trial that has just been written is read by admission some moments later.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(50);

/// The policies and bindings that have to be in force. What puts the gate into pods refuses nothing: a pod without one is
/// refused by those that do.
pub fn installed() -> anyhow::Result<Vec<Value>> {
    let documents = INSTALLED.iter().flat_map(|file| file.split("\n---\n"));
    let objects = documents
        .map(|document| serde_saphyr::from_str(document).context("an admission policy of this build"))
        .collect::<anyhow::Result<Vec<Value>>>()?;
    let refuses = |object: &Value| {
        object["kind"].as_str().is_some_and(|kind| kind.starts_with("ValidatingAdmissionPolicy"))
    };
    Ok(objects.into_iter().filter(refuses).collect())
}

/// Tries again and again, and tells what came of it. An API server that does not answer says nothing about its policies.
pub async fn keep_trying(
    client: Client,
    namespace: String,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    loop {
        match timeout(REQUEST, trial(&client, &namespace)).await {
            Ok(Ok(result)) => events.send(Event::PoliciesTried(result)).await?,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "trying the admission policies")
            }
            Err(_) => tracing::debug!("trying the admission policies takes too long"),
        }
        sleep(EVERY).await;
    }
}

async fn trial(client: &Client, namespace: &str) -> kube::Result<Result<(), String>> {
    let first = ask(client, namespace).await?;
    if first.is_ok() || !stand(client, namespace).await? {
        return Ok(first);
    }
    let end = Instant::now() + IN_FORCE_WITHIN;
    loop {
        let answer = ask(client, namespace).await?;
        if answer.is_ok() || Instant::now() >= end {
            return Ok(answer);
        }
        sleep(STEP).await;
    }
}

/// A pod that used the trial's claim would be refused; a ConfigMap that says so is judged the same.
async fn ask(client: &Client, namespace: &str) -> kube::Result<Result<(), String>> {
    match ask_admission(client, namespace, TRIAL).await {
        Ok(_) => Ok(Err("a pod that uses the volumes of a fenced placement would be admitted".to_owned())),
        Err(kube::Error::Api(status)) if is_admissions_refusal(&status) && status.message.contains(TRIAL) => {
            Ok(Ok(()))
        }
        Err(kube::Error::Api(status)) if status.code == 422 || status.code == 403 => {
            Ok(Err(status.message.clone()))
        }
        Err(error) => Err(error),
    }
}

/// Whether the trial had to be written.
async fn stand(client: &Client, namespace: &str) -> kube::Result<bool> {
    let api: Api<DRSiteState> = Api::namespaced(client.clone(), namespace);
    if api.get_opt(TRIAL).await?.is_some() {
        return Ok(false);
    }
    let mut trial = DRSiteState::new(TRIAL, spec());
    trial.metadata.namespace = Some(namespace.to_owned());
    match api.create(&PostParams::default(), &trial).await {
        Ok(_) => Ok(true),
        // Another agent of this cluster was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(true),
        Err(error) => Err(error),
    }
}

fn spec() -> DRSiteStateSpec {
    DRSiteStateSpec {
        placement: TRIAL.to_owned(),
        placement_id: TRIAL.to_owned(),
        claims: vec![TRIAL.to_owned()],
        epoch_seen: 0,
        role: SiteRole::Fenced,
        operation: None,
        promises_outstanding: None,
        fenced_at: None,
        handed_over: None,
        resync: None,
        group: None,
        gated: false,
        last_results: Vec::new(),
        replicas: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_comes_with_its_binding() {
        let objects = installed().expect("the policies of this build");
        let of = |kind: &str, name: &str| {
            let named: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
            named
                .into_iter()
                .map(|object| object.pointer(name).cloned().expect("a name"))
                .collect::<Vec<Value>>()
        };
        let policies = of("ValidatingAdmissionPolicy", "/metadata/name");
        assert_eq!(policies, of("ValidatingAdmissionPolicyBinding", "/spec/policyName"));
        assert!(policies.len() >= INSTALLED.len(), "{policies:?}");
    }

    /// The folder's own list of what is installed, so that no policy is left out here: all but what injects gates.
    #[test]
    fn every_policy_that_is_installed_is_looked_after() {
        let kustomization = include_str!("../../deploy/admission/kustomization.yaml");
        assert_eq!(kustomization.lines().filter(|line| line.starts_with("- ")).count(), INSTALLED.len() + 1);
    }
}
