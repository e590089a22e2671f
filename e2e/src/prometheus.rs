//! A real Prometheus beside a federation: it scrapes the hub and the agents as a user's would, and evaluates the alerts that
//! users get.

mod answer;
mod rules;
#[cfg(test)]
mod shipped;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::answer::{Exemplar, Meta, Metadata, Point, Series, Target, Traced};
pub use self::rules::{alerts, quickened};
use crate::assets::Observers;
use crate::federation::{EAST, Federation, WEST};
use crate::patience::until;
use crate::process::{Launch, Process};

/// On the addresses of a federation nobody else listens.
const PORT: u16 = 9090;
const ALERTS: &str = include_str!("../../deploy/alerts/understudy.rules.yaml");

/// How fast it looks. A federation lives for a minute, and goes through all that takes hours elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub scrape: Duration,
    /// Every duration in the alerts (`for`, and the ranges in brackets) is divided by this; thresholds stay as they are.
    pub quicker: u32,
}

impl Pace {
    /// A minute of the alerts' is a second here, as the hour of an outage is a minute of a federation's.
    pub const BRISK: Pace = Pace { scrape: Duration::from_millis(500), quicker: 60 };
}

/// A running Prometheus, which ends when this is dropped. Its data lies in the federation's folder.
pub struct Prometheus {
    pub address: SocketAddr,
    process: Process,
    client: Client,
}

impl Prometheus {
    /// Attaches it to the federation, and waits until it has heard the hub and both agents.
    pub async fn watch(federation: &Federation, programs: &Observers, pace: Pace) -> Result<Prometheus> {
        let folder = federation.folder().join("prometheus");
        let address = SocketAddr::new(federation.hub.metrics.ip(), PORT);
        configure(&folder, &scraped(federation), pace)
            .with_context(|| format!("configuring Prometheus in {}", folder.display()))?;
        let process = launch(programs, &folder, address).spawn()?;
        let uri = format!("http://{address}").parse().context("the address of Prometheus")?;
        let client = Client::try_from(Config::new(uri)).context("making a client of Prometheus")?;
        let prometheus = Prometheus { address, process, client };
        until("Prometheus has scraped the hub and the agents", async || prometheus.hears_all().await).await?;
        Ok(prometheus)
    }

    /// What an expression yields at a moment.
    pub async fn query(&self, expression: &str, at: f64) -> Result<Vec<Series>> {
        let asked = [("query", expression), ("time", &at.to_string())];
        let outcome: answer::Outcome = self.get("query", &asked).await?;
        outcome.into_series().with_context(|| format!("reading the answer to {expression}"))
    }

    /// What an expression yields from one moment to another.
    pub async fn query_range(&self, expression: &str, span: Span, step: Duration) -> Result<Vec<Series>> {
        let [from, to] = [span.from, span.to].map(|at| at.to_string());
        let step = step.as_secs_f64().to_string();
        let asked = [("query", expression), ("start", &from), ("end", &to), ("step", &step)];
        let outcome: answer::Outcome = self.get("query_range", &asked).await?;
        outcome.into_series().with_context(|| format!("reading the answer to {expression}"))
    }

    /// The exemplars of all series that an expression names, from one moment to another.
    pub async fn exemplars(&self, expression: &str, span: Span) -> Result<Vec<Traced>> {
        let [from, to] = [span.from, span.to].map(|at| at.to_string());
        self.get("query_exemplars", &[("query", expression), ("start", &from), ("end", &to)]).await
    }

    /// What each scraped metric says of itself: its type, its unit, its help.
    pub async fn metadata(&self) -> Result<Metadata> {
        self.get("metadata", &[]).await
    }

    pub async fn targets(&self) -> Result<Vec<Target>> {
        let targets: answer::Targets = self.get("targets", &[("state", "active")]).await?;
        Ok(targets.active_targets)
    }

    /// The labels of the alerts that fire or are pending now.
    pub async fn standing_alerts(&self) -> Result<Vec<answer::StandingAlert>> {
        let alerts: answer::StandingAlerts = self.get("alerts", &[]).await?;
        Ok(alerts.alerts)
    }

