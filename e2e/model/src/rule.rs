//! The rules of the protocol that can be switched off in the model, one at a time: a model that no mutant can break
//! checks nothing. A rule for which no counterexample was found here is not listed.

/// One rule. Its mutant is the model without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    DeadlineCountsFromSend,
    LeaseEndStops,
    RestartExtendsNothing,
    NoncesDieWithTheProcess,
    GrantsAreForTheirEpoch,
    HubWaitsForTheStop,
    HubAllowsForSlowClocks,
    BootWait,
    WhatIsHeardIsWaitedFor,
    NoGrantAfterIntent,
    GrantsOnlyToTheOwner,
    IntentIsDurable,
    NoReturnIsDurable,
    ForwardPastNoReturn,
    BurnedEpochsStayBurned,
    FenceBeforePromotion,
    AcknowledgedWhenStopped,
    AcknowledgedByThisOperation,
    PromotedByThisOperation,
    EpochIsDurable,
    AnswersAreRemembered,
    TargetWaitsForTheStop,
    TargetAllowsForSlowClocks,
    PromiseIsHonoured,
    PromiseIsDurable,
    PromiseCountsFromAsking,
    EveryPolicyOfTheRangeCounts,
    WithoutAnEchoNothingIsProven,
    PolicyBeforeGrant,
    TermsComeWithGrants,
    EchoIsWhatIsLivedBy,
    EchoIsDurable,
    OlderPoliciesChangeNothing,
    ShorterLeaseShortens,
}

/// A rule that is left out, and where that is found.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub without: Rule,
    /// The rule or invariant of protocol.md.
    pub of: &'static str,
    pub says: &'static str,
    /// The name of a scope.
    pub scope: &'static str,
}

const fn mutant(without: Rule, of: &'static str, scope: &'static str, says: &'static str) -> Mutant {
    Mutant { without, of, says, scope }
}

pub const MUTANTS: &[Mutant] = &[
    mutant(
        Rule::DeadlineCountsFromSend,
        "R1, S6",
        "leases",
        "a lease counts from the sending of its renewal",
    ),
    mutant(Rule::LeaseEndStops, "R1", "leases", "a holder without a lease stops"),
    mutant(Rule::RestartExtendsNothing, "R1, S6", "leases", "a restarted agent lives by the deadline it had"),
    mutant(Rule::NoncesDieWithTheProcess, "R1, R5", "leases", "what answers another process answers nothing"),
    mutant(Rule::GrantsAreForTheirEpoch, "R1, R2", "leases", "a grant counts for the epoch it was asked for"),
    mutant(Rule::HubWaitsForTheStop, "W", "leases", "the hub's wait includes the time to stop"),
    mutant(Rule::HubAllowsForSlowClocks, "R7, W", "slow clocks", "the hub's wait allows for slow clocks"),
    mutant(Rule::BootWait, "R3, S7", "leases", "a hub that starts waits anew"),
    mutant(
        Rule::WhatIsHeardIsWaitedFor,
        "R3, W",
        "edit and abort",
        "the wait counts from what was last heard too",
    ),
    mutant(Rule::NoGrantAfterIntent, "R2, S5", "leases", "no grant once an intent is durable"),
    mutant(Rule::GrantsOnlyToTheOwner, "R2, S2", "leases", "only the owner is granted anything"),
    mutant(Rule::IntentIsDurable, "R8, S9", "leases", "an intent outlives the hub's restart"),
    mutant(Rule::NoReturnIsDurable, "R8, S12", "aborts", "so does the point of no return"),
    mutant(Rule::ForwardPastNoReturn, "S12", "aborts", "past it nothing is given up"),
    mutant(Rule::BurnedEpochsStayBurned, "S3", "aborts", "a burned epoch is not used again"),
    mutant(Rule::FenceBeforePromotion, "S4", "leases", "no promotion without a proof of the fence"),
    mutant(Rule::AcknowledgedWhenStopped, "S4", "leases", "a fence is acknowledged when all has stopped"),
    mutant(Rule::AcknowledgedByThisOperation, "S11", "aborts", "a late acknowledgement proves nothing"),
    mutant(Rule::PromotedByThisOperation, "S11, S9", "edit and abort", "a late promotion owns nothing"),
    mutant(Rule::EpochIsDurable, "R4, S3", "leases", "the epoch seen outlives the agent's restart"),
    mutant(Rule::AnswersAreRemembered, "R4, S10", "there and back", "a replayed command gets its old answer"),
    mutant(Rule::TargetWaitsForTheStop, "Wp", "holds", "the target's wait includes the time to stop"),
    mutant(Rule::TargetAllowsForSlowClocks, "R7, Wp", "slow clocks and holds", "it allows for slow clocks"),
    mutant(Rule::PromiseIsHonoured, "S8", "holds", "a target keeps its promise"),
    mutant(Rule::PromiseIsDurable, "S8", "holds", "a promise outlives the target's restart"),
    mutant(Rule::PromiseCountsFromAsking, "S6", "holds", "a promise counts from when it was asked for"),
    mutant(
        Rule::EveryPolicyOfTheRangeCounts,
        "R6",
        "edit: stop",
        "the wait covers every policy that may be lived by, not the newest alone",
    ),
    mutant(
        Rule::WithoutAnEchoNothingIsProven,
        "R6",
        "edit and abort",
        "waiting proves nothing without an echo",
    ),
    mutant(Rule::PolicyBeforeGrant, "R6, R8", "edit: continue", "a policy is journaled before it is granted"),
    mutant(Rule::TermsComeWithGrants, "R6", "edit: continue", "a holder's terms change only by a grant"),
    mutant(Rule::EchoIsWhatIsLivedBy, "R6", "edit: stop", "what is echoed is what is lived by"),
    mutant(Rule::EchoIsDurable, "R6", "edit: stop", "what is echoed outlives the agent's restart"),
    mutant(Rule::OlderPoliciesChangeNothing, "R6", "edit: stop", "a late grant brings no older policy back"),
    mutant(Rule::ShorterLeaseShortens, "R6", "edit: shorter", "a shorter ttl ends what a longer one granted"),
];
