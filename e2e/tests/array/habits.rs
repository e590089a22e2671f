//! The bad habits that tests turn on, each by `settings.json`.

use std::{collections::BTreeMap, time::Duration};

use e2e::array::{Handles, MirrorState, Settings, calls, forced_promotions};
use tokio::time::timeout;
use tonic::Code;

use crate::sites::{Sites, VOLUME, until};

fn because(message: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(VOLUME.to_owned(), message.to_owned())])
}

/// East is demoted, and west knows.
async fn demoted() -> Sites {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.demote(VOLUME).await.expect("nothing uses the image");
    until("ready", async || sites.east.stay_secondary(VOLUME, false).await.ok().filter(|ready| *ready)).await;
    sites
}

#[tokio::test]
async fn a_volume_that_cannot_be_promoted_says_why_even_by_force() {
    let sites = demoted().await;
    sites.west.set(&Settings { fail_promote: because("osd down"), ..Settings::default() });
    for force in [false, true] {
        let refused = sites.west.promote(VOLUME, force).await.expect_err("it cannot be promoted");
        assert_eq!((refused.code(), refused.message()), (Code::Internal, "osd down"));
    }
}

#[tokio::test]
async fn a_hanging_promotion_answers_when_the_habit_ends_and_blocks_other_calls_meanwhile() {
    let sites = demoted().await;
    sites.west.set(&Settings { promote_hangs: Handles::of([VOLUME]), ..Settings::default() });
    // It may come in while the other call is there.
    let promotion =
        until("the promotion is let in", async || match sites.west.promote(VOLUME, false).await {
            Err(status) if status.code() == Code::Aborted => None,
            answer => Some(answer),
        });
    tokio::pin!(promotion);
    let one_call_at_a_time = until("the promotion has come in", async || {
        let second = sites.west.demote(VOLUME).await.err()?;
        (second.code() == Code::Aborted).then_some(())
    });
    tokio::select! {
        biased;
        answer = &mut promotion => panic!("it hangs, and does not answer {answer:?}"),
        () = one_call_at_a_time => {}
    }
    sites.west.set(&Settings::default());
    promotion.await.expect("it goes on");
}

#[tokio::test]
async fn a_caller_that_goes_away_is_logged_and_leaves_the_volume_free() {
    let sites = demoted().await;
    sites.west.set(&Settings { promote_hangs: Handles::all(), ..Settings::default() });
    until("the end of a caller that had come in is noticed", async || {
        // The one before may not be gone yet.
        let early = timeout(Duration::from_millis(300), sites.west.promote(VOLUME, false)).await;
        assert!(!matches!(early, Ok(Ok(()))), "it hangs");
        let calls = calls(&sites.west.directory).expect("the log of calls");
        calls.iter().any(|call| call.answer == "Cancelled").then_some(())
    })
    .await;
    sites.west.set(&Settings::default());
    until("the volume is free", async || sites.west.promote(VOLUME, false).await.ok()).await;
}

#[tokio::test]
async fn a_busy_first_promotion_becomes_a_forced_one_though_all_was_well() {
    let sites = demoted().await;
    sites.west.set(&Settings { busy_first_promote: Handles::all(), ..Settings::default() });
    sites.west.become_primary(VOLUME).await.expect("west takes over");
    assert_eq!(forced_promotions(&sites.west.directory).expect("the log of calls").len(), 1);
}

#[tokio::test]
async fn a_refused_demotion_leaves_the_volume_primary() {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.set(&Settings { demote_refused: because("still mapped"), ..Settings::default() });
    let refused = sites.east.demote(VOLUME).await.expect_err("it is refused");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "still mapped"));
    sites.east.append(&["still writable"]).await;
}

#[tokio::test]
async fn stalled_replication_freezes_the_last_sync_of_that_volume_only() {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.data().await.create("other").await.expect("a new image");
    sites.east.become_primary("other").await.expect("east is primary");
    until("both are in sync", async || sites.west.status("other").await).await;
    sites.west.set(&Settings { stall_replication: Handles::of([VOLUME]), ..Settings::default() });
    let stands_still = async || sites.east.stands_still(VOLUME, "other").await;
    let frozen = until("the stalled one stands still", stands_still).await;
    assert_eq!(stands_still().await, Some(frozen));
}

#[tokio::test]
async fn a_spurious_split_brain_is_claimed_only_while_it_is_set() {
    let sites = demoted().await;
    sites.east.set(&Settings { spurious_split_brain: Handles::all(), ..Settings::default() });
    let claimed = sites.east.stay_secondary(VOLUME, false).await.expect_err("it claims a split-brain");
    assert!(claimed.message().contains("split-brain"), "{claimed}");
    sites.east.set(&Settings::default());
    assert_eq!(sites.east.stay_secondary(VOLUME, false).await.ok(), Some(true));
}

#[tokio::test]
async fn a_resync_that_never_gets_ready_answers_well_and_says_no() {
    let sites = demoted().await;
    sites.east.set(&Settings { never_ready: Handles::all(), ..Settings::default() });
    assert_eq!(sites.east.stay_secondary(VOLUME, false).await.ok(), Some(false));
}

#[tokio::test]
async fn a_slow_link_delays_each_snapshot_and_starves_none() {
    let sites = Sites::with_mirrored_volume().await;
    let slow = Duration::from_millis(400);
    sites.west.set(&Settings { sync_delay: slow, ..Settings::default() });
    let mut last = until("a first sync", async || sites.east.last_sync().await).await;
    for _ in 0..3 {
        last = until("the next sync", async || sites.east.last_sync().await.filter(|now| *now > last)).await;
    }
    let lag = jiff::Timestamp::now().as_nanosecond() - last;
    assert!(lag >= 400_000_000, "snapshots spend 400 ms on the way: {lag} ns");
}

#[tokio::test]
async fn a_newer_driver_reports_its_replication_healthy() {
    let sites = Sites::with_mirrored_volume().await;
    let status = async || sites.east.info(VOLUME).await.ok().map(|info| info.status);
    assert_eq!(until("a sync", status).await, 0, "the driver that was seen reports nothing");
    sites.east.set(&Settings { reports_replicating: true, ..Settings::default() });
    assert_eq!(until("a sync", status).await, 1);
}

#[tokio::test]
async fn unreadable_settings_fail_the_call_with_their_reason() {
    let sites = demoted().await;
    std::fs::write(sites.west.directory.join("settings.json"), "{\"promote_delay\": 5}").expect("a file");
    let refused = sites.west.promote(VOLUME, false).await.expect_err("settings cannot be read");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("settings.json"), "{refused}");
    let state = sites.east.status(VOLUME).await.map(|status| status.state);
    assert_ne!(state, Some(MirrorState::Stopped));
}
