//! Fencing level Gate: an application with a gate runs only with a lease, whatever has become of the agent and the API
//! server beside it. The gates are real, in process namespaces of their own, which takes the rights of root; without them
//! the nodes say so in their log, and no pod starts.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::placement::FencingLevel;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use tokio::time::sleep;

/// From the deadline until everything has stopped: `grace` of the timing, and the gate's own ticks. The rest of `stop`, seven
/// seconds, is for machines that are slower.
const STOP: Duration = Duration::from_secs(8);
/// Longer than a lease and what follows it; the application would write a hundred times meanwhile.
const A_WHILE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_ends_the_application_and_a_cold_start_without_it_starts_nothing() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(gated(), say.clone()).await?;
    say("the agent of east dies; its nodes and its API server live on");
    let killed = boot_nanoseconds();
    federation.east.agent.kill9();
    let silent = falls_silent(&federation, killed).await?;
    say(&silent);
    say("west still reaches east's API server: nothing is moved");
    let epoch = federation.placement().await?.status.and_then(|status| status.epoch);
    ensure!(epoch == Some(1), "the epoch is {epoch:?}");
    say("east is cut off as well");
    federation.links.isolate(EAST)?;
    let failover = federation.await_failover(WEST).await?;
    say(&format!("{:?}", failover.status.and_then(|status| status.phase)));
    federation.await_writes(WEST, 20, SLOW).await?;

    say("east loses its power, and comes back without an agent: its nodes run again what they ran");
    let cold = boot_nanoseconds();
    federation.east.cut_power();
    federation.east.restart_without_agent().await?;
    waits_at_the_gate(&federation, cold).await?;
    sleep(A_WHILE).await;
    federation.ensure_silent_since(EAST, cold)?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");

    say("the same once more, with the gates taken away");
    let cold = boot_nanoseconds();
    federation.east.cut_power();
    federation.east.take_gates_away()?;
    federation.east.restart_without_agent().await?;
    within(SLOW, "east writes again", async || Ok(federation.ensure_silent_since(EAST, cold).err())).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(!verdict.holds(), "two sites have written, and nobody has noticed:\n{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_api_server_does_not_keep_a_cut_off_application_running() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(gated(), say.clone()).await?;
    say("east's API server stops; its nodes and its agent live on, and the hub hears them");
    federation.east.control_plane.stop_api()?;
    sleep(A_WHILE).await;
    say("a granted application goes on");
    federation.await_further_writes(EAST, 20, SLOW).await?;
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await?;
    say("east is cut off");
    let cut = boot_nanoseconds();
    federation.links.isolate(EAST)?;
    let silent = falls_silent(&federation, cut).await?;
    say(&silent);
    federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    say(&verdict.to_string());
    Ok(())
}

fn gated() -> Options {
    let mut options = Options::slow_to_stop(1);
    options.application.gated = true;
    if let Some(timing) = &mut options.failover.timing {
        // A path that a busy machine is late on once is not lost.
        (timing.rpc, timing.ttl) = (Some("1s".to_owned()), Some("5s".to_owned()));
    }
    options.failover.fencing = FencingLevel::Gate;
    options
}

/// Waits until the gate has ended the application, and tells how long that took; nothing is written afterwards.
async fn falls_silent(federation: &Federation, since: u64) -> Result<String> {
    let since = since as f64 / 1e9;
    let ended = within(SLOW, "the gate ends the application", async || {
        let mut ends = gate_lines(federation)?.into_iter().filter_map(|line| deadline_in(&line));
        Ok(ends.find(|ended| *ended > since))
    })
    .await?;
    sleep(STOP).await;
    let last = last_write_of_east(federation)?;
    let after = last - ended;
    ensure!(after < STOP.as_secs_f64(), "written {after:.3} s after the deadline");
    let over = within(SLOW, "the sandbox is ended", async || {
        let lines = gate_lines(federation)?;
        let mut ends = lines.iter().filter_map(|line| at(line, "the sandbox is ended"));
        Ok(ends.find(|over| *over > since))
    })
    .await?;
    let took = over - ended;
    ensure!(took < STOP.as_secs_f64(), "the sandbox ended {took:.3} s after the deadline");
    Ok(format!("last write {after:+.3} s, sandbox ended {took:+.3} s after the deadline"))
}

async fn waits_at_the_gate(federation: &Federation, since: u64) -> Result<()> {
    let since = since as f64 / 1e9;
    within(SLOW, "a pod waits at its gate", async || {
        let waits = |line: &String| at(line, "waiting for the lease").is_some_and(|at| at > since);
        Ok(gate_lines(federation)?.iter().any(waits).then_some(()))
    })
    .await
}

/// All that gates at east have said.
fn gate_lines(federation: &Federation) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for log in federation.east.pod_logs() {
        let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        lines.extend(text.lines().filter(|line| line.starts_with("understudy-gate: ")).map(str::to_owned));
    }
    Ok(lines)
}

/// When it was said, if it is what is meant.
fn at(line: &str, what: &str) -> Option<f64> {
    line.contains(what).then(|| line.split(' ').nth(1)?.parse().ok()).flatten()
}

fn deadline_in(line: &str) -> Option<f64> {
    let (_, after) = line.split_once("the lease ended at ")?;
    after.split(':').next()?.parse().ok()
}

/// In seconds since boot.
fn last_write_of_east(federation: &Federation) -> Result<f64> {
    let history = federation.history()?;
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for record in history.records() {
        last.insert(&record.cluster, record.boot_nanoseconds);
    }
    let last = last.get(EAST).context("east has written nothing")?;
    Ok(*last as f64 / 1e9)
}

fn boot_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
