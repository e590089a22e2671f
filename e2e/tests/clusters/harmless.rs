//! Collectors that are dead, deaf, slow or contrary cost telemetry, and nothing else: real programs, with far more to tell
//! than their queues hold.

mod alone;
mod collector;
mod ending;
mod flood;
mod moves;
