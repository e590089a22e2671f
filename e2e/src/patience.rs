//! Waiting for what cannot be watched, such as a file or a port: asked again and again, and never without an end.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Far longer than anything takes that is asked for, also on a machine that is ten times as slow as ours.
pub const PATIENCE: Duration = Duration::from_secs(180);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Asks until there is an answer; an error of the question ends the wait.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ask).await
}

/// The same with a deadline of its own.
pub async fn within<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let until = Instant::now() + deadline;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() >= until {
            bail!("this did not come true within {deadline:?}: {what}");
        }
        sleep(ASK_AGAIN).await;
    }
}
