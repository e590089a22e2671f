//! Stand-in for a storage array: the generated csi-addons services, as `e2e/wire` declares them.

#![allow(clippy::all, clippy::wildcard_enum_match_arm)]

pub mod identity {
    tonic::include_proto!("identity");
}

pub mod replication {
    tonic::include_proto!("replication");
}
