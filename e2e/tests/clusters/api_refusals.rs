//! What the API must not take is refused by a real API server, with the field and the remedy; what it must take passes.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use crds::{DRApproval, DRCluster, DROperation, DRPlacement, DRSiteState};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use e2e::installation;
use e2e::refusal;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "shop";

#[tokio::test]
async fn the_api_refuses_with_the_field_and_the_remedy_and_accepts_the_rest() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
    let cluster =
        ControlPlane::start(&assets, "hub", folder.path(), Options::at(Ipv4Addr::new(127, 0, 44, 1))).await?;
    for part in ["crds/yaml/hub", "crds/yaml/member"] {
        cluster.apply_yaml(&installation::of(part)?).await?;
    }
    cluster.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await?;
    let client = cluster.client();

    a_minimal_placement_is_accepted_and_its_defaults_are_filled_in(&client).await?;
    what_breaks_a_rule_of_placements_is_refused(&client).await?;
    timings_that_keep_the_inequality_are_accepted(&client).await?;
    how_the_application_moves_is_checked(&client).await?;
    the_cluster_that_owns_the_placement_stays_listed(&client).await?;
    what_is_replicated_as_one_group_stays_so(&client).await?;
    placements_show_their_columns(&client).await?;
    clusters_are_checked(&client).await?;
    operations_and_approvals_cannot_be_changed(&client).await?;
    an_epoch_seen_never_decreases(&client).await
}

/// The placement of the quick start.
fn minimal() -> Value {
    json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRPlacement",
        "metadata": {"name": "shop", "namespace": NAMESPACE},
        "spec": {
            "preferredCluster": "east",
            "clusters": ["east", "west"],
            "protect": {"volumes": {"matchLabels": {"app": "shop"}}, "workloads": {"matchLabels": {"app": "shop"}}},
            "replication": {"volumeReplicationClass": "rbd-5m"},
            "failover": {"mode": "Automatic", "maxDataLoss": "10m"},
            "failback": {"mode": "Manual"},
        },
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
    let parent = object.pointer_mut(parent).expect("the parent exists");
    parent[field] = value;
    object
}

async fn a_minimal_placement_is_accepted_and_its_defaults_are_filled_in(client: &Client) -> Result<()> {
    let placement: DRPlacement = created(client, minimal()).await?;
    assert_eq!(placement.spec.failover.fencing, crds::placement::FencingLevel::SelfFence);
    assert!(!placement.spec.paused);

    let mut shortest = with(minimal(), "/metadata/name", json!("shortest"));
    let spec = shortest["spec"].as_object_mut().context("a spec")?;
    spec.remove("failover");
    spec.remove("failback");
    let placement: DRPlacement = created(client, shortest).await?;
    assert_eq!(placement.spec.failover.mode, crds::placement::FailoverMode::Confirm);
    assert_eq!(placement.spec.failback.mode, crds::placement::FailbackMode::Manual);
    Ok(())
}

