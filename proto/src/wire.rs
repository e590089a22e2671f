//! The generated messages and services of `dr.v1`. Only `convert` and the two ends of a connection name them.

/// Version 1 of the wire: fields are only added, never renumbered.
#[allow(clippy::all, clippy::wildcard_enum_match_arm, clippy::too_many_lines, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("dr.v1");
}
