//! The agent around its core: one conversation per file.

pub mod identity;
pub mod link;
pub mod peer;
pub mod probes;
pub mod metrics;
pub mod telemetry;
