//! Which commands are admitted: an ordered list of questions, each answered by a refusal or by nothing (protocol R4, R5).

use proto::{Action, Command, Epoch, Moment, OperationId, Outcome, Refusal, Role, Rule, kept};

/// What the guard knows of the placement that a command is for.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub assigned: bool,
    pub epoch_seen: Epoch,
    pub role: Role,
    /// Another cluster holds the epoch that this one has seen.
    pub held_elsewhere: bool,
    pub operation: Option<&'a OperationId>,
    /// End of the promise to the holder, if one is outstanding.
    pub promised_until: Option<Moment>,
    /// When this process sent the heartbeat that the command answers.
    pub nonce_sent: Option<Moment>,
    /// The answer already given to this command.
    pub answered: Option<&'a Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    /// It has been carried out: the old answer again.
    Replayed(Outcome),
    Refused(Refusal),
}

pub fn judge(command: &Command, known: Known<'_>, now: Moment) -> Verdict {
    if let Some(outcome) = known.answered {
        return Verdict::Replayed(outcome.clone());
    }
    let questions = [
        not_assigned,
        stale_epoch,
        not_its_epoch,
        conflict,
        not_a_former_holder,
        expired,
        promise_outstanding,
    ];
    let refusal = questions.iter().find_map(|question| question(command, &known, now));
    refusal.map_or(Verdict::Admitted, Verdict::Refused)
}

fn not_assigned(command: &Command, known: &Known<'_>, _: Moment) -> Option<Refusal> {
    (!known.assigned && !lets_go(command)).then_some(Refusal::NotAssigned)
}

fn stale_epoch(command: &Command, known: &Known<'_>, _: Moment) -> Option<Refusal> {
    let stale = command.epoch < known.epoch_seen && !lets_go(command);
    (stale && kept(Rule::StaleCommandsAreRefused)).then_some(Refusal::StaleEpoch)
}

/// A release enters no epoch: it carries the highest one that the hub knows, which another operation has entered, or
/// which is lower than what this cluster has seen when the hub has lost its journal. It moves no volume and starts no
/// pod, and must reach even a cluster that keeps nothing but its DRSiteState.
fn lets_go(command: &Command) -> bool {
    match &command.action {
        Action::Release => true,
        Action::Fence
        | Action::ScaleDown
        | Action::Demote
        | Action::Restore { .. }
        | Action::Promote { .. }
        | Action::ScaleUp { .. }
        | Action::Resync { .. }
        | Action::Rejoin => false,
    }
}

/// What makes a former holder's copy whole again enters no epoch either: it is for the very epoch that another cluster
/// holds now.
fn mends(command: &Command) -> bool {
    match &command.action {
        Action::Resync { .. } | Action::Rejoin => true,
        Action::Fence
        | Action::ScaleDown
        | Action::Demote
        | Action::Restore { .. }
        | Action::Promote { .. }
        | Action::ScaleUp { .. }
        | Action::Release => false,
    }
}

fn not_its_epoch(command: &Command, known: &Known<'_>, _: Moment) -> Option<Refusal> {
    (mends(command) && command.epoch != known.epoch_seen).then_some(Refusal::StaleEpoch)
}

/// Only a copy that nobody relies on may be thrown away. A rejoin that comes twice finds a standby.
fn not_a_former_holder(command: &Command, known: &Known<'_>, _: Moment) -> Option<Refusal> {
    let rejoined = command.action == Action::Rejoin && known.role == Role::Standby;
    let stopped = known.role == Role::Fenced || rejoined;
    (mends(command) && !(stopped && known.held_elsewhere)).then_some(Refusal::Conflict)
}

/// Within one epoch only the operation that entered it commands.
fn conflict(command: &Command, known: &Known<'_>, _: Moment) -> Option<Refusal> {
    let entered_by_another = known.operation.is_some_and(|operation| *operation != command.id.operation);
    let enters = command.epoch == known.epoch_seen && !lets_go(command) && !mends(command);
    (enters && entered_by_another && kept(Rule::OneOperationPerEpoch)).then_some(Refusal::Conflict)
}

/// A command lives by this cluster's clock. One that answers no heartbeat of this process has no age, so it is too old.
fn expired(command: &Command, known: &Known<'_>, now: Moment) -> Option<Refusal> {
    let in_time = known.nonce_sent.is_some_and(|sent| now < sent + command.lifetime);
    (!in_time && kept(Rule::CommandsExpire)).then_some(Refusal::Expired)
}

