//! A site dies with everything in it: the application goes on at the other one, in one place, within the announced time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::federation::reckoning::Reckoning;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};

fn told() -> Progress {
    Arc::new(|doing: &str| eprintln!("{doing}"))
}

/// From the end of the wait until every VolumeReplication is written (the storage's own time comes on top).
const OVERHEAD: Duration = Duration::from_millis(300);

async fn a_lost_site_is_replaced(options: Options) -> Result<Reckoning> {
    let volumes = options.application.volumes;
    let federation = Federation::protected(options, told()).await?;
    let announced = federation.announcement().await?;
    let loss = federation.lose(EAST)?;
    let operation = federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20 * volumes, SLOW).await?;

    let reckoning = federation.reckon(announced, &loss, &operation, WEST).await?;
    eprintln!("{reckoning}");
    ensure!(reckoning.is_right(), "not right:\n{}", reckoning.wrong.join("\n"));
    ensure!(reckoning.proof == "LeaseExpired", "a dead site acknowledges nothing, but: {}", reckoning.proof);
    let status = federation.placement().await?.status.context("a status")?;
    ensure!(status.epoch == Some(2), "a new owner has a new epoch, but: {:?}", status.epoch);
    Ok(reckoning)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_goes_on_elsewhere_when_its_site_dies() -> Result<()> {
    a_lost_site_is_replaced(Options::short(2)).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_the_standby_lacks_are_restored_as_well() -> Result<()> {
    a_lost_site_is_replaced(Options { classes_at_standby: false, ..Options::short(1) }).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_volumes_are_told_to_become_primary_at_once_when_the_wait_is_over() -> Result<()> {
    let mut written = a_lost_site_is_replaced(Options::short(10)).await?.phases.written;
    if written >= OVERHEAD {
        // A machine that builds at the same time may miss it once; a hub or an agent that is slow misses it always.
        eprintln!("it took {written:?}, so it is tried once more");
        written = a_lost_site_is_replaced(Options::short(10)).await?.phases.written;
    }
    ensure!(written < OVERHEAD, "writing ten VolumeReplications took {written:?}, more than {OVERHEAD:?}");
    Ok(())
}
