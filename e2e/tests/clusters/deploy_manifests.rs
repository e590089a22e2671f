//! The manifests in deploy/ install on real API servers, and give hub and agent what they need and no more.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use e2e::installation::{self, AGENT, AGENT_ACCOUNT, HUB, HUB_ACCOUNT, NAMESPACE};
use e2e::refusal;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_hub_installs_and_can_do_its_work_and_no_more() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let cluster = start("hub", Ipv4Addr::new(127, 0, 45, 1), folder.path()).await?;
    cluster.apply_yaml(&installation::of(HUB)?).await?;
    let kinds = ["drplacements", "drclusters", "droperations", "drapprovals"];
    the_definitions_are_established(&cluster.client(), &kinds).await?;
    a_pod_of_the_deployment_is_made(&cluster.client(), "understudy-hub").await?;

    let hub = cluster.client_as(&cluster.token(NAMESPACE, HUB_ACCOUNT).await?).await?;
    comes_to_be_allowed(&hub, &HUB_NEEDS).await?;
    may(&hub, &HUB_MUST_NOT, false).await?;
    may(&hub, &NOBODY_MUST, false).await?;
    the_hub_changes_finalizers_and_no_wishes(&cluster.client(), &hub).await?;
    an_approval_names_its_author(&cluster).await
}

#[tokio::test]
async fn an_agent_installs_and_can_do_its_work_and_no_more() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    let cluster = start("east", Ipv4Addr::new(127, 0, 46, 1), folder.path()).await?;
    let definitions = std::fs::read_to_string(&assets.csi_addons_crds).context("csi-addons' definitions")?;
    cluster.apply_yaml(&definitions).await?;
    cluster.apply_yaml(&installation::of(AGENT)?).await?;
    the_definitions_are_established(&cluster.client(), &["drsitestates"]).await?;
    a_pod_of_the_deployment_is_made(&cluster.client(), "understudy-agent").await?;

    let agent = cluster.client_as(&cluster.token(NAMESPACE, AGENT_ACCOUNT).await?).await?;
    comes_to_be_allowed(&agent, &AGENT_NEEDS).await?;
    may(&agent, &AGENT_MUST_NOT, false).await?;
    may(&agent, &NOBODY_MUST, false).await?;
    custom_workloads_come_by_a_labelled_role(&cluster, &agent).await
}

/// `verb group resource[/subresource][@name][ namespace]`; the core group is `-`.
const HUB_NEEDS: [&str; 16] = [
    "list understudy.dev drplacements",
    "watch understudy.dev drplacements",
    "patch understudy.dev drplacements",
    "patch understudy.dev drplacements/status",
    "list understudy.dev drclusters",
    "watch understudy.dev drclusters",
    "patch understudy.dev drclusters/status",
    "get understudy.dev droperations",
    "list understudy.dev droperations",
    "create understudy.dev droperations",
    "patch understudy.dev droperations",
    "patch understudy.dev droperations/status",
    "list understudy.dev drapprovals",
    "watch understudy.dev drapprovals",
    "create events.k8s.io events",
    "patch events.k8s.io events",
];

const HUB_MUST_NOT: [&str; 15] = [
    "update understudy.dev drplacements",
    "create understudy.dev drapprovals",
    "update understudy.dev drapprovals",
    "patch understudy.dev drapprovals",
    "delete understudy.dev drapprovals",
    "create understudy.dev drplacements",
    "delete understudy.dev drplacements",
    "patch understudy.dev drclusters",
    "create understudy.dev drclusters",
    "delete understudy.dev droperations",
    "list - pods",
    "create - pods",
    "patch apps deployments",
    "create - configmaps",
    "get - secrets understudy-system",
];

const AGENT_NEEDS: [&str; 45] = [
    "watch - pods",
    "watch - persistentvolumeclaims",
    "watch - persistentvolumes",
    "create - persistentvolumeclaims",
    "patch - persistentvolumeclaims",
    "update - persistentvolumeclaims",
    "create - persistentvolumes",
    "patch - persistentvolumes",
    "update - persistentvolumes",
    "create - configmaps",
    "watch storage.k8s.io volumeattachments",
    "watch storage.k8s.io storageclasses",
    "create storage.k8s.io storageclasses",
    "watch apps deployments",
    "watch apps statefulsets",
    "watch apps daemonsets",
    "watch apps replicasets",
    "patch apps deployments",
    "patch apps statefulsets",
    "patch apps deployments/scale",
    "patch apps statefulsets/scale",
    "watch batch cronjobs",
    "patch batch cronjobs",
    "watch batch jobs",
    "watch replication.storage.openshift.io volumereplications",
    "create replication.storage.openshift.io volumereplications",
    "patch replication.storage.openshift.io volumereplications",
    "watch replication.storage.openshift.io volumereplicationclasses",
    "create replication.storage.openshift.io volumereplicationclasses",
    "watch replication.storage.openshift.io volumegroupreplications",
    "create replication.storage.openshift.io volumegroupreplications",
    "patch replication.storage.openshift.io volumegroupreplications",
    "watch replication.storage.openshift.io volumegroupreplicationclasses",
    "create replication.storage.openshift.io volumegroupreplicationclasses",
    "watch replication.storage.openshift.io volumegroupreplicationcontents",
    "create replication.storage.openshift.io volumegroupreplicationcontents",
    "watch csiaddons.openshift.io csiaddonsnodes",
    "watch coordination.k8s.io leases",
    "create coordination.k8s.io leases understudy-system",
    "patch coordination.k8s.io leases@understudy-agent understudy-system",
    "create understudy.dev drsitestates",
    "patch understudy.dev drsitestates",
    "update understudy.dev drsitestates",
    "delete understudy.dev drsitestates",
    "create events.k8s.io events",
];

