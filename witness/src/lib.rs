//! The conversation with one witness: Leases in an API server that hub and agents reach, and that stands in none of their sites.
//!
//! Each cluster has a Lease there that its agent advances, and each placement one that keeps its highest epoch. A witness
//! decides nothing. Nothing here reads a clock, except for the time that a Lease shows to people.

pub mod leases;
pub mod settings;

pub use leases::{Witness, WitnessError};
pub use settings::{SettingsError, WitnessSettings};
