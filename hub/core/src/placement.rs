//! A DRPlacement, parsed at the door: past it every name is a name, every span a span, and the inequality holds.

use std::time::Duration;

use crds::placement::{
    DRPlacement, DRPlacementStatus, FailbackMode, FailbackSpec, FailoverMode, FailoverSpec, FencingLevel,
    ObjectsSpec, OnSilence as OnSilenceSpec, ResyncMode, TimingProfile, TimingSpec, WindowSpec,
};
use proto::{
    ClusterName, Fencing, Generation, NameError, ObjectSelector, OnSilence, PlacementId, PlacementName,
    Policy, Protect, Selector, Timing, WallTime,
};

/// Who presses the button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Automatic,
    Confirm,
    Manual,
}

/// The protected application and the user's wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub id: PlacementId,
    pub name: PlacementName,
    pub generation: Generation,
    /// When the API server took its DRPlacement: no approval that is older is about it.
    pub created: Option<WallTime>,
    /// Its DRPlacement is being deleted: let go.
    pub deleting: bool,
    pub preferred: ClusterName,
    /// In order of preference.
    pub clusters: Vec<ClusterName>,
    pub protect: Protect,
    pub replication_class: String,
    /// Where the claims are replicated as one group.
    pub group_class: Option<String>,
    pub mode: Mode,
    /// None: three scheduling intervals of the class.
    pub max_data_loss: Option<Duration>,
    /// How far the copies of the volumes may lie apart; none: not asked.
    pub max_skew: Option<Duration>,
    pub policy: Policy,
    pub paused: bool,
    /// A planned move that has not promoted anything by then is rolled back.
    pub move_deadline: Duration,
    pub failback: Failback,
    /// Placements of the same namespace that must serve before this one is started elsewhere.
    pub depends_on: Vec<String>,
    /// What an earlier hub told the user (rejoin, protocol §3).
    pub told: Option<Box<DRPlacementStatus>>,
    /// The operation whose outcome a human has looked at: annotation `understudy.dev/acknowledged`.
    pub acknowledged: Option<String>,
}

/// How the placement returns to the preferred cluster, and its outdated copy becomes one again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failback {
    pub automatic: bool,
    /// An outdated copy is thrown away without asking.
    pub resync_automatic: bool,
    /// How long the copy must have met the bound.
    pub stabilization: Duration,
    /// When it may begin by itself; empty: at any time.
    pub windows: Vec<Window>,
}

/// A span of the day in UTC, in minutes; one that ends before it begins goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from_minute: u32,
    pub to_minute: u32,
}

impl Window {
    pub fn contains(self, at: proto::WallTime) -> bool {
        const MINUTES_A_DAY: i64 = 24 * 60;
        let minute = u32::try_from(at.0.div_euclid(60_000).rem_euclid(MINUTES_A_DAY)).unwrap_or(0);
        if self.from_minute <= self.to_minute {
            (self.from_minute..self.to_minute).contains(&minute)
        } else {
            minute >= self.from_minute || minute < self.to_minute
        }
    }
}

/// What a user writes on a DRPlacement after looking at an automatic failover, with the operation's name.
pub const ACKNOWLEDGED: &str = "understudy.dev/acknowledged";

/// A DRPlacement that cannot be understood, with the field and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub id: PlacementId,
    pub name: PlacementName,
    pub generation: Generation,
    pub deleting: bool,
    pub message: String,
}

/// An object that is not even named as Kubernetes names things; it cannot come from an API server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("a DRPlacement without {0}: it does not come from an API server")]
    Missing(&'static str),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Placement {
    /// The outer error is an object that no API server would serve; the inner one is the user's to mend.
    pub fn parse(object: &DRPlacement) -> Result<Result<Placement, Refused>, Unreadable> {
        let meta = &object.metadata;
        let id = PlacementId::parse(meta.uid.as_deref().ok_or(Unreadable::Missing("metadata.uid"))?)?;
        let namespace = meta.namespace.as_deref().ok_or(Unreadable::Missing("metadata.namespace"))?;
        let name = PlacementName::parse(namespace, meta.name.as_deref().unwrap_or_default())?;
        let generation = Generation(u64::try_from(meta.generation.unwrap_or_default()).unwrap_or_default());
        let deleting = meta.deletion_timestamp.is_some();
        Ok(parse_spec(object, &id, &name, generation, deleting).map_err(|message| Refused {
            id,
            name,
            generation,
            deleting,
            message,
        }))
    }
}

