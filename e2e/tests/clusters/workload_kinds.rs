//! Whatever makes pods is stopped and started with the application: StatefulSets, CronJobs and custom kinds with a scale
//! subresource beside Deployments. What cannot be stopped keeps its application from being adopted, and is named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use crds::DRSiteState;
use crds::conditions::ConditionType;
use crds::placement::DRPlacement;
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::site::Site;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};

/// Kind, name and the replicas at east. A CronJob that is not suspended counts as one.
const WORKLOADS: [(&str, &str, i64); 4] = [
    ("Deployment", "shop", 1),
    ("StatefulSet", "cache", 2),
    ("CronJob", "cleaner", 1),
    ("Database", "ledger", 3),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_workload_is_stopped_by_the_fence_and_started_by_the_failover() -> Result<()> {
    let say = progress();
    let federation = Federation::start(Options::slow_to_stop(1), say.clone()).await?;
    say("defining a custom kind, and deploying the application with workloads of every kind");
    for site in [&federation.east, &federation.west] {
        define_databases(site).await?;
    }
    federation.deploy().await?;
    federation.east.control_plane.apply_yaml(&workloads(Stand::Runs)).await?;
    federation.west.control_plane.apply_yaml(&workloads(Stand::Stopped)).await?;
    federation.protect().await?;
    federation.await_protected().await?;

    say("cutting east off");
    federation.links.isolate(EAST)?;
    let stopped = WORKLOADS.map(|(kind, name, _)| (kind, name, 0));
    await_replicas(&federation, &federation.east, &stopped).await?;
    say("all is stopped at east");
    remembered_on_the_workloads(&federation.east).await?;
    remembered_in_the_site_state(&federation.east).await?;

    federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    await_replicas(&federation, &federation.west, &WORKLOADS).await?;
    say("all runs at west");
    ensure!(replicas(&federation.east).await? == of(&stopped), "something was started at east again");
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_nobody_can_scale_keep_an_application_from_being_adopted() -> Result<()> {
    let say = progress();
    let federation = Federation::start(Options::short(1), say.clone()).await?;
    federation.deploy().await?;
    let east = &federation.east.control_plane;
    east.apply_yaml(&[bare_pod().to_string(), daemon_set().to_string()].join("\n---\n")).await?;
    let pods: Api<Pod> = Api::namespaced(east.client(), "shop");
    within(SLOW, "the DaemonSet has pods", async || {
        let made = pods.list(&ListParams::default().labels("made-by=scanner")).await?;
        Ok((!made.items.is_empty()).then_some(()))
    })
    .await?;
    federation.protect().await?;

    let told = await_blocker(&federation, "BarePodUsesVolume", "Pod shop/copier").await?;
    await_refusal(&federation, "BarePodUsesVolume", "Pod shop/copier").await?;
    say(&format!("deleting the bare pod, after: {told}"));
    pods.delete("copier", &DeleteParams::default().grace_period(0)).await?;
    let told = await_blocker(&federation, "DaemonSetUsesVolume", "DaemonSet shop/scanner").await?;
    say(&format!("deleting the DaemonSet, after: {told}"));
    let daemon_sets: Api<DaemonSet> = Api::namespaced(east.client(), "shop");
    daemon_sets.delete("scanner", &DeleteParams::default()).await?;
    federation.await_protected().await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// The custom kind and the agent's rights to it, as deploy/agent/rbac.yaml tells an administrator to grant them.
async fn define_databases(site: &Site) -> Result<()> {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        },
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "databases.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Database", "plural": "databases", "singular": "database"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
            }],
        },
    });
    let rights = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "understudy-databases", "labels": {"understudy.dev/aggregate-to-agent": "true"}},
        "rules": [
            {"apiGroups": ["example.org"], "resources": ["databases"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["example.org"], "resources": ["databases/scale"], "verbs": ["get", "patch", "update"]},
        ],
    });
    site.control_plane.apply_yaml(&[definition.to_string(), rights.to_string()].join("\n---\n")).await?;
    // A running agent looks for new kinds once a minute; one that starts looks at once.
    site.agent.kill9();
    site.agent.start()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Runs,
    /// As GitOps leaves it at a standby.
    Stopped,
}

/// All but the Deployment, which the federation deploys by itself.
fn workloads(stand: Stand) -> String {
    let count = |runs: i64| if stand == Stand::Runs { runs } else { 0 };
    let metadata = |name: &str| json!({"name": name, "namespace": "shop", "labels": {"app": "shop"}});
    let pod = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "runs", "image": "registry/pause"}]});
    let stateful_set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata("cache"),
        "spec": {
            "replicas": count(2), "serviceName": "cache", "selector": {"matchLabels": {"part": "cache"}},
            "template": {"metadata": {"labels": {"part": "cache"}}, "spec": pod},
        },
    });
    let mut job = pod.clone();
    job["restartPolicy"] = json!("Never");
    let cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata("cleaner"),
        "spec": {
            "schedule": "0 3 1 1 *", "suspend": stand == Stand::Stopped,
            "jobTemplate": {"spec": {"template": {"spec": job}}},
        },
    });
    let database = json!({
        "apiVersion": "example.org/v1", "kind": "Database", "metadata": metadata("ledger"),
        "spec": {"replicas": count(3)},
    });
    [stateful_set, cron_job, database].map(|one| one.to_string()).join("\n---\n")
}

