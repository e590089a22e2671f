//! The hub around its core: one conversation per file.

pub mod journal_store;
pub mod metrics;
pub mod telemetry;
pub mod sessions;
pub mod identity;
pub mod pki;
