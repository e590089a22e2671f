//! What forbids a failover, as ordered lists of named functions. A new rule is one function, one line, one scenario.

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{PathKind, Report, Role};

use crate::explain::at_least;
use crate::finding::Finding;
use crate::fleet::{Heard, Liveness};
use crate::lease::expiry_wait;
use crate::observation::{Observation, SiteView, last_sync};
use crate::placement::Mode;

pub type Check = fn(&Observation) -> Option<Finding>;

/// May the hub act alone on this placement at all? (protocol §4, arming)
pub const ARMING: &[Check] = &[
    mode_is_automatic,
    not_paused,
    no_human_is_needed,
    cooled_down,
    not_flapping,
    one_site_an_hour,
    three_failure_domains,
    expiry_proves_a_fence,
    holder_can_fence_itself,
    holder_knows_the_target,
    loss_bound_is_known,
];

/// What a human's yes does not replace.
pub const CONSENT: &[Check] = &[not_paused, no_human_is_needed, wish_is_read_afresh];

/// Does waiting for the end of the holder's lease prove that it has stopped?
pub const EXPIRY_PROVES: &[Check] =
    &[expiry_proves_a_fence, holder_can_fence_itself, holder_knows_the_target];

/// What must be so before anybody is asked about a failover.
pub const ASKING: &[Check] = &[
    holder_is_configured,
    not_paused,
    no_human_is_needed,
    not_everything_is_dark,
    holder_is_unreachable,
    wish_is_read_afresh,
];

/// May a planned move begin? The old holder hands over, and the preferred cluster can take it.
pub const HANDOVER: &[Check] = &[not_paused, holder_can_hand_over, preferred_can_take_over];

/// May the hub move anything back by itself?
pub const CALM: &[Check] = &[not_flapping, preferred_copy_is_within_the_bound];

/// May an outdated copy be thrown away? Only while there is a good one.
pub const NEW_COPY: &[Check] = &[not_paused, holder_can_hand_over];

/// Can this cluster take over? About the target alone.
pub const TARGET: &[Check] = &[
    target_is_configured,
    target_is_heard,
    target_is_not_in_maintenance,
    target_is_a_standby,
    manifests_are_known,
    target_has_no_ailment,
    target_driver_has_a_leader,
    target_is_steady,
];

/// Is the copy good enough to lose the original? A planned move loses nothing, and does not ask.
pub const COPY: &[Check] = &[loss_is_within_the_bound, skew_is_within_the_bound];

/// Would a failover that started now pass?
pub fn readiness(o: &Observation) -> Option<Finding> {
    first(TARGET, o).or_else(|| first(COPY, o))
}

/// May this site be accused now? (protocol §4, a–g)
pub const ACCUSATION: &[Check] = &[
    holder_is_configured,
    not_everything_is_dark,
    no_second_site_is_dark,
    holder_is_unreachable,
    wish_is_read_afresh,
    nobody_sees_the_holder_alive,
    target_misses_it_on_two_paths,
    observers_span_two_failure_domains,
];

pub fn first(checks: &[Check], observation: &Observation) -> Option<Finding> {
    checks.iter().find_map(|check| check(observation))
}

/// How long before a suspicion a path must have worked, so that its silence says something.
const PATH_MEMORY: Duration = Duration::from_secs(600);

/// A linearizable read is fresh for this many calls.
const READ_IS_FRESH_FOR_CALLS: u32 = 4;

fn mode_is_automatic(o: &Observation) -> Option<Finding> {
    let mode = match o.placement.mode {
        Mode::Automatic => return None,
        Mode::Confirm => "Confirm",
        Mode::Manual => "Manual",
    };
    Some(Finding::new(
        Reason::Disabled,
        format!(
            "{}: failover.mode is {mode}; set it to Automatic to let the hub act alone",
            o.placement.name
        ),
    ))
}

