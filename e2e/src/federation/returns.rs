//! A lost site comes back: its disks as they were, its array still the primary that it was, and nobody has told it anything.

use anyhow::{Context, Result};
use crds::site_state::{DRSiteState, SiteRole};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Federation, SLOW};
use crate::patience::within;
use crate::site::Site;

impl Federation {
    /// Gives a lost site its power back, and its links last. The nodes come after the agent has stopped the application:
    /// a kubelet asks its API server what to run, and what runs before that no self-fence can stop (docs/invariants.md).
    pub async fn bring_back(&self, name: &str) -> Result<()> {
        let site = self.site(name)?;
        site.restart_without_nodes().await?;
        self.await_role(name, SiteRole::Fenced).await?;
        self.await_pods_are_unwanted(site).await?;
        site.start_empty_nodes()?;
        self.links.reconnect(name)
    }

    /// Waits until the cluster's agent has stopped the application there, as far as an API server can say.
    pub async fn await_stopped(&self, name: &str) -> Result<()> {
        let what = format!("{name} is no holder any more");
        let waited =
            within(
                SLOW,
                &what,
                async || Ok((self.role(name).await? != Some(SiteRole::Holder)).then_some(())),
            );
        self.or_diagnosis(waited).await?;
        self.await_pods_are_unwanted(self.site(name)?).await
    }

    /// Waits until the cluster's own DRSiteState says that it is this for the placement.
    pub async fn await_role(&self, cluster: &str, role: SiteRole) -> Result<()> {
        let what = format!("{cluster} is {}", role.as_str());
        let waited =
            within(SLOW, &what, async || Ok((self.role(cluster).await? == Some(role)).then_some(())));
        self.or_diagnosis(waited).await
    }

    /// What the cluster's own DRSiteState says; None: there is none, or more than one.
    pub async fn role(&self, cluster: &str) -> Result<Option<SiteRole>> {
        let client = self.site(cluster)?.control_plane.client();
        let states: Api<DRSiteState> = Api::namespaced(client, &self.options.application.namespace);
        let listed = states.list(&ListParams::default()).await.context("listing the DRSiteStates")?.items;
        let [only] = listed.as_slice() else { return Ok(None) };
        Ok(Some(only.spec.role))
    }

    async fn await_pods_are_unwanted(&self, site: &Site) -> Result<()> {
        let pods: Api<Pod> =
            Api::namespaced(site.control_plane.client(), &self.options.application.namespace);
        let what = format!("every pod of {} is to go", site.name);
        let waited = within(SLOW, &what, async || {
            let listed = pods.list(&ListParams::default()).await.context("listing the pods")?;
            let wanted = listed.iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
            tracing::debug!(pod = wanted.map(ResourceExt::name_any), "still wanted");
            Ok(wanted.is_none().then_some(()))
        });
        self.or_diagnosis(waited).await
    }

    /// No write of the cluster was acknowledged from that moment on.
    pub fn ensure_silent_since(&self, cluster: &str, boot_nanoseconds: u64) -> Result<()> {
        let history = self.history()?;
        let late = history
            .records()
            .iter()
            .find(|record| record.cluster == cluster && record.boot_nanoseconds > boot_nanoseconds);
        match late {
            None => Ok(()),
            Some(record) => anyhow::bail!("{cluster} has written after it was lost: {record}"),
        }
    }
}