const AGENT_MUST_NOT: [&str; 30] = [
    "patch kustomize.toolkit.fluxcd.io kustomizations",
    "patch helm.toolkit.fluxcd.io helmreleases",
    "patch argoproj.io applications",
    "delete - persistentvolumeclaims",
    "delete - persistentvolumes",
    "deletecollection - persistentvolumes",
    "delete replication.storage.openshift.io volumereplications",
    "deletecollection replication.storage.openshift.io volumereplications",
    "patch replication.storage.openshift.io volumereplicationclasses",
    "delete replication.storage.openshift.io volumereplicationclasses",
    "patch replication.storage.openshift.io volumereplications/status",
    "delete replication.storage.openshift.io volumegroupreplications",
    "deletecollection replication.storage.openshift.io volumegroupreplications",
    "patch replication.storage.openshift.io volumegroupreplications/status",
    "patch replication.storage.openshift.io volumegroupreplicationcontents",
    "delete replication.storage.openshift.io volumegroupreplicationcontents",
    "delete storage.k8s.io storageclasses",
    "delete storage.k8s.io volumeattachments",
    "create - pods",
    "delete - pods",
    "create apps deployments",
    "delete apps deployments",
    "delete apps statefulsets",
    "get - configmaps",
    "patch - configmaps",
    "create - namespaces",
    "patch coordination.k8s.io leases@understudy-agent shop",
    "patch coordination.k8s.io leases@another understudy-system",
    "get - secrets understudy-system",
    "create - serviceaccounts/token understudy-system",
];

const NOBODY_MUST: [&str; 15] = [
    "list - secrets",
    "get - secrets",
    "watch - secrets",
    "patch admissionregistration.k8s.io validatingadmissionpolicies",
    "delete admissionregistration.k8s.io validatingadmissionpolicies",
    "delete admissionregistration.k8s.io validatingadmissionpolicybindings",
    "create admissionregistration.k8s.io validatingadmissionpolicybindings",
    "patch rbac.authorization.k8s.io clusterroles",
    "create rbac.authorization.k8s.io clusterrolebindings",
    "escalate rbac.authorization.k8s.io clusterroles",
    "bind rbac.authorization.k8s.io clusterroles",
    "impersonate - serviceaccounts",
    "patch apiextensions.k8s.io customresourcedefinitions",
    "create - pods/exec",
    "* * *",
];

async fn start(name: &str, address: Ipv4Addr, folder: &Path) -> Result<ControlPlane> {
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    ControlPlane::start(&assets, name, folder, Options::at(address)).await
}

async fn the_definitions_are_established(client: &Client, plurals: &[&str]) -> Result<()> {
    for plural in plurals {
        let name = format!("{plural}.understudy.dev");
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        timeout(DEADLINE, await_condition(definitions, &name, is_crd_established()))
            .await
            .with_context(|| format!("{name} was not established in time"))??;
    }
    Ok(())
}

/// The namespace enforces the restricted level, so a pod that exists has passed it. That the level is in force is shown
/// by a pod that does not.
async fn a_pod_of_the_deployment_is_made(client: &Client, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let label = format!("app.kubernetes.io/name={name}");
    let until = Instant::now() + DEADLINE;
    while pods.list(&ListParams::default().labels(&label)).await?.items.is_empty() {
        ensure!(Instant::now() < until, "the Deployment {name} made no pod within {DEADLINE:?}");
        sleep(POLL).await;
    }
    let lax = json!({"metadata": {"name": "lax"}, "spec": {"containers": [{"name": "lax", "image": "lax"}]}});
    let answer = pods.create(&dry_run(), &serde_json::from_value(lax)?).await;
    refusal::expect(answer, 403, &["violates PodSecurity \"restricted"])
}

