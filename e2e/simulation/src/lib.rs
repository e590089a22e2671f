//! The whole federation in one thread: the real hub and the real agents over modelled clusters, storage and links.
//!
//! One seed, one run: the same seed gives the same trace to the byte. Read in this order: `transition` (what can
//! happen, and when), `world` (who it happens to), `hub`, `agent` and `peers` (the drivers around the real cores),
//! `kubernetes` and `workloads` (a member cluster), `storage` and `csi_addons` (the array and the controller before
//! it), `application` (who writes), `network`; then `invariants` (asked after every event), `reference` (who should
//! own the placement), `crash` (a process dies at every effect), `scenario` (the stories), `faults`, `wishes` and `plan`
//! (what goes wrong), `adversity` (random plans, and what is left of one that fails), `dense` (many placements, lost together), `traps` (a plan for each rule), `coverage`,
//! `mutants` (each rule is switched off once).

pub mod random;
pub mod transition;
pub mod world;

mod agent;
mod hub;
mod peers;

mod csi_addons;
mod kubernetes;
mod storage;
mod workloads;

pub mod application;
pub mod network;
pub mod witness;

pub mod invariants;
pub mod reference;

pub mod coverage;
pub mod crash;
pub mod faults;
pub mod plan;
pub mod wishes;

pub mod adversity;
pub mod dense;
pub mod scenario;
pub mod traps;

#[cfg(feature = "mutants")]
pub mod mutants;

pub use scenario::{Run, Scenario};
pub use world::World;
