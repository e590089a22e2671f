//! Several images as one group: all of what is asked of it happens, at one moment, or nothing.

use std::collections::BTreeMap;

use e2e::array::{Handles, MirrorState, Role, Settings, forced_promotions};
use tonic::Code;

use crate::sites::{Site, Sites, until};

const IMAGES: [&str; 3] = ["vol-a", "vol-b", "vol-c"];
const GROUP: &str = "group-shop";

/// A group of three at east, mirrored to west.
async fn mirrored() -> Sites {
    let sites = Sites::start().await;
    for image in IMAGES {
        sites.east.data().await.create(image).await.expect("a new image");
    }
    assert_eq!(sites.east.create_group("shop", &IMAGES).await.expect("a group"), GROUP);
    sites.east.become_primary(GROUP).await.expect("east is primary");
    until("the group is known at west", async || sites.west.group(GROUP).await.ok()).await;
    until("all images appear at west", async || {
        for image in IMAGES {
            sites.west.status(image).await?;
        }
        Some(())
    })
    .await;
    sites
}

async fn roles(site: &Site) -> Vec<Option<Role>> {
    let mut roles = Vec::new();
    for image in IMAGES {
        roles.push(site.status(image).await.map(|status| status.role));
    }
    roles
}

async fn append_to_all(site: &Site, line: &str) {
    let mut data = site.data().await;
    for image in IMAGES {
        data.append(image, line).await.expect("a primary takes writes");
        data.detach(image).await.expect("the pod is gone");
    }
}

async fn lines_of_all(site: &Site) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for image in IMAGES {
        lines.push(site.data().await.read(image).await.unwrap_or_default());
    }
    lines
}

#[tokio::test]
async fn a_group_moves_as_one_and_needs_no_force() {
    let sites = mirrored().await;
    append_to_all(&sites.east, "the last word").await;
    sites.east.demote(GROUP).await.expect("nothing uses the images");
    assert_eq!(roles(&sites.east).await, [Some(Role::Secondary); 3]);
    until("ready", async || sites.east.stay_secondary(GROUP, false).await.ok().filter(|ready| *ready)).await;
    assert_eq!(lines_of_all(&sites.west).await, [["the last word"]; 3]);
    sites.west.become_primary(GROUP).await.expect("west takes over");
    assert_eq!(roles(&sites.west).await, [Some(Role::Primary); 3]);
    assert_eq!(forced_promotions(&sites.west.directory).expect("the log of calls"), []);
}

#[tokio::test]
async fn one_image_that_is_in_use_keeps_the_whole_group_primary() {
    let sites = mirrored().await;
    let mut pod = sites.east.data().await;
    pod.append(IMAGES[2], "still here").await.expect("a primary takes writes");
    let refused = sites.east.demote(GROUP).await.expect_err("a pod uses an image");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(roles(&sites.east).await, [Some(Role::Primary); 3]);
}

#[tokio::test]
async fn one_image_that_cannot_be_promoted_keeps_the_whole_group_secondary() {
    let sites = mirrored().await;
    let fail_promote = BTreeMap::from([(IMAGES[1].to_owned(), "osd down".to_owned())]);
    sites.west.set(&Settings { fail_promote, ..Settings::default() });
    let refused = sites.west.promote(GROUP, true).await.expect_err("it cannot be promoted");
    assert_eq!((refused.code(), refused.message()), (Code::Internal, "osd down"));
    assert_eq!(roles(&sites.west).await, [Some(Role::Secondary); 3]);
}

#[tokio::test]
async fn the_last_sync_of_a_group_is_that_of_all_of_its_images() {
    let sites = mirrored().await;
    sites.east.data().await.create("other").await.expect("a new image");
    sites.east.become_primary("other").await.expect("east is primary");
    let taken = async || sites.east.last_sync_of(GROUP).await;
    let first = until("a first sync", taken).await;
    until("the next sync", async || taken().await.filter(|next| *next > first)).await;
    sites.west.set(&Settings { stall_replication: Handles::of([IMAGES[0]]), ..Settings::default() });
    let stands_still = async || sites.east.stands_still(GROUP, "other").await;
    let frozen = until("one stalled image stops the group", stands_still).await;
    append_to_all(&sites.east, "behind").await;
    assert_eq!(stands_still().await, Some(frozen));
    assert_eq!(lines_of_all(&sites.west).await, vec![Vec::<String>::new(); 3]);
}