async fn what_breaks_a_rule_of_placements_is_refused(client: &Client) -> Result<()> {
    let long = "s".repeat(64);
    let many: Vec<String> = (0..9).map(|number| format!("east-{number}")).collect();
    let labels: serde_json::Map<String, Value> =
        (0..17).map(|number| (format!("label-{number}"), json!("x"))).collect();
    let timing = "/spec/failover/timing";
    let refused = [
        ("/spec/preferredCluster", json!("north"), &["spec.preferredCluster", "list it there"][..]),
        ("/spec/clusters", json!(["east", "west", "east"]), &["spec.clusters", "name each cluster once"]),
        ("/spec/clusters", json!(["east"]), &["spec.clusters", "at least 2"]),
        ("/spec/clusters", json!(many), &["spec.clusters", "at most 8"]),
        ("/spec/clusters", json!(["east", "We_st"]), &["spec.clusters[1]", "We_st"]),
        ("/spec/clusters", json!(["east", long]), &["spec.clusters[1]", "63"]),
        ("/spec/protect/volumes/matchLabels", json!({}), &["volumes.matchLabels", "give at least one label"]),
        (
            "/spec/protect/workloads/matchLabels",
            json!({}),
            &["workloads.matchLabels", "give at least one label"],
        ),
        ("/spec/protect/volumes/matchLabels", json!({"app": "a b"}), &["volumes.matchLabels.app", "a b"]),
        ("/spec/protect/volumes/matchLabels", json!(labels), &["volumes.matchLabels", "at most 16"]),
        ("/spec/replication/volumeReplicationClass", json!("Rbd"), &["volumeReplicationClass", "Rbd"]),
        ("/spec/failover/mode", json!("Sometimes"), &["spec.failover.mode", "Automatic"]),
        ("/spec/failover/onSilence", json!("Continue"), &["spec.failover.onSilence", "set it to Stop"]),
        ("/spec/failover/fencing", json!("None"), &["spec.failover.fencing", "use SelfFence or stronger"]),
        ("/spec/failover/maxDataLoss", json!("ten minutes"), &["spec.failover.maxDataLoss", "ten minutes"]),
        ("/spec/failover/maxDataLoss", json!("1d"), &["spec.failover.maxDataLoss", "1d"]),
        ("/spec/failover/maxDataLoss", json!("0s"), &["spec.failover.maxDataLoss", "such as 10m"]),
        (timing, json!({"renew": "0s"}), &["timing.renew", "more than 0s"]),
        (timing, json!({"hold": "0ms"}), &["timing.hold", "more than 0s"]),
        (timing, json!({"profile": "Fast", "ttl": "11s"}), &["timing.ttl", "raise ttl to 2 renew + 4 rpc"]),
        (timing, json!({"renew": "10s", "rpc": "10s", "suspect": "30s"}), &["timing.ttl", "raise ttl"]),
        (timing, json!({"profile": "Fast", "grace": "24s"}), &["timing.stop", "raise stop, or lower grace"]),
        (timing, json!({"grace": "1m", "stop": "1m1s"}), &["timing.stop", "raise stop, or lower grace"]),
        (timing, json!({"suspect": "14s"}), &["timing.suspect", "raise suspect, or lower renew"]),
        (
            timing,
            json!({"unreachable": "14s"}),
            &["timing.unreachable", "raise unreachable, or lower suspect"],
        ),
        (timing, json!({"clockRateErrorPpm": 100_001}), &["timing.clockRateErrorPpm", "100000"]),
        ("/metadata/name", json!(long), &["metadata.name", "at most 63"]),
        ("/metadata/name", json!("shop.eu"), &["metadata.name", "letters, digits and '-'"]),
    ];
    for (pointer, value, expected) in refused {
        let object = with(minimal(), pointer, value.clone());
        let object =
            if pointer == "/metadata/name" { object } else { with(object, "/metadata/name", json!("bad")) };
        refused_with::<DRPlacement>(client, object, expected)
            .await
            .with_context(|| format!("{pointer} = {value}"))?;
    }
    Ok(())
}

async fn timings_that_keep_the_inequality_are_accepted(client: &Client) -> Result<()> {
    let accepted = [
        json!({}),
        json!({"profile": "Fast"}),
        json!({"profile": "Conservative"}),
        // The edges of all four relations at once.
        json!({"renew": "500ms", "rpc": "250ms", "ttl": "2s", "hold": "1s", "grace": "1s", "stop": "2500ms",
               "suspect": "1500ms", "unreachable": "1500ms", "clockRateErrorPpm": 1000}),
        json!({"profile": "Fast", "ttl": "12s", "grace": "23s500ms"}),
        json!({"profile": "Conservative", "ttl": "1h30m"}),
    ];
    for (number, timing) in accepted.into_iter().enumerate() {
        let object = with(minimal(), "/metadata/name", json!(format!("timing-{number}")));
        let object = with(object, "/spec/failover/timing", timing.clone());
        let _: DRPlacement = created(client, object).await.with_context(|| format!("timing {timing}"))?;
    }
    Ok(())
}

