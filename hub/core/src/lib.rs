//! What the hub decides, as a pure function of what it has written down, what it has seen, and the time it is told.
//!
//! Read in this order: `event` (what can happen), `decision` (what comes out), `hub` (the step), `decide` (the choices),
//! `wish`, `propose` and `abort` (what an owned placement calls for, who is asked, when it is given up), `step` and `plan` (the recipes), `checks` (the ordered lists of what forbids a failover), `lease` (answers to
//! renewals), `journal` and `progress` (what is written down, and its fold).

pub mod decision;
pub mod event;
pub mod hub;

mod abort;
mod adopt;
pub mod approval;
pub mod decide;
pub mod plan;
mod propose;
pub mod step;
pub mod wish;

pub mod checks;
pub mod finding;
pub mod gate;
pub mod lease;
pub mod observation;
pub mod rejoin;

pub mod journal;
pub mod progress;

pub mod fleet;
pub mod placement;
pub mod witness;

mod agenda;
mod assign;
pub mod conditions;
pub mod explain;
mod orders;
mod tell;

pub use decision::{Decision, Explanation, Remembered, Send};
pub use event::{Event, Now};
pub use hub::{Hub, Settings};