fn api(site: &Site, kind: &str) -> Api<DynamicObject> {
    let kind = match kind {
        "CronJob" => GroupVersionKind::gvk("batch", "v1", kind),
        "Database" => GroupVersionKind::gvk("example.org", "v1", kind),
        _ => GroupVersionKind::gvk("apps", "v1", kind),
    };
    Api::namespaced_with(site.control_plane.client(), "shop", &ApiResource::from_gvk(&kind))
}

/// The replicas of each, by kind and name.
type Replicas = BTreeMap<(String, String), i64>;

fn of(workloads: &[(&str, &str, i64)]) -> Replicas {
    let pairs = workloads.iter();
    pairs.map(|(kind, name, count)| (((*kind).to_owned(), (*name).to_owned()), *count)).collect()
}

async fn replicas(site: &Site) -> Result<Replicas> {
    let mut found = Replicas::new();
    for (kind, name, _) in WORKLOADS {
        let object = api(site, kind).get(name).await.with_context(|| format!("reading {kind} {name}"))?;
        let count = match kind {
            "CronJob" => i64::from(object.data["spec"]["suspend"] != Value::Bool(true)),
            _ => object.data["spec"]["replicas"]
                .as_i64()
                .with_context(|| format!("replicas of {kind} {name}"))?,
        };
        found.insert((kind.to_owned(), name.to_owned()), count);
    }
    Ok(found)
}

async fn await_replicas(federation: &Federation, site: &Site, wanted: &[(&str, &str, i64)]) -> Result<()> {
    let wanted = of(wanted);
    let what = format!("replicas at {} are {wanted:?}", site.name);
    let waited = within(SLOW, &what, async || Ok((replicas(site).await? == wanted).then_some(())));
    match waited.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let found = replicas(site).await;
            Err(federation.diagnosis(&format!("{error:#}; they are {found:?}")).await)
        }
    }
}

/// Written before anything is stopped, unless the API server is so slow that stopping must not wait for it; then the
/// DRSiteState alone remembers.
async fn remembered_on_the_workloads(site: &Site) -> Result<()> {
    for (kind, name, count) in WORKLOADS {
        let annotations = api(site, kind).get(name).await?.metadata.annotations.unwrap_or_default();
        match annotations.get("understudy.dev/replicas") {
            Some(remembered) => {
                ensure!(*remembered == count.to_string(), "{kind} {name} had {count}, not {remembered}")
            }
            None => eprintln!("{kind} {name} was stopped without a note on it"),
        }
    }
    Ok(())
}

async fn remembered_in_the_site_state(site: &Site) -> Result<()> {
    let states: Api<DRSiteState> = Api::namespaced(site.control_plane.client(), "shop");
    within(SLOW, "the DRSiteState remembers the replicas of all", async || {
        let listed = states.list(&ListParams::default()).await?;
        let [state] = listed.items.as_slice() else { bail!("not one DRSiteState: {:?}", listed.items) };
        let remembered = state.spec.replicas.iter();
        let remembered: Replicas =
            remembered.map(|had| ((had.kind.clone(), had.name.clone()), i64::from(had.replicas))).collect();
        Ok((remembered == of(&WORKLOADS)).then_some(()))
    })
    .await
}

fn bare_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copier", "namespace": "shop"},
        "spec": pod_with_the_claim(),
    })
}

fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "scanner", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"made-by": "scanner"}},
            "template": {"metadata": {"labels": {"made-by": "scanner"}}, "spec": pod_with_the_claim()},
        },
    })
}

/// It only looks at the volume: its image writes nothing.
fn pod_with_the_claim() -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "looks", "image": "registry/pause",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shop-data"}}],
    })
}

/// Waits until the placement says that it is not adopted, for this reason and because of this object.
async fn await_blocker(federation: &Federation, reason: &str, object: &str) -> Result<String> {
    let stalled = |placement: &DRPlacement| condition_of(placement, ConditionType::Stalled).cloned();
    let what = format!("Stalled=True says {reason} of {object}");
    let placement = federation
        .await_placement(&what, SLOW, |placement| {
            stalled(placement).is_some_and(|condition| {
                condition.status == "True"
                    && condition.message.contains(reason)
                    && condition.message.contains(object)
            })
        })
        .await?;
    let status = placement.status.as_ref().context("a status")?;
    ensure!(status.active_cluster.is_none() && status.epoch.is_none(), "adopted: {status:?}");
    ensure!(federation.operations().await?.is_empty(), "an operation was begun");
    Ok(stalled(&placement).context("Stalled went away")?.message)
}

/// Waits until an event says that the placement is not adopted, for this reason and because of this object.
async fn await_refusal(federation: &Federation, reason: &str, object: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(federation.hub.control_plane.client(), "shop");
    let refused = ListParams::default().fields("reason=DeployRefused");
    within(SLOW, &format!("an event DeployRefused says {reason} of {object}"), async || {
        let listed = events.list(&refused).await?;
        let mut notes = listed.items.iter().filter_map(|event| event.note.as_deref());
        Ok(notes.any(|note| note.contains(reason) && note.contains(object)).then_some(()))
    })
    .await
}
