//! May the hub accuse a site? (protocol §4, a to g)

use std::collections::BTreeSet;
use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{PathKind, Rule, kept};

use super::witness;
use crate::finding::Finding;
use crate::fleet::Liveness;
use crate::observation::{Observation, SiteView};

/// (c), invariant S15: a hub that hears nobody is the one cut off.
pub fn not_everything_is_dark(o: &Observation) -> Option<Finding> {
    let (sites, dark) = (o.hub.sites, o.hub.dark);
    let too_many = dark >= sites || (sites >= 3 && dark * 100 >= sites * 55);
    (dark > 0 && too_many && kept(Rule::AllDarkFreezes)).then(|| {
        Finding::new(
            Reason::HubFrozen,
            format!("hub: {dark} of {sites} sites are silent; the hub may be the one cut off, so nothing is moved; mend its links"),
        )
    })
}

/// Protocol §7: a second site at once is more likely a fault of the hub's own network.
pub fn no_second_site_is_dark(o: &Observation) -> Option<Finding> {
    (o.hub.dark > 1 && kept(Rule::AllDarkFreezes)).then(|| {
        Finding::new(
            Reason::SecondSiteSilent,
            format!(
                "hub: {} sites are silent at once, so nothing is moved automatically; mend the links, or approve what is proposed",
                o.hub.dark
            ),
        )
    })
}

pub fn holder_is_unreachable(o: &Observation) -> Option<Finding> {
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

/// How long before a suspicion a path must have worked, so that its silence says something.
const PATH_MEMORY: Duration = Duration::from_secs(600);

/// Since when the holder is suspected, as an age; evidence must be younger (S17).
fn suspicion_age(o: &Observation, holder: &SiteView) -> Duration {
    holder.silent.saturating_sub(o.placement.policy.timing.suspect)
}

/// For how long it has been lost: a hub that starts in the middle counts its silence from then, and the journal knows more.
fn lost_for(o: &Observation, holder: &SiteView) -> Duration {
    let lost_at = o.progress.running().and_then(|operation| operation.intent.lost_at);
    lost_at.map_or(holder.silent, |lost_at| holder.silent.max(o.wall.since(lost_at)))
}

/// (d), invariant S16.
pub fn nobody_sees_the_holder_alive(o: &Observation) -> Option<Finding> {
    let holder = o.holder().filter(|_| kept(Rule::SignOfLifeVetoes))?;
    let since = suspicion_age(o, holder);
    let observer = o.sites.iter().find_map(|site| {
        let seen = site
            .sees_holder
            .iter()
            .find(|seen| seen.reachable && seen.gathered_age.is_some_and(|age| age <= since))?;
        Some((&site.cluster.name, seen.path))
    });
    if let Some(witness) = witness::sees_it_alive(o, since) {
        return Some(Finding::new(
            Reason::SignOfLife,
            format!(
                "{}: its Lease at the witness {witness} still advances, so it is alive; mend the link between it and the hub",
                holder.cluster.name
            ),
        ));
    }
    observer.map(|(observer, path)| {
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
pub fn target_misses_it_on_two_paths(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder().filter(|_| kept(Rule::SignOfLifeVetoes))?, o.target()?);
    let since = suspicion_age(o, holder);
    let lost_for = lost_for(o, holder);
    let counts = |kind: &PathKind| misses_on(target, *kind, since, lost_for);
    let kinds = [PathKind::PeerAgent, PathKind::ApiServer, PathKind::Witness];
    if kinds.iter().filter(|kind| counts(kind)).count() >= KINDS_OF_PATH {
        return None;
    }
    let missing = kinds.into_iter().find(|kind| !counts(kind))?;
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

/// Protocol §4, (e).
const KINDS_OF_PATH: usize = 2;

fn misses_on(observer: &SiteView, kind: PathKind, since: Duration, lost_for: Duration) -> bool {
    observer.sees_holder.iter().any(|seen| {
        seen.path == kind
            && !seen.reachable
            && seen.gathered_age.is_some_and(|age| age <= since)
            && seen.worked_age.is_some_and(|age| age <= lost_for + PATH_MEMORY)
    })
}

/// (f), invariant S18: the hub misses its stream, the target its paths, a witness its Lease; they must not stand in one domain.
pub fn observers_span_two_failure_domains(o: &Observation) -> Option<Finding> {
    let (holder, target) = (o.holder()?, o.target()?);
    let accused = holder.cluster.failure_domain.as_str();
    let (since, lost_for) = (suspicion_age(o, holder), lost_for(o, holder));
    let target_misses_it = misses_on(target, PathKind::Witness, since, lost_for);
    let witnesses = witness::domains_that_miss_it(o, since, lost_for + PATH_MEMORY, target_misses_it);
    let observers: BTreeSet<&str> =
        witnesses.chain([o.hub.failure_domain, target.cluster.failure_domain.as_str()]).collect();
    let independent = observers.iter().filter(|domain| **domain != accused).count();
    (independent < 2).then(|| {
        Finding::new(
            Reason::TooFewFailureDomains,
            format!(
                "{}: hub, {} and the witnesses that miss it do not stand in two failure domains besides {accused}",
                o.placement.name, target.cluster.name
            ),
        )
    })
}

pub fn path_name(path: PathKind) -> &'static str {
    match path {
        PathKind::PeerAgent => "agent",
        PathKind::ApiServer => "API server",
        PathKind::Witness => "Lease at the witnesses",
    }
}
