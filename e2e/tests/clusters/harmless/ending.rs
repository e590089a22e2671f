//! How long a program takes to end when it is asked to, as Kubernetes asks.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::federation::service::Service;
use tokio::time::sleep;

/// What a collector may delay an end by: the product's own promise.
const PROMISE: Duration = Duration::from_secs(5);
/// When nobody waits any longer.
const DEADLINE: Duration = Duration::from_secs(120);
const NAP: Duration = Duration::from_millis(10);
/// A nap that is longer than this was made so by the machine, which makes the program's own naps longer too.
const USUAL_NAP: Duration = Duration::from_millis(15);

/// How long an end took, and how late the machine let us be meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub took: Duration,
    late: Duration,
}

impl Ending {
    pub async fn of(service: &Service) -> Result<Ending> {
        let asked = Instant::now();
        service.ask_to_end()?;
        let mut late = Duration::ZERO;
        loop {
            if let Some(ended) = service.exited() {
                let log = service.log_tail(12);
                ensure!(ended.success(), "{} ended with {ended}:\n{log}", service.name());
                return Ok(Ending { took: asked.elapsed(), late });
            }
            ensure!(asked.elapsed() < DEADLINE, "{} does not end:\n{}", service.name(), service.log_tail(12));
            let slept = Instant::now();
            sleep(NAP).await;
            late += slept.elapsed().saturating_sub(USUAL_NAP);
        }
    }

    /// Beside an end with a collector that took everything.
    pub fn ensure_hardly_delayed(self, usual: Ending) -> Result<()> {
        let allowed = usual.took + PROMISE + self.late;
        ensure!(self.took <= allowed, "it took {:?} of {allowed:?} to end", self.took);
        Ok(())
    }
}
