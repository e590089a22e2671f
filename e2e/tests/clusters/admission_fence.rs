//! A member's own API server fences: by the policies in deploy/admission, whoever asks.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use e2e::installation::{self, AGENT, AGENT_ACCOUNT, NAMESPACE};
use e2e::refusal;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long the controller manager may take to bind a claim to its volume.
const BINDING: std::time::Duration = std::time::Duration::from_secs(120);

#[tokio::test]
async fn the_api_server_fences_by_the_site_state() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    let options = Options::at(Ipv4Addr::new(127, 0, 47, 1));
    let cluster = ControlPlane::start(&assets, "east", folder.path(), options).await?;
    let definitions = std::fs::read_to_string(&assets.csi_addons_crds).context("csi-addons' definitions")?;
    cluster.apply_yaml(&definitions).await?;
    cluster.apply_yaml(&installation::without_workloads(AGENT)?).await?;
    cluster.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await?;
    let token = cluster.token(NAMESPACE, AGENT_ACCOUNT).await?;
    let shop = Shop { admin: cluster.client(), agent: cluster.client_as(&token).await? };

    shop.only_the_agent_writes_site_states().await?;
    shop.a_pod_passes_only_where_the_placement_is_held().await?;
    shop.a_promotion_passes_only_at_the_recorded_epoch().await?;
    shop.a_protected_replication_is_the_agents_and_not_deleted().await?;
    shop.a_protected_claim_and_its_volume_are_kept().await?;
    shop.a_copy_is_thrown_away_only_by_a_named_operation().await?;
    shop.a_group_is_protected_as_the_replications_of_its_claims_are(&cluster).await?;
    shop.the_agent_asks_and_restores_within_its_limits().await?;
    shop.an_annotated_pod_gets_its_gate(&cluster).await?;
    shop.where_gates_are_relied_upon_a_pod_without_one_is_refused().await?;
    shop.the_agent_stops_workloads_and_does_not_change_them().await?;
    shop.a_released_placement_is_free_again().await
}

/// A protected application's namespace, seen by its administrator and by the agent.
struct Shop {
    admin: Client,
    agent: Client,
}

const PLACEMENT_ID: &str = "0b9cbbd1-6f43-4c2c-9f6c-7f0b9a6f1c11";

impl Shop {
    async fn only_the_agent_writes_site_states(&self) -> Result<()> {
        let state: crds::DRSiteState = object(json!({
            "apiVersion": "understudy.dev/v1alpha1",
            "kind": "DRSiteState",
            "metadata": {"name": PLACEMENT_ID, "namespace": "shop"},
            "spec": {"placement": "shop", "placementId": PLACEMENT_ID, "claims": ["data"], "group": "shop", "epochSeen": 3,
                     "role": "Holder"},
        }))?;
        let of_the_admin: Api<crds::DRSiteState> = in_shop(&self.admin);
        let refused = "written only by this cluster's agent";
        refusal::comes_into_force(refused, async || of_the_admin.create(&dry_run(), &state).await).await?;
        let of_the_agent: Api<crds::DRSiteState> = in_shop(&self.agent);
        of_the_agent.create(&PostParams::default(), &state).await.context("the agent writes its state")?;
        refusal::expect(of_the_admin.delete(PLACEMENT_ID, &DeleteParams::default()).await, 422, &[refused])
    }

    async fn a_pod_passes_only_where_the_placement_is_held(&self) -> Result<()> {
        let pods: Api<Pod> = in_shop(&self.admin);
        let probes: Api<ConfigMap> = in_shop(&self.agent);
        for role in ["Holder", "Fenced", "Standby", "Unknown", "Promoting"] {
            self.becomes(role, 3).await?;
            for claim in ["data", "scratch"] {
                let pod = pod_with(claim)?;
                self.fences(role, claim, async || pods.create(&dry_run(), &pod).await.map(|_| ())).await?;
                let probe = probe_for(claim)?;
                self.fences(role, claim, async || probes.create(&dry_run(), &probe).await.map(|_| ()))
                    .await?;
            }
            let probe = probe_for(PLACEMENT_ID)?;
            self.fences(role, "data", async || probes.create(&dry_run(), &probe).await.map(|_| ())).await?;
            let plain: Pod =
                object(json!({"metadata": {"name": "plain"}, "spec": {"containers": containers()}}))?;
            pods.create(&dry_run(), &plain).await.with_context(|| format!("a plain pod while {role}"))?;
        }
        Ok(())
    }

