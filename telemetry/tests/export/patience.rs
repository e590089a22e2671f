//! How tests wait on a machine that may stand still for seconds.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// For what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// A machine that stands still delays one attempt or another; what is slow of itself is slow in all of them.
const ATTEMPTS: usize = 5;

pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(LOOK).await;
    }
}

/// For what must not take long, and so may be given up by the code under test when the machine stands still.
pub async fn at_best(mut attempt: impl AsyncFnMut() -> Result<(), String>) {
    let mut failures = Vec::new();
    while failures.len() < ATTEMPTS {
        let Err(failure) = attempt().await else { return };
        failures.push(failure);
    }
    panic!("in none of {ATTEMPTS} attempts: {failures:#?}");
}