fn parse_spec(
    object: &DRPlacement,
    id: &PlacementId,
    name: &PlacementName,
    generation: Generation,
    deleting: bool,
) -> Result<Placement, String> {
    let spec = &object.spec;
    let clusters = spec
        .clusters
        .iter()
        .map(|cluster| ClusterName::parse(cluster).map_err(|error| format!("spec.clusters: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    if clusters.len() < 2 {
        return Err(
            "spec.clusters names fewer than two clusters: add the one that is to take over".to_owned()
        );
    }
    let preferred = ClusterName::parse(&spec.preferred_cluster)
        .map_err(|error| format!("spec.preferredCluster: {error}"))?;
    if !clusters.contains(&preferred) {
        return Err(format!(
            "spec.preferredCluster {preferred} is not in spec.clusters: add it there, or prefer one that is"
        ));
    }
    let protect = Protect {
        volumes: Selector(spec.protect.volumes.match_labels.clone()),
        workloads: Selector(spec.protect.workloads.match_labels.clone()),
        objects: spec.protect.objects.iter().map(objects).collect(),
    };
    for (field, selector) in [("volumes", &protect.volumes), ("workloads", &protect.workloads)] {
        if selector.0.is_empty() {
            return Err(format!(
                "spec.protect.{field}.matchLabels is empty and would select a whole namespace: name the labels of the application"
            ));
        }
    }
    let failover = &spec.failover;
    let mode = mode(failover);
    let max_data_loss =
        failover.max_data_loss.as_deref().map(|text| span("spec.failover.maxDataLoss", text)).transpose()?;
    Ok(Placement {
        id: id.clone(),
        name: name.clone(),
        generation,
        created: object.metadata.creation_timestamp.as_ref().map(|at| WallTime(at.0.as_millisecond())),
        deleting,
        preferred,
        clusters,
        protect,
        replication_class: spec.replication.volume_replication_class.clone(),
        group_class: spec.replication.volume_group_replication_class.clone(),
        mode,
        max_data_loss,
        max_skew: failover.max_skew.as_deref().map(|text| span("spec.failover.maxSkew", text)).transpose()?,
        policy: policy(failover, mode, generation)?,
        paused: spec.paused,
        move_deadline: match spec.migration.deadline.as_deref() {
            Some(text) => span("spec.migration.deadline", text)?,
            None => MOVE_DEADLINE,
        },
        failback: failback(&spec.failback)?,
        depends_on: spec.depends_on.clone(),
        told: object.status.clone().map(Box::new),
        acknowledged: object.metadata.annotations.as_ref().and_then(|map| map.get(ACKNOWLEDGED).cloned()),
    })
}

/// Long enough for a busy link to carry the last changes of large volumes; the application is away meanwhile.
const MOVE_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Protocol §7.
const STABILIZATION: Duration = Duration::from_secs(30 * 60);

fn failback(spec: &FailbackSpec) -> Result<Failback, String> {
    let FailbackSpec { mode, resync, stabilization, windows } = spec;
    Ok(Failback {
        automatic: *mode == FailbackMode::Automatic,
        resync_automatic: *resync == ResyncMode::Automatic,
        stabilization: match stabilization.as_deref() {
            Some(text) => span("spec.failback.stabilization", text)?,
            None => STABILIZATION,
        },
        windows: windows.iter().map(window).collect::<Result<_, _>>()?,
    })
}

fn window(spec: &WindowSpec) -> Result<Window, String> {
    let from_minute = minute("from", &spec.from)?;
    let to_minute = minute("to", &spec.to)?;
    if from_minute == to_minute {
        return Err(format!(
            "spec.failback.windows: {} to {} is no time at all; leave windows out to allow any time",
            spec.from, spec.to
        ));
    }
    Ok(Window { from_minute, to_minute })
}

fn minute(field: &str, text: &str) -> Result<u32, String> {
    let parsed = text.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    });
    parsed.ok_or_else(|| {
        format!("spec.failback.windows.{field} {text:?} is no time of the day: write it as 22:30, in UTC")
    })
}

