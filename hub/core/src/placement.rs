//! A DRPlacement, parsed at the door: past it every name is a name, every span a span, and the inequality holds.

use std::time::Duration;

use crds::placement::{
    DRPlacement, DRPlacementStatus, FailoverMode, FailoverSpec, FencingLevel, OnSilence as OnSilenceSpec,
    TimingProfile, TimingSpec,
};
use proto::{
    ClusterName, Fencing, Generation, NameError, OnSilence, PlacementId, PlacementName, Policy, Protect,
    Selector, Timing,
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
    /// Its DRPlacement is being deleted: let go.
    pub deleting: bool,
    pub preferred: ClusterName,
    /// In order of preference.
    pub clusters: Vec<ClusterName>,
    pub protect: Protect,
    pub replication_class: String,
    pub mode: Mode,
    /// None: three scheduling intervals of the class.
    pub max_data_loss: Option<Duration>,
    pub policy: Policy,
    pub paused: bool,
    /// What an earlier hub told the user (rejoin, protocol §3).
    pub told: Option<Box<DRPlacementStatus>>,
    /// The operation whose outcome a human has looked at: annotation `understudy.dev/acknowledged`.
    pub acknowledged: Option<String>,
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
        deleting,
        preferred,
        clusters,
        protect,
        replication_class: spec.replication.volume_replication_class.clone(),
        mode,
        max_data_loss,
        policy: policy(failover, mode, generation)?,
        paused: spec.paused,
        told: object.status.clone().map(Box::new),
        acknowledged: object.metadata.annotations.as_ref().and_then(|map| map.get(ACKNOWLEDGED).cloned()),
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
