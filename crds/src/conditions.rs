//! Condition types, reasons and event reasons: they are API, each is listed here once, and nowhere else as text.

use std::fmt;

macro_rules! names {
    ($(#[$note:meta])* $kind:ident { $($name:ident),+ $(,)? }) => {
        $(#[$note])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind { $($name),+ }

        impl $kind {
            pub const ALL: &[$kind] = &[$($kind::$name),+];

            pub fn as_str(self) -> &'static str {
                match self { $($kind::$name => stringify!($name)),+ }
            }

            pub fn parse(text: &str) -> Option<$kind> {
                $kind::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// The types of the conditions of DRPlacements and DRClusters.
    ConditionType {
        Ready, Reconciling, Stalled, Available, Protected, FailoverReady, AutomaticFailoverArmed,
    }
}

names! {
    /// Why a condition is what it is. One reason may serve several types.
    Reason {
        // Ready
        Protected, OperationRunning, NotProtected, Paused, NoContact,
        // Reconciling
        FirstSync, FailoverRunning, MigrationRunning, FailbackRunning, DeployRunning, ReleaseRunning,
        WaitingForApproval, ResyncRunning, DependencyNotReady, Queued, FailbackOffered,
        // Stalled
        DivergedData, FenceUnconfirmed, InvalidSpec, NoReplicationClass, TargetUnreachable, PromoteStuck, NeedsHuman,
        ResyncStuck, HandoverStuck, RolledBack,
        // Available
        WorkloadReady, WorkloadNotReady, ClusterSilent,
        // Protected
        InSync, FirstSyncPending, StaleCopy, ReplicationError, ManifestsMissing,
        // FailoverReady
        AllChecksPass, PeerSilent, CannotFence, VolumeResyncing, NoDriverLeader, NamespaceNotAllowed, SignOfLife,
        EvidenceMissing,
        // AutomaticFailoverArmed
        Armed, Disabled, CoolingDown, Flapping, TooFewFailureDomains, NotFenceCapable, WitnessUnavailable, HubFrozen,
        SecondSiteSilent,
        // Ready of a DRCluster
        Connected, NeverConnected, Maintenance,
    }
}

impl ConditionType {
    /// The reasons that this type may show on a DRPlacement.
    pub fn reasons(self) -> &'static [Reason] {
        match self {
            ConditionType::Ready => &[
                Reason::Protected,
                Reason::OperationRunning,
                Reason::NotProtected,
                Reason::Paused,
                Reason::NoContact,
            ],
            ConditionType::Reconciling => &[
                Reason::FirstSync,
                Reason::FailoverRunning,
                Reason::MigrationRunning,
                Reason::FailbackRunning,
                Reason::DeployRunning,
                Reason::ReleaseRunning,
                Reason::WaitingForApproval,
                Reason::ResyncRunning,
                Reason::DependencyNotReady,
                Reason::Queued,
                Reason::FailbackOffered,
            ],
            ConditionType::Stalled => &[
                Reason::DivergedData,
                Reason::FenceUnconfirmed,
                Reason::InvalidSpec,
                Reason::NoReplicationClass,
                Reason::TargetUnreachable,
                Reason::PromoteStuck,
                Reason::NeedsHuman,
                Reason::ResyncStuck,
                Reason::HandoverStuck,
                Reason::RolledBack,
            ],
            ConditionType::Available => {
                &[Reason::WorkloadReady, Reason::WorkloadNotReady, Reason::ClusterSilent]
            }
            ConditionType::Protected => &[
                Reason::InSync,
                Reason::FirstSyncPending,
                Reason::StaleCopy,
                Reason::ReplicationError,
                Reason::ManifestsMissing,
            ],
            ConditionType::FailoverReady => &[
                Reason::AllChecksPass,
                Reason::StaleCopy,
                Reason::PeerSilent,
                Reason::CannotFence,
                Reason::VolumeResyncing,
                Reason::NoDriverLeader,
                Reason::NamespaceNotAllowed,
                Reason::SignOfLife,
                Reason::EvidenceMissing,
                Reason::HubFrozen,
                Reason::SecondSiteSilent,
                Reason::TooFewFailureDomains,
                Reason::ManifestsMissing,
                Reason::InvalidSpec,
                Reason::TargetUnreachable,
                Reason::NeedsHuman,
                Reason::Paused,
                Reason::OperationRunning,
                Reason::NoContact,
            ],
            ConditionType::AutomaticFailoverArmed => &[
                Reason::Armed,
                Reason::Disabled,
                Reason::Paused,
                Reason::CoolingDown,
                Reason::Flapping,
                Reason::TooFewFailureDomains,
                Reason::NotFenceCapable,
                Reason::WitnessUnavailable,
                Reason::HubFrozen,
                Reason::SecondSiteSilent,
                Reason::NeedsHuman,
                Reason::StaleCopy,
            ],
        }
    }
}

names! {
    /// The reasons of Kubernetes events, in the past tense: one event per transition.
    EventReason {
        HeartbeatLost, HeartbeatReturned, Deployed, DeployStarted, DeployRefused, NeedsHuman, PromoteStuck, FailoverStarted, FenceConfirmed, Promoted, FailoverCompleted,
        FailoverAborted, FailoverRefused, ReplicationStale, Released, MigrationStarted, MigrationCompleted, FailbackStarted,
        FailbackCompleted, RolledBack, ResyncStarted, ResyncCompleted, ResyncAborted, OperationProposed, OperationWithdrawn, OperationCut, DivergedDataFound,
        ScaledDown, HandedOver, WitnessSilent, WitnessReturned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_placement_belongs_to_a_condition_type() {
        let of_clusters = [Reason::Connected, Reason::NeverConnected, Reason::Maintenance];
        for reason in Reason::ALL {
            let used = ConditionType::ALL.iter().any(|kind| kind.reasons().contains(reason));
            assert_ne!(used, of_clusters.contains(reason), "{reason}");
        }
    }

    #[test]
    fn a_name_read_back_is_the_same_and_an_unknown_one_is_none() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("Gremlins"), None);
    }
}
