//! The manifests that users install, read the way `kubectl apply -k` reads them, so that tests run what users run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// What a hub is installed from: its definitions, rights, policies and Deployment.
pub const HUB: &str = "deploy/hub";
/// What a member cluster is installed from.
pub const AGENT: &str = "deploy/agent";
/// What a witness's cluster is installed from.
pub const WITNESS: &str = "deploy/witness";
pub const WITNESS_NAMESPACE: &str = "understudy-witness";
/// The namespace that both are installed in.
pub const NAMESPACE: &str = "understudy-system";
pub const HUB_ACCOUNT: &str = "understudy-hub";
pub const AGENT_ACCOUNT: &str = "understudy-agent";

#[derive(Deserialize)]
struct Kustomization {
    resources: Vec<String>,
}

/// All manifests of a folder of the repository, as one text of many documents, in the order of its kustomization.
pub fn of(folder: &str) -> Result<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = Vec::new();
    collect(&top.join(folder), &mut documents)?;
    Ok(documents.join("\n---\n"))
}

/// The same without Deployments and what belongs to their pods, for tests that run the programs themselves.
pub fn without_workloads(folder: &str) -> Result<String> {
    let all: Vec<serde_json::Value> = serde_saphyr::from_multiple(&of(folder)?)
        .with_context(|| format!("parsing the manifests of {folder}"))?;
    let runs = ["Deployment", "PersistentVolumeClaim", "Service", "ConfigMap"];
    let kept: Vec<String> = all
        .iter()
        .filter(|document| !runs.iter().any(|kind| document["kind"] == *kind))
        .map(ToString::to_string)
        .collect();
    Ok(kept.join("\n---\n"))
}

fn collect(folder: &Path, documents: &mut Vec<String>) -> Result<()> {
    let file = folder.join("kustomization.yaml");
    let reading = || format!("reading {}", file.display());
    let text = fs::read_to_string(&file).with_context(reading)?;
    let kustomization: Kustomization = serde_saphyr::from_str(&text).with_context(reading)?;
    for resource in kustomization.resources {
        let path = folder.join(&resource);
        if path.is_dir() {
            collect(&path, documents)?;
        } else {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            documents.push(text);
        }
    }
    Ok(())
}
