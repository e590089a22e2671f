//! The door between wire and domain: what passes it needs no second look.
//!
//! To the wire every domain value goes as it is (free text is cut to what the other side takes). From the wire names are
//! parsed again, unknown enum values and missing parts are refused, and every list and text is bounded.

mod command;
mod field;
mod gate;
mod lease;
mod report;
mod stream;
mod volume;

pub use field::{Problem, WireError};
