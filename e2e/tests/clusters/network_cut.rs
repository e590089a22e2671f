//! The holder is cut off and lives on: it stops its application by itself, before the other cluster promotes anything,
//! and its own API server refuses whoever would start it again.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use e2e::array::Call;
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::{installation, refusal};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_has_stopped_before_the_other_cluster_promotes() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let federation = Federation::protected(Options::slow_to_stop(2), progress()).await?;
    what_is_protected_is_not_deleted(&federation).await?;
    without_its_policies_the_holder_is_not_relied_upon(&federation).await?;
    federation.links.isolate(EAST)?;
    pods_are_gone(&federation).await?;
    refused_by_its_own_api_server(&federation).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let promoted = first_promotion(&federation)?;
    let history = federation.history()?;
    let last = history.records().iter().filter(|record| record.cluster == EAST).map(|record| record.written);
    let stopped = last.max().context("east never wrote")?;
    ensure!(stopped < promoted, "east wrote until {stopped}, and west was promoted at {promoted}");
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// Not by hand, and not by whoever may do everything: deleting is not what the application's cluster is run for.
async fn what_is_protected_is_not_deleted(federation: &Federation) -> Result<()> {
    let client = federation.east.control_plane.client();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "shop");
    let claim = claims.get("shop-data-0").await?;
    let volume = claim.spec.and_then(|spec| spec.volume_name).context("the claim is not bound")?;
    let kept = DeleteParams::default();
    refusal::expect(
        claims.delete("shop-data-0", &kept).await,
        422,
        &["placement shop protects the claim shop-data-0"],
    )?;
    let volumes: Api<PersistentVolume> = Api::all(client);
    within(SLOW, "the volume bears its mark", async || {
        let annotations = volumes.get(&volume).await?.metadata.annotations.unwrap_or_default();
        Ok(annotations.contains_key(crds::PROTECTED_BY_ANNOTATION).then_some(()))
    })
    .await?;
    refusal::expect(volumes.delete(&volume, &kept).await, 422, &["protects the volume", "allow-deletion"])
}

/// A binding that is gone, and one that holds for some namespaces only: both are seen, named, and mended by installing it
/// again.
async fn without_its_policies_the_holder_is_not_relied_upon(federation: &Federation) -> Result<()> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(federation.east.control_plane.client());
    let name = "understudy-claims-need-their-holder";
    bindings.delete(name, &DeleteParams::default()).await.context("deleting a binding")?;
    disarmed_by(federation, &["PolicyMissing", name]).await?;
    reinstalled(federation).await?;

    let narrower =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}});
    let narrower = Patch::Merge(json!({"spec": {"matchResources": narrower}}));
    bindings.patch(name, &PatchParams::default(), &narrower).await.context("narrowing a binding")?;
    disarmed_by(federation, &["PolicyAltered", name]).await?;
    bindings.delete(name, &DeleteParams::default()).await.context("deleting what was narrowed")?;
    reinstalled(federation).await
}

async fn disarmed_by(federation: &Federation, words: &[&str]) -> Result<()> {
    let armed = ConditionType::AutomaticFailoverArmed;
    let placement = federation
        .await_placement(&format!("disarmed by {words:?}"), SLOW, |placement| {
            condition_of(placement, armed).is_some_and(|condition| {
                condition.status == "False" && words.iter().all(|word| condition.message.contains(word))
            })
        })
        .await?;
    let reason = condition_of(&placement, armed).map(|condition| condition.reason.as_str());
    ensure!(reason == Some("NotFenceCapable"), "{reason:?}");
    Ok(())
}

async fn reinstalled(federation: &Federation) -> Result<()> {
    federation.east.control_plane.apply_yaml(&installation::of("deploy/admission")?).await?;
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await.map(|_| ())
}

/// When east's own API server shows no pod of the application any more.
async fn pods_are_gone(federation: &Federation) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(federation.east.control_plane.client(), "shop");
    within(SLOW, "east's pods are gone", async || {
        let left = pods.list(&ListParams::default().labels("app=shop")).await?;
        Ok(left.items.is_empty().then_some(()))
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
    let words = "this cluster is Fenced";
    let tried = PostParams { dry_run: true, ..PostParams::default() };
    refusal::comes_into_force(words, async || pods.create(&tried, &pod).await).await?;
    refusal::expect(pods.create(&PostParams::default(), &pod).await, 422, &[words])
}

fn first_promotion(federation: &Federation) -> Result<Timestamp> {
    let calls = federation.west.calls()?;
    let promotions = calls.into_iter().filter(|call| call.method == "PromoteVolume");
    promotions.map(|call: Call| call.arrived).min().context("west was never promoted")
}
