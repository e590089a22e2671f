//! Applies manifests to an API server: many documents in one YAML text, in order, each by server-side apply.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::discovery::{ApiCapabilities, Scope};
use kube::discovery::pinned_kind;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use tokio::time::{sleep, timeout};

const FIELD_MANAGER: &str = "understudy-e2e";
/// From the creation of a definition until its kind is served.
const DEFINITION_DEADLINE: Duration = Duration::from_secs(30);
const DISCOVERY_POLL: Duration = Duration::from_millis(50);

/// Applies every document, and waits until each CustomResourceDefinition among them is served.
pub async fn apply_yaml(client: &Client, yaml: &str) -> Result<()> {
    let documents: Vec<DynamicObject> = parse(yaml)?;
    let mut kinds = HashMap::new();
    for document in documents {
        let kind = kind_of(&document)?;
        let name = document.name_any();
        let doing = || format!("applying {} {name}", kind.kind);
        if !kinds.contains_key(&kind) {
            kinds.insert(kind.clone(), discover(client, &kind).await.with_context(doing)?);
        }
        apply(client, document, &kinds[&kind]).await.with_context(doing)?;
        if kind.kind == "CustomResourceDefinition" {
            await_established(client, &name).await?;
        }
    }
    Ok(())
}

fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).context("parsing manifests")?;
    documents
        .into_iter()
        .map(|document| serde_json::from_value(document).context("reading a manifest as a Kubernetes object"))
        .collect()
}

fn kind_of(document: &DynamicObject) -> Result<GroupVersionKind> {
    let types = document.types.as_ref().with_context(|| format!("{} has no kind", document.name_any()))?;
    GroupVersionKind::try_from(types).with_context(|| format!("apiVersion {:?}", types.api_version))
}

async fn apply(
    client: &Client,
    document: DynamicObject,
    (resource, capabilities): &(ApiResource, ApiCapabilities),
) -> Result<()> {
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = document.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&document.name_any(), &parameters, &Patch::Apply(&document)).await?;
    Ok(())
}

/// Asks how the kind is served. A kind whose definition is new is listed some moments after it is established.
async fn discover(client: &Client, kind: &GroupVersionKind) -> Result<(ApiResource, ApiCapabilities)> {
    let started = Instant::now();
    loop {
        match pinned_kind(client, kind).await {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() > DEFINITION_DEADLINE => {
                return Err(error)
                    .with_context(|| format!("asking the API server how {} is served", kind.kind));
            }
            Err(_) => sleep(DISCOVERY_POLL).await,
        }
    }
}

async fn await_established(client: &Client, name: &str) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    match timeout(DEFINITION_DEADLINE, await_condition(definitions, name, is_crd_established())).await {
        Ok(outcome) => {
            outcome.with_context(|| format!("watching the definition {name}"))?;
            Ok(())
        }
        Err(_) => bail!("the definition {name} was not established within {DEFINITION_DEADLINE:?}"),
    }
}
