//! What forbids an operation, as ordered lists of named functions. A new rule is one function, one line, one scenario.

mod accusation;
mod consent;
mod copy;
mod holder;
mod target;
mod witness;

pub use accusation::path_name;
use accusation::{
    holder_is_unreachable, no_second_site_is_dark, nobody_sees_the_holder_alive, not_everything_is_dark,
    observers_span_two_failure_domains, target_misses_it_on_two_paths,
};
use consent::{
    cooled_down, holder_is_not_in_maintenance, mode_is_automatic, no_human_is_needed, not_flapping,
    one_site_an_hour, wish_is_read_afresh,
};
pub use consent::{not_paused, too_many_move};
use copy::{copies_arrive, loss_is_within_the_bound, skew_is_within_the_bound, target_follows};
pub use copy::{missing_copy, not_a_follower};
pub use holder::{claims_are_its_own, holder_works, unfenceable};
use holder::{
    claims_can_cross, expiry_proves_a_fence, holder_can_fence_itself, holder_can_hand_over,
    holder_is_configured, holder_knows_the_target, loss_bound_is_known, three_failure_domains,
};
use target::{
    manifests_are_known, preferred_can_take_over, preferred_is_staged, target_driver_has_a_leader,
    target_has_no_ailment, target_is_a_standby, target_is_configured, target_is_heard,
    target_is_not_in_maintenance, target_is_steady,
};
pub use witness::{witnesses_answer, witnesses_know_the_epoch, witnesses_were_asked};

use crate::finding::Finding;
use crate::observation::Observation;

pub type Check = fn(&Observation) -> Option<Finding>;

/// May the hub act alone on this placement at all? (protocol §4, arming)
pub const ARMING: &[Check] = &[
    mode_is_automatic,
    holder_is_not_in_maintenance,
    not_paused,
    no_human_is_needed,
    cooled_down,
    not_flapping,
    one_site_an_hour,
    witnesses_answer,
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
pub const HANDOVER: &[Check] = &[
    holder_is_configured,
    not_paused,
    holder_can_hand_over,
    claims_are_its_own,
    claims_can_cross,
    preferred_can_take_over,
    preferred_is_staged,
    copies_arrive,
];

/// May the hub move anything back by itself?
pub const CALM: &[Check] = &[not_flapping, witnesses_answer];

/// May an outdated copy be thrown away? Only while there is a good one.
pub const NEW_COPY: &[Check] = &[holder_is_configured, not_paused, holder_can_hand_over];

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
pub const COPY: &[Check] = &[target_follows, loss_is_within_the_bound, skew_is_within_the_bound];

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

/// Why only an acknowledgement or a human's word can show that the holder has stopped, if so.
pub fn waiting_proves_nothing(o: &Observation) -> Option<Finding> {
    first(ACCUSATION, o).or_else(|| first(EXPIRY_PROVES, o))
}
