//! What a user lists in spec.protect.objects stands at the standby, stopped, before it is needed: an application whose
//! manifests exist only in the cluster that dies goes on in the other one.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use crds::placement::ObjectsSpec;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::refusal;
use e2e::site::Site;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const RIGHTS: [&str; 2] =
    [include_str!("../../../deploy/agent/objects.yaml"), include_str!("../../../deploy/agent/secrets.yaml")];

fn told() -> Progress {
    Arc::new(|doing: &str| eprintln!("{doing}"))
}

fn listed() -> Vec<ObjectsSpec> {
    let entry = |api_version: &str, kind: &str, names: &[&str]| ObjectsSpec {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        names: names.iter().map(|&name| name.to_owned()).collect(),
    };
    vec![
        entry("apps/v1", "Deployment", &[]),
        entry("v1", "Service", &[]),
        entry("v1", "ConfigMap", &[]),
        entry("v1", "Secret", &["shop-tls"]),
        entry("networking.k8s.io/v1", "Ingress", &[]),
        entry("networking.k8s.io/v1", "NetworkPolicy", &[]),
        entry("policy/v1", "PodDisruptionBudget", &[]),
        entry("autoscaling/v2", "HorizontalPodAutoscaler", &["shop"]),
        entry("v1", "ServiceAccount", &["shop"]),
    ]
}

/// All of the application but its Deployment and its volumes.
fn surroundings(colour: &str) -> String {
    let metadata = |name: &str| json!({"name": name, "namespace": "shop", "labels": {"app": "shop"}});
    let selector = json!({"matchLabels": {"app": "shop"}});
    let backend = json!({"service": {"name": "shop", "port": {"number": 80}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"});
    let documents = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("shop"), "spec": {
            "type": "NodePort", "selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080}],
        }}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("settings"), "data": {"colour": colour}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("shop-tls"), "stringData": {"key": "k"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("not-named"), "stringData": {"key": "k"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("shop")}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata("shop"),
            "spec": {"rules": [{"host": "shop.example", "http": {"paths": [path]}}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata("shop"),
            "spec": {"podSelector": selector, "ingress": [{}]}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata("shop"),
            "spec": {"selector": selector, "maxUnavailable": 1}}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata("shop"),
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2}}),
    ];
    documents.map(|document| document.to_string()).join("\n---\n")
}

fn api(site: &Site, api_version: &str, kind: &str) -> Api<DynamicObject> {
    api_of(site.control_plane.client(), api_version, kind)
}

fn api_of(client: kube::Client, api_version: &str, kind: &str) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client, "shop", &resource)
}

async fn colour(site: &Site) -> Result<Option<Value>> {
    let found = api(site, "v1", "ConfigMap").get_opt("settings").await?;
    Ok(found.map(|object| object.data["data"]["colour"].clone()))
}

async fn await_colour(federation: &Federation, wanted: &str) -> Result<()> {
    let what = format!("the ConfigMap settings at west is {wanted}");
    let waited = within(SLOW, &what, async || {
        Ok((colour(&federation.west).await? == Some(json!(wanted))).then_some(()))
    });
    federation.or_diagnosis(waited).await
}

/// Everything that is listed is there, and what is not named is not.
async fn await_all_staged(federation: &Federation) -> Result<()> {
    let waited = within(SLOW, "all that is listed stands at west", async || {
        for ObjectsSpec { api_version, kind, names: _ } in listed() {
            let name = match kind.as_str() {
                "ConfigMap" => "settings",
                "Secret" => "shop-tls",
                _ => "shop",
            };
            if api(&federation.west, &api_version, &kind).get_opt(name).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    });
    federation.or_diagnosis(waited).await?;
    let web = api(&federation.west, "apps/v1", "Deployment").get("shop").await?;
    ensure!(web.data["spec"]["replicas"] == json!(0), "it must stand stopped, but: {}", web.data["spec"]);
    let named = api(&federation.west, "v1", "Secret").get_opt("not-named").await?;
    ensure!(named.is_none(), "a Secret that is not named has left its cluster");
    Ok(())
}

/// With all its rights, the agent changes nothing that it did not copy, and makes nothing that runs.
async fn the_agent_is_held_to_its_copies(site: &Site) -> Result<()> {
    let token = site.control_plane.token("understudy-system", "understudy-agent").await?;
    let agent = site.control_plane.client_as(&token).await?;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "theirs", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]},
    });
    site.control_plane.apply_yaml(&theirs.to_string()).await?;
    let services = api_of(agent.clone(), "v1", "Service");
    let mut service = services.get("theirs").await?;
    service.data["spec"]["ports"][0]["port"] = json!(81);
    let answer = services.replace("theirs", &PostParams::default(), &service).await;
    refusal::expect(answer, 422, &["change only those"])?;

    let marks = json!({"understudy.dev/staged-from": "east"});
    for (annotations, replicas, why) in [(json!({}), 0, "only as copies"), (marks, 1, "only stopped")] {
        let workload = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "more", "namespace": "shop", "annotations": annotations},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"part": "more"}},
                "template": {
                    "metadata": {"labels": {"part": "more"}},
                    "spec": {"containers": [{"name": "runs", "image": "registry/pause"}]},
                },
            },
        });
        let deployments = api_of(agent.clone(), "apps/v1", "Deployment");
        let answer = deployments.create(&PostParams::default(), &serde_json::from_value(workload)?).await;
        refusal::expect(answer, 422, &[why])?;
    }
    Ok(())
}

/// What could hurt is refused where it is written down, with the field and what to do.
async fn the_hub_refuses_what_is_not_to_be_copied(federation: &Federation) -> Result<()> {
    for (entry, expected) in [
        (json!({"apiVersion": "v1", "kind": "Secret"}), "names must be given for the kind Secret"),
        (json!({"apiVersion": "v1", "kind": "Pod"}), "apply any other to each cluster yourself"),
        (json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}), "kind is not one"),
        (json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim"}), "kind is not one"),
    ] {
        let wish = Patch::Merge(json!({"spec": {"protect": {"objects": [entry]}}}));
        let answer = federation.placements().patch("shop", &PatchParams::default(), &wish).await;
        refusal::expect(answer, 422, &["spec.protect.objects[0]", expected])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_manifests_are_only_at_the_lost_site_goes_on_elsewhere() -> Result<()> {
    let say = told();
    let options = Options { objects: listed(), ..Options::short(1) };
    let federation = Federation::start(options, say.clone()).await?;
    for site in [&federation.east, &federation.west] {
        site.control_plane.apply_yaml(&RIGHTS.join("\n---\n")).await?;
    }
    federation.deploy().await?;
    federation.east.control_plane.apply_yaml(&surroundings("green")).await?;
    let alone = api(&federation.west, "apps/v1", "Deployment").get_opt("shop").await?;
    ensure!(alone.is_none(), "the Deployment must not be at west before it is copied");
    federation.protect().await?;
    federation.await_protected().await?;
    the_hub_refuses_what_is_not_to_be_copied(&federation).await?;
    await_all_staged(&federation).await?;
    the_agent_is_held_to_its_copies(&federation.west).await?;

    say("changing the settings at east");
    federation.east.control_plane.apply_yaml(&surroundings("blue")).await?;
    await_colour(&federation, "blue").await?;
    federation.await_protected().await?;

    let _loss = federation.lose(EAST)?;
    federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    let runs = api(&federation.west, "apps/v1", "Deployment").get("shop").await.context("at west")?;
    ensure!(runs.data["spec"]["replicas"] == json!(1), "it runs as at east, but: {}", runs.data["spec"]);
    Ok(())
}