    async fn an_annotated_pod_gets_its_gate(&self, cluster: &ControlPlane) -> Result<()> {
        self.becomes("Holder", 6).await?;
        let pods: Api<Pod> = in_shop(&self.admin);
        let mut pod = pod_with("data")?;
        pod.metadata.annotations = Some([("understudy.dev/gate".to_owned(), "shop".to_owned())].into());
        let ask = async || pods.create(&dry_run(), &pod).await;
        // First the policies have to have seen that it is held here: they read the state from a cache.
        refusal::comes_into_force("has no gate", ask)
            .await
            .context("an annotated pod without the gate's settings")?;
        refusal::expect(ask().await, 422, &["has no gate", "ConfigMap understudy-gate"])?;
        let settings = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "understudy-gate", "namespace": NAMESPACE},
            "data": {"IMAGE": "gate:1", "CLUSTER": "east", "TRUST_DOMAIN": "dr", "AGENT": "10.0.0.1:7446", "CA": "ca"},
        });
        cluster.apply_yaml(&settings.to_string()).await?;
        refusal::goes_away(async || pods.create(&dry_run(), &pod).await).await?;
        let bare = pods.create(&dry_run(), &pod).await.context("a pod without init containers")?;
        ensure!(first_containers(&bare) == ["understudy-gate-wait", "understudy-gate"], "{bare:?}");
        if let Some(specification) = &mut pod.spec {
            let prepare = json!([{"name": "prepare", "image": "prepare"}]);
            specification.init_containers = object(prepare)?;
        }
        let pod = pods.create(&dry_run(), &pod).await.context("a pod with an init container")?;
        ensure!(first_containers(&pod) == ["understudy-gate-wait", "understudy-gate", "prepare"], "{pod:?}");
        let specification = pod.spec.context("a specification")?;
        ensure!(specification.share_process_namespace == Some(true), "its processes are not shared");
        let first = specification.init_containers.unwrap_or_default();
        let policies: Vec<_> = first.iter().map(|container| container.restart_policy.as_deref()).collect();
        ensure!(policies == [None, Some("Always"), None], "{policies:?}");
        let settings = json!(first[1].env);
        for expected in ["10.0.0.1:7446", "metadata.uid", "\"shop\""] {
            ensure!(settings.to_string().contains(expected), "no {expected} in {settings}");
        }
        let plain =
            pods.create(&dry_run(), &pod_with("data")?).await.context("a pod that asks for no gate")?;
        ensure!(first_containers(&plain).is_empty(), "{plain:?}");
        Ok(())
    }

    async fn where_gates_are_relied_upon_a_pod_without_one_is_refused(&self) -> Result<()> {
        let states: Api<crds::DRSiteState> = in_shop(&self.agent);
        let pods: Api<Pod> = in_shop(&self.admin);
        for (gated, words) in [(true, Some("this pod has no gate")), (false, None)] {
            let level = Patch::Merge(json!({"spec": {"gated": gated}}));
            states
                .patch(PLACEMENT_ID, &PatchParams::default(), &level)
                .await
                .context("the level of fencing")?;
            let bare = pod_with("data")?;
            let ask = async || pods.create(&dry_run(), &bare).await;
            match words {
                Some(words) => refusal::comes_into_force(words, ask).await?,
                None => refusal::goes_away(ask).await?,
            }
            let mut gated = bare.clone();
            gated.metadata.annotations = Some([("understudy.dev/gate".to_owned(), "shop".to_owned())].into());
            pods.create(&dry_run(), &gated).await.context("a pod with its gate")?;
            pods.create(&dry_run(), &pod_with("scratch")?).await.context("a pod of something else")?;
        }
        Ok(())
    }

    async fn fences(&self, role: &str, claim: &str, ask: impl AsyncFn() -> kube::Result<()>) -> Result<()> {
        let doing = || format!("asking for the claim {claim} while {role}");
        if role == "Holder" || claim == "scratch" {
            return refusal::goes_away(ask).await.with_context(doing);
        }
        let words =
            format!("this cluster is {role} for placement shop at epoch 3: its volumes may not be used here");
        refusal::comes_into_force(&words, ask).await.with_context(doing)
    }

    async fn a_promotion_passes_only_at_the_recorded_epoch(&self) -> Result<()> {
        let replications = replications(&self.agent);
        for (role, epoch, written, passes) in [
            ("Standby", 4, "4", false),
            ("Fenced", 5, "5", false),
            ("Promoting", 6, "5", false),
            ("Promoting", 6, "", false),
            ("Promoting", 6, "6", true),
            ("Holder", 6, "6", true),
            ("Holder", 6, "7", false),
        ] {
            self.becomes(role, epoch).await?;
            let primary = replication("data", "primary", written)?;
            let words =
                format!("promotion for placement shop refused: this cluster is {role} at epoch {epoch}");
            let ask = async || replications.create(&dry_run(), &primary).await;
            let settled = match passes {
                true => refusal::goes_away(ask).await,
                false => refusal::comes_into_force(&words, ask).await,
            };
            settled.with_context(|| format!("primary with epoch {written:?} while {role} at {epoch}"))?;
        }
        let secondary = replication("data", "secondary", "")?;
        replications.create(&PostParams::default(), &secondary).await.context("secondary needs no epoch")?;
        let promoted = Patch::Merge(json!({"spec": {"replicationState": "primary"}}));
        let answer = replications.patch("data", &PatchParams::default(), &promoted).await;
        refusal::expect(answer, 422, &["promotion for placement shop refused"])?;
        let promoted = Patch::Merge(json!({
            "metadata": {"annotations": {crds::EPOCH_ANNOTATION: "6"}},
            "spec": {"replicationState": "primary"},
        }));
        replications
            .patch("data", &PatchParams::default(), &promoted)
            .await
            .context("promoting at the epoch")?;
        Ok(())
    }

    async fn a_protected_replication_is_the_agents_and_not_deleted(&self) -> Result<()> {
        let of_the_admin = replications(&self.admin);
        for change in [json!({"replicationState": "secondary"}), json!({"autoResync": true})] {
            let change = Patch::Merge(json!({"spec": change}));
            let answer = of_the_admin.patch("data", &PatchParams::default(), &change).await;
            refusal::expect(answer, 422, &["changed only by the agent"])?;
        }
        let finalizer = Patch::Merge(json!({"metadata": {"finalizers": ["example.org/keep"]}}));
        let attempt = PatchParams { dry_run: true, ..Default::default() };
        of_the_admin.patch("data", &attempt, &finalizer).await.context("metadata is free")?;
        let free = replication("scratch", "primary", "")?;
        of_the_admin.create(&dry_run(), &free).await.context("a claim of no placement")?;
        let answer = of_the_admin.delete("data", &DeleteParams::default()).await;
        refusal::expect(answer, 422, &["not deleted", "delete the DRPlacement at the hub instead"])?;
        let meant =
            Patch::Merge(json!({"metadata": {"annotations": {"understudy.dev/allow-deletion": "true"}}}));
        of_the_admin
            .patch("data", &PatchParams::default(), &meant)
            .await
            .context("saying that it is meant")?;
        let attempt = DeleteParams { dry_run: true, ..Default::default() };
        of_the_admin.delete("data", &attempt).await.context("a deletion that is meant")?;
        Ok(())
    }

    /// By hand, by a StatefulSet that is scaled down, by what prunes: only where somebody says that it is meant.
    async fn a_protected_claim_and_its_volume_are_kept(&self) -> Result<()> {
        let claims: Api<PersistentVolumeClaim> = in_shop(&self.admin);
        let volumes: Api<PersistentVolume> = Api::all(self.admin.clone());
        for (claim, marks) in
            [("scratch", json!({})), ("data", json!({crds::PROTECTED_BY_ANNOTATION: PLACEMENT_ID}))]
        {
            let volume = object(json!({
                "metadata": {"name": format!("of-{claim}"), "annotations": marks},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "",
                    "csi": {"driver": "rbd.csi.example.org", "volumeHandle": claim},
                    "claimRef": {"namespace": "shop", "name": claim},
                },
            }))?;
            volumes
                .create(&PostParams::default(), &volume)
                .await
                .with_context(|| format!("volume of {claim}"))?;
            let made = object(json!({
                "metadata": {"name": claim},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                         "storageClassName": "", "volumeName": format!("of-{claim}")},
            }))?;
            claims
                .create(&PostParams::default(), &made)
                .await
                .with_context(|| format!("creating {claim}"))?;
            let is_bound = |volume: Option<&PersistentVolume>| {
                let status = volume.and_then(|volume| volume.status.as_ref());
                status.is_some_and(|status| status.phase.as_deref() == Some("Bound"))
            };
            let name = format!("of-{claim}");
            let bound = await_condition(volumes.clone(), &name, is_bound);
            timeout(BINDING, bound).await.with_context(|| format!("{claim} is not bound"))??;
        }
        let attempt = DeleteParams { dry_run: true, ..Default::default() };
        claims.delete("scratch", &attempt).await.context("a claim of no placement")?;
        volumes.delete("of-scratch", &attempt).await.context("a volume of no placement")?;
        let answer = claims.delete("data", &attempt).await;
        refusal::expect(answer, 422, &["placement shop protects the claim data", "allow-deletion"])?;
        let answer = volumes.delete("of-data", &attempt).await;
        refusal::expect(answer, 422, &["protects the volume of-data", PLACEMENT_ID, "allow-deletion"])?;

        let meant =
            Patch::Merge(json!({"metadata": {"annotations": {"understudy.dev/allow-deletion": "true"}}}));
        claims.patch("data", &PatchParams::default(), &meant).await?;
        claims.delete("data", &attempt).await.context("a claim whose deletion is meant")?;
        volumes.patch("of-data", &PatchParams::default(), &meant).await?;
        volumes.delete("of-data", &attempt).await.context("a volume whose deletion is meant")?;
        Ok(())
    }

    async fn a_copy_is_thrown_away_only_by_a_named_operation(&self) -> Result<()> {
        let replications = replications(&self.agent);
        let attempt = PatchParams { dry_run: true, ..Default::default() };
        let discard = Patch::Merge(json!({"spec": {"replicationState": "secondary", "autoResync": true}}));
        let ask = async || replications.patch("data", &attempt, &discard).await;
        refusal::expect(ask().await, 422, &["resync of data refused: this cluster is Holder"])?;
        self.becomes("Fenced", 6).await?;
        let unnamed = "this cluster is Fenced for placement shop, and no operation is approved";
        refusal::comes_into_force(unnamed, ask).await?;
        self.is_resynced_by(json!("shop-resync-6")).await?;
        refusal::goes_away(ask).await.context("an approved resync")?;
        let at_once = Patch::Merge(json!({"spec": {"replicationState": "resync"}}));
        let answer = replications.patch("data", &attempt, &at_once).await;
        refusal::expect(answer, 422, &["resync of data refused"])?;
        self.is_resynced_by(Value::Null).await?;
        refusal::comes_into_force(unnamed, ask).await
    }

    async fn a_group_is_protected_as_the_replications_of_its_claims_are(
        &self,
        cluster: &ControlPlane,
    ) -> Result<()> {
        let csi_addons = self.csi_addons(cluster).await?;
        let (groups, of_the_admin) = (groups(&self.agent), groups(&self.admin));
        let (made, of_csi_addons) = (replication_of_group("shop")?, replications(&csi_addons));
        self.becomes("Standby", 6).await?;
        let words = "promotion for placement shop refused: this cluster is Standby at epoch 6";
        let primary = group("shop", "6")?;
        refusal::comes_into_force(words, async || groups.create(&dry_run(), &primary).await).await?;
        refusal::comes_into_force(words, async || of_csi_addons.create(&dry_run(), &made).await).await?;

        self.becomes("Promoting", 6).await?;
        refusal::goes_away(async || groups.create(&dry_run(), &primary).await).await?;
        let answer = groups.create(&dry_run(), &group("shop", "5")?).await;
        refusal::expect(answer, 422, &["promotion for placement shop refused"])?;
        let only = "this VolumeGroupReplication is changed only by the agent and not deleted";
        refusal::expect(of_the_admin.create(&dry_run(), &primary).await, 422, &[only])?;
        of_the_admin.create(&dry_run(), &group("theirs", "")?).await.context("a group of no placement")?;
        groups.create(&PostParams::default(), &primary).await.context("the agent makes its group")?;
        of_csi_addons.create(&PostParams::default(), &made).await.context("csi-addons makes of it")?;

        let note = Patch::Merge(json!({"spec": {"volumeGroupReplicationContentName": "any"}}));
        let attempt = PatchParams { dry_run: true, ..Default::default() };
        of_the_admin.patch("shop", &attempt, &note).await.context("what csi-addons notes is free")?;
        let secondary = Patch::Merge(json!({"spec": {"replicationState": "secondary"}}));
        let answer = of_the_admin.patch("shop", &attempt, &secondary).await;
        refusal::expect(answer, 422, &[only])?;
        let answer = replications(&self.admin).patch("vr-shop", &attempt, &secondary).await;
        refusal::expect(answer, 422, &["changed only by the agent"])?;
        of_csi_addons.patch("vr-shop", &attempt, &secondary).await.context("csi-addons carries it out")?;
        refusal::expect(of_the_admin.delete("shop", &DeleteParams::default()).await, 422, &[only])?;
        let answer = of_csi_addons.delete("vr-shop", &DeleteParams::default()).await;
        refusal::expect(answer, 422, &["not deleted"])?;

        self.becomes("Fenced", 6).await?;
        let discard = Patch::Merge(json!({"spec": {"replicationState": "secondary", "autoResync": true}}));
        let unnamed = "resync of group shop refused: this cluster is Fenced for placement shop";
        refusal::comes_into_force(unnamed, async || groups.patch("shop", &attempt, &discard).await).await?;
        let answer = of_csi_addons.patch("vr-shop", &attempt, &discard).await;
        refusal::expect(answer, 422, &["resync of group shop refused"])?;
        self.is_resynced_by(json!("shop-resync-6")).await?;
        refusal::goes_away(async || groups.patch("shop", &attempt, &discard).await).await?;
        refusal::goes_away(async || of_csi_addons.patch("vr-shop", &attempt, &discard).await).await?;
        self.is_resynced_by(Value::Null).await?;
        refusal::comes_into_force(unnamed, async || groups.patch("shop", &attempt, &discard).await).await
    }

    /// As upstream's manifests name its account, with more rights than it has.
    async fn csi_addons(&self, cluster: &ControlPlane) -> Result<Client> {
        let surroundings = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "csi-addons-system"}}),
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "csi-addons-controller-manager", "namespace": "csi-addons-system"},
            }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "csi-addons"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
                },
                "subjects": [{
                    "kind": "ServiceAccount", "name": "csi-addons-controller-manager",
                    "namespace": "csi-addons-system",
                }],
            }),
        ];
        let documents: Vec<String> = surroundings.iter().map(Value::to_string).collect();
        cluster.apply_yaml(&documents.join("\n---\n")).await?;
        let token = cluster.token("csi-addons-system", "csi-addons-controller-manager").await?;
        cluster.client_as(&token).await
    }

    async fn is_resynced_by(&self, operation: Value) -> Result<()> {
        let states: Api<crds::DRSiteState> = in_shop(&self.agent);
        let change = Patch::Merge(json!({"spec": {"resync": operation}}));
        states.patch(PLACEMENT_ID, &PatchParams::default(), &change).await.context("naming the operation")?;
        Ok(())
    }

    async fn the_agent_asks_and_restores_within_its_limits(&self) -> Result<()> {
        let maps: Api<ConfigMap> = in_shop(&self.agent);
        let only_asking = ["only as a dry run that asks"];
        let answer = maps.create(&PostParams::default(), &probe_for("scratch")?).await;
        refusal::expect(answer, 422, &only_asking)?;
        let unmarked: ConfigMap = object(json!({"metadata": {"name": "any"}}))?;
        refusal::expect(maps.create(&dry_run(), &unmarked).await, 422, &only_asking)?;

        let volumes: Api<PersistentVolume> = Api::all(self.agent.clone());
        let of_the_host = volume("hostPath", json!({"path": "/"}))?;
        refusal::expect(
            volumes.create(&dry_run(), &of_the_host).await,
            422,
            &["only volumes of CSI drivers"],
        )?;
        let of_a_driver = volume("csi", json!({"driver": "array.example", "volumeHandle": "data"}))?;
        volumes.create(&dry_run(), &of_a_driver).await.context("restoring a volume")?;
        Ok(())
    }

    async fn the_agent_stops_workloads_and_does_not_change_them(&self) -> Result<()> {
        let made: Deployment = object(deployment())?;
        in_shop::<Deployment>(&self.admin).create(&PostParams::default(), &made).await?;
        let deployments: Api<Deployment> = in_shop(&self.agent);
        let remembered = Patch::Merge(json!({"metadata": {"annotations": {crds::REPLICAS_ANNOTATION: "1"}}}));
        deployments.patch("shop", &PatchParams::default(), &remembered).await.context("remembering")?;
        let stopped = Patch::Merge(json!({"spec": {"replicas": 0}}));
        deployments.patch_scale("shop", &PatchParams::default(), &stopped).await.context("stopping")?;
        let image = json!({"containers": [{"name": "shop", "image": "another"}]});
        let changed = Patch::Strategic(json!({"spec": {"template": {"spec": image}}}));
        let answer = deployments.patch("shop", &PatchParams::default(), &changed).await;
        refusal::expect(answer, 422, &["not change what they run"])?;

        let made: CronJob = object(cron_job())?;
        in_shop::<CronJob>(&self.admin).create(&PostParams::default(), &made).await?;
        let cron_jobs: Api<CronJob> = in_shop(&self.agent);
        let suspended = Patch::Merge(json!({"spec": {"suspend": true}}));
        cron_jobs.patch("report", &PatchParams::default(), &suspended).await.context("suspending")?;
        let changed = Patch::Merge(json!({"spec": {"jobTemplate": {"spec": {"backoffLimit": 9}}}}));
        let answer = cron_jobs.patch("report", &PatchParams::default(), &changed).await;
        refusal::expect(answer, 422, &["not change what they run"])
    }

    async fn a_released_placement_is_free_again(&self) -> Result<()> {
        self.becomes("Fenced", 7).await?;
        let pods: Api<Pod> = in_shop(&self.admin);
        let pod = pod_with("data")?;
        let ask = async || pods.create(&dry_run(), &pod).await;
        refusal::comes_into_force("this cluster is Fenced for placement shop at epoch 7", ask).await?;
        let states: Api<crds::DRSiteState> = in_shop(&self.agent);
        states.delete(PLACEMENT_ID, &DeleteParams::default()).await.context("letting go")?;
        refusal::goes_away(ask).await.context("a pod after the release")?;
        let replications = replications(&self.admin);
        let attempt = DeleteParams { dry_run: true, ..Default::default() };
        refusal::goes_away(async || replications.delete("data", &attempt).await).await
    }

    async fn becomes(&self, role: &str, epoch: i64) -> Result<()> {
        let states: Api<crds::DRSiteState> = in_shop(&self.agent);
        let change = Patch::Merge(json!({"spec": {"role": role, "epochSeen": epoch}}));
        let answer = states.patch(PLACEMENT_ID, &PatchParams::default(), &change).await;
        answer.with_context(|| format!("becoming {role} at {epoch}"))?;
        Ok(())
    }
}

