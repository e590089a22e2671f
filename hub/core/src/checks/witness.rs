//! Whether the configured witnesses answer, and what they say of the holder (protocol §4, d to f).

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{Epoch, Rule, kept};

use crate::finding::Finding;
use crate::observation::Observation;
use crate::witness::WitnessView;

/// (d): a hub that does not reach what everybody should reach may be the one cut off.
pub fn witnesses_answer(o: &Observation) -> Option<Finding> {
    let patience = o.placement.policy.timing.suspect;
    let silent = witnesses(o, Rule::SilentWitnessFreezes).find(|witness| !witness.answers(patience))?;
    let since =
        silent.look_age.map_or("since this hub started".to_owned(), |age| format!("for {}", shown(age)));
    Some(unavailable(
        silent,
        &format!(
            "has not answered {since}, so nothing is moved automatically; mend it or its link to the hub"
        ),
    ))
}

/// Whoever starts with an old copy of the journal would enter an epoch a second time: nobody enters one before the
/// witnesses were asked (protocol §3, rejoin).
pub fn witnesses_were_asked(o: &Observation) -> Option<Finding> {
    let unread = witnesses(o, Rule::WitnessIsAskedFirst).find(|witness| witness.look_age.is_none())?;
    Some(unavailable(
        unread,
        &format!(
            "has not answered since this hub started, and may remember more of {} than its journal; mend it, or take it out of the hub's witnesses",
            o.placement.name
        ),
    ))
}

/// What cannot be taken back is remembered outside first, where nobody was asked about it.
pub fn witnesses_know_the_epoch(o: &Observation) -> Option<Finding> {
    let epoch = o.progress.running().map_or(Epoch(0), |operation| operation.intent.epoch);
    let behind = witnesses(o, Rule::WitnessKnowsBeforePromotion).find(|witness| witness.epoch < epoch)?;
    Some(unavailable(behind, &format!("does not show epoch {epoch} of {} yet", o.placement.name)))
}

/// Those that this rule is about: all of them, unless a test has switched it off.
fn witnesses<'o>(o: &'o Observation, rule: Rule) -> impl Iterator<Item = &'o WitnessView<'o>> {
    o.hub.witnesses.iter().filter(move |_| kept(rule))
}

fn unavailable(witness: &WitnessView, what: &str) -> Finding {
    Finding::new(Reason::WitnessUnavailable, format!("witness {}: {what}", witness.name))
}

/// Its failure domain counts as one that observes the holder, as long as the holder has a Lease there.
pub fn domains<'o>(o: &'o Observation) -> impl Iterator<Item = &'o str> {
    let watching = o.hub.witnesses.iter().filter(|witness| witness.holder.is_some());
    watching.map(|witness| witness.failure_domain)
}

/// Where the hub has seen the holder's Lease advance, lately and since then.
pub fn sees_it_alive<'o>(o: &'o Observation, since: Duration) -> Option<&'o str> {
    let patience = o.placement.policy.timing.suspect;
    let alive = witnesses(o, Rule::WitnessLeaseVetoes).find(|witness| {
        let advanced = witness.holder.is_some_and(|pulse| pulse.advanced);
        advanced && witness.last_beat().is_some_and(|age| age <= since.min(patience))
    });
    alive.map(|witness| witness.name)
}

/// The failure domains of the witnesses that were looked at since, and at which the holder's Lease is still although it
/// advanced before, to the knowledge of this hub or of the target.
pub fn domains_that_miss_it<'o>(
    o: &'o Observation,
    since: Duration,
    remembered: Duration,
    target_misses_it: bool,
) -> impl Iterator<Item = &'o str> {
    let patience = o.placement.policy.timing.suspect;
    let misses = move |witness: &&'o WitnessView| {
        let fresh = witness.look_age.is_some_and(|age| age <= since.min(patience));
        let still = witness.holder.filter(|pulse| fresh && pulse.is_still(patience));
        still.is_some_and(|pulse| {
            target_misses_it || pulse.advanced && witness.last_beat().is_some_and(|age| age <= remembered)
        })
    };
    o.hub.witnesses.iter().filter(misses).map(|witness| witness.failure_domain)
}
