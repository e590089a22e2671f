//! Telemetry on its way to a collector, in one program: what arrives, and what a bad collector costs.

mod arrival;
mod encrypted;
mod harmless;
mod patience;
mod receiver;
mod relay;
mod scale;
mod standstill;
mod vanished;
