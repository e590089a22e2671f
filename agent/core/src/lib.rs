//! What the agent of one cluster decides, as a pure function of what it has seen and the time it is told.
//!
//! Read in this order: `event` (what can happen), `decision` (what comes out), `agent` (the step), `guard` (which
//! commands are admitted), `lease` (how long the holder may go on), `duty` (what this cluster has to do for a
//! placement), `desired` (the next effects of that duty: their order is the safety), `survey` (what is reported).

pub mod event;
pub mod decision;
pub mod agent;
mod hub_says;
mod peer_says;
mod edge_says;
pub mod placement;
pub mod site_state;
pub mod guard;
pub mod lease;
pub mod paths;
pub mod duty;
pub mod desired;
mod fence;
mod promote;
mod stage;
mod workloads;
pub mod survey;
mod ailments;
pub mod volumes;
pub mod world;
mod parse;

pub use agent::{Agent, Identity};
pub use decision::{Decision, Effect, HoldAsk, Note, Point, Probe, SiteWrite};
pub use event::{AskId, Event, Failed, Failure, MemoryRead, Receipt};
pub use paths::PathMemory;
pub use site_state::{CommandResult, Promise, Recorded, SiteState};
pub use world::{Change, Kind, Watched, WorkloadKind};
