//! What the user and the fleet say: mode, pause, what was approved before, and how much may happen at once (protocol §7).

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{Rule, kept};

use crate::finding::Finding;
use crate::observation::Observation;
use crate::placement::Mode;

pub fn mode_is_automatic(o: &Observation) -> Option<Finding> {
    let mode = match o.placement.mode {
        Mode::Automatic => return None,
        Mode::Confirm | Mode::Manual if !kept(Rule::ModeIsRespected) => return None,
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

/// Whoever works on a cluster expects its silence.
pub fn holder_is_not_in_maintenance(o: &Observation) -> Option<Finding> {
    let holder = o.holder()?;
    holder.cluster.maintenance.then(|| {
        Finding::new(
            Reason::Disabled,
            format!(
                "{}: in maintenance, so its silence is nobody's alarm; end it with spec.maintenance: false",
                holder.cluster.name
            ),
        )
    })
}

pub fn not_paused(o: &Observation) -> Option<Finding> {
    (o.placement.paused && kept(Rule::PauseHolds)).then(|| {
        Finding::new(
            Reason::Paused,
            format!("{} is paused; set spec.paused: false to go on", o.placement.name),
        )
    })
}

pub fn no_human_is_needed(o: &Observation) -> Option<Finding> {
    o.progress.needs_human.as_ref().map(|reason| Finding::new(Reason::NeedsHuman, reason.clone()))
}

pub fn cooled_down(o: &Observation) -> Option<Finding> {
    let block = o.progress.block.as_ref().filter(|_| kept(Rule::OneAutomaticFailover))?;
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

pub fn not_flapping(o: &Observation) -> Option<Finding> {
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
pub fn one_site_an_hour(o: &Observation) -> Option<Finding> {
    let holder = o.holder_name()?;
    let others = || o.hub.lost_lately.iter().filter(|_| kept(Rule::OneSiteAnHour));
    let other = others().find(|lost| **lost != holder)?;
    Some(Finding::new(
        Reason::CoolingDown,
        format!(
            "{}: {other} was lost within the last hour, and one site an hour is allowed; approve the failover away from {holder} if it is right",
            o.placement.name
        ),
    ))
}

/// A linearizable read is fresh for this many calls.
const READ_IS_FRESH_FOR_CALLS: u32 = 4;

/// (g), invariant S27.
pub fn wish_is_read_afresh(o: &Observation) -> Option<Finding> {
    let fresh = o.placement.policy.timing.rpc * READ_IS_FRESH_FOR_CALLS;
    let stale = o.verified_age.is_none_or(|age| age > fresh);
    (stale && kept(Rule::FreshReadBeforeMoving)).then(|| {
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
