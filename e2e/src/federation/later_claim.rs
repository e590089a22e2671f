//! A claim that is created while the application is protected, with the application's labels. No pod uses it.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;

use super::{Federation, SLOW};
use crate::application::Application;
use crate::array::DataClient;
use crate::patience::within;

/// The claim, and the volume that an administrator makes for it.
pub struct LaterClaim {
    pub claim: String,
    pub handle: String,
    manifest: String,
}

impl LaterClaim {
    pub fn of(application: &Application) -> LaterClaim {
        let (claim, of) = (format!("{}-extra", application.name), application.claims().remove(0));
        let handle = application.volume_handles().remove(0).replace(&of, &claim);
        let documents = application.manifest();
        let storage = documents.split("\n---\n").filter(|document| document.contains("\"PersistentVolume"));
        let first = storage.filter(|document| document.contains(&format!("\"{of}\"")));
        let manifest = first.collect::<Vec<_>>().join("\n---\n").replace(&of, &claim);
        LaterClaim { claim, handle, manifest }
    }

    /// Makes it at the cluster, its volume holding one line.
    pub async fn create(&self, federation: &Federation, cluster: &str, line: &str) -> Result<()> {
        let site = federation.site(cluster)?;
        let mut array = DataClient::connect(&site.data_socket()).await?;
        array.create(&self.handle).await?;
        array.append(&self.handle, line).await?;
        site.control_plane.apply_yaml(&self.manifest).await.context("making another claim")
    }

    pub async fn lines(&self, federation: &Federation, cluster: &str) -> Result<Vec<String>> {
        let mut array = DataClient::connect(&federation.site(cluster)?.data_socket()).await?;
        Ok(array.read(&self.handle).await?)
    }

    pub async fn await_bound(&self, federation: &Federation, cluster: &str) -> Result<()> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(
            federation.site(cluster)?.control_plane.client(),
            &federation.options.application.namespace,
        );
        let what = format!("the claim {} is bound at {cluster}", self.claim);
        let waited = within(SLOW, &what, async || {
            let phase = claims.get_opt(&self.claim).await?.and_then(|claim| claim.status?.phase);
            Ok((phase.as_deref() == Some("Bound")).then_some(()))
        });
        federation.or_diagnosis(waited).await
    }

    /// Waits until it is known to be mirrored.
    pub async fn await_synced(&self, federation: &Federation) -> Result<()> {
        let what = format!("the claim {} has been synced", self.claim);
        federation
            .await_placement(&what, SLOW, |placement| {
                let volumes = placement.status.iter().flat_map(|status| &status.volumes);
                volumes.into_iter().any(|one| one.claim == self.claim && one.last_sync_time.is_some())
            })
            .await
            .map(drop)
    }
}
