//! The safety protocol, searched through: every order of what the hub, the sites, the network and time may do, judged by
//! the invariants of protocol.md, section 8. The decisions are the product's own functions.

mod hub;
pub mod protocol;
pub mod real;
pub mod rule;
pub mod scope;
pub mod search;
mod site;
pub mod state;
pub mod tell;
