//! What a failed wait tells: which part has ended, what the placement and both sites say, and how the logs end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use crds::placement::DRPlacement;
use crds::site_state::DRSiteState;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use super::Federation;
use crate::process::last_lines;
use crate::site::Site;

const LOG_LINES: usize = 15;
/// A site that was lost does not answer.
const ASKING: Duration = Duration::from_secs(5);

impl Federation {
    /// An error that says what is wrong, as far as it can be seen.
    pub async fn diagnosis(&self, what: &str) -> anyhow::Error {
        let mut told = vec![what.to_owned()];
        match self.placement().await {
            Ok(placement) => told.extend(state_of(&placement)),
            Err(error) => told.push(format!("{error:#}")),
        }
        for (part, outcome) in [
            ("hub", self.hub.service.still_runs()),
            ("hub's cluster", self.hub.control_plane.still_runs()),
            ("east", self.east.still_runs()),
            ("west", self.west.still_runs()),
        ] {
            if let Err(error) = outcome {
                told.push(format!("{part}: {error:#}"));
            }
        }
        for site in [&self.east, &self.west] {
            match timeout(ASKING, self.seen_at(site)).await {
                Ok(Ok(seen)) => told.extend(seen),
                Ok(Err(error)) => told.push(format!("{}: {error:#}", site.name)),
                Err(_) => told.push(format!("{}: its API server has not answered in {ASKING:?}", site.name)),
            }
        }
        told.extend(
            self.logs()
                .iter()
                .map(|log| format!("the end of {}:\n{}", log.display(), last_lines(log, LOG_LINES))),
        );
        anyhow!(told.join("\n"))
    }

    /// The application's workloads and pods at a site, what uses volumes there, and what the site is for the placement.
    async fn seen_at(&self, site: &Site) -> Result<Vec<String>> {
        let (client, namespace) = (site.control_plane.client(), &self.options.application.namespace);
        let all = ListParams::default();
        let mut seen = Vec::new();
        let states = Api::<DRSiteState>::namespaced(client.clone(), namespace).list(&all).await;
        for state in states.context("listing the DRSiteStates")? {
            seen.push(format!("{}: DRSiteState {}", site.name, serde_json::to_string(&state.spec)?));
        }
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace).list(&all).await;
        for deployment in deployments.context("listing the Deployments")? {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let status = serde_json::to_string(&deployment.status)?;
            seen.push(format!(
                "{}: Deployment {} wants {wanted:?}: {status}",
                site.name,
                deployment.name_any()
            ));
        }
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&all).await;
        seen.extend(
            pods.context("listing the pods")?.iter().map(|pod| format!("{}: {}", site.name, pod_of(pod))),
        );
        let attachments = Api::<VolumeAttachment>::all(client).list(&all).await;
        for attachment in attachments.context("listing the VolumeAttachments")? {
            let (spec, attached) = (&attachment.spec, attachment.status.map(|status| status.attached));
            let volume = spec.source.persistent_volume_name.as_deref().unwrap_or_default();
            seen.push(format!("{}: {volume} at {} is attached: {attached:?}", site.name, spec.node_name));
        }
        Ok(seen)
    }

    fn logs(&self) -> Vec<PathBuf> {
        let own =
            [&self.hub.service, &self.east.agent, &self.west.agent].map(|service| service.log().to_owned());
        let of_site = |site: &Site| {
            let addons = site.array.log().with_file_name("csi-addons");
            let services = [site.array.log().to_owned(), site.nodes.log().to_owned()];
            let pair = ["csi-addons-manager.log", "csi-addons-sidecar.log"].map(|log| addons.join(log));
            services.into_iter().chain(pair).chain(site.pod_logs())
        };
        let sites = [&self.east, &self.west].into_iter().map(AsRef::as_ref).flat_map(of_site);
        own.into_iter().chain(sites).collect()
    }
}

fn state_of(placement: &DRPlacement) -> Vec<String> {
    let Some(status) = &placement.status else {
        return vec![format!("the DRPlacement {} has no status: does the hub see it?", placement.name_any())];
    };
    let active = status.active_cluster.as_deref().unwrap_or("nowhere");
    let head = format!(
        "the DRPlacement {} is active at {active}, epoch {:?}, phase {:?}",
        placement.name_any(),
        status.epoch,
        status.phase
    );
    let conditions = status.conditions.iter().map(|condition| {
        format!("  {}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message)
    });
    std::iter::once(head).chain(conditions).collect()
}

fn pod_of(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let deleted = if pod.metadata.deletion_timestamp.is_some() { ", being deleted" } else { "" };
    let status = pod.status.clone().unwrap_or_default();
    let told = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let containers = status.container_statuses.unwrap_or_default();
    let containers = containers.iter().map(|container| {
        let state = container.state.as_ref().map(state_of_container).unwrap_or_default();
        let last = container.last_state.as_ref().map(state_of_container).unwrap_or_default();
        format!(
            "; {} has restarted {} times, {state}, before {last}",
            container.name, container.restart_count
        )
    });
    let containers: String = containers.collect();
    let phase = status.phase.unwrap_or_default();
    format!("pod {} at {node} is {phase}{deleted} {told}{containers}", pod.name_any())
}

fn state_of_container(state: &ContainerState) -> String {
    serde_json::to_string(state).unwrap_or_default()
}