fn not_paused(o: &Observation) -> Option<Finding> {
    o.placement.paused.then(|| {
        Finding::new(
            Reason::Paused,
            format!("{} is paused; set spec.paused: false to go on", o.placement.name),
        )
    })
}

/// It runs the application, lives by its lease, and can be told to stop.
fn holder_can_hand_over(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    let name = &holder.cluster.name;
    let epoch = o.progress.ownership.as_ref().map(|ownership| ownership.epoch);
    let holds =
        holder.report.is_some_and(|report| report.role == Role::Holder && Some(report.epoch_seen) == epoch);
    let well = holder.connected && holder.liveness == Liveness::Alive && holds;
    (!well).then(|| {
        Finding::new(
            Reason::NoContact,
            format!("{name}: is not heard as the holder of {} now; look at its agent", o.placement.name),
        )
    })
}

fn preferred_can_take_over(o: &Observation) -> Option<Finding> {
    let preferred = &o.placement.preferred;
    let known =
        o.standbys.iter().any(|(cluster, _)| cluster == preferred) || o.holder_name() == Some(preferred);
    if !known {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: spec.preferredCluster {preferred} has no DRCluster; create it, or prefer another",
                o.placement.name
            ),
        ));
    }
    o.preferred_flaw.clone()
}

fn preferred_copy_is_within_the_bound(o: &Observation) -> Option<Finding> {
    first(COPY, o)
}

/// Why only an acknowledgement or a human's word can show that the holder has stopped, if so.
pub fn waiting_proves_nothing(o: &Observation) -> Option<Finding> {
    first(ACCUSATION, o).or_else(|| first(EXPIRY_PROVES, o))
}

/// So many moves at once, and no more: each one asks much of the storage.
pub fn too_many_move(o: &Observation) -> Option<Finding> {
    (o.hub.moving >= o.hub.moving_at_most).then(|| {
        Finding::new(
            Reason::Queued,
            format!(
                "{}: {} placements are being moved, and {} may be at once (--moves-at-once); it waits its turn",
                o.placement.name, o.hub.moving, o.hub.moving_at_most
            ),
        )
    })
}

fn no_human_is_needed(o: &Observation) -> Option<Finding> {
    o.progress.needs_human.as_ref().map(|reason| Finding::new(Reason::NeedsHuman, reason.clone()))
}

fn cooled_down(o: &Observation) -> Option<Finding> {
    let block = o.progress.block.as_ref()?;
    let acknowledged = o.placement.acknowledged.as_deref() == Some(block.operation.0.as_str());
    if acknowledged && o.wall >= block.until {
        return None;
    }
    let remedy = if acknowledged {
        format!("automatic again in {}", shown(block.until.since(o.wall)))
    } else {
        format!(
            "look at the outcome, then annotate it with {}={}",
            crate::placement::ACKNOWLEDGED,
            block.operation
        )
    };
    Some(Finding::new(
        Reason::CoolingDown,
        format!(
            "{}: {} was automatic, and one an hour is allowed; {remedy}",
            o.placement.name, block.operation
        ),
    ))
}

/// Protocol §7.
const FLAPPING: (usize, Duration) = (3, Duration::from_secs(30 * 60));

fn not_flapping(o: &Observation) -> Option<Finding> {
    let (flips, within) = FLAPPING;
    let recent = o.progress.flips.iter().filter(|at| o.wall.since(**at) < within).count();
    let last = o.progress.operation.as_ref().map(|operation| operation.intent.operation.to_string());
    let acknowledged = last.is_some() && o.placement.acknowledged == last;
    (recent >= flips && !acknowledged).then(|| {
        Finding::new(
            Reason::Flapping,
            format!(
                "{}: has changed its cluster {recent} times within {}; look at both sites, then annotate it with {}={}",
                o.placement.name,
                shown(within),
                crate::placement::ACKNOWLEDGED,
                last.unwrap_or_default()
            ),
        )
    })
}