async fn may(client: &Client, all: &[&str], expected: bool) -> Result<()> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut wrong = Vec::new();
    for access in all {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes(access)?),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await.context("asking for a review")?;
        let status = answer.status.context("a review without a status")?;
        ensure!(status.evaluation_error.is_none(), "{access}: {:?}", status.evaluation_error);
        if status.allowed != expected {
            wrong.push(*access);
        }
    }
    ensure!(wrong.is_empty(), "allowed should be {expected} for {wrong:#?}");
    Ok(())
}

fn attributes(access: &str) -> Result<ResourceAttributes> {
    let mut words = access.split(' ').map(str::to_owned);
    let mut next = || words.next().with_context(|| format!("too few words in {access:?}"));
    let (verb, group, resource) = (next()?, next()?, next()?);
    let namespace = words.next();
    let (resource, name) = match resource.split_once('@') {
        Some((resource, name)) => (resource.to_owned(), Some(name.to_owned())),
        None => (resource, None),
    };
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), Some(subresource.to_owned())),
        None => (resource, None),
    };
    Ok(ResourceAttributes {
        verb: Some(verb),
        group: Some(if group == "-" { String::new() } else { group }),
        resource: Some(resource),
        subresource,
        name,
        namespace,
        ..Default::default()
    })
}

async fn the_hub_changes_finalizers_and_no_wishes(admin: &Client, hub: &Client) -> Result<()> {
    let placement = json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "DRPlacement",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "preferredCluster": "east", "clusters": ["east", "west"],
            "protect": {"volumes": {"matchLabels": {"app": "shop"}}, "workloads": {"matchLabels": {"app": "shop"}}},
            "replication": {"volumeReplicationClass": "rbd-5m"},
        },
    });
    let placements: Api<crds::DRPlacement> = Api::namespaced(admin.clone(), "default");
    placements.create(&PostParams::default(), &serde_json::from_value(placement)?).await?;
    let of_the_hub: Api<crds::DRPlacement> = Api::namespaced(hub.clone(), "default");
    let finalizer = json!({"metadata": {"finalizers": ["understudy.dev/release"]}});
    of_the_hub
        .patch("shop", &PatchParams::default(), &Patch::Merge(finalizer))
        .await
        .context("a finalizer")?;
    let status = json!({"status": {"phase": "Pending"}});
    of_the_hub
        .patch_status("shop", &PatchParams::default(), &Patch::Merge(status))
        .await
        .context("a status")?;
    let change = Patch::Merge(json!({"spec": {"paused": true}}));
    let attempt = PatchParams { dry_run: true, ..Default::default() };
    refusal::comes_into_force("only its users do", async || {
        of_the_hub.patch("shop", &attempt, &change).await
    })
    .await?;
    placements.patch("shop", &PatchParams::default(), &change).await.context("a user pauses")?;
    Ok(())
}

async fn an_approval_names_its_author(cluster: &ControlPlane) -> Result<()> {
    cluster.apply_yaml(APPROVER).await?;
    let jane = cluster.client_as(&cluster.token("default", "jane").await?).await?;
    let approval = |approver: &str| {
        serde_json::from_value(json!({
            "metadata": {"name": "yes", "namespace": "default"},
            "spec": {"operation": "shop-failover-2", "placement": "shop", "epoch": 2, "generation": 1,
                     "approver": approver, "approve": true},
        }))
    };
    let approvals: Api<crds::DRApproval> = Api::namespaced(jane, "default");
    let borrowed = approval("system:admin")?;
    let remedy = "set it to system:serviceaccount:default:jane";
    refusal::comes_into_force(remedy, async || approvals.create(&dry_run(), &borrowed).await).await?;
    let own = approval("system:serviceaccount:default:jane")?;
    approvals.create(&PostParams::default(), &own).await.context("one's own approval")?;
    Ok(())
}

const APPROVER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: jane, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: jane-approves, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: understudy-approver}
subjects: [{kind: ServiceAccount, name: jane, namespace: default}]
";

async fn custom_workloads_come_by_a_labelled_role(cluster: &ControlPlane, agent: &Client) -> Result<()> {
    let access = ["patch example.org databases/scale"];
    may(agent, &access, false).await?;
    let role = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: understudy-databases, labels: {understudy.dev/aggregate-to-agent: "true"}}
rules:
- {apiGroups: [example.org], resources: [databases/scale], verbs: [get, patch, update]}
"#;
    cluster.apply_yaml(role).await?;
    comes_to_be_allowed(agent, &access).await
}

/// The API server reads roles from a cache, and aggregates them by a controller.
async fn comes_to_be_allowed(client: &Client, access: &[&str]) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    while let Err(error) = may(client, access, true).await {
        ensure!(Instant::now() < until, "not allowed within {DEADLINE:?}: {error}");
        sleep(POLL).await;
    }
    Ok(())
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..Default::default() }
}