fn mode(failover: &FailoverSpec) -> Mode {
    match failover.mode {
        FailoverMode::Automatic => Mode::Automatic,
        FailoverMode::Confirm => Mode::Confirm,
        FailoverMode::Manual => Mode::Manual,
    }
}

fn policy(failover: &FailoverSpec, mode: Mode, generation: Generation) -> Result<Policy, String> {
    let on_silence = match (failover.on_silence, mode) {
        (Some(OnSilenceSpec::Stop), _) | (None, Mode::Automatic) => OnSilence::Stop,
        (Some(OnSilenceSpec::Continue), Mode::Automatic) => {
            return Err("spec.failover.onSilence is Continue with mode Automatic: waiting would then prove nothing; set onSilence: Stop, or mode: Confirm".to_owned());
        }
        (Some(OnSilenceSpec::Continue), _) | (None, Mode::Confirm | Mode::Manual) => OnSilence::Continue,
    };
    let fencing = match failover.fencing {
        FencingLevel::None => Fencing::None,
        FencingLevel::SelfFence => Fencing::SelfFence,
        FencingLevel::Gate => Fencing::Gate,
        FencingLevel::Storage => Fencing::Storage,
        FencingLevel::External => Fencing::External,
    };
    if mode == Mode::Automatic && fencing < Fencing::SelfFence {
        return Err("spec.failover.fencing is None with mode Automatic: nothing would stop the old holder; set fencing: SelfFence, or mode: Confirm".to_owned());
    }
    let timing = timing(failover.timing.as_ref())?;
    timing.check().map_err(|error| format!("spec.failover.{error}"))?;
    Ok(Policy { generation, timing, on_silence, fencing })
}

fn timing(spec: Option<&TimingSpec>) -> Result<Timing, String> {
    let Some(spec) = spec else { return Ok(Timing::DEFAULT) };
    let TimingSpec {
        profile,
        renew,
        rpc,
        ttl,
        hold,
        grace,
        stop,
        suspect,
        unreachable,
        clock_rate_error_ppm,
    } = spec;
    let base = match profile {
        Some(TimingProfile::Fast) => Timing::FAST,
        Some(TimingProfile::Default) | None => Timing::DEFAULT,
        Some(TimingProfile::Conservative) => Timing::CONSERVATIVE,
    };
    let pick = |field: &str, text: &Option<String>, otherwise: Duration| match text {
        Some(text) => span(&format!("spec.failover.timing.{field}"), text),
        None => Ok(otherwise),
    };
    Ok(Timing {
        renew: pick("renew", renew, base.renew)?,
        rpc: pick("rpc", rpc, base.rpc)?,
        ttl: pick("ttl", ttl, base.ttl)?,
        hold: pick("hold", hold, base.hold)?,
        grace: pick("grace", grace, base.grace)?,
        stop: pick("stop", stop, base.stop)?,
        clock_rate_error_ppm: clock_rate_error_ppm.unwrap_or(base.clock_rate_error_ppm),
        suspect: pick("suspect", suspect, base.suspect)?,
        unreachable: pick("unreachable", unreachable, base.unreachable)?,
    })
}

fn objects(spec: &ObjectsSpec) -> ObjectSelector {
    let ObjectsSpec { api_version, kind, names } = spec;
    ObjectSelector { api_version: api_version.clone(), kind: kind.clone(), names: names.clone() }
}

fn span(field: &str, text: &str) -> Result<Duration, String> {
    crds::span::parse(text).map_err(|error| format!("{field}: {error}"))
}

impl Placement {
    /// Whether the same claim could belong to both: every label that one asks for, the other asks for too.
    pub fn overlaps(&self, other: &Placement) -> bool {
        let covers = |a: &Selector, b: &Selector| a.0.iter().all(|(key, value)| b.0.get(key) == Some(value));
        let either = |a: &Selector, b: &Selector| covers(a, b) || covers(b, a);
        self.id != other.id
            && self.name.namespace == other.name.namespace
            && self.clusters.iter().any(|cluster| other.clusters.contains(cluster))
            && (either(&self.protect.volumes, &other.protect.volumes)
                || either(&self.protect.workloads, &other.protect.workloads))
    }
}
