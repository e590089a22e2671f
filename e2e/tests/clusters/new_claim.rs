//! A claim is created while the application is protected: it becomes part of the protection by itself, and of a failover.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::placement::DRPlacement;
use e2e::application::Application;
use e2e::array::DataClient;
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::refusal;
use e2e::site::Site;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

const LINE: &str = "what the new volume holds";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_created_after_the_adoption_is_protected_and_fails_over() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::short(1), say.clone()).await?;
    let later = Later::of(&federation.options.application);

    say("creating another claim at east");
    later.create(&federation.east).await?;
    let replication = later.await_primary(&federation, &federation.east).await?;
    say("it is primary at east");
    let epoch = replication.metadata.annotations.as_ref().and_then(|all| all.get("understudy.dev/epoch"));
    ensure!(epoch.map(String::as_str) == Some("1"), "set at epoch {epoch:?}, not at that of the holder");
    ensure!(replication.data["spec"]["autoResync"] == false, "{}", replication.data["spec"]);
    later.await_bound(&federation, &federation.west).await?;
    say("it is staged at west");
    later.await_protected(&federation).await?;
    say("losing east");
    fails_over_with(&federation, &later).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_deleted_stays_as_long_as_it_is_protected_and_fails_over() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::short(1), say.clone()).await?;
    let later = Later::of(&federation.options.application);
    later.create(&federation.east).await?;
    later.await_primary(&federation, &federation.east).await?;
    later.await_protected(&federation).await?;

    say("deleting the new claim at east");
    let claims = later.claims(&federation, &federation.east);
    let refused = claims.delete(&later.claim, &DeleteParams::default()).await;
    refusal::expect(refused, 422, &["protects the claim", "understudy.dev/allow-deletion"])?;
    let meant = Patch::Merge(json!({"metadata": {"annotations": {"understudy.dev/allow-deletion": "true"}}}));
    claims.patch(&later.claim, &PatchParams::default(), &meant).await?;
    claims.delete(&later.claim, &DeleteParams::default()).await?;
    let mirror = await_a_sync(&federation, &later.claim).await?;
    say(&format!("it is mirrored on: {mirror}"));
    let kept = claims.get(&later.claim).await?;
    ensure!(kept.metadata.deletion_timestamp.is_some(), "nobody has deleted it");
    later.await_primary(&federation, &federation.east).await?;
    later.await_protected(&federation).await?;
    say("losing east");
    fails_over_with(&federation, &later).await
}

/// East is lost: both volumes are promoted at west, and the application goes on there.
async fn fails_over_with(federation: &Federation, later: &Later) -> Result<()> {
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await?;
    let loss = federation.lose(EAST)?;
    let operation = federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let own = federation.options.application.claims();
    let everything: BTreeSet<String> = own.into_iter().chain([later.claim.clone()]).collect();
    let promoted: BTreeSet<String> = loss.promotions.seen().into_keys().collect();
    ensure!(promoted == everything, "promoted at west: {promoted:?}");
    let receipt = operation.status.context("a status")?.loss_receipt;
    let receipt: BTreeSet<String> = receipt.into_iter().map(|lost| lost.claim).collect();
    ensure!(receipt == everything, "on the receipt: {receipt:?}");
    later.await_primary(federation, &federation.west).await?;
    let mut west = DataClient::connect(&federation.west.data_socket()).await?;
    ensure!(west.read(&later.handle).await? == [LINE], "west's copy does not hold what was written");
    west.append(&later.handle, "and it can be written").await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

/// Waits until the claim has been synced once more.
async fn await_a_sync(federation: &Federation, claim: &str) -> Result<String> {
    let sync = |placement: &DRPlacement| {
        let volumes = placement.status.iter().flat_map(|status| &status.volumes);
        let volume = volumes.into_iter().find(|volume| volume.claim == claim)?;
        volume.last_sync_time.clone()
    };
    let before = sync(&federation.placement().await?);
    let after = federation
        .await_placement("it is synced once more", SLOW, |placement| sync(placement) > before)
        .await?;
    Ok(format!("{before:?}, then {:?}", sync(&after)))
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

fn is_protected(placement: &DRPlacement, claim: &str) -> bool {
    let volumes = placement.status.iter().flat_map(|status| &status.volumes);
    let is_synced =
        volumes.into_iter().any(|volume| volume.claim == claim && volume.last_sync_time.is_some());
    let holds = |kind| condition_of(placement, kind).is_some_and(|condition| condition.status == "True");
    is_synced && holds(ConditionType::Protected) && holds(ConditionType::FailoverReady)
}

/// A claim with the application's labels, and the volume that an administrator makes for it. No pod uses it.
struct Later {
    claim: String,
    handle: String,
    manifest: String,
}

impl Later {
    fn of(application: &Application) -> Later {
        let (claim, of) = (format!("{}-extra", application.name), application.claims().remove(0));
        let handle = application.volume_handles().remove(0).replace(&of, &claim);
        let documents = application.manifest();
        let storage = documents.split("\n---\n").filter(|document| document.contains("\"PersistentVolume"));
        let manifest = storage.collect::<Vec<_>>().join("\n---\n").replace(&of, &claim);
        Later { claim, handle, manifest }
    }

    async fn create(&self, site: &Site) -> Result<()> {
        let mut array = DataClient::connect(&site.data_socket()).await?;
        array.create(&self.handle).await?;
        array.append(&self.handle, LINE).await?;
        site.control_plane.apply_yaml(&self.manifest).await
    }

    async fn await_primary(&self, federation: &Federation, site: &Site) -> Result<DynamicObject> {
        let kind = GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
        let namespace = &federation.options.application.namespace;
        let client = site.control_plane.client();
        let replications: Api<DynamicObject> =
            Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind));
        let found = within(SLOW, "its VolumeReplication is Primary", async || {
            let replication = replications.get_opt(&self.claim).await?;
            let state = |object: &DynamicObject| object.data.pointer("/status/state").cloned();
            Ok(replication.filter(|object| state(object) == Some(Value::from("Primary"))))
        });
        match found.await {
            Ok(replication) => Ok(replication),
            Err(error) => Err(federation.diagnosis(&format!("at {}: {error:#}", site.name)).await),
        }
    }

    async fn await_protected(&self, federation: &Federation) -> Result<()> {
        let is_so = |placement: &DRPlacement| is_protected(placement, &self.claim);
        federation.await_placement("protected, with the new claim", SLOW, is_so).await.map(drop)
    }

    fn claims(&self, federation: &Federation, site: &Site) -> Api<PersistentVolumeClaim> {
        Api::namespaced(site.control_plane.client(), &federation.options.application.namespace)
    }

    async fn await_bound(&self, federation: &Federation, site: &Site) -> Result<()> {
        let claims = self.claims(federation, site);
        let found = within(SLOW, "the new claim is bound", async || {
            let phase = claims.get_opt(&self.claim).await?.and_then(|claim| claim.status?.phase);
            Ok((phase.as_deref() == Some("Bound")).then_some(()))
        });
        match found.await {
            Ok(()) => Ok(()),
            Err(error) => Err(federation.diagnosis(&format!("at {}: {error:#}", site.name)).await),
        }
    }
}
