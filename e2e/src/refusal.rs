//! What tests say about an API server that refuses: which code, which words, and how long it may take until it does.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

/// Policies and their parameters are read from caches, which are behind by moments.
const SETTLE_DEADLINE: Duration = Duration::from_secs(180);
const SETTLE_POLL: Duration = Duration::from_millis(20);

/// The API server said no, with this code and each of these words.
pub fn expect<K>(answer: kube::Result<K>, code: u16, words: &[&str]) -> Result<()> {
    match answer {
        Ok(_) => bail!("accepted, where a refusal with {words:?} was expected"),
        Err(kube::Error::Api(status)) => {
            ensure!(status.code == code, "code {} instead of {code}: {}", status.code, status.message);
            for part in words {
                ensure!(status.message.contains(part), "no {part:?} in: {}", status.message);
            }
            Ok(())
        }
        Err(other) => Err(other).context("asking the API server"),
    }
}

/// Asks until an admission policy refuses with these words.
pub async fn comes_into_force<K>(words: &str, ask: impl AsyncFn() -> kube::Result<K>) -> Result<()> {
    settle(async || expect(ask().await, 422, &[words])).await
}

/// Asks until nothing refuses any more.
pub async fn goes_away<K>(ask: impl AsyncFn() -> kube::Result<K>) -> Result<()> {
    settle(async || ask().await.map(|_| ()).context("still refused")).await
}

async fn settle(seen: impl AsyncFn() -> Result<()>) -> Result<()> {
    let until = Instant::now() + SETTLE_DEADLINE;
    loop {
        match seen().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => {
                return Err(error).with_context(|| format!("not so within {SETTLE_DEADLINE:?}"));
            }
            Err(_) => sleep(SETTLE_POLL).await,
        }
    }
}
