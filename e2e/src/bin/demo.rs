//! `cargo demo`: from nothing to a failover between two clusters, live in the terminal, with the proof at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use crds::operation::{OperationKind, OperationPhase};
use e2e::assets::Observers;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::observe;
use e2e::prometheus::{self, Pace, Prometheus, Span};
use e2e::timeline::{Timeline, Weight};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing_subscriber::EnvFilter;

/// How long all is left well, so that the reader sees it and something has been mirrored more than once.
const CALM: Duration = Duration::from_secs(5);
/// Of each volume, after the failover.
const WRITES_ELSEWHERE: usize = 50;
const INTERRUPTED: u8 = 130;
/// Fine enough for phases of a failover that takes seconds.
const PACE: Pace = Pace { scrape: Duration::from_millis(250), ..Pace::BRISK };
/// For the end to be scraped, and shown with a little of the quiet behind it.
const LAST_LOOKS: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(
    name = "cargo demo",
    about = "Brings up a hub and two clusters on this machine, kills one, and shows how its application goes on in the other"
)]
struct Arguments {
    /// Volumes of the sample application
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    volumes: u8,
    /// Kill nothing: move the application to the other cluster and back by one edit of one field each
    #[arg(long)]
    migrate: bool,
    /// Let a real Prometheus look on, and write a page of what it has seen
    #[arg(long)]
    observe: bool,
    /// Where that page goes
    #[arg(long, value_name = "FILE", default_value = "understudy-failover.html", requires = "observe")]
    page: PathBuf,
    /// Leave everything up at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Where data and logs lie, and stay; it must be empty. Default: a folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Silent unless asked: a lost cluster makes every client complain.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("starting: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(arguments));
    // A build that was interrupted still sits in a thread; it ends with this process.
    runtime.shutdown_background();
    ended
}