/// The fields of planned moves, of failbacks and of recovery in order.
async fn how_the_application_moves_is_checked(client: &Client) -> Result<()> {
    let windows = |from: &str, to: &str| json!({"windows": [{"from": from, "to": to}]});
    let many: Vec<String> = (0..17).map(|number| format!("db-{number}")).collect();
    let (deadline, stabilization) = ("spec.migration.deadline", "spec.failback.stabilization");
    let (window, depends_on) = ("spec.failback.windows[0]", "spec.dependsOn");
    let refused = [
        ("/spec/migration", json!({"deadline": "0s"}), &[deadline, "a span such as 15m"][..]),
        ("/spec/migration", json!({"deadline": "soon"}), &[deadline, "soon"]),
        ("/spec/failback", json!({"stabilization": "0m"}), &[stabilization, "a span such as 30m"]),
        ("/spec/failback", json!({"stabilization": "-5m"}), &[stabilization, "-5m"]),
        ("/spec/failback", json!({"resync": "Never"}), &["spec.failback.resync", "Approval"]),
        (
            "/spec/failback",
            windows("22:30", "22:30"),
            &[window, "end the window later, or leave windows out"],
        ),
        ("/spec/failback", windows("1:30", "01:30"), &[window, "end the window later"]),
        ("/spec/failback", windows("01:30", "1:30"), &[window, "end the window later"]),
        ("/spec/failback", windows("24:00", "04:00"), &["windows[0].from", "24:00"]),
        ("/spec/failback", windows("22:30", "4 am"), &["windows[0].to", "4 am"]),
        ("/spec/failover/maxSkew", json!("soon"), &["spec.failover.maxSkew", "soon"]),
        ("/spec/dependsOn", json!(["db", "bad"]), &[depends_on, "name only others"]),
        ("/spec/dependsOn", json!(["db", "db"]), &["spec.dependsOn[1]", "Duplicate"]),
        ("/spec/dependsOn", json!(["shop/db"]), &["spec.dependsOn[0]", "shop/db"]),
        ("/spec/dependsOn", json!(many), &[depends_on, "at most 16"]),
    ];
    let bad = with(minimal(), "/metadata/name", json!("bad"));
    for (pointer, value, expected) in refused {
        let object = with(bad.clone(), pointer, value.clone());
        refused_with::<DRPlacement>(client, object, expected)
            .await
            .with_context(|| format!("{pointer} = {value}"))?;
    }

    let mut every = with(minimal(), "/metadata/name", json!("every-field"));
    every["spec"]["migration"] = json!({"deadline": "500ms"});
    every["spec"]["failback"] = json!({
        "mode": "Automatic", "resync": "Automatic", "stabilization": "1s",
        "windows": [{"from": "22:30", "to": "04:00"}, {"from": "1:00", "to": "11:00"}],
    });
    every["spec"]["failover"]["maxSkew"] = json!("0s");
    every["spec"]["dependsOn"] = json!(["db", "every"]);
    let _: DRPlacement = created(client, every).await?;
    Ok(())
}

async fn the_cluster_that_owns_the_placement_stays_listed(client: &Client) -> Result<()> {
    let placements: Api<DRPlacement> = Api::namespaced(client.clone(), NAMESPACE);
    placements
        .patch_status("shop", &PatchParams::default(), &Patch::Merge(owned_by_east()))
        .await
        .context("writing a status")?;
    let without_east = json!({"spec": {"clusters": ["west", "north"], "preferredCluster": "west"}});
    let answer = placements.patch("shop", &PatchParams::default(), &Patch::Merge(without_east)).await;
    refused_because(answer, &["spec.clusters", "move the application away first"])?;
    let with_north = json!({"spec": {"clusters": ["west", "north", "east"]}});
    placements
        .patch("shop", &PatchParams::default(), &Patch::Merge(with_north))
        .await
        .context("listing one more cluster")?;
    Ok(())
}

async fn what_is_replicated_as_one_group_stays_so(client: &Client) -> Result<()> {
    let one_by_one = json!({"volumeReplicationClass": "rbd-5m"});
    let in_group = json!({"volumeReplicationClass": "rbd-5m", "volumeGroupReplicationClass": "rbd-group"});
    let named = |name: &str, replication: &Value| {
        with(with(minimal(), "/metadata/name", json!(name)), "/spec/replication", replication.clone())
    };
    let _: DRPlacement = created(client, named("one-by-one", &one_by_one)).await?;
    let _: DRPlacement = created(client, named("in-group", &in_group)).await?;
    let placements: Api<DRPlacement> = Api::namespaced(client.clone(), NAMESPACE);
    let change = async |name: &str, spec: Value| {
        placements.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await
    };
    let expected = ["spec.replication.volumeGroupReplicationClass", "make another DRPlacement"];
    for class in [json!(null), json!("another")] {
        let replication = json!({"replication": {"volumeGroupReplicationClass": class}});
        refused_because(change("in-group", replication).await, &expected)?;
    }
    refused_because(change("one-by-one", json!({"replication": in_group})).await, &expected)?;
    let selected = json!({"protect": {"volumes": {"matchLabels": {"app": "another"}}}});
    refused_because(
        change("in-group", selected.clone()).await,
        &["spec.protect", "label the claims to fit it"],
    )?;
    change("one-by-one", selected).await.context("selecting other claims, each replicated alone")?;
    change("in-group", json!({"preferredCluster": "west"})).await.context("moving a group")?;
    Ok(())
}

