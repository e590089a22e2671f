//! The safety protocol, searched through: every order of what the hub, the sites, the network and time may do, judged by
//! the invariants of protocol.md, section 8. The decisions are the product's own functions.
//!
//! What is asked of the product (`real`): the fold of the journal, the answer to a renewal, how long an expired lease has
//! to be waited for, the arithmetic of a lease and of promises, the guard of commands. What passes between them (`hub`,
//! `site`) is written anew here, smaller: the real hub and agent are not run as a whole.
//!
//! What is reduced. One placement, two sites, a few epochs, one edit, one to two messages under way, and spans of two or
//! three ticks. *When* anything happens is arbitrary: the hub may accuse whom it likes at any moment, without evidence, and
//! begin, give up and repeat whatever its journal allows; so each of its checks, timers, modes, approvals and orders of steps
//! only takes behaviours away from what is searched here. Kubernetes and the storage are one number: how long stopping may
//! take. The time to stop is believed (fencing level SelfFence). Not modelled: a journal that is lost, a site that forgets
//! its DRSiteState, a death between deciding something and writing it down, jumps of a clock, a dead agent whose application lives on, and effects; the simulation covers these.

mod hub;
pub mod protocol;
pub mod real;
pub mod rule;
pub mod scope;
pub mod search;
mod site;
pub mod state;
pub mod tell;