    /// An error when it has ended of itself, with the end of its log.
    pub fn still_runs(&self) -> Result<()> {
        self.process.still_runs()
    }

    async fn hears_all(&self) -> Result<Option<()>> {
        self.still_runs()?;
        // It does not listen yet, and then knows no targets for a moment.
        let Ok(targets) = self.targets().await else { return Ok(None) };
        let all_up = targets.iter().all(|target| target.health == "up");
        Ok((targets.len() == 3 && all_up).then_some(()))
    }

    async fn get<T: DeserializeOwned>(&self, what: &str, asked: &[(&str, &str)]) -> Result<T> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
        let asking = || format!("asking Prometheus: {what}?{query}");
        let request =
            http::Request::get(format!("/api/v1/{what}?{query}")).body(Body::empty()).with_context(asking)?;
        let response = self.client.send(request).await.with_context(asking)?;
        let status = response.status();
        let body = response.into_body().collect_bytes().await.with_context(asking)?;
        match serde_json::from_slice(&body) {
            Ok(answer::Answer { data: Some(data), error: None }) => Ok(data),
            Ok(answer::Answer { data: _, error: Some(error) }) => bail!("{}: {error}", asking()),
            Ok(answer::Answer { data: None, error: None }) => bail!("{}: no data ({status})", asking()),
            Err(error) => Err(error).with_context(|| format!("{} ({status})", asking())),
        }
    }
}

/// From one moment to another, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

/// Now, as Prometheus counts.
pub fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

/// Whom it scrapes: the job, the instance by a name that a reader knows, and the address.
fn scraped(federation: &Federation) -> [(&'static str, &'static str, SocketAddr); 3] {
    let hub = federation.hub.metrics;
    let at = |address: SocketAddr| SocketAddr::new(address.ip(), hub.port());
    [
        ("understudy-hub", "hub", hub),
        ("understudy-agent", EAST, at(federation.east.control_plane.api_address())),
        ("understudy-agent", WEST, at(federation.west.control_plane.api_address())),
    ]
}

fn configure(folder: &Path, scraped: &[(&str, &str, SocketAddr)], pace: Pace) -> Result<()> {
    let jobs: Vec<serde_json::Value> = ["understudy-hub", "understudy-agent"]
        .into_iter()
        .map(|job| {
            let of_job = scraped.iter().filter(|(its, _, _)| *its == job);
            let groups: Vec<serde_json::Value> = of_job
                .map(|(_, instance, address)| {
                    json!({"targets": [address.to_string()], "labels": {"instance": instance}})
                })
                .collect();
            json!({"job_name": job, "static_configs": groups})
        })
        .collect();
    let interval = format!("{}ms", pace.scrape.as_millis());
    let configuration = json!({
        "global": {
            "scrape_interval": &interval, "scrape_timeout": &interval, "evaluation_interval": &interval,
        },
        "rule_files": ["understudy.rules.yaml"],
        "scrape_configs": jobs,
    });
    fs::create_dir_all(folder)?;
    fs::write(folder.join("understudy.rules.yaml"), quickened(ALERTS, pace.quicker)?)?;
    // JSON is YAML.
    fs::write(folder.join("prometheus.yml"), serde_json::to_vec_pretty(&configuration)?)?;
    Ok(())
}

fn launch(programs: &Observers, folder: &Path, address: SocketAddr) -> Launch {
    let path = |name: &str| folder.join(name).display().to_string();
    Launch::new("Prometheus", &programs.prometheus, folder.join("prometheus.log")).arguments([
        format!("--config.file={}", path("prometheus.yml")),
        format!("--storage.tsdb.path={}", path("data")),
        format!("--web.listen-address={address}"),
        // For programs that send instead of being asked, as users' may.
        "--web.enable-otlp-receiver".to_owned(),
        // It takes exemplars only when it is told to.
        "--enable-feature=exemplar-storage".to_owned(),
        "--log.level=warn".to_owned(),
    ])
}
