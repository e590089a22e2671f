//! Two stand-in arrays against each other, as real processes over real sockets: the rows that a real array showed.

mod application;
mod failover;
mod groups;
mod habits;
mod planned;
mod sites;