fn in_shop<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), "shop")
}

fn replications(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "shop", &crds::foreign::volume_replication())
}

fn groups(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "shop", &crds::foreign::volume_group_replication())
}

fn group(name: &str, epoch: &str) -> Result<DynamicObject> {
    object(json!({
        "apiVersion": "replication.storage.openshift.io/v1alpha1",
        "kind": "VolumeGroupReplication",
        "metadata": {"name": name, "annotations": {crds::EPOCH_ANNOTATION: epoch}},
        "spec": {
            "volumeReplicationClassName": "rbd-5m", "volumeGroupReplicationClassName": "rbd-group",
            "source": {"selector": {"matchLabels": {"app": "shop"}}},
            "replicationState": "primary", "autoResync": false,
        },
    }))
}

/// What csi-addons makes of a group.
fn replication_of_group(group: &str) -> Result<DynamicObject> {
    object(json!({
        "apiVersion": "replication.storage.openshift.io/v1alpha1",
        "kind": "VolumeReplication",
        "metadata": {"name": format!("vr-{group}")},
        "spec": {
            "volumeReplicationClass": "rbd-5m", "replicationState": "primary", "autoResync": false,
            "replicationHandle": "",
            "dataSource": {
                "apiGroup": "replication.storage.openshift.io", "kind": "VolumeGroupReplication", "name": group,
            },
        },
    }))
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..Default::default() }
}

fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    serde_json::from_value(value).context("reading an object")
}

fn containers() -> Value {
    json!([{"name": "shop", "image": "shop"}])
}

fn first_containers(pod: &Pod) -> Vec<&str> {
    let first = pod.spec.iter().flat_map(|specification| specification.init_containers.iter().flatten());
    first.map(|container| container.name.as_str()).collect()
}

fn pod_with(claim: &str) -> Result<Pod> {
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}});
    object(json!({"metadata": {"name": "any"}, "spec": {"containers": containers(), "volumes": [volume]}}))
}

fn probe_for(claim: &str) -> Result<ConfigMap> {
    object(
        json!({"metadata": {"name": "understudy-fence-probe", "labels": {crds::FENCE_PROBE_LABEL: claim}}}),
    )
}

fn replication(claim: &str, state: &str, epoch: &str) -> Result<DynamicObject> {
    object(json!({
        "apiVersion": "replication.storage.openshift.io/v1alpha1",
        "kind": "VolumeReplication",
        "metadata": {"name": claim, "annotations": {crds::EPOCH_ANNOTATION: epoch}},
        "spec": {
            "volumeReplicationClass": "rbd-5m", "replicationState": state, "autoResync": false,
            "replicationHandle": "",
            "dataSource": {"apiGroup": "", "kind": "PersistentVolumeClaim", "name": claim},
        },
    }))
}

fn volume(kind: &str, source: Value) -> Result<PersistentVolume> {
    object(json!({
        "metadata": {"name": "shop-data"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], kind: source},
    }))
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": containers()}},
        },
    })
}

fn cron_job() -> Value {
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": containers()}});
    json!({
        "metadata": {"name": "report"},
        "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod}}},
    })
}
