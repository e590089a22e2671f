//! The hub around its core: one conversation per file.

pub mod args;
pub mod audit;
pub mod driver;

pub mod approvals;
pub mod clock;
pub mod crash;
pub mod identity;
pub mod journal_store;
mod known;
pub mod metrics;
pub mod pki;
pub mod placements;
pub mod seal;
pub mod sessions;
pub mod status_writer;
pub mod telemetry;
pub mod traces;
pub mod witnesses;