/// One site may be lost automatically in an hour (protocol §7); a second one is for a human.
fn one_site_an_hour(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    let other = o.hub.lost_lately.iter().find(|lost| **lost != holder)?;
    Some(Finding::new(
        Reason::CoolingDown,
        format!(
            "{}: {other} was lost within the last hour, and one site an hour is allowed; approve the failover away from {holder} if it is right",
            o.placement.name
        ),
    ))
}

fn three_failure_domains(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder()?, o.target()?);
    let domains = [o.hub.failure_domain, &holder.cluster.failure_domain, &target.cluster.failure_domain];
    let distinct = std::collections::BTreeSet::from(domains).len();
    (distinct < 3).then(|| {
        Finding::new(
            Reason::TooFewFailureDomains,
            format!(
                "{}: hub ({}), {} ({}) and {} ({}) do not stand in three failure domains, so nobody can tell who is cut off; move the hub, or correct spec.failureDomain of the DRClusters",
                o.placement.name,
                o.hub.failure_domain,
                holder.cluster.name,
                holder.cluster.failure_domain,
                target.cluster.name,
                target.cluster.failure_domain
            ),
        )
    })
}

fn expiry_proves_a_fence(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    expiry_wait(o.progress).is_none().then(|| {
        Finding::new(
            Reason::NotFenceCapable,
            format!(
                "{}: {holder} has not confirmed that it stops when nobody answers, so waiting for it proves nothing; use onSilence: Stop and fencing: SelfFence, and wait until {holder} has renewed once",
                o.placement.name
            ),
        )
    })
}

fn holder_can_fence_itself(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    let unfenceable = match (holder.heard, holder.report) {
        (Some(heard), Some(report)) => unfenceable(o, heard, report),
        // It renews, and does not say what it sees: then it may not see what it would have to stop.
        (Some(_), None) if holder.mute >= o.placement.policy.timing.unreachable => Some(format!(
            "{}: its agent has not reported since it connected; look at its log",
            holder.cluster.name
        )),
        // Not heard since this hub started, or just connected: what was known before still holds.
        (Some(_) | None, _) => o.remembered.and_then(|kept| kept.unfenceable.clone()),
    };
    unfenceable.map(|why| Finding::new(Reason::NotFenceCapable, why))
}

/// A holder that the hub cannot reach holds through the promises of the targets it knows. One that it was not told of has
/// promised nothing, so waiting says nothing about it (the same as R6 says of policies).
fn holder_knows_the_target(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder_name()?, &o.target()?.cluster.name);
    let known = o.progress.targets.iter().all(|(_, clusters)| clusters.contains(target));
    (!known).then(|| {
        Finding::new(
            Reason::NotFenceCapable,
            format!(
                "{}: {target} was added to spec.clusters after {holder} last confirmed them; wait until {holder} renews",
                o.placement.name
            ),
        )
    })
}

/// Why the holder cannot be relied upon to stop by itself, if so: what it cannot stop, and what it does not live by.
pub fn unfenceable(o: &Observation, heard: &Heard, report: &Report) -> Option<String> {
    let name = &report.cluster;
    if heard.api_write_age.is_none_or(|age| age > o.placement.policy.timing.suspect) {
        return Some(format!(
            "{name}: its agent cannot write to its own API server, and could not stop the application; mend that API server"
        ));
    }
    if let Some(ailment) =
        report.ailments.iter().find(|ailment| UNFENCEABLE.contains(&ailment.reason.as_str()))
    {
        return Some(format!("{name}: {}: {}", ailment.reason, ailment.message));
    }
    let owned = o.progress.ownership.as_ref().is_some_and(|ownership| ownership.epoch == report.epoch_seen);
    let lives_by_its_lease = owned && matches!(report.role, Role::Holder | Role::Fenced);
    let moving = o.progress.running().is_some()
        || o.progress.ownership.as_ref().is_some_and(|ownership| o.progress.highest > ownership.epoch);
    (!lives_by_its_lease && !moving).then(|| {
        format!(
            "{name}: says that it is {:?} at epoch {}, and does not live by the lease of epoch {}; look at its DRSiteState",
            report.role,
            report.epoch_seen,
            o.progress.ownership.as_ref().map_or(proto::Epoch(0), |ownership| ownership.epoch)
        )
    })
}

