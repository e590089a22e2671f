//! Stand-in for a storage array: the generated csi-addons services, as `e2e/wire` declares them.

#![allow(clippy::too_many_lines)]

pub mod identity {
    tonic::include_proto!("identity");
}

pub mod volumegroup {
    tonic::include_proto!("volumegroup");
}

pub mod replication {
    tonic::include_proto!("replication");
}
