//! The gate: stands in an application's pod, lets it start only with a live lease, and ends it with the lease.
//!
//! It asks nobody but its cluster's agent, believes only what the hub and the targets have signed, and needs no API
//! server: a dead agent, a dead API server and the cold restart of a whole site end in the same way, by the clock.
//! Read in this order: `lease` (until when), `judge` (who is believed), `ending` (how it ends), then the edge: `clock`,
//! `sandbox`, `conversation`, `memory`, `settings`, and `guard`, which connects them.

pub mod ending;
pub mod judge;
pub mod lease;

mod clock;
mod conversation;
pub mod guard;
mod memory;
mod sandbox;
pub mod settings;