fn owned_by_east() -> Value {
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "AllChecksPass", "message": "",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    // Ready comes last, so that a column that asked by index would show another condition.
    let conditions = [
        condition("AutomaticFailoverArmed", "Unknown"),
        condition("FailoverReady", "False"),
        condition("Ready", "True"),
    ];
    json!({"status": {
        "activeCluster": "east", "epoch": 1, "phase": "Protected", "standby": ["west"],
        "expectedRTO": "1m48s", "expectedLoss": "12s", "lastSyncTime": "2026-01-01T00:00:00Z",
        "reason": "InSync", "step": "AwaitFence", "conditions": conditions,
        "volumes": [{"claim": "data", "cluster": "east", "state": "Primary", "lag": "12s"}],
    }})
}

async fn placements_show_their_columns(client: &Client) -> Result<()> {
    let request = tonic::codegen::http::Request::get(format!(
        "/apis/understudy.dev/v1alpha1/namespaces/{NAMESPACE}/drplacements"
    ))
    .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
    .body(Vec::new())
    .context("a request for a table")?;
    let table: Value = client.request(request).await.context("asking for a table")?;
    let columns = table["columnDefinitions"].as_array().context("columns")?;
    let row = table["rows"]
        .as_array()
        .and_then(|rows| rows.iter().find(|row| row["cells"][0] == "shop"))
        .context("a row for shop")?;
    let shown: Vec<(&str, i64, &Value)> = columns
        .iter()
        .zip(row["cells"].as_array().context("cells")?)
        .map(|(column, cell)| {
            (
                column["name"].as_str().unwrap_or_default(),
                column["priority"].as_i64().unwrap_or_default(),
                cell,
            )
        })
        .collect();
    for (name, priority, cell) in [
        ("ACTIVE", 0, "east"),
        ("READY", 0, "True"),
        ("PHASE", 0, "Protected"),
        ("PREFERRED", 1, "east"),
        ("STANDBY", 1, "west"),
        ("MAX LOSS", 1, "10m"),
        ("FAILOVER-READY", 1, "False"),
        ("ARMED", 1, "Unknown"),
        ("STEP", 1, "AwaitFence"),
        ("REASON", 1, "InSync"),
    ] {
        ensure!(shown.contains(&(name, priority, &json!(cell))), "{name} is not {cell:?} in {shown:?}");
    }
    for name in ["LAST SYNC", "AGE"] {
        let age = shown.iter().find(|(column, _, _)| *column == name).and_then(|(_, _, cell)| cell.as_str());
        ensure!(
            age.is_some_and(|age| age.starts_with(|first: char| first.is_ascii_digit())),
            "{name} is no age: {age:?}"
        );
    }
    Ok(())
}

async fn clusters_are_checked(client: &Client) -> Result<()> {
    let cluster = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRCluster",
        "metadata": {"name": "east"},
        "spec": {
            "agentIdentity": "east-7f3a", "failureDomain": "site-1", "peerEndpoint": "127.0.41.1:7444",
            "probeEndpoints": ["east.example.org:6443", "[::1]:6443"],
        },
    });
    let clusters: Api<DRCluster> = Api::all(client.clone());
    for (pointer, value, expected) in [
        ("/spec/peerEndpoint", json!("https://east:7444"), &["spec.peerEndpoint"][..]),
        ("/spec/probeEndpoints", json!(["east"]), &["spec.probeEndpoints[0]"]),
        ("/spec/failureDomain", json!(""), &["spec.failureDomain"]),
        ("/spec/agentIdentity", json!("a/b"), &["spec.agentIdentity"]),
        ("/metadata/name", json!("east.one"), &["metadata.name", "letters, digits and '-'"]),
    ] {
        let object = serde_json::from_value(with(cluster.clone(), pointer, value))?;
        refused_because(clusters.create(&PostParams::default(), &object).await, expected).context(pointer)?;
    }
    clusters.create(&PostParams::default(), &serde_json::from_value(cluster)?).await?;
    Ok(())
}

