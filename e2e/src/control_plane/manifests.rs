//! Applies manifests to an API server: many documents in one YAML text, in order, each by server-side apply.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::discovery::{ApiCapabilities, Scope};
use kube::discovery::pinned_kind;
use kube::{Client, ResourceExt};
use tokio::time::sleep;

use super::definitions;

pub(super) const FIELD_MANAGER: &str = "understudy-e2e";
/// From the creation of a definition until its kind is served.
pub(super) const DEFINITION_DEADLINE: Duration = Duration::from_secs(120);
pub(super) const DISCOVERY_POLL: Duration = Duration::from_millis(50);

/// Applies every document, and waits until each CustomResourceDefinition among them is served.
pub async fn apply_yaml(client: &Client, yaml: &str) -> Result<()> {
    let documents: Vec<DynamicObject> = parse(yaml)?;
    let mut kinds = HashMap::new();
    for alike in documents.chunk_by(|one, next| is_definition(one) == is_definition(next)) {
        if alike.iter().all(is_definition) {
            definitions::define(client, alike).await?;
        } else {
            apply_in_order(client, alike, &mut kinds).await?;
        }
    }
    Ok(())
}

type Served = (ApiResource, ApiCapabilities);

async fn apply_in_order(
    client: &Client,
    documents: &[DynamicObject],
    kinds: &mut HashMap<GroupVersionKind, Served>,
) -> Result<()> {
    for document in documents {
        let kind = kind_of(document)?;
        let doing = || format!("applying {} {}", kind.kind, document.name_any());
        if !kinds.contains_key(&kind) {
            kinds.insert(kind.clone(), discover(client, &kind).await.with_context(doing)?);
        }
        apply(client, document, &kinds[&kind]).await.with_context(doing)?;
    }
    Ok(())
}

fn is_definition(document: &DynamicObject) -> bool {
    document.types.as_ref().is_some_and(|types| types.kind == "CustomResourceDefinition")
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

async fn apply(client: &Client, document: &DynamicObject, (resource, capabilities): &Served) -> Result<()> {
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = document.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&document.name_any(), &parameters, &Patch::Apply(document)).await?;
    Ok(())
}

/// Asks how the kind is served. A kind whose definition is new is listed some moments after it is established.
async fn discover(client: &Client, kind: &GroupVersionKind) -> Result<Served> {
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
