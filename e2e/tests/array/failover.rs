//! What the array shows when one side takes over by force, and when the other comes back.

use std::time::Duration;

use e2e::array::{MirrorState, Role, Settings, calls, forced_promotions};
use tonic::Code;

use crate::sites::{Sites, VOLUME, until};

/// East wrote "kept", which crossed, then "lost", which did not; west was promoted by force and wrote "west".
async fn split() -> Sites {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.append(&["kept"]).await;
    until("the first write crosses", async || sites.west.holds(&["kept"]).await).await;
    sites.cut();
    sites.east.append(&["lost"]).await;
    sites.west.become_primary(VOLUME).await.expect("force asks nobody");
    sites.west.append(&["west"]).await;
    sites
}

#[tokio::test]
async fn a_forced_promotion_shows_only_in_the_log_of_calls() {
    let sites = split().await;
    assert_eq!(sites.west.lines().await, ["kept", "west"]);
    let forced = forced_promotions(&sites.west.directory).expect("the log of calls");
    assert_eq!(forced.len(), 1);
    let promotions: Vec<(bool, String)> = calls(&sites.west.directory)
        .expect("the log of calls")
        .into_iter()
        .filter(|call| call.method == "PromoteVolume" && call.handle == VOLUME)
        .map(|call| (call.force, call.answer))
        .collect();
    assert_eq!(promotions, [(false, "FailedPrecondition".to_owned()), (true, "Ok".to_owned())]);
}

#[tokio::test]
async fn two_primaries_are_silent() {
    let sites = split().await;
    sites.heal();
    until("the sides see each other", async || {
        let refused = sites.east.info(VOLUME).await.err()?;
        refused.message().contains("primary too").then_some(())
    })
    .await;
    for site in [&sites.east, &sites.west] {
        site.become_primary(VOLUME).await.expect("a primary stays primary without a word");
        assert_eq!(site.status(VOLUME).await.map(|status| status.role), Some(Role::Primary));
        site.append(&["still written"]).await;
    }
    assert_eq!(sites.east.lines().await, ["kept", "lost", "still written"]);
    assert_eq!(sites.west.lines().await, ["kept", "west", "still written"]);
}

#[tokio::test]
async fn the_loser_is_split_brained_once_demoted_and_stays_so_without_a_forced_resync() {
    let sites = split().await;
    sites.heal();
    sites.east.demote(VOLUME).await.expect("nothing uses the image");
    until("split-brain is seen", async || {
        let state = sites.east.status(VOLUME).await?.state;
        (state == MirrorState::SplitBrain).then_some(())
    })
    .await;
    for _ in 0..3 {
        let refused = sites.east.stay_secondary(VOLUME, false).await.expect_err("split-brain");
        assert_eq!(refused.code(), Code::Internal);
        assert!(refused.message().contains("no snapshot details: split-brain"), "{refused}");
    }
    assert_eq!(sites.east.lines().await, ["kept", "lost"], "nothing is discarded without force");
}

#[tokio::test]
async fn a_forced_resync_passes_through_its_errors_and_ends_as_a_replaying_copy_of_the_winner() {
    let sites = split().await;
    // Each stage must be seen, also by a machine that is late in asking.
    sites.east.set(&Settings { resync_delay: Duration::from_secs(3), ..Settings::default() });
    sites.heal();
    sites.east.demote(VOLUME).await.expect("nothing uses the image");
    let mut seen: Vec<String> = Vec::new();
    let ready =
        until("the resync is accepted", async || match sites.east.stay_secondary(VOLUME, true).await {
            Ok(ready) => Some(ready),
            Err(status) => {
                let message = format!("{:?}: {}", status.code(), status.message());
                if seen.last() != Some(&message) {
                    seen.push(message);
                }
                None
            }
        })
        .await;
    assert!(!ready, "Degraded stays true for as long as the other side is primary");
    let stages = ["needs to be recreated", "not found", "no snapshot details: starting replay"];
    let passed: Vec<&&str> =
        stages.iter().filter(|stage| seen.iter().any(|message| message.contains(**stage))).collect();
    assert_eq!(passed.len(), stages.len(), "{seen:#?}");
    let before = until("west knows of a sync", async || sites.west.last_sync().await).await;
    until("it goes on", async || sites.west.last_sync().await.filter(|now| *now > before)).await;
    until("east's lost write is gone", async || sites.east.holds(&["kept", "west"]).await).await;
}

#[tokio::test]
async fn an_array_lost_with_its_site_comes_back_as_the_primary_it_was() {
    let mut sites = Sites::with_mirrored_volume().await;
    sites.east.append(&["kept"]).await;
    until("the write crosses", async || sites.west.holds(&["kept"]).await).await;
    sites.east.kill().await;
    sites.west.become_primary(VOLUME).await.expect("force asks nobody");
    let unknown = sites.west.info(VOLUME).await.expect_err("nobody follows west yet");
    assert_eq!(unknown.code(), Code::NotFound);
    sites.east.start_again().await;
    assert_eq!(sites.east.status(VOLUME).await.map(|status| status.role), Some(Role::Primary));
}

#[tokio::test]
async fn a_forced_resync_of_a_planned_demotion_destroys_the_only_good_copy() {
    let sites = Sites::with_mirrored_volume().await;
    sites.west_asks_east.cut();
    sites.east.append(&["not yet at west"]).await;
    sites.east.demote(VOLUME).await.expect("nothing uses the image");
    let asked = sites.east.stay_secondary(VOLUME, true).await.expect_err("the image is to be recreated");
    assert!(asked.message().contains("needs to be recreated"), "{asked}");
    until("the good copy is gone", async || match sites.east.status(VOLUME).await {
        None => Some(()),
        Some(_) => None,
    })
    .await;
}
