//! The tests on real clusters, in one program: it is linked once, and two of them run at a time.

mod admission_fence;
mod agent_crashes;
mod api_refusals;
mod application_objects;
mod control_plane;
mod deploy_manifests;
mod disaster_failback;
mod gitops;
mod handover_disturbed;
mod handover_refused;
mod hub_crashes;
mod journal_lost;
mod loss_bound;
mod migration;
mod migration_crashes;
mod network_cut;
mod new_claim;
mod nodes;
mod promote_stuck;
mod proposals_are_told;
mod release;
mod site_loss;
mod volume_group;
mod witness;
mod workload_kinds;
mod wrong_identity;
