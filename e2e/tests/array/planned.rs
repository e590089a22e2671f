//! What the array shows while all is well, and in a planned move.

use std::time::Duration;

use e2e::array::{
    DataError, Handles, Role, Settings, forced_promotions,
    wire::identity::{
        GetCapabilitiesRequest, GetIdentityRequest, ProbeRequest,
        capability::{
            Service, Type, VolumeGroup, VolumeReplication, service, volume_group, volume_replication,
        },
    },
};
use tonic::Code;

use crate::sites::{Sites, VOLUME, until};

#[tokio::test]
async fn the_sidecar_finds_a_ready_driver_that_replicates_volumes_and_groups() {
    let sites = Sites::start().await;
    let mut identity = sites.east.identity().await;
    let name = identity.get_identity(GetIdentityRequest {}).await.expect("an identity").into_inner().name;
    assert_eq!(name, e2e::nodes::DRIVER);
    let capabilities = identity.get_capabilities(GetCapabilitiesRequest {}).await.expect("capabilities");
    let types: Vec<Type> = capabilities
        .into_inner()
        .capabilities
        .into_iter()
        .filter_map(|capability| capability.r#type)
        .collect();
    let controller = Service { r#type: service::Type::ControllerService.into() };
    let replication = VolumeReplication { r#type: volume_replication::Type::VolumeReplication.into() };
    let group = VolumeGroup { r#type: volume_group::Type::VolumeGroup.into() };
    let wanted = [Type::Service(controller), Type::VolumeReplication(replication), Type::VolumeGroup(group)];
    assert_eq!(types, wanted);
    let ready = identity.probe(ProbeRequest {}).await.expect("a probe").into_inner().ready;
    assert_eq!(ready, Some(true));
}

#[tokio::test]
async fn an_image_that_nobody_made_is_not_found_by_any_call() {
    let sites = Sites::start().await;
    let east = &sites.east;
    let answers = [
        east.enable("nobody").await,
        east.disable("nobody").await,
        east.promote("nobody", false).await,
        east.promote("nobody", true).await,
        east.demote("nobody").await,
        east.resync("nobody", false).await.map(drop),
        east.info("nobody").await.map(drop),
    ];
    let codes = answers.map(|answer| answer.expect_err("no such image").code());
    assert_eq!(codes, [Code::NotFound; 7]);
}

#[tokio::test]
async fn the_last_sync_is_known_only_at_the_primary_and_only_after_the_first() {
    let sites = Sites::start().await;
    sites.cut();
    sites.east.data().await.create(VOLUME).await.expect("a new image");
    let unmirrored = sites.east.info(VOLUME).await.expect_err("not mirrored");
    assert_eq!(unmirrored.code(), Code::InvalidArgument);
    sites.east.become_primary(VOLUME).await.expect("east is primary");
    let too_early = sites.east.info(VOLUME).await.expect_err("nothing has crossed");
    assert_eq!(too_early.code(), Code::NotFound, "{too_early}");
    assert!(too_early.message().contains("no snapshot details"), "{too_early}");
    assert_eq!(sites.west.status(VOLUME).await, None, "the image is not there before its first snapshot");
    sites.heal();
    let first = until("a first sync", async || sites.east.last_sync().await).await;
    until("the next sync", async || sites.east.last_sync().await.filter(|next| *next > first)).await;
    let at_the_secondary = sites.west.info(VOLUME).await.expect_err("west is secondary");
    assert_eq!(at_the_secondary.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_secondary_is_readable_as_of_its_last_sync_and_takes_no_write() {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.append(&["one", "two"]).await;
    until("the writes cross", async || sites.west.holds(&["one", "two"]).await).await;
    let refused = sites.west.data().await.append(VOLUME, "three").await;
    assert!(matches!(refused, Err(DataError::ReadOnly(_))), "{refused:?}");
    assert_eq!(sites.west.lines().await, ["one", "two"]);
}

#[tokio::test]
async fn a_planned_move_is_ready_once_the_demotion_has_crossed_and_needs_no_force() {
    let sites = Sites::with_mirrored_volume().await;
    let (east, west) = (&sites.east, &sites.west);
    west.set(&Settings { stall_replication: Handles::all(), ..Settings::default() });
    east.append(&["the last word"]).await;
    east.demote(VOLUME).await.expect("nothing uses the image");
    let early = east.stay_secondary(VOLUME, false).await.expect_err("the last word has not crossed");
    assert_eq!(early.code(), Code::Internal, "{early}");
    west.set(&Settings::default());
    until("the demotion crosses", async || {
        east.stay_secondary(VOLUME, false).await.ok().filter(|ready| *ready)
    })
    .await;
    assert_eq!(west.lines().await, ["the last word"]);
    west.become_primary(VOLUME).await.expect("west takes over");
    assert_eq!(forced_promotions(&west.directory).expect("the log of calls"), []);
    let refused = east.data().await.append(VOLUME, "too late").await;
    assert!(matches!(refused, Err(DataError::ReadOnly(_))), "{refused:?}");
}

#[tokio::test]
async fn a_promotion_before_the_demotion_has_crossed_is_forced_in_silence_and_loses_the_last_word() {
    let sites = Sites::with_mirrored_volume().await;
    let (east, west) = (&sites.east, &sites.west);
    east.append(&["crossed"]).await;
    until("the first write crosses", async || west.holds(&["crossed"]).await).await;
    west.set(&Settings { stall_replication: Handles::all(), ..Settings::default() });
    east.append(&["the last word"]).await;
    east.demote(VOLUME).await.expect("nothing uses the image");
    west.become_primary(VOLUME).await.expect("the controller forces it at once");
    assert_eq!(forced_promotions(&west.directory).expect("the log of calls").len(), 1);
    assert_eq!(west.lines().await, ["crossed"]);
    until("east is split-brained", async || {
        let refused = east.stay_secondary(VOLUME, false).await.err()?;
        refused.message().contains("split-brain").then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_a_planned_move_the_old_side_follows_and_can_be_given_the_volume_back() {
    let sites = Sites::with_mirrored_volume().await;
    let (east, west) = (&sites.east, &sites.west);
    east.append(&["at east"]).await;
    for (from, to, line) in [(east, west, "at west"), (west, east, "at east again")] {
        from.demote(VOLUME).await.expect("nothing uses the image");
        until("ready", async || from.stay_secondary(VOLUME, false).await.ok().filter(|ready| *ready)).await;
        to.become_primary(VOLUME).await.expect("the other side takes over");
        to.append(&[line]).await;
        until("the new primary knows of a sync", async || to.last_sync().await).await;
        let follows = from.stay_secondary(VOLUME, false).await.expect("the old side follows");
        assert!(!follows, "a replaying secondary is never ready, which the controller shows as Degraded");
    }
    until("all crosses", async || west.holds(&["at east", "at west", "at east again"]).await).await;
    assert_eq!(forced_promotions(&east.directory).expect("the log of calls"), []);
    assert_eq!(forced_promotions(&west.directory).expect("the log of calls"), []);
}

#[tokio::test]
async fn an_attached_image_is_not_demoted_until_its_pod_is_gone() {
    let sites = Sites::with_mirrored_volume().await;
    let mut pod = sites.east.data().await;
    pod.append(VOLUME, "still here").await.expect("a primary takes writes");
    let refused = sites.east.demote(VOLUME).await.expect_err("a pod uses the image");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    drop(pod);
    until("the pod's end is noticed", async || sites.east.demote(VOLUME).await.ok()).await;
}

#[tokio::test]
async fn the_peers_image_goes_when_mirroring_ends_at_the_primary_only() {
    let sites = Sites::with_mirrored_volume().await;
    until("west replays", async || sites.west.disable(VOLUME).await.ok()).await;
    assert!(sites.west.status(VOLUME).await.is_some(), "a secondary has nothing to disable");
    sites.east.disable(VOLUME).await.expect("east is primary");
    until("west's copy goes", async || match sites.west.status(VOLUME).await {
        None => Some(()),
        Some(_) => None,
    })
    .await;
    let east = sites.east.status(VOLUME).await.expect("east keeps its image");
    assert_eq!((east.role, east.mirroring), (Role::Primary, false));
}

#[tokio::test]
async fn a_kill_loses_no_acknowledged_byte_and_no_state_at_either_side() {
    let mut sites = Sites::with_mirrored_volume().await;
    sites.east.append(&["one", "two"]).await;
    until("the writes cross", async || sites.west.holds(&["one", "two"]).await).await;
    let known = until("a sync", async || sites.east.last_sync().await).await;
    sites.cut();
    sites.east.append(&["three"]).await;
    sites.east.kill().await;
    sites.west.kill().await;
    sites.east.start_again().await;
    sites.west.start_again().await;
    assert_eq!(sites.east.lines().await, ["one", "two", "three"]);
    assert_eq!(sites.west.lines().await, ["one", "two"]);
    assert!(sites.east.last_sync().await.is_some_and(|after| after >= known), "the last sync is remembered");
    assert_eq!(sites.west.status(VOLUME).await.map(|status| status.role), Some(Role::Secondary));
    sites.heal();
    until("mirroring goes on", async || sites.west.holds(&["one", "two", "three"]).await).await;
}

#[tokio::test]
async fn a_cut_link_freezes_the_last_sync_and_a_healed_one_lets_it_go_on() {
    let sites = Sites::with_mirrored_volume().await;
    until("a first sync", async || sites.east.last_sync().await).await;
    sites.cut();
    sites.east.append(&["while cut"]).await;
    let settled = until("the last sync stands still", async || {
        let before = sites.east.last_sync().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        sites.east.last_sync().await.filter(|after| *after == before)
    })
    .await;
    assert_eq!(sites.west.lines().await, Vec::<String>::new());
    sites.heal();
    until("the last sync goes on", async || sites.east.last_sync().await.filter(|now| *now > settled)).await;
    until("the write crosses", async || sites.west.holds(&["while cut"]).await).await;
}
