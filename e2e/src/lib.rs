//! The local federation: real control planes, real csi-addons, real hub and agents on one machine, and stand-ins for what
//! cannot run there.
//!
//! Read in this order: `federation` (all together), `site` (one member cluster), `control_plane`, `csi_addons`, the
//! stand-ins `array`, `nodes`, `relay` and `gitops`, who looks on, `prometheus` and `observe`, and what judges a run: `history`.

pub mod federation;
pub mod site;

pub mod control_plane;
pub mod csi_addons;
pub mod installation;

pub mod array;
pub mod gitops;
pub mod nodes;
pub mod relay;

pub mod observe;
pub mod prometheus;

pub mod application;
pub mod faults;
pub mod history;
pub mod timeline;

pub mod assets;
pub mod network;
pub mod patience;
pub mod process;
pub mod programs;
pub mod refusal;