/// The holder lives by the promise that was given here.
fn promise_outstanding(command: &Command, known: &Known<'_>, now: Moment) -> Option<Refusal> {
    let outstanding = known.promised_until.is_some_and(|until| now < until);
    let must_wait = match &command.action {
        Action::Promote { proof, claims: _ } => !proof.is_positive(),
        Action::Fence
        | Action::ScaleDown
        | Action::Demote
        | Action::Restore { .. }
        | Action::ScaleUp { .. }
        | Action::Resync { .. }
        | Action::Rejoin
        | Action::Release => false,
    };
    (outstanding && must_wait && kept(Rule::PromiseHoldsUpPromotion)).then_some(Refusal::PromiseOutstanding)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::{CommandId, FenceProof, Nonce, PlacementId, StepKind};

    use super::*;

    fn command(epoch: u64, operation: &str, action: Action) -> Command {
        let placement = PlacementId::parse("shop-uid").expect("a uid");
        Command {
            id: CommandId { placement, operation: OperationId(operation.into()), step: StepKind::Promote },
            epoch: Epoch(epoch),
            nonce: Nonce(1),
            lifetime: Duration::from_secs(10),
            action,
            trace_parent: None,
        }
    }

    fn known() -> Known<'static> {
        Known {
            assigned: true,
            epoch_seen: Epoch(3),
            role: Role::Standby,
            held_elsewhere: false,
            operation: None,
            promised_until: None,
            nonce_sent: Some(Moment(1_000)),
            answered: None,
        }
    }

    #[test]
    fn an_epoch_once_seen_admits_only_the_operation_that_entered_it() {
        let mine = OperationId("shop-failover-3".into());
        let known = Known { operation: Some(&mine), ..known() };
        let now = Moment(2_000);
        assert_eq!(judge(&command(3, "shop-failover-3", Action::Fence), known, now), Verdict::Admitted);
        assert_eq!(judge(&command(4, "shop-failback-4", Action::Fence), known, now), Verdict::Admitted);
        assert_eq!(
            judge(&command(3, "shop-failback-3", Action::Fence), known, now),
            Verdict::Refused(Refusal::Conflict)
        );
        assert_eq!(
            judge(&command(2, "shop-failover-3", Action::Fence), known, now),
            Verdict::Refused(Refusal::StaleEpoch)
        );
    }

    #[test]
    fn a_command_dies_by_this_clusters_clock() {
        let fence = command(4, "shop-failover-4", Action::Fence);
        assert_eq!(judge(&fence, known(), Moment(10_999)), Verdict::Admitted);
        assert_eq!(judge(&fence, known(), Moment(11_000)), Verdict::Refused(Refusal::Expired));
        let of_another_process = Known { nonce_sent: None, ..known() };
        assert_eq!(judge(&fence, of_another_process, Moment(1_000)), Verdict::Refused(Refusal::Expired));
    }

    #[test]
    fn a_promise_stands_against_promotion_unless_the_holder_is_positively_stopped() {
        let known = Known { promised_until: Some(Moment(9_000)), ..known() };
        let promote = |proof| command(4, "shop-failover-4", Action::Promote { proof, claims: Vec::new() });
        let waited = promote(FenceProof::LeaseExpired);
        assert_eq!(judge(&waited, known, Moment(8_999)), Verdict::Refused(Refusal::PromiseOutstanding));
        assert_eq!(judge(&waited, known, Moment(9_000)), Verdict::Admitted);
        assert_eq!(judge(&promote(FenceProof::Acknowledged), known, Moment(2_000)), Verdict::Admitted);
    }

    #[test]
    fn a_release_enters_no_epoch_and_dies_by_this_clusters_clock_all_the_same() {
        let entered_by = OperationId("shop-deploy-3".into());
        let known = Known { operation: Some(&entered_by), assigned: false, ..known() };
        for epoch in [0, 3] {
            let release = command(epoch, "shop-release-3", Action::Release);
            assert_eq!(judge(&release, known, Moment(2_000)), Verdict::Admitted);
            assert_eq!(judge(&release, known, Moment(11_000)), Verdict::Refused(Refusal::Expired));
        }
    }

    #[test]
    fn a_copy_is_made_anew_only_at_a_former_holder_of_an_epoch_that_another_holds() {
        let entered_by = OperationId("shop-failover-3".into());
        let operation = Some(&entered_by);
        let former = Known { operation, role: Role::Fenced, held_elsewhere: true, ..known() };
        let now = Moment(2_000);
        let resync = |epoch| command(epoch, "shop-resync-3", Action::Resync { claims: vec!["data".into()] });
        assert_eq!(judge(&resync(3), former, now), Verdict::Admitted);
        for epoch in [2, 4] {
            assert_eq!(judge(&resync(epoch), former, now), Verdict::Refused(Refusal::StaleEpoch));
        }
        for role in [Role::Holder, Role::Promoting, Role::Standby, Role::Unknown] {
            let another = Known { role, ..former };
            assert_eq!(judge(&resync(3), another, now), Verdict::Refused(Refusal::Conflict), "{role:?}");
        }
        let nobody_else_holds = Known { held_elsewhere: false, ..former };
        assert_eq!(judge(&resync(3), nobody_else_holds, now), Verdict::Refused(Refusal::Conflict));
        let rejoin = command(3, "shop-resync-3", Action::Rejoin);
        let rejoined = Known { role: Role::Standby, ..former };
        assert_eq!(judge(&rejoin, former, now), Verdict::Admitted);
        assert_eq!(judge(&rejoin, rejoined, now), Verdict::Admitted, "its answer may have been lost");
    }

    #[test]
    fn a_replay_gets_the_old_answer_even_when_its_epoch_has_passed() {
        let known = Known { answered: Some(&Outcome::Done), ..known() };
        let old = command(1, "shop-deploy-1", Action::Release);
        assert_eq!(judge(&old, known, Moment(90_000)), Verdict::Replayed(Outcome::Done));
    }
}
