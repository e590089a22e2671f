//! A stand-in for a storage array per site: what cannot run here is a Ceph cluster with its mirror daemon.
//!
//! Real bytes lie under `DIR/images/<volume handle>/`; the csi-addons services are served on a unix socket for
//! the real sidecar; pods write through `DIR/data.sock`; the two arrays mirror snapshots over TCP. States, error
//! codes and bad habits are those of RBD snapshot mirroring behind ceph-csi, each adjustable in
//! `DIR/settings.json`, which is read anew at every call.
//!
//! Reading order: `image` decides (values only), `shelf` keeps, and `csi_addons`, `groups`, `data`, `mirror`
//! and `schedule` each hold one conversation.

mod calls;
mod csi_addons;
mod data;
mod groups;
pub mod image;
mod mirror;
mod schedule;
mod serve;
mod settings;
mod shelf;
mod span;
pub mod wire;

pub use calls::{Call, calls, forced_promotions};
pub use data::{DataClient, DataError};
pub use image::{ImageStatus, MirrorState, Role};
pub use serve::{ArrayOptions, DATA_SOCKET, serve};
pub use settings::{Handles, Settings};
pub use span::parse as parse_span;
