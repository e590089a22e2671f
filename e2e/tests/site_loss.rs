//! A site dies with everything in it: the application goes on at the other one, in one place, within the announced time.

use anyhow::Result;
use e2e::federation::{Federation, Options};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_is_replaced() -> Result<()> {
    let started = std::time::Instant::now();
    let say: e2e::federation::Progress =
        Arc::new(move |doing: &str| eprintln!("{:6.1} {doing}", started.elapsed().as_secs_f64()));
    let _first = rustls::crypto::ring::default_provider().install_default();
    let federation = Federation::start(Options::short(2), say.clone()).await?;
    say("started");
    federation.deploy().await?;
    say("deployed");
    federation.await_writes("east", 50, e2e::federation::SLOW).await?;
    say("writes");
    federation.protect().await?;
    federation.await_protected().await?;
    say("protected");
    Ok(())
}
