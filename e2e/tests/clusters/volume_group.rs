//! An application whose volumes are replicated as one group moves, loses its new site, comes back and is protected again, as
//! one whose volumes are replicated one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{OperationKind, OperationPhase};
use e2e::application::Application;
use e2e::array::{Call, DataClient};
use e2e::federation::moves::{PLANNED_MOVE, ensure_went_in_order, story};
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::history::Record;
use e2e::patience::within;
use e2e::site::Site;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, ResourceExt};

const VOLUMES: usize = 3;
const GROUP: &str = "shop";

#[tokio::test(flavor = "multi_thread")]
async fn a_group_moves_without_loss_and_comes_back_when_its_new_site_is_lost() -> Result<()> {
    let say = progress();
    let short = Options::short(VOLUMES);
    let application = Application { group_class: Some("rbd-group".to_owned()), ..short.application.clone() };
    let federation = Federation::protected(Options { application, ..short }, say.clone()).await?;
    ensure_replicated_as_one(&federation.east, "primary").await?;
    ensure!(groups(&federation.west).await?.is_empty(), "a standby has a group before anything moved there");
    federation.await_at_rest(EAST, 1, SLOW).await?;

    say("preferring west");
    federation.prefer(WEST).await?;
    let moved = federation.await_phase(OperationKind::Migrate, 2, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&moved));
    ensure_went_in_order(&moved, &PLANNED_MOVE)?;
    federation.await_serving(WEST, 2, SLOW).await?;
    federation.await_writes(WEST, 50, SLOW).await?;
    federation.ensure_never_forced()?;
    let compared = federation.ensure_nothing_lost(WEST).await?;
    say(&format!("{compared} acknowledged writes are at west, byte by byte"));
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    federation.await_at_rest(WEST, 2, SLOW).await?;
    ensure_replicated_as_one(&federation.east, "secondary").await?;
    ensure_replicated_as_one(&federation.west, "primary").await?;
    ensure_one_last_sync(&federation).await?;
    some_writes_have_crossed_to(&federation.east).await?;

    let announced = federation.announcement().await?;
    let before = federation.history()?.records().iter().filter(|record| record.cluster == EAST).count();
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await?;
    say("losing west");
    let loss = federation.lose(WEST)?;
    let failover = federation.await_failover(EAST).await?;
    say(&story(&failover));
    federation.await_writes(EAST, before + 50, SLOW).await?;
    let reckoning = federation.reckon(announced, &loss, &failover, EAST).await?;
    say(&reckoning.to_string());
    ensure!(reckoning.is_right(), "{reckoning}");
    let forced = federation.east.forced_promotions()?;
    ensure!(forced.len() == 1 && forced[0].images.len() == VOLUMES, "not one promotion of all: {forced:?}");
    ensure_replicated_as_one(&federation.east, "primary").await?;

    say("west returns, and its group is made anew");
    federation.bring_back(WEST).await?;
    let resync = federation.await_phase(OperationKind::Resync, 3, OperationPhase::Proposed, SLOW).await?;
    ensure!(resyncs_by_force(&federation.west)?.is_empty(), "something was thrown away without approval");
    let resync = federation.approve_until_done(resync.spec.kind, resync.spec.epoch).await?;
    say(&story(&resync));
    let resynced = resyncs_by_force(&federation.west)?;
    ensure!(!resynced.is_empty() && resynced.iter().all(|call| call.images.len() == VOLUMES), "{resynced:?}");
    ensure_replicated_as_one(&federation.west, "secondary").await
}

fn resyncs_by_force(site: &Site) -> Result<Vec<Call>> {
    let calls = site.calls()?;
    Ok(calls.into_iter().filter(|call| call.method == "ResyncVolume" && call.force).collect())
}

/// One VolumeGroupReplication with all claims, and no VolumeReplication but the one that csi-addons has made of it.
async fn ensure_replicated_as_one(site: &Site, state: &str) -> Result<()> {
    let name = &site.name;
    let groups = groups(site).await?;
    let [group] = groups.as_slice() else { anyhow::bail!("{name} has {} groups", groups.len()) };
    let text = |at: &str| group.data.pointer(at).and_then(|found| found.as_str()).unwrap_or_default();
    ensure!(group.name_any() == GROUP && text("/spec/replicationState") == state, "{name}: {group:?}");
    let listed = group.data.pointer("/status/persistentVolumeClaimsRefList").and_then(|it| it.as_array());
    ensure!(listed.map(Vec::len) == Some(VOLUMES), "{name} lists {listed:?}");
    let replications = objects(site, &crds::foreign::volume_replication()).await?;
    let sources: Vec<_> = replications.iter().map(|one| one.data.pointer("/spec/dataSource/kind")).collect();
    ensure!(
        sources.len() == 1 && sources[0].is_some_and(|kind| kind == "VolumeGroupReplication"),
        "{sources:?}"
    );
    let contents = Api::<DynamicObject>::all_with(
        site.control_plane.client(),
        &crds::foreign::volume_group_replication_content(),
    );
    let contents = contents.list(&ListParams::default()).await.context("listing the groups' contents")?;
    let handles: Vec<_> = contents
        .iter()
        .map(|one| one.data.pointer("/spec/volumeGroupReplicationHandle").and_then(|handle| handle.as_str()))
        .collect();
    ensure!(handles.len() == 1 && handles[0].is_some(), "{name} knows the storage's groups {handles:?}");
    Ok(())
}

async fn groups(site: &Site) -> Result<Vec<DynamicObject>> {
    objects(site, &crds::foreign::volume_group_replication()).await
}

async fn objects(site: &Site, resource: &ApiResource) -> Result<Vec<DynamicObject>> {
    let api: Api<DynamicObject> = Api::namespaced_with(site.control_plane.client(), "shop", resource);
    let listed = api.list(&ListParams::default()).await;
    Ok(listed.with_context(|| format!("listing {} at {}", resource.plural, site.name))?.items)
}

/// What the user sees of each volume is what the group has.
async fn ensure_one_last_sync(federation: &Federation) -> Result<()> {
    let status = federation.placement().await?.status.context("a status")?;
    let synced: BTreeMap<&str, _> =
        status.volumes.iter().map(|one| (one.claim.as_str(), one.last_sync_time.as_ref())).collect();
    let first = synced.values().next().copied().flatten();
    let same = first.is_some() && synced.values().all(|time| *time == first);
    ensure!(synced.len() == VOLUMES && same, "last synced {synced:?}");
    Ok(())
}

/// Without any the loss would be reckoned from the last write before the move, with the time of the move in it.
async fn some_writes_have_crossed_to(east: &Site) -> Result<()> {
    let handle = Options::short(VOLUMES).application.volume_handles().remove(0);
    within(SLOW, "writes of west are at east", async || {
        let lines = DataClient::connect(&east.data_socket()).await?.read(&handle).await?;
        let of_west =
            |line: &String| serde_json::from_str::<Record>(line).is_ok_and(|record| record.cluster == WEST);
        Ok(lines.iter().any(of_west).then_some(()))
    })
    .await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
