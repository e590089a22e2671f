//! The append-writer on these arrays, judged by the history checker.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use e2e::history::{self, History, Survivors, Violation};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use crate::sites::{PATIENCE, Site, Sites, VOLUME, until};

const SECOND_VOLUME: &str = "0001-0009-vol-2";
const VOLUMES: [&str; 2] = [VOLUME, SECOND_VOLUME];

fn start_application(site: &Site, epoch: u64, log: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_append-writer"))
        .arg("--data-socket")
        .arg(site.data_socket())
        .args(["--images", &VOLUMES.join(","), "--cluster", site.name, "--epoch", &epoch.to_string()])
        .arg("--log")
        .arg(log)
        .args(["--interval", "5ms"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the application starts")
}

async fn terminated(mut application: Child) -> ExitStatus {
    let id = application.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(id, Signal::TERM).expect("SIGTERM is sent");
    let ended = timeout(PATIENCE, application.wait()).await;
    ended.expect("it ends promptly").expect("its end is seen")
}

/// Waits until the cluster has acknowledged so many writes in all.
async fn written(log: &Path, cluster: &str, count: usize) {
    until("writes are acknowledged", async || {
        let history = History::read(log).ok()?;
        let writes = history.records().iter().filter(|record| record.cluster == cluster).count();
        (writes >= count).then_some(())
    })
    .await;
}

async fn survivors(site: &Site) -> Survivors {
    Survivors::read(site.name, &site.data_socket(), VOLUMES).await.expect("the images hold records")
}

async fn with_two_volumes() -> Sites {
    let sites = Sites::with_mirrored_volume().await;
    sites.east.data().await.create(SECOND_VOLUME).await.expect("a new image");
    sites.east.become_primary(SECOND_VOLUME).await.expect("east is primary");
    until("the second image appears", async || sites.west.status(SECOND_VOLUME).await).await;
    sites
}

#[tokio::test]
async fn a_lost_site_loses_exactly_what_had_not_crossed() {
    let mut sites = with_two_volumes().await;
    let log = sites.folder.path().join("writes.jsonl");
    let application = start_application(&sites.east, 1, &log);
    written(&log, "east", 40).await;
    until("something has crossed", async || {
        for volume in VOLUMES {
            let lines = sites.west.data().await.read(volume).await.ok()?;
            (lines.len() >= 5).then_some(())?;
        }
        Some(())
    })
    .await;
    sites.cut();
    let crossed = survivors(&sites.west).await;
    let so_far = History::read(&log).expect("a readable log").records().len();
    written(&log, "east", so_far + 150).await;
    sites.east.kill().await;
    let ended = timeout(PATIENCE, application.wait_with_output()).await;
    let output = ended.expect("an application without its storage ends").expect("its end is seen");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("writing"), "{output:?}");
    let kept: usize = survivors(&sites.west).await.images.values().map(Vec::len).sum();
    let acknowledged = History::read(&log).expect("a readable log").records().len();
    for volume in VOLUMES {
        sites.west.become_primary(volume).await.expect("force asks nobody");
    }
    let application = start_application(&sites.west, 2, &log);
    written(&log, "west", 20).await;
    assert!(terminated(application).await.success());
    let history = History::read(&log).expect("a readable log");
    let verdict = history::check(&history, &survivors(&sites.west).await);
    println!("{verdict}");
    assert!(verdict.holds(), "{verdict}");
    assert_eq!(verdict.lost_writes(), acknowledged - kept, "{verdict}");
    assert!(verdict.lost_writes() >= 100, "{verdict}");
    assert!(verdict.worst_loss() > Duration::ZERO);
    assert!(crossed.images.values().all(|records| !records.is_empty()));
}

#[tokio::test]
async fn a_planned_move_of_the_application_loses_nothing() {
    let sites = with_two_volumes().await;
    let log = sites.folder.path().join("writes.jsonl");
    let application = start_application(&sites.east, 1, &log);
    written(&log, "east", 20).await;
    assert!(terminated(application).await.success());
    for volume in VOLUMES {
        until("the pod is gone", async || sites.east.demote(volume).await.ok()).await;
        until("ready", async || sites.east.stay_secondary(volume, false).await.ok().filter(|ready| *ready))
            .await;
        sites.west.become_primary(volume).await.expect("west takes over");
    }
    let application = start_application(&sites.west, 2, &log);
    written(&log, "west", 20).await;
    assert!(terminated(application).await.success());
    let history = History::read(&log).expect("a readable log");
    let verdict = history::check(&history, &survivors(&sites.west).await);
    println!("{verdict}");
    assert!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
}

#[tokio::test]
async fn two_clusters_that_write_at_once_are_found_out() {
    let sites = with_two_volumes().await;
    let log = sites.folder.path().join("writes.jsonl");
    let _east = start_application(&sites.east, 1, &log);
    written(&log, "east", 20).await;
    for volume in VOLUMES {
        sites.west.become_primary(volume).await.expect("force asks nobody");
    }
    let _west = start_application(&sites.west, 2, &log);
    written(&log, "west", 20).await;
    let east_so_far = History::read(&log).expect("a readable log");
    let east_so_far = east_so_far.records().iter().filter(|record| record.cluster == "east").count();
    written(&log, "east", east_so_far + 20).await;
    let history = History::read(&log).expect("a readable log");
    let verdict = history::check(&history, &survivors(&sites.west).await);
    println!("{verdict}");
    let overlap = |violation: &Violation| matches!(violation, Violation::Overlap { .. });
    assert!(verdict.violations.iter().any(overlap), "{verdict}");
}

#[tokio::test]
async fn an_application_on_a_secondary_ends_with_the_reason() {
    let sites = with_two_volumes().await;
    let log = sites.folder.path().join("writes.jsonl");
    let mut application = start_application(&sites.west, 2, &log);
    let ended = timeout(PATIENCE, application.wait()).await;
    let status = ended.expect("it ends by itself").expect("its end is seen");
    let mut told = String::new();
    let mut stderr = application.stderr.take().expect("its stderr");
    stderr.read_to_string(&mut told).await.expect("its last words");
    assert!(!status.success() && told.contains("EROFS"), "{told}");
}
