//! Real faults on the real federation: cut networks, frozen and killed processes, full disks, cold sites, and clocks.
//!
//! Each scenario begins and ends with a federation in which all is well, and tells what it has seen. The history checker
//! judges every one of them. `cargo e2e` plays them; `soak` draws faults by chance for as long as it is told to.

mod clocks;
mod hub_store;
mod link_table;
mod processes;
mod sites;
pub mod soak;
pub mod stage;
mod weather;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use tokio::time::timeout;

use self::stage::Stage;
use crate::federation::Progress;
use crate::network::Network;

/// Longer than any of them takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(480);

/// Plays, and says in a sentence what was seen.
type Play = for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, Result<String>>;

/// One fault, and what must come of it.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    play: Play,
    /// Whether the federation cannot be used for another one afterwards.
    uses_up: bool,
}

impl Scenario {
    const fn new(name: &'static str, play: Play) -> Scenario {
        Scenario { name, play, uses_up: false }
    }

    /// Of an application that is elsewhere afterwards, or had more than one writer because nothing could prevent it.
    const fn last(name: &'static str, play: Play) -> Scenario {
        Scenario { name, play, uses_up: true }
    }
}

/// How a scenario ended.
pub struct Outcome {
    pub name: &'static str,
    pub seen: Result<String>,
    pub took: Duration,
}

/// All scenarios whose name contains the filter, or one of its parts between commas, in the order in which they are played.
pub fn scenarios(filter: &str) -> Vec<Scenario> {
    let rooms = [
        link_table::SCENARIOS,
        weather::SCENARIOS,
        processes::SCENARIOS,
        clocks::SCENARIOS,
        hub_store::SCENARIOS,
        sites::SCENARIOS,
    ];
    let all = rooms.into_iter().flatten().copied();
    let mut chosen: Vec<Scenario> =
        all.filter(|scenario| filter.split(',').any(|part| scenario.name.contains(part))).collect();
    // One federation serves all that leave it as it was.
    chosen.sort_by_key(|scenario| scenario.uses_up);
    chosen
}

/// Plays one after the other; a federation goes on to the next scenario unless it was used up or something failed.
pub async fn play_all(
    network: Arc<Network>,
    scenarios: Vec<Scenario>,
    progress: Progress,
    told: impl Fn(&Outcome),
) -> Vec<Outcome> {
    let mut stage: Option<Stage> = None;
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        progress(&format!("--- {}", scenario.name));
        let ready = match stage.take() {
            Some(ready) => Ok(ready),
            None => Stage::set(Arc::clone(&network), progress.clone()).await,
        };
        let started = Instant::now();
        let seen = match ready {
            Ok(ready) => {
                let seen = play(&scenario, &ready).await;
                stage = Some(ready).filter(|_| seen.is_ok() && !scenario.uses_up);
                seen
            }
            Err(error) => Err(error.context("setting the stage")),
        };
        let outcome = Outcome { name: scenario.name, seen, took: started.elapsed() };
        told(&outcome);
        outcomes.push(outcome);
    }
    outcomes
}

async fn play(scenario: &Scenario, stage: &Stage) -> Result<String> {
    let played = async {
        let seen = (scenario.play)(stage).await?;
        if !scenario.uses_up {
            stage.mend().await.context("mending what was broken")?;
            stage.await_well().await.context("all is well again afterwards")?;
            stage.judge().await?;
        }
        Ok(seen)
    };
    timeout(DEADLINE, Box::pin(played)).await.with_context(|| format!("no end within {DEADLINE:?}"))?
}