/// What an agent reports that a self-fence cannot stop in time.
const UNFENCEABLE: [&str; 6] = [
    "GraceTooLong",
    "BarePodUsesVolume",
    "DaemonSetUsesVolume",
    "JobUsesVolume",
    "UnscalableWorkloadUsesVolume",
    "TooManyClaims",
];

fn loss_bound_is_known(o: &Observation) -> Option<Finding> {
    o.loss_bound().is_none().then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: no loss bound: the class {} names no schedulingInterval that can be read; set spec.failover.maxDataLoss",
                o.placement.name, o.placement.replication_class
            ),
        )
    })
}

fn holder_is_configured(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    o.holder().is_none().then(|| {
        Finding::new(
            Reason::InvalidSpec,
            format!("{}: its holder {holder} has no DRCluster any more; create it again", o.placement.name),
        )
    })
}

fn target_is_configured(o: &Observation) -> Option<Finding> {
    if let Some(holder) = o.holder_name().filter(|holder| !o.placement.clusters.contains(holder)) {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: spec.clusters does not name {holder}, which runs it; add it again",
                o.placement.name
            ),
        ));
    }
    if let Some(missing) = o.unconfigured.first() {
        return Some(Finding::new(
            Reason::InvalidSpec,
            format!(
                "{}: cluster {missing} has no DRCluster; create it, or take it out of spec.clusters",
                o.placement.name
            ),
        ));
    }
    o.target().is_none().then(|| {
        Finding::new(Reason::PeerSilent, format!("{}: there is no cluster to take over", o.placement.name))
    })
}

fn target_is_heard(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let name = &target.cluster.name;
    match target.liveness {
        Liveness::Alive if target.connected && target.report.is_some() => None,
        Liveness::Alive => Some(Finding::new(
            Reason::PeerSilent,
            format!("{name}: its agent has not reported yet; wait for it"),
        )),
        Liveness::Unheard | Liveness::Suspect | Liveness::Unreachable => Some(Finding::new(
            Reason::PeerSilent,
            format!("{name}: silent for {}; look at its agent and the link to it", shown(target.silent)),
        )),
    }
}

fn target_is_not_in_maintenance(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    target.cluster.maintenance.then(|| {
        Finding::new(
            Reason::TargetUnreachable,
            format!("{}: in maintenance; end it with spec.maintenance: false", target.cluster.name),
        )
    })
}

/// A former holder's copy may have diverged; it is no target before it has been resynced.
fn target_is_a_standby(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let report = target.report?;
    let entering = o.progress.running().is_some_and(|operation| report.epoch_seen >= operation.intent.epoch);
    let ready = match report.role {
        Role::Standby | Role::Promoting | Role::Holder => true,
        Role::Unknown => entering,
        Role::Fenced => false,
    };
    (!ready).then(|| {
        Finding::new(
            Reason::VolumeResyncing,
            format!(
                "{}: it is {:?} for {}, and its copy may have diverged; resync it before it can take over",
                target.cluster.name, report.role, o.placement.name
            ),
        )
    })
}

/// Protocol §7: a site that has just come back may go again.
fn target_is_steady(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let back = target.back_for?;
    (back < o.hub.steady_after).then(|| {
        Finding::new(
            Reason::PeerSilent,
            format!(
                "{}: heard again for {} only, and {} are asked of a target; wait",
                target.cluster.name,
                shown(Duration::from_secs(back.as_secs())),
                shown(o.hub.steady_after)
            ),
        )
    })
}

