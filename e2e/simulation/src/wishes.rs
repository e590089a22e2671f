//! What a user may wish of a failover: how it is decided, and what fences the old holder.

use crds::DRPlacement;
use crds::placement::{FailoverMode, FencingLevel, OnSilence};

/// Mode, and what the holder does in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverModeOf {
    Automatic,
    ConfirmAndStop,
    ConfirmAndContinue,
    Manual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FencingOf {
    SelfFence,
    Gate,
    Storage,
    External,
    None,
}

/// The timing of a placement, as its user writes it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub rpc: &'static str,
    pub ttl: &'static str,
    pub suspect: &'static str,
    pub unreachable: &'static str,
}

impl Pace {
    /// That of the hub's own stories.
    pub const USUAL: Pace = Pace { rpc: "500ms", ttl: "3s", suspect: "1500ms", unreachable: "3s" };
    /// Nothing of it can be shorter with the same renewals.
    pub const SHORTEST: Pace = Pace { rpc: "250ms", ttl: "2s", suspect: "1500ms", unreachable: "1500ms" };
}

impl FailoverModeOf {
    pub fn set(self, wish: &mut DRPlacement) {
        let (mode, on_silence) = match self {
            FailoverModeOf::Automatic => (FailoverMode::Automatic, OnSilence::Stop),
            FailoverModeOf::ConfirmAndStop => (FailoverMode::Confirm, OnSilence::Stop),
            FailoverModeOf::ConfirmAndContinue => (FailoverMode::Confirm, OnSilence::Continue),
            FailoverModeOf::Manual => (FailoverMode::Manual, OnSilence::Stop),
        };
        wish.spec.failover.mode = mode;
        wish.spec.failover.on_silence = Some(on_silence);
    }
}

impl FencingOf {
    pub fn set(self, wish: &mut DRPlacement) {
        wish.spec.failover.fencing = match self {
            FencingOf::SelfFence => FencingLevel::SelfFence,
            FencingOf::Gate => FencingLevel::Gate,
            FencingOf::Storage => FencingLevel::Storage,
            FencingOf::External => FencingLevel::External,
            FencingOf::None => FencingLevel::None,
        };
        // The API server refuses the two together.
        if self == FencingOf::None && wish.spec.failover.mode == FailoverMode::Automatic {
            FailoverModeOf::ConfirmAndStop.set(wish);
        }
    }
}
