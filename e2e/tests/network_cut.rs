//! The holder is cut off and lives on: it stops its application by itself, before the other cluster promotes anything,
//! and its own API server refuses whoever would start it again.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::array::Call;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_has_stopped_before_the_other_cluster_promotes() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let federation = Federation::protected(Options::short(2), progress()).await?;
    federation.links.isolate(EAST)?;
    let stopped = pods_are_gone(&federation).await?;
    refused_by_its_own_api_server(&federation).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let promoted = first_promotion(&federation)?;
    ensure!(stopped < promoted, "east's pods were gone at {stopped}, and west was promoted at {promoted}");
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// When east's own API server shows no pod of the application any more.
async fn pods_are_gone(federation: &Federation) -> Result<Timestamp> {
    let pods: Api<Pod> = Api::namespaced(federation.east.control_plane.client(), "shop");
    within(SLOW, "east's pods are gone", async || {
        let left = pods.list(&ListParams::default().labels("app=shop")).await?;
        Ok(left.items.is_empty().then(Timestamp::now))
    })
    .await
}

async fn refused_by_its_own_api_server(federation: &Federation) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(federation.east.control_plane.client(), "shop");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "intruder"},
        "spec": {
            "containers": [{"name": "writer", "image": "writer"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shop-data-0"}}],
        },
    }))?;
    let refusal = pods.create(&PostParams::default(), &pod).await.err().context("east accepted a new pod")?;
    ensure!(refusal.to_string().contains("this cluster is Fenced"), "{refusal}");
    Ok(())
}

fn first_promotion(federation: &Federation) -> Result<Timestamp> {
    let calls = federation.west.calls()?;
    let promotions = calls.into_iter().filter(|call| call.method == "PromoteVolume");
    promotions.map(|call: Call| call.arrived).min().context("west was never promoted")
}