fn manifests_are_known(o: &Observation) -> Option<Finding> {
    o.inventory().is_none_or(|inventory| inventory.volumes.is_empty()).then(|| {
        Finding::new(
            Reason::ManifestsMissing,
            format!(
                "{}: no protected volume is known yet; label the claims as spec.protect.volumes says",
                o.placement.name
            ),
        )
    })
}

fn target_has_no_ailment(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    let ailment = target.report?.ailments.iter().find(|ailment| blocks_a_target(&ailment.reason))?;
    Some(Finding::new(
        Reason::ManifestsMissing,
        format!("{}: {}: {}", target.cluster.name, ailment.reason, ailment.message),
    ))
}

fn blocks_a_target(reason: &str) -> bool {
    matches!(
        reason,
        "StagingConflict" | "ClassDiffers" | "NamespaceMissing" | "NoReplicationClass" | "TooManyClaims"
    )
}

fn target_driver_has_a_leader(o: &Observation) -> Option<Finding> {
    let target = o.target()?;
    (target.report?.driver_leader == Some(false)).then(|| {
        Finding::new(
            Reason::NoDriverLeader,
            format!(
                "{}: no csi-addons controller leads for the driver, so nothing can be promoted there; look at its CSIAddonsNodes",
                target.cluster.name
            ),
        )
    })
}

/// Invariant S19. An unknown loss is infinite.
fn loss_is_within_the_bound(o: &Observation) -> Option<Finding> {
    let bound = o.loss_bound()?;
    match o.worst_loss(o.lost_by()) {
        Some(loss) if loss <= bound => None,
        Some(loss) => Some(Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: {} of writes would be lost, and maxDataLoss is {}; look at the replication of its volumes",
                o.placement.name,
                at_least(loss),
                shown(bound)
            ),
        )),
        None => Some(Finding::new(
            Reason::StaleCopy,
            format!("{}: the loss would be unlimited: {}", o.placement.name, missing_copy(o)),
        )),
    }
}

/// Volumes that were copied at different times may not fit together, which only the user can judge.
fn skew_is_within_the_bound(o: &Observation) -> Option<Finding> {
    let (bound, skew) = (o.placement.max_skew?, o.skew()?);
    (skew > bound).then(|| {
        Finding::new(
            Reason::StaleCopy,
            format!(
                "{}: the copies of its volumes lie {} apart, and spec.failover.maxSkew is {}; look at the replication of the oldest",
                o.placement.name,
                at_least(skew),
                shown(bound)
            ),
        )
    })
}

