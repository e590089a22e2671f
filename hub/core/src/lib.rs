//! What the hub decides, as a pure function of what it has written down, what it has seen, and the time it is told.
//!
//! Read in this order: `event` (what can happen), `decision` (what comes out), `hub` (the step), `decide` (the choices),
//! `plan` (the recipes), `checks` (the ordered list of what forbids a failover).

pub mod decision;
pub mod event;
pub mod journal;
