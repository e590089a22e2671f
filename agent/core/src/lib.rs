//! What the agent of one cluster decides, as a pure function of what it has seen and the time it is told.
//!
//! Read in this order: `event` (what can happen), `decision` (what comes out), `agent` (the step), `guard` (which
//! commands are admitted), `lease` (how long the holder may go on), `duty` (what this cluster has to do for a
//! placement), `desired` (the next effects of that duty: their order is the safety), `survey` (what is reported).

pub mod agent;
mod ailments;
mod capacity;
pub mod decision;
pub mod desired;
mod divergence;
pub mod duty;
mod edge_says;
pub mod enforcement;
pub mod event;
mod fence;
mod following;
pub mod gates;
pub mod group;
pub mod guard;
mod hand_over;
mod hub_says;
mod keeping;
pub mod lease;
pub mod objects;
mod parse;
pub mod paths;
mod peer_says;
pub mod placement;
mod promote;
pub mod reconcilers;
mod rest;
mod resync;
mod shelf;
pub mod site_state;
mod stage;
pub mod survey;
pub mod volumes;
mod witness;
mod workloads;
pub mod world;

pub use agent::{Agent, Identity};
pub use decision::{Decision, Effect, GroupChange, HoldAsk, Note, Point, Probe, SiteWrite, WitnessVisit};
pub use event::{AskId, Event, Failed, Failure, MemoryRead, Receipt};
pub use lease::{Accounted, Promised};
pub use paths::PathMemory;
pub use reconcilers::{Reconciler, ReconcilerKind};
pub use site_state::{CommandResult, Promise, Recorded, SiteState};
pub use witness::Witnessed;
pub use world::{Change, Followed, Kind, ObjectKind, Watched, WorkloadKind};
