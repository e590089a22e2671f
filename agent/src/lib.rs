//! The agent around its core: one conversation per file.

pub mod args;
pub mod clock;
pub mod crash;
pub mod driver;

pub mod apply;
pub mod enforcement;
pub mod memory;
pub mod site_states;
pub mod watches;
pub mod witnesses;

pub mod gates;
pub mod identity;
pub mod link;
pub mod metrics;
pub mod peer;
pub mod probes;
pub mod relay;
pub mod telemetry;
