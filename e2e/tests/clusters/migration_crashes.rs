//! A planned move goes on when the hub or an agent dies: the hub before and after it writes each record, the agents at every
//! point of every command that they carry out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use crds::operation::{OperationKind as Shown, OperationPhase};
use e2e::federation::{Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::site::Site;
use hub_core::journal::OperationKind;
use hub_core::plan;
use understudy_hub::crash::marker_name;

const ASK_AGAIN: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_a_hub_that_dies_before_and_after_writing_each_record() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(2), say.clone()).await?;
    let deaths = HubDeaths::of_a_move();
    deaths.kill_and_start_again(&federation)?;
    federation.await_protected().await?;
    say("preferring west");
    federation.prefer(WEST).await?;
    tokio::select! {
        moved = federation.await_phase(Shown::Migrate, 2, OperationPhase::Succeeded, SLOW) => drop(moved?),
        broken = deaths.revive(&federation, &say) => match broken? {},
    }
    let missed = deaths.missed(&federation);
    ensure!(missed.is_empty(), "the hub never came to {missed:?}");
    nothing_is_lost(&federation).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_the_death_of_both_agents_at_every_point() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(2), say.clone()).await?;
    let mut mortals = [
        Mortal::new(&federation.east, &["ScaleDown", "Demote"]),
        Mortal::new(&federation.west, &["Promote", "ScaleUp"]),
    ];
    for mortal in &mut mortals {
        mortal.site.agent.kill9();
        mortal.start()?;
    }
    federation.await_protected().await?;
    say("preferring west");
    federation.prefer(WEST).await?;
    let moved = federation.await_phase(Shown::Migrate, 2, OperationPhase::Succeeded, SLOW);
    tokio::select! {
        moved = moved => drop(moved?),
        broken = revive(&mut mortals, &say) => match broken? {},
    }
    within(SLOW, "both agents have died everywhere", async || {
        for mortal in &mut mortals {
            mortal.start_again_if_dead(&say)?;
        }
        Ok(mortals.iter().all(|mortal| mortal.deaths == mortal.points.len()).then_some(()))
    })
    .await?;
    nothing_is_lost(&federation).await
}

async fn nothing_is_lost(federation: &Federation) -> Result<()> {
    federation.await_serving(WEST, 2, SLOW).await?;
    federation.await_writes(WEST, 40, SLOW).await?;
    federation.ensure_never_forced()?;
    federation.ensure_nothing_lost(WEST).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    Ok(())
}

struct HubDeaths {
    points: Vec<String>,
}

impl HubDeaths {
    fn of_a_move() -> HubDeaths {
        let steps = plan::steps(OperationKind::Migrate).iter();
        let marks =
            steps.flat_map(|step| ["Issued", "Acknowledged"].map(|mark| format!("Step/{step}/{mark}")));
        let others = ["Intent", "BackedUp", "Fence", "Ownership", "Commit"].map(str::to_owned);
        let records: BTreeSet<String> = marks.chain(others).collect();
        let at = |boundary: &'static str| records.iter().map(move |record| format!("{boundary}:{record}"));
        HubDeaths { points: at("Decided").chain(at("Recorded")).collect() }
    }

    fn kill_and_start_again(&self, federation: &Federation) -> Result<()> {
        let markers = federation.folder().join("deaths").display().to_string();
        let at = self.points.join(",");
        let environment = [("UNDERSTUDY_CRASH_AT", at.as_str()), ("UNDERSTUDY_CRASH_MARKER", &markers)];
        federation.hub.service.start_with(&environment)
    }

    fn missed(&self, federation: &Federation) -> Vec<&String> {
        let markers = federation.folder().join("deaths");
        self.points.iter().filter(|point| !markers.join(marker_name(point)).exists()).collect()
    }

    /// Starts the hub again whenever it has died of a point. It ends only if the hub ends of something else.
    async fn revive(&self, federation: &Federation, say: &Progress) -> Result<Infallible> {
        let mut left = self.points.len();
        loop {
            if !federation.hub.service.runs() {
                let now = self.missed(federation).len();
                if now == left {
                    bail!("the hub ended of itself:\n{}", federation.hub.service.log_tail(30));
                }
                say(&format!("the hub has died; {now} points are left"));
                left = now;
                self.kill_and_start_again(federation)?;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// An agent that dies at one point after the other.
struct Mortal<'a> {
    site: &'a Site,
    points: Vec<String>,
    deaths: usize,
}

impl<'a> Mortal<'a> {
    fn new(site: &'a Site, steps: &[&str]) -> Mortal<'a> {
        let points = steps
            .iter()
            .flat_map(|step| ["Accepted", "Applied", "Acknowledged"].map(|point| format!("{step}:{point}")));
        Mortal { site, points: points.collect(), deaths: 0 }
    }

    fn start(&self) -> Result<()> {
        match self.points.get(self.deaths) {
            None => self.site.agent.start(),
            Some(point) => {
                let marker =
                    self.site.agent.log().with_file_name(format!("crashed-at-{}", point.replace(':', "-")));
                let marker = marker.display().to_string();
                self.site
                    .agent
                    .start_with(&[("UNDERSTUDY_CRASH_AT", point), ("UNDERSTUDY_CRASH_MARKER", &marker)])
            }
        }
    }

    fn start_again_if_dead(&mut self, say: &Progress) -> Result<()> {
        if self.site.agent.runs() {
            return Ok(());
        }
        let point = self.points.get(self.deaths).map_or("no point at all", String::as_str);
        say(&format!("{} has died at {point}", self.site.agent.name()));
        self.deaths += 1;
        ensure!(self.deaths <= self.points.len(), "it ended of itself:\n{}", self.site.agent.log_tail(30));
        self.site.agent.kill9();
        self.start()
    }
}

async fn revive(mortals: &mut [Mortal<'_>], say: &Progress) -> Result<Infallible> {
    loop {
        for mortal in mortals.iter_mut() {
            mortal.start_again_if_dead(say)?;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