async fn operations_and_approvals_cannot_be_changed(client: &Client) -> Result<()> {
    let operation = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DROperation",
        "metadata": {"name": "shop-failover-2", "namespace": NAMESPACE},
        "spec": {"placement": "shop", "kind": "FailOver", "from": "east", "to": "west", "epoch": 2},
    });
    let _: DROperation = created(client, operation).await?;
    unchangeable::<DROperation>(client, "shop-failover-2", json!({"spec": {"to": "north"}})).await?;
    let operations: Api<DROperation> = Api::namespaced(client.clone(), NAMESPACE);
    let status = json!({"status": {
        "phase": "Running",
        "plan": [{"name": "Fence", "state": "Done", "started": "2026-01-01T00:00:00.123Z"}],
        "lossReceipt": [{"claim": "data", "lost": "unknown"}],
        "durations": [{"phase": "detect", "seconds": 6.25}],
    }});
    operations.patch_status("shop-failover-2", &PatchParams::default(), &Patch::Merge(status)).await?;

    let approval = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRApproval",
        "metadata": {"name": "yes", "namespace": NAMESPACE},
        "spec": {"operation": "shop-failover-2", "placement": "shop", "epoch": 2, "generation": 1,
                 "approver": "jane", "approve": false},
    });
    for (pointer, value, expected) in [
        ("/spec/epoch", json!(0), &["spec.epoch", "greater than or equal to 1"][..]),
        ("/spec/generation", json!(0), &["spec.generation", "greater than or equal to 1"]),
        ("/spec/approve", json!("yes"), &["spec.approve", "boolean"]),
        ("/spec/assertFenced", json!("East"), &["spec.assertFenced", "East"]),
        ("/spec/expires", json!("tomorrow"), &["spec.expires", "tomorrow"]),
    ] {
        refused_with::<DRApproval>(client, with(approval.clone(), pointer, value), expected)
            .await
            .context(pointer)?;
    }
    let _: DRApproval = created(client, approval).await?;
    unchangeable::<DRApproval>(client, "yes", json!({"spec": {"approve": true}})).await
}

async fn unchangeable<K>(client: &Client, name: &str, change: Value) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let answer = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    refused_because(answer, &["spec cannot be changed", "make another"])
}

async fn an_epoch_seen_never_decreases(client: &Client) -> Result<()> {
    let id = "0b9cbbd1-6f43-4c2c-9f6c-7f0b9a6f1c11";
    let state = json!({
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "DRSiteState",
        "metadata": {"name": id, "namespace": NAMESPACE},
        "spec": {"placement": "shop", "placementId": id, "claims": ["data"], "epochSeen": 3, "role": "Holder",
                 "promisesOutstanding": {"bootId": "b", "untilMs": 123_456_789_012_u64, "waitMs": 92_000}},
    });
    let misnamed = with(state.clone(), "/metadata/name", json!("shop"));
    refused_with::<DRSiteState>(client, misnamed, &["spec.placementId", "name it by the placement's uid"])
        .await?;
    let _: DRSiteState = created(client, state).await?;
    let states: Api<DRSiteState> = Api::namespaced(client.clone(), NAMESPACE);
    for (change, expected) in [
        (json!({"epochSeen": 2}), &["spec.epochSeen", "never decreases"][..]),
        (json!({"placement": "db"}), &["spec.placementId", "cannot be changed"]),
        (json!({"role": "Owner"}), &["spec.role", "Holder"]),
        (json!({"claims": ["data", "data"]}), &["spec.claims", "Duplicate"]),
    ] {
        let change = json!({"spec": change});
        refused_because(states.patch(id, &PatchParams::default(), &Patch::Merge(change)).await, expected)?;
    }
    let change = json!({"spec": {"epochSeen": 4, "role": "Fenced"}});
    states.patch(id, &PatchParams::default(), &Patch::Merge(change)).await.context("a higher epoch")?;
    Ok(())
}

async fn created<K>(client: &Client, object: Value) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let object = serde_json::from_value(object).context("reading the object")?;
    api.create(&PostParams::default(), &object).await.context("creating what must be accepted")
}

/// Posts the object as written: the types of Rust would not let every mistake through.
async fn refused_with<K>(client: &Client, object: Value, expected: &[&str]) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let resource = kube::core::ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let object = serde_json::from_value(object).context("reading the object")?;
    refused_because(api.create(&PostParams::default(), &object).await, expected)
}

fn refused_because<K>(answer: kube::Result<K>, expected: &[&str]) -> Result<()> {
    refusal::expect(answer, 422, expected)
}
