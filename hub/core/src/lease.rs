//! Answers to renewals, and what must be waited for after the last one.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{ClusterName, Denial, DenialReason, Epoch, Grant, Renewal, Role, Rule, kept};

use crate::journal::{Entry, OperationKind};
use crate::placement::Placement;
use crate::progress::Progress;

/// What a cluster says it remembers of a placement.
pub type Memories = BTreeMap<ClusterName, (Epoch, Role)>;

/// The answer, and what has to be durable before it leaves.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub record: Vec<Entry>,
    pub verdict: Result<Grant, Denial>,
}

/// Judges one renewal. Rules R1, R2 and R6 of protocol.md; `NotNow` never stops a holder before its deadline. `testified` is
/// the highest epoch that a witness remembers; none: one of them has not been asked yet.
pub fn answer(
    placement: Option<&Placement>,
    progress: Option<&Progress>,
    memories: Option<&Memories>,
    testified: Option<Epoch>,
    cluster: &ClusterName,
    renewal: &Renewal,
) -> Answer {
    let denied = |epoch: Epoch, holder: Option<ClusterName>, reason: DenialReason| Answer {
        record: Vec::new(),
        verdict: Err(Denial { placement: renewal.placement.clone(), epoch, holder, reason }),
    };
    // Right after its start a hub may not have seen the placement yet: nobody is stopped for that.
    let Some(placement) = placement else { return denied(Epoch(0), None, DenialReason::NotNow) };
    let Some(progress) = progress else { return denied(Epoch(0), None, DenialReason::NotNow) };
    let holds = progress.ownership.as_ref().is_some_and(|ownership| ownership.holder == *cluster);
    if !placement.clusters.contains(cluster) && !holds {
        return denied(progress.highest, None, DenialReason::NotYours);
    }
    // Somebody knows more than this journal: its own idea of the owner may be an old one.
    if progress.needs_human.is_some() {
        return match sole_holder(placement, memories, testified) {
            Some((holder, epoch)) if holder == cluster && epoch == renewal.epoch => {
                granted(placement, progress, renewal)
            }
            Some((holder, epoch)) if epoch > renewal.epoch => {
                denied(epoch, Some(holder.clone()), DenialReason::Superseded)
            }
            Some(_) | None => denied(Epoch(0), None, DenialReason::NotNow),
        };
    }
    let Some(ownership) = &progress.ownership else {
        return denied(progress.highest, None, DenialReason::NotNow);
    };
    let leaving = is_leaving(progress);
    // A holder that gets its own placement back is not superseded by anybody.
    let given_away = leaving
        && kept(Rule::NoGrantAfterIntent)
        && progress
            .running()
            .is_some_and(|operation| operation.intent.kind.takes_away() && operation.is_past_no_return());
    if given_away || ownership.holder != *cluster {
        return denied(progress.highest, Some(ownership.holder.clone()), DenialReason::Superseded);
    }
    // R2: no grant after an intent, nor for an epoch that an aborted one has burned. But a holder that answers before the
    // point of no return keeps its application, so it is not told to stop: its old deadline is inside the wait.
    let left = leaving || progress.highest > renewal.epoch;
    if left && kept(Rule::NoGrantAfterIntent) || renewal.epoch != ownership.epoch {
        return denied(progress.highest, Some(ownership.holder.clone()), DenialReason::NotNow);
    }
    granted(placement, progress, renewal)
}

/// A hub that was started while the DRPlacement says what cannot be understood knows the journal only: the owner goes on by
/// what was granted last, as it would if the hub had not been started anew. Nothing is moved meanwhile.
pub fn answer_by_the_journal(progress: &Progress, cluster: &ClusterName, renewal: &Renewal) -> Answer {
    let trusted = progress.needs_human.is_none() && !progress.released && progress.running().is_none();
    let owns = progress.ownership.as_ref().is_some_and(|ownership| {
        ownership.holder == *cluster && ownership.epoch == renewal.epoch && progress.highest == renewal.epoch
    });
    let placement = renewal.placement.clone();
    let verdict = match progress.policies.last().filter(|_| trusted && owns) {
        Some(policy) => Ok(Grant { placement, epoch: renewal.epoch, policy: *policy, tickets: Vec::new() }),
        None => {
            let (epoch, holder, reason) = (Epoch(0), None, DenialReason::NotNow);
            Err(Denial { placement, epoch, holder, reason })
        }
    };
    Answer { record: Vec::new(), verdict }
}

