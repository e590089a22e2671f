//! What an administrator and a user do: enrol the clusters, deploy the application, ask for its protection.

use anyhow::{Context, Result};
use crds::cluster::{DRCluster, DRClusterSpec};
use crds::placement::{DRPlacement, DRPlacementSpec, LabelSelectorSpec, ProtectSpec, ReplicationSpec};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::links::Carries;
use super::{EAST, Federation, Options, WEST, agent_identity};
use crate::application::Application;

impl Federation {
    /// Makes a DRCluster for each member cluster, whose endpoints are the near ends of links.
    pub(super) async fn enrol(&self) -> Result<()> {
        let clusters: Api<DRCluster> = Api::all(self.hub.control_plane.client());
        for (name, seen_from) in [(EAST, WEST), (WEST, EAST)] {
            let endpoint = |carries| anyhow::Ok(self.links.address(seen_from, name, carries)?.to_string());
            let cluster = DRCluster::new(
                name,
                DRClusterSpec {
                    agent_identity: agent_identity(name),
                    failure_domain: format!("{name}-site"),
                    peer_endpoint: Some(endpoint(Carries::Peer)?),
                    probe_endpoints: vec![endpoint(Carries::Api)?],
                    maintenance: false,
                },
            );
            let made = clusters.create(&PostParams::default(), &cluster).await;
            made.with_context(|| format!("enrolling the cluster {name}"))?;
        }
        Ok(())
    }

    /// Deploys the application at east. At west stands what GitOps would leave there: all but the volumes, and no replicas.
    pub async fn deploy(&self) -> Result<()> {
        let application = &self.options.application;
        application.provision(&self.east.data_socket()).await.context("making the volumes at east")?;
        let (east, west) = (&self.east.control_plane, &self.west.control_plane);
        let standby = standby(application, &self.options)?;
        let at_east = async {
            east.apply_yaml(&application.replication_manifest()).await?;
            east.apply_yaml(&application.manifest()).await
        };
        let room =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": application.namespace}});
        let room = room.to_string();
        let at_hub = self.hub.control_plane.apply_yaml(&room);
        tokio::try_join!(at_east, west.apply_yaml(&standby), at_hub).map(|_| ())
    }

    /// Creates the DRPlacement.
    pub async fn protect(&self) -> Result<DRPlacement> {
        let application = &self.options.application;
        let selector =
            || LabelSelectorSpec { match_labels: [("app".to_owned(), application.name.clone())].into() };
        let placement = DRPlacement::new(
            &application.name,
            DRPlacementSpec {
                preferred_cluster: EAST.to_owned(),
                clusters: vec![EAST.to_owned(), WEST.to_owned()],
                protect: ProtectSpec {
                    volumes: selector(),
                    workloads: selector(),
                    objects: self.options.objects.clone(),
                },
                replication: ReplicationSpec {
                    volume_replication_class: application.replication_class.clone(),
                    volume_group_replication_class: application.group_class.clone(),
                },
                failover: self.options.failover.clone(),
                migration: self.options.migration.clone(),
                failback: self.options.failback.clone(),
                depends_on: Vec::new(),
                paused: false,
            },
        );
        let made = self.placements().create(&PostParams::default(), &placement).await;
        made.with_context(|| format!("creating the DRPlacement {}", application.name))
    }

    /// Edits the one field that moves the application.
    pub async fn prefer(&self, cluster: &str) -> Result<()> {
        let name = &self.options.application.name;
        let wish = Patch::Merge(json!({"spec": {"preferredCluster": cluster}}));
        let edited = self.placements().patch(name, &PatchParams::default(), &wish).await;
        edited.map(drop).with_context(|| format!("preferring {cluster} for the DRPlacement {name}"))
    }

    /// Edits the DRPlacement so that it has a new generation and means the same, or nearly: a cool-down that nobody waits for.
    pub async fn touch(&self) -> Result<()> {
        let name = &self.options.application.name;
        let generation = self.placement().await?.metadata.generation.unwrap_or_default();
        let migration = json!({"spec": {"migration": {"deadline": format!("{}m", 10 + generation % 2)}}});
        let edited = self.placements().patch(name, &PatchParams::default(), &Patch::Merge(migration)).await;
        edited.map(drop).with_context(|| format!("editing the DRPlacement {name}"))
    }

    /// Deletes the DRPlacement; it stays until the hub has let go.
    pub async fn unprotect(&self) -> Result<()> {
        let name = &self.options.application.name;
        let deleted = self.placements().delete(name, &DeleteParams::default()).await;
        deleted.map(drop).with_context(|| format!("deleting the DRPlacement {name}"))
    }
}

/// The application without its volumes and without replicas, and its classes if they are to stand there.
fn standby(application: &Application, options: &Options) -> Result<String> {
    let idle = Application { replicas: 0, ..application.clone() };
    let mut kinds = vec!["Namespace", "Secret"];
    if options.objects.is_empty() {
        kinds.push("Deployment");
    }
    if options.classes_at_standby {
        kinds.extend(["StorageClass", "VolumeReplicationClass", "VolumeGroupReplicationClass"]);
    }
    let everything = [idle.replication_manifest(), idle.manifest()].join("\n---\n");
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&everything).context("reading the application's manifests")?;
    let kept = documents.iter().filter(|document| kinds.iter().any(|kind| document["kind"] == *kind));
    Ok(kept.map(Value::to_string).collect::<Vec<_>>().join("\n---\n"))
}
