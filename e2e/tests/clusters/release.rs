//! The DRPlacement is deleted: the hub and the agents let go, and the application goes on as if they had never been there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::DRSiteState;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW};
use e2e::patience::within;
use e2e::site::Site;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::time::timeout;

const NAMESPACE: &str = "shop";
/// It takes some tenths of a second, and more when this machine builds.
const LETTING_GO: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_placement_leaves_the_application_as_it_is_and_a_new_one_adopts_it() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(2), say.clone()).await?;
    let before = Kept::of(&federation.east).await?;
    ensure!(before.replications.len() == 2 && before.pods.len() == 1, "{before:?}");

    say("deleting the DRPlacement");
    let first = delete_placement(&federation).await?;
    say("it is gone");
    lets_go(&federation.east).await?;
    lets_go(&federation.west).await?;
    ensure!(Kept::of(&federation.east).await? == before, "changed: {:?}", Kept::of(&federation.east).await?);
    goes_on(&federation).await?;
    replaces_a_pod(&federation).await?;

    say("protecting it anew");
    let kept = Kept::of(&federation.east).await?;
    ensure!(kept.replications.keys().eq(before.replications.keys()), "{kept:?}");
    let second = federation.protect().await?.uid().context("a uid")?;
    ensure!(second != first, "the same object came back");
    federation.await_protected().await?;
    let status = federation.placement().await?.status.context("a status")?;
    ensure!(status.active_cluster.as_deref() == Some(EAST), "active at {:?}", status.active_cluster);
    let adopted = Kept::of(&federation.east).await?;
    ensure!(adopted.pods == kept.pods, "its pods were {:?}, and are {:?}", kept.pods, adopted.pods);
    ensure!(adopted.replications.keys().eq(kept.replications.keys()), "{adopted:?}");
    ensure!(adopted.all_are_primary(), "{adopted:?}");
    let everywhere = federation.history()?;
    ensure!(everywhere.records().iter().all(|record| record.cluster == EAST), "west has written as well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_away_lets_go_when_it_returns() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::short(1), say.clone()).await?;
    let before = Kept::of(&federation.east).await?;
    federation.west.agent.kill9();
    say("west's agent is away; deleting the DRPlacement");
    delete_placement(&federation).await?;
    lets_go(&federation.east).await?;
    ensure!(site_states(&federation.west).await?.len() == 1, "nobody was there to let go at west");
    say("it is gone; west's agent returns");
    federation.west.agent.start()?;
    lets_go(&federation.west).await?;
    ensure!(Kept::of(&federation.east).await? == before, "changed: {:?}", Kept::of(&federation.east).await?);
    goes_on(&federation).await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// What must outlive the protection: by uid, the pods, and the VolumeReplications with their specs and their states.
#[derive(Debug, PartialEq)]
struct Kept {
    pods: BTreeMap<String, String>,
    replications: BTreeMap<String, Value>,
}

impl Kept {
    async fn of(site: &Site) -> Result<Kept> {
        let pods = pods(site).list(&ListParams::default()).await?;
        let replications = replications(site).list(&ListParams::default()).await?;
        let told = |object: &DynamicObject| {
            let state = object.data.pointer("/status/state").cloned().unwrap_or_default();
            serde_json::json!({"spec": object.data["spec"], "state": state})
        };
        Ok(Kept {
            pods: pods.iter().map(|pod| (pod.uid().unwrap_or_default(), pod.name_any())).collect(),
            replications: replications
                .iter()
                .map(|object| (object.uid().unwrap_or_default(), told(object)))
                .collect(),
        })
    }

    fn all_are_primary(&self) -> bool {
        self.replications.values().all(|one| one["state"] == "Primary")
    }
}

fn pods(site: &Site) -> Api<Pod> {
    Api::namespaced(site.control_plane.client(), NAMESPACE)
}

fn replications(site: &Site) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
    Api::namespaced_with(site.control_plane.client(), NAMESPACE, &ApiResource::from_gvk(&kind))
}

/// The cluster's DRSiteStates: role, and since when.
async fn site_states(site: &Site) -> Result<Vec<String>> {
    let states: Api<DRSiteState> = Api::namespaced(site.control_plane.client(), NAMESPACE);
    let listed = states.list(&ListParams::default()).await?.items;
    let told = |state: &DRSiteState| {
        let since = state.creation_timestamp().map(|since| since.0.to_string()).unwrap_or_default();
        format!("{} of {} since {since}", state.spec.role.as_str(), state.name_any())
    };
    Ok(listed.iter().map(told).collect())
}

/// Deletes the DRPlacement, and waits until it is gone, finalizer and all.
async fn delete_placement(federation: &Federation) -> Result<String> {
    let (placements, name) = (federation.placements(), &federation.options.application.name);
    let uid = federation.placement().await?.uid().context("a uid")?;
    placements.delete(name, &DeleteParams::default()).await?;
    match timeout(SLOW, await_condition(placements, name, is_deleted(&uid))).await {
        Ok(gone) => gone.context("watching the DRPlacement").map(|_| uid),
        Err(_) => Err(federation.diagnosis("the DRPlacement was not let go").await),
    }
}

async fn lets_go(site: &Site) -> Result<()> {
    let asked = Timestamp::now();
    let gone = within(LETTING_GO, "no DRSiteState is left", async || {
        Ok(site_states(site).await?.is_empty().then_some(()))
    });
    match gone.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let left = site_states(site).await?;
            let log = site.agent.log_tail(10);
            bail!("asked at {asked}, {} has {left:?}: {error:#}\n{log}", site.name)
        }
    }
}

/// The application writes, and its volumes are mirrored as before.
async fn goes_on(federation: &Federation) -> Result<()> {
    let newest = async || {
        let listed = replications(&federation.east).list(&ListParams::default()).await?;
        let times = listed.iter().map(|one| one.data.pointer("/status/lastSyncTime").cloned());
        // As text: RFC 3339 with whole seconds sorts by time.
        anyhow::Ok(times.map(|time| time.map(|time| time.to_string())).collect::<Vec<_>>())
    };
    let (writes, syncs) = (federation.history()?.records().len(), newest().await?);
    federation.await_writes(EAST, writes + 100, SLOW).await?;
    within(SLOW, "every volume is mirrored once more", async || {
        let now = newest().await?;
        Ok(now.iter().zip(&syncs).all(|(now, then)| now > then).then_some(()))
    })
    .await
}

/// Nothing holds a pod back any more: a deleted one is replaced, and writes.
async fn replaces_a_pod(federation: &Federation) -> Result<()> {
    let pods = pods(&federation.east);
    let old = pods.list(&ListParams::default()).await?.items.into_iter().next().context("a pod")?;
    pods.delete(&old.name_any(), &DeleteParams::default()).await?;
    within(SLOW, "the pod is replaced by a ready one", async || {
        let found = pods.list(&ListParams::default()).await?.items;
        let [only] = found.as_slice() else { return Ok(None) };
        let conditions = only.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
        Ok((only.uid() != old.uid() && ready).then_some(()))
    })
    .await?;
    let writes = federation.history()?.records().len();
    federation.await_writes(EAST, writes + 50, SLOW).await
}