#[tokio::test]
async fn a_forced_promotion_finds_all_images_at_one_moment() {
    let sites = mirrored().await;
    let mut data = sites.east.data().await;
    for number in 0..200 {
        for image in IMAGES {
            data.append(image, &format!("round {number}")).await.expect("a primary takes writes");
        }
    }
    until("something has crossed", async || {
        lines_of_all(&sites.west).await.iter().all(|lines| !lines.is_empty()).then_some(())
    })
    .await;
    sites.cut();
    sites.west.become_primary(GROUP).await.expect("force asks nobody");
    let counts: Vec<usize> = lines_of_all(&sites.west).await.iter().map(Vec::len).collect();
    // A round is written image by image: what an earlier one has, a later one lacks by one round at most.
    let ordered = counts.windows(2).all(|pair| pair[0] >= pair[1]);
    assert!(ordered && counts[0] - counts[2] <= 1, "{counts:?}");
    let forced = forced_promotions(&sites.west.directory).expect("the log of calls");
    assert_eq!(forced.len(), 1);
    assert_eq!(forced[0].images(), IMAGES);
}

#[tokio::test]
async fn a_group_that_was_lost_is_made_anew_as_a_whole() {
    let sites = mirrored().await;
    sites.cut();
    append_to_all(&sites.east, "only here").await;
    sites.west.become_primary(GROUP).await.expect("force asks nobody");
    sites.heal();
    sites.east.demote(GROUP).await.expect("nothing uses the images");
    until("it is a split-brain", async || {
        let refused = sites.east.stay_secondary(GROUP, false).await.err()?;
        refused.message().contains("split-brain").then_some(())
    })
    .await;
    until("all of it replays", async || {
        sites.east.stay_secondary(GROUP, true).await.ok()?;
        for image in IMAGES {
            sites.east.status(image).await.filter(|status| status.state == MirrorState::Replaying)?;
        }
        Some(())
    })
    .await;
    assert_eq!(lines_of_all(&sites.east).await, vec![Vec::<String>::new(); 3]);
}

#[tokio::test]
async fn an_image_that_joins_is_mirrored_and_one_that_leaves_is_not() {
    let sites = mirrored().await;
    sites.east.data().await.create("vol-d").await.expect("a new image");
    sites.east.modify_group(GROUP, &["vol-b", "vol-c", "vol-d"]).await.expect("east is primary");
    until("the new image appears at west", async || sites.west.status("vol-d").await).await;
    until("the old copy goes", async || sites.west.status("vol-a").await.is_none().then_some(())).await;
    until("west knows", async || {
        let images = sites.west.group(GROUP).await.ok()?;
        (images == ["vol-b", "vol-c", "vol-d"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_group_is_made_filled_and_ended_at_its_primary_only_and_one_image_is_in_one_group() {
    let sites = mirrored().await;
    let codes = [
        sites.west.create_group("again", &IMAGES).await.map(drop),
        sites.west.modify_group(GROUP, &IMAGES[..1]).await,
        sites.east.create_group("another", &IMAGES[..1]).await.map(drop),
        sites.east.delete_group(GROUP).await,
    ];
    let codes = codes.map(|answer| answer.expect_err("it is refused").code());
    assert_eq!(codes, [Code::FailedPrecondition; 4]);
    sites.west.modify_group(GROUP, &IMAGES).await.expect("it changes nothing");
    let unknown = sites.east.promote("group-nobody", false).await.expect_err("no such group");
    assert_eq!(unknown.code(), Code::NotFound);
    sites.east.modify_group(GROUP, &[]).await.expect("east is primary");
    sites.east.delete_group(GROUP).await.expect("it is empty");
    sites.east.delete_group(GROUP).await.expect("it is gone already");
}

#[tokio::test]
async fn a_group_survives_a_kill_of_both_arrays() {
    let mut sites = mirrored().await;
    sites.east.kill().await;
    sites.west.kill().await;
    sites.east.start_again().await;
    sites.west.start_again().await;
    for site in [&sites.east, &sites.west] {
        assert_eq!(site.group(GROUP).await.expect("it is remembered"), IMAGES);
    }
}