/// Whether the running operation ends the epoch of the present owner (R2).
pub fn is_leaving(progress: &Progress) -> bool {
    let owned = progress.ownership.as_ref().map(|ownership| ownership.epoch);
    progress.running().is_some_and(|operation| {
        let kind = operation.intent.kind;
        (kind.takes_away() || kind == OperationKind::Readopt) && Some(operation.intent.epoch) > owned
    })
}

/// The one cluster that says it is holder at the highest epoch anybody remembers, once everybody has spoken; for those
/// that are silent, the status of the DRPlacement speaks, if it names the same holder and no operation. That may be of an
/// old backup as well, so no witness may know better.
fn sole_holder<'a>(
    placement: &Placement,
    memories: Option<&'a Memories>,
    testified: Option<Epoch>,
) -> Option<(&'a ClusterName, Epoch)> {
    let own = |cluster: &ClusterName| placement.clusters.contains(cluster);
    let memories: Vec<_> = memories?.iter().filter(|(cluster, _)| own(cluster)).collect();
    let highest = memories.iter().map(|(_, (epoch, _))| *epoch).max().filter(|epoch| *epoch > Epoch(0))?;
    let mut holders = memories.iter().filter(|(_, (epoch, role))| *epoch == highest && *role == Role::Holder);
    let (holder, _) = holders.next()?;
    let everybody_spoke = memories.len() == placement.clusters.len();
    let witnesses_agree = testified.is_some_and(|testified| testified <= highest);
    let vouched = everybody_spoke || status_names(placement, holder, highest) && witnesses_agree;
    (vouched && holders.next().is_none()).then_some((*holder, highest))
}

fn status_names(placement: &Placement, holder: &ClusterName, epoch: Epoch) -> bool {
    placement.told.as_ref().is_some_and(|told| {
        told.active_cluster.as_deref() == Some(holder.as_str())
            && told.epoch.and_then(|shown| u64::try_from(shown).ok()) == Some(epoch.0)
            && told.operation.is_none()
    })
}

fn granted(placement: &Placement, progress: &Progress, renewal: &Renewal) -> Answer {
    let mut record = Vec::new();
    // Every generation that was ever granted has to be in the journal, in whatever order the wishes were seen.
    let recorded = progress.policies.iter().any(|policy| policy.generation == placement.policy.generation);
    if !recorded {
        record.push(Entry::Policy {
            placement: placement.id.clone(),
            policy: placement.policy,
            clusters: placement.clusters.clone(),
        });
    }
    let echoes_a_known_one = progress.policies.iter().any(|policy| policy.generation == renewal.echo);
    if renewal.echo > progress.echoed && echoes_a_known_one {
        record.push(Entry::Echo { placement: placement.id.clone(), generation: renewal.echo });
    }
    let verdict = Ok(Grant {
        placement: renewal.placement.clone(),
        epoch: renewal.epoch,
        policy: placement.policy,
        tickets: Vec::new(),
    });
    Answer { record, verdict }
}

/// How long after the last grant the holder is certainly stopped; none: waiting proves nothing (R6).
pub fn expiry_wait(progress: &Progress) -> Option<Duration> {
    if !kept(Rule::EveryGrantedPolicyCounts) {
        let newest = progress.policies.last()?;
        return newest.expiry_stops().then(|| newest.timing.wait());
    }
    // Without an echo the holder may never have received a lease, and then has no deadline to stop at.
    let echoed_is_known = progress.policies.iter().any(|policy| policy.generation == progress.echoed);
    let all_stop = progress.policies.iter().all(proto::Policy::expiry_stops);
    let longest = progress.policies.iter().map(|policy| policy.timing.wait()).max()?;
    (all_stop && echoed_is_known).then_some(longest)
}