/// Which claim has never been synced, and what to do about it.
pub fn missing_copy(o: &Observation) -> String {
    let volumes = o.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
    let mut missing = volumes.iter().filter(|volume| last_sync(volume).is_none());
    let Some(volume) = missing.next() else {
        return "no volume is known yet; label the claims as spec.protect.volumes says".to_owned();
    };
    let claim = &volume.claim;
    let others = match missing.count() {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    if !volume.bound {
        return format!("claim {claim} is not bound{others}; see its events");
    }
    if volume.replication.is_none() {
        return format!(
            "claim {claim} has no VolumeReplication yet{others}; wait for its agent to make one, or delete the claim if it is a copy that nobody needs"
        );
    }
    format!(
        "claim {claim} waits for its first sync{others}; wait, and look at its VolumeReplication if it does not come"
    )
}

/// (c), invariant S15: a hub that hears nobody is the one cut off.
fn not_everything_is_dark(o: &Observation) -> Option<Finding> {
    let (sites, dark) = (o.hub.sites, o.hub.dark);
    let too_many = dark >= sites || (sites >= 3 && dark * 100 >= sites * 55);
    (dark > 0 && too_many).then(|| {
        Finding::new(
            Reason::HubFrozen,
            format!("hub: {dark} of {sites} sites are silent; the hub may be the one cut off, so nothing is moved; mend its links"),
        )
    })
}

/// Protocol §7: a second site at once is more likely a fault of the hub's own network.
fn no_second_site_is_dark(o: &Observation) -> Option<Finding> {
    (o.hub.dark > 1).then(|| {
        Finding::new(
            Reason::HubFrozen,
            format!(
                "hub: {} sites are silent at once, so nothing is moved automatically; mend the links, or approve what is proposed",
                o.hub.dark
            ),
        )
    })
}

fn holder_is_unreachable(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    (holder.liveness != Liveness::Unreachable).then(|| {
        let unreachable = o.placement.policy.timing.unreachable;
        Finding::new(
            Reason::NoContact,
            format!(
                "{}: silent for {} of the {} that count as unreachable",
                holder.cluster.name,
                shown(holder.silent),
                shown(unreachable)
            ),
        )
    })
}

/// (g), invariant S27.
fn wish_is_read_afresh(o: &Observation) -> Option<Finding> {
    let fresh = o.placement.policy.timing.rpc * READ_IS_FRESH_FOR_CALLS;
    o.verified_age.is_none_or(|age| age > fresh).then(|| {
        Finding::new(
            Reason::HubFrozen,
            format!(
                "{}: its DRPlacement could not be read from the hub's API server within {}; mend that first",
                o.placement.name,
                shown(fresh)
            ),
        )
    })
}

/// Since when the holder is suspected, as an age; evidence must be younger (S17).
fn suspicion_age(o: &Observation, holder: &SiteView) -> Duration {
    holder.silent.saturating_sub(o.placement.policy.timing.suspect)
}

/// (d), invariant S16.
fn nobody_sees_the_holder_alive(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    let since = suspicion_age(o, holder);
    let witness = o.sites.iter().find_map(|site| {
        let seen = site
            .sees_holder
            .iter()
            .find(|seen| seen.reachable && seen.gathered_age.is_some_and(|age| age <= since))?;
        Some((&site.cluster.name, seen.path))
    });
    witness.map(|(observer, path)| {
        Finding::new(
            Reason::SignOfLife,
            format!(
                "{}: {observer} still reaches its {}, so it is alive; mend the link between it and the hub",
                holder.cluster.name,
                path_name(path)
            ),
        )
    })
}

/// (e): silence counts only on a path that worked shortly before.
fn target_misses_it_on_two_paths(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder()?, o.target()?);
    let since = suspicion_age(o, holder);
    let counts = |kind: PathKind| {
        target.sees_holder.iter().any(|seen| {
            seen.path == kind
                && !seen.reachable
                && seen.gathered_age.is_some_and(|age| age <= since)
                && seen.worked_age.is_some_and(|age| age <= holder.silent + PATH_MEMORY)
        })
    };
    let missing = [PathKind::PeerAgent, PathKind::ApiServer].into_iter().find(|kind| !counts(*kind))?;
    Some(Finding::new(
        Reason::EvidenceMissing,
        format!(
            "{}: no fresh word from {} that it lost the {} of {}, on a path that worked before; check the endpoints in the DRCluster",
            o.placement.name,
            target.cluster.name,
            path_name(missing),
            holder.cluster.name
        ),
    ))
}

/// (f), invariant S18: the hub misses its stream, the target its paths; they must not stand in one domain.
fn observers_span_two_failure_domains(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder()?, o.target()?);
    let accused = holder.cluster.failure_domain.as_str();
    let observers =
        std::collections::BTreeSet::from([o.hub.failure_domain, target.cluster.failure_domain.as_str()]);
    let independent = observers.iter().filter(|domain| **domain != accused).count();
    (independent < 2).then(|| {
        Finding::new(
            Reason::TooFewFailureDomains,
            format!(
                "{}: hub and {} do not stand in two failure domains besides {accused}",
                o.placement.name, target.cluster.name
            ),
        )
    })
}

pub fn path_name(path: PathKind) -> &'static str {
    match path {
        PathKind::PeerAgent => "agent",
        PathKind::ApiServer => "API server",
    }
}