async fn run(arguments: Arguments) -> ExitCode {
    let timeline = Timeline::start();
    let folder = match Place::make(arguments.folder.as_deref()) {
        Ok(folder) => folder,
        Err(error) => {
            timeline.tell(Weight::Bad, &format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let shown = tokio::select! {
        biased;
        () = interrupted() => None,
        shown = demonstrate(&arguments, folder.path(), &timeline) => Some(shown),
    };
    let (code, keep) = match shown {
        // All processes have ended with the story that was dropped.
        None => {
            timeline.say("", Weight::Strong, "interrupted: every process is ended");
            (ExitCode::from(INTERRUPTED), arguments.keep)
        }
        Some(Ok(shown)) => {
            if arguments.keep {
                tell_the_way_in(&shown, &timeline);
                interrupted().await;
            }
            if shown.is_right { (ExitCode::SUCCESS, arguments.keep) } else { (ExitCode::FAILURE, true) }
        }
        Some(Err(error)) => {
            timeline.say("", Weight::Bad, "this did not work:");
            timeline.tell(Weight::Plain, &format!("{error:#}"));
            (ExitCode::FAILURE, true)
        }
    };
    folder.leave(keep, &timeline);
    code
}

/// A federation after its failover.
struct Shown {
    /// Ends first: it looks at the others.
    observer: Option<Observer>,
    federation: Federation,
    is_right: bool,
    _watches: JoinSet<()>,
}

/// The story, up to the reckoning.
async fn demonstrate(arguments: &Arguments, folder: &Path, timeline: &Arc<Timeline>) -> Result<Shown> {
    let mut options = Options::short(usize::from(arguments.volumes));
    options.folder = Some(folder.to_owned());
    let federation = Federation::start(options, progress(timeline)).await?;
    timeline.say("", Weight::Strong, &format!("the federation is up; its logs lie in {}", folder.display()));
    let observer =
        if arguments.observe { Some(Observer::attach(&federation, timeline).await?) } else { None };
    let watches = timeline.follow(&federation);
    protect(&federation, timeline).await?;
    let is_right = if arguments.migrate {
        there_and_back(&federation, timeline).await?
    } else {
        lose_a_site(&federation, timeline).await?
    };
    if let Some(observer) = &observer {
        observer.write_page(&arguments.page, timeline).await?;
    }
    Ok(Shown { observer, federation, is_right, _watches: watches })
}

/// A Prometheus that looks on, and since when.
struct Observer {
    prometheus: Prometheus,
    since: f64,
}

impl Observer {
    async fn attach(federation: &Federation, timeline: &Arc<Timeline>) -> Result<Observer> {
        let say = progress(timeline);
        let built = tokio::task::spawn_blocking(move || Observers::ensure(|doing| say(doing)));
        let programs = built.await.context("the build of Prometheus ended")??;
        let since = prometheus::now();
        let prometheus = Prometheus::watch(federation, &programs, PACE).await?;
        let looks_on = format!(
            "Prometheus looks on at http://{} (its API; it has no user interface)",
            prometheus.address
        );
        timeline.say("", Weight::Strong, &looks_on);
        Ok(Observer { prometheus, since })
    }

    /// Waits until the end has been seen as well, and tells all of it.
    async fn write_page(&self, page: &Path, timeline: &Timeline) -> Result<()> {
        sleep(LAST_LOOKS).await;
        let span = Span { from: self.since, to: prometheus::now() };
        let record = observe::gather(&self.prometheus, span, PACE).await?;
        std::fs::write(page, observe::render(&record))
            .with_context(|| format!("writing the page {}", page.display()))?;
        timeline.tell(Weight::Strong, &format!("What Prometheus has seen: {}", page.display()));
        Ok(())
    }
}

async fn protect(federation: &Federation, timeline: &Timeline) -> Result<()> {
    timeline.say(
        "",
        Weight::Strong,
        "deploying the sample application at east, and a DRPlacement at the hub",
    );
    federation.deploy().await?;
    federation.protect().await?;
    federation.await_protected().await?;
    let announced = federation.announcement().await?;
    timeline.say(
        "",
        Weight::Good,
        &format!(
            "protected: if east were lost now, it would be back within {}",
            announced.recovery_time_shown
        ),
    );
    sleep(CALM).await;
    Ok(())
}

async fn lose_a_site(federation: &Federation, timeline: &Timeline) -> Result<bool> {
    let announced = federation.announcement().await?;
    let loss = federation.lose(EAST)?;
    timeline.mark_loss(loss.at);
    timeline.say("east", Weight::Bad, "LOST: every process of the site is killed, and its links are silent");
    let operation = federation.await_failover(WEST).await?;
    let volumes = federation.options.application.volumes;
    federation.await_writes(WEST, WRITES_ELSEWHERE * volumes, SLOW).await?;
    timeline.say("west", Weight::Good, "the application writes again");

    let reckoning = federation.reckon(announced, &loss, &operation, WEST).await?;
    timeline.tell(Weight::Plain, &format!("\n{reckoning}\n"));
    Ok(judged(reckoning.is_right(), timeline))
}

/// Moves the application to west and back, and proves each time that no write was lost.
async fn there_and_back(federation: &Federation, timeline: &Timeline) -> Result<bool> {
    for (cluster, epoch) in [(WEST, 2), (EAST, 3)] {
        let edit = format!("spec.preferredCluster: {cluster}");
        timeline.say("hub", Weight::Strong, &edit);
        federation.prefer(cluster).await?;
        let succeeded = OperationPhase::Succeeded;
        federation.await_phase(OperationKind::Migrate, epoch, succeeded, SLOW).await?;
        let written = federation.history()?.records().len();
        let wanted = WRITES_ELSEWHERE * federation.options.application.volumes;
        federation.await_acknowledged(written + wanted, SLOW).await?;
        federation.await_at_rest(cluster, epoch, SLOW).await?;
        let compared = federation.ensure_nothing_lost(cluster).await?;
        federation.ensure_never_forced()?;
        let proof =
            format!("{compared} acknowledged writes compared byte by byte, all there; nothing was forced");
        timeline.say(cluster, Weight::Good, &proof);
    }
    let verdict = federation.verdict(EAST).await?;
    timeline.tell(Weight::Plain, &format!("\n{verdict}\n"));
    Ok(judged(verdict.holds() && verdict.losses.is_empty(), timeline))
}

fn judged(is_right: bool, timeline: &Timeline) -> bool {
    if is_right {
        timeline.tell(Weight::Good, "All is right.");
    } else {
        timeline.tell(Weight::Bad, "Something is not right: see the lines marked ✗.");
    }
    is_right
}

fn progress(timeline: &Arc<Timeline>) -> Progress {
    let timeline = timeline.clone();
    Arc::new(move |doing: &str| timeline.say("", Weight::Quiet, doing))
}

fn tell_the_way_in(shown: &Shown, timeline: &Timeline) {
    let federation = &shown.federation;
    timeline.tell(Weight::Strong, "\nEverything stays up until Ctrl-C. The ways in:");
    let planes =
        [&federation.hub.control_plane, &federation.east.control_plane, &federation.west.control_plane];
    for plane in planes {
        let lost = if plane.still_runs().is_err() { "   (lost)" } else { "" };
        let way = match plane.kubeconfig(plane.admin_token()) {
            Ok(kubeconfig) => format!("kubectl --kubeconfig {}{lost}", kubeconfig.display()),
            Err(error) => format!("{error:#}"),
        };
        timeline.tell(Weight::Plain, &format!("  {:<4}  {way}", plane.name()));
    }
    timeline.tell(Weight::Plain, &format!("  metrics of the hub: http://{}/metrics", federation.hub.metrics));
    if let Some(observer) = &shown.observer {
        timeline.tell(Weight::Plain, &format!("  Prometheus: http://{}", observer.prometheus.address));
    }
}

/// Ctrl-C, or being asked to end.
async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Where the demo's data lies.
enum Place {
    Temporary(TempDir),
    Asked(PathBuf),
}

impl Place {
    fn make(asked: Option<&Path>) -> Result<Place> {
        match asked {
            Some(folder) => Ok(Place::Asked(folder.to_owned())),
            None => {
                let folder = tempfile::Builder::new().prefix("understudy-demo-").tempdir();
                Ok(Place::Temporary(folder.context("making a folder for the demo")?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Place::Temporary(folder) => folder.path(),
            Place::Asked(folder) => folder,
        }
    }

    /// Removes the folder, unless it was asked for or is to be looked at.
    fn leave(self, keep: bool, timeline: &Timeline) {
        let kept = match self {
            Place::Temporary(folder) if keep && holds_anything(folder.path()) => folder.keep(),
            Place::Temporary(_) => return,
            Place::Asked(folder) => folder,
        };
        timeline.tell(Weight::Plain, &format!("Data and logs lie in {}", kept.display()));
    }
}

fn holds_anything(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}
