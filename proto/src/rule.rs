//! The safety rules that can be switched off one by one, only in builds that check whether anybody would notice.
//!
//! Without the feature `mutants` every rule is kept, at no cost, and nothing can change that. With it the simulator
//! breaks one rule of its own thread at a time: a rule whose absence no invariant notices is a rule that nothing checks.

macro_rules! rules {
    ($($rule:ident: $names:literal, $meaning:literal;)*) => {
        /// One rule of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $meaning] $rule,)*
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Rule::$rule => stringify!($rule),)* }
            }

            /// What the protocol calls it.
            pub fn names(self) -> &'static str {
                match self { $(Rule::$rule => $names,)* }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Rule::$rule => $meaning,)* }
            }
        }
    };
}

rules! {
    DeadlineCountsFromSending: "R1, S6", "a grant counts from the instant its renewal was sent, not received";
    DeadlineStops: "S4, S6", "a holder whose deadline has passed stops";
    NoGrantAfterIntent: "R2, S5", "no grant for the epoch that an intent leaves";
    StaleCommandsAreRefused: "R4, S11", "a command of an epoch older than the one seen is refused";
    OneOperationPerEpoch: "R4, S11", "within an epoch only the operation that entered it commands";
    CommandsExpire: "R5, S11", "a command dies by the clock of the agent";
    EveryGrantedPolicyCounts: "R6", "the wait looks at every policy between the last echoed and the newest granted one";
    PolicyOnlyByGrant: "R6", "a holder lives by what grants have brought, not by what it was told beside them";
    EchoIsDurable: "R6", "a policy is echoed only when a restart cannot forget it";
    ClockJumpSuspends: "R7", "clocks that part shorten the lease until a renewal succeeds";
    ClockRatesDiffer: "R7, timing", "every wait is stretched by the bound on clock rates";
    JournalBeforeCommand: "R8, S9", "no command leaves before its step is durable";
    HubWaitsForTheLease: "S4, timing", "nothing is promoted by time before W has passed";
    HubWaitsForTheStopTime: "timing", "W contains the time to stop";
    TargetWaitsForTheStopTime: "timing", "Wp contains the time to stop";
    BootWait: "S7", "a hub that has just started waits as if it had granted at its start";
    PromiseHoldsUpPromotion: "S8", "a target that has promised to wait refuses to promote";
    PromiseSurvivesRestart: "S8", "a promise is remembered by the next process, and by the next boot";
    PromiseIsDurableFirst: "S8", "a promise is told only when it is durable";
    EpochIsDurableFirst: "S9, S30", "nothing of an epoch is asked for before the epoch is durable";
    BurnedEpochsStayBurned: "S3", "an epoch that was aborted is never entered again";
    HighestEpochKnownWins: "§3, S3", "a hub that somebody knows more than moves nothing";
    ForwardPastNoReturn: "S12", "past the point of no return nothing is aborted";
    OneOperationAtATime: "S13", "one operation of a placement at a time";
    FreshReadBeforeMoving: "(g), S14", "without a fresh read of the wish nothing is moved";
    AllDarkFreezes: "(c), S15", "a hub that hears too few sites accuses none";
    SignOfLifeVetoes: "(d, e), S16", "a holder that the target still reaches is not accused";
    WitnessLeaseVetoes: "(d), S16", "a holder whose Lease advances at a witness is not accused";
    SilentWitnessFreezes: "(d), S14", "while a witness is silent nothing is moved unasked";
    WitnessIsAskedFirst: "§3, S3", "a hub that has started enters no epoch before it has asked every witness";
    WitnessKnowsBeforePromotion: "§3, S3", "nothing is promoted unasked before every witness remembers the epoch";
    AccusedAgainBeforePromotion: "S17", "the accusation is made again right before the point of no return";
    LossBound: "S19", "nothing is failed over beyond the bound on loss";
    OneAutomaticFailover: "§7, S20", "one automatic failover an hour, and until a human has looked";
    OneSiteAnHour: "§7, S20", "a second site that is lost within an hour is for a human";
    FirstProvesThePath: "§7, S20", "of many placements that leave a site one is promoted before the others";
    AnotherBootStopsFirst: "§6, S21", "a holder from another boot is stopped, whatever its memory says";
    StoppedBeforeTheHubIsCalled: "§6, S21", "a returned holder has stopped before it calls the hub";
    NoStartWithoutALease: "S21", "a holder without a lease starts nothing";
    ResyncIsApproved: "S22", "a copy is thrown away only with an approval";
    AutoResyncEndsWithTheResync: "S22, storage 8", "at a standby nothing throws a copy away by itself";
    ResyncIsTakenBack: "S22", "a resync that nobody asks for any more is taken back";
    ResyncNeedsALaterSync: "§6, L3", "a copy counts again only when it was synced after it was made anew";
    NoFailoverOntoAHalfMadeCopy: "S22, storage 7", "a copy that does not follow is no target";
    AllVolumesOrNoPods: "S24", "pods start when every volume is primary";
    ApprovalsNameWhatTheyMean: "S25", "an approval counts for the operation, epoch and wording that it names";
    QuestionsOutliveTheHub: "S25", "a hub takes no question back before it has heard those whom it is about";
    PauseHolds: "S27", "a placement that is paused is not moved";
    ModeIsRespected: "S29", "only mode Automatic lets the hub act alone";
    WaitingMustProveAFence: "R6, arming", "a holder that need not stop by itself is not waited for";
    FenceCapableOnly: "§4, arming", "a holder whose agent cannot stop it is not waited for";
    NewPodsAreRefusedFirst: "§4, self-fence 1", "the fence is in force before its word is given";
    PodsAreGoneBeforeTheWord: "§4, self-fence 3", "pods and attachments are gone before the word is given";
    DemotionComesLast: "§4, self-fence 4", "a volume is demoted only when nothing uses it";
    CrossedBeforeTheWord: "storage 5", "a hand-over is over only when the last writes have crossed";
    OtherPodsStopAtAStandby: "S1, S21", "what is started at a standby by others is stopped again";
}

/// Whether the rule holds: always, but for the one that the simulator has switched off.
#[cfg(not(feature = "mutants"))]
pub const fn kept(_: Rule) -> bool {
    true
}

#[cfg(feature = "mutants")]
mod broken {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether the rule holds on this thread.
    pub fn kept(rule: Rule) -> bool {
        BROKEN.get() != Some(rule)
    }

    /// Switches one rule off on this thread, and every other one on.
    pub fn switch_off(rule: Option<Rule>) {
        BROKEN.set(rule);
    }
}

#[cfg(feature = "mutants")]
pub use broken::{kept, switch_off};

/// Whether rules can be switched off in this build. What runs in a cluster refuses to be built so.
pub const CAN_BE_SWITCHED_OFF: bool = cfg!(feature = "mutants");
