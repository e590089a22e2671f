//! What agents report, and what they are assigned.

use crate::convert::field::mirrored;
use crate::convert::field::{
    MOST_ENDPOINTS, MOST_OBJECTS, MOST_PLACEMENTS, Parsed, Problem, WireError, checked_list, cluster, cut,
    list, object_name, operation, optional_part, optional_text, part, placement, selector, text, uid,
};
use crate::convert::lease::role;
use crate::epoch::Epoch;
use crate::wire::v1;
use crate::{Ailment, Assignment, ObjectSelector, Peer, PlacementName, Protect, Report, WorkloadState};

mirrored!(divergence, Divergence, [No, Unknown, Yes]);

impl From<WorkloadState> for v1::WorkloadState {
    fn from(state: WorkloadState) -> Self {
        let WorkloadState { workload, wanted, ready } = state;
        v1::WorkloadState { workload: Some(workload.into()), wanted, ready }
    }
}

impl TryFrom<v1::WorkloadState> for WorkloadState {
    type Error = WireError;
    fn try_from(state: v1::WorkloadState) -> Parsed<Self> {
        Ok(WorkloadState {
            workload: part(state.workload, "workload")?,
            wanted: state.wanted,
            ready: state.ready,
        })
    }
}

impl From<Ailment> for v1::Ailment {
    fn from(ailment: Ailment) -> Self {
        let Ailment { reason, message } = ailment;
        v1::Ailment { reason, message: cut(&message) }
    }
}

impl TryFrom<v1::Ailment> for Ailment {
    type Error = WireError;
    fn try_from(ailment: v1::Ailment) -> Parsed<Self> {
        Ok(Ailment { reason: text(ailment.reason, "reason")?, message: text(ailment.message, "message")? })
    }
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> Self {
        let Report {
            cluster,
            placement,
            epoch_seen,
            role,
            operation,
            staged,
            inventory,
            volumes,
            workloads,
            pods,
            driver_leader,
            ailments,
            divergence,
        } = report;
        v1::Report {
            cluster: cluster.to_string(),
            placement: placement.to_string(),
            epoch_seen: epoch_seen.0,
            role: v1::Role::from(role).into(),
            operation: operation.map(|name| name.0),
            staged,
            inventory: inventory.map(Into::into),
            volumes: volumes.into_iter().map(Into::into).collect(),
            workloads: workloads.into_iter().map(Into::into).collect(),
            pods,
            driver_leader,
            ailments: ailments.into_iter().map(Into::into).collect(),
            divergence: v1::Divergence::from(divergence).into(),
        }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = WireError;
    fn try_from(report: v1::Report) -> Parsed<Self> {
        Ok(Report {
            cluster: cluster(&report.cluster, "cluster")?,
            placement: placement(&report.placement, "placement")?,
            epoch_seen: Epoch(report.epoch_seen),
            role: role(report.role, "role")?,
            operation: report.operation.map(|name| operation(name, "operation")).transpose()?,
            staged: optional_text(report.staged, "staged")?,
            inventory: optional_part(report.inventory, "inventory")?,
            volumes: list(report.volumes, MOST_OBJECTS, "volumes")?,
            workloads: list(report.workloads, MOST_OBJECTS, "workloads")?,
            pods: report.pods,
            driver_leader: report.driver_leader,
            ailments: list(report.ailments, MOST_OBJECTS, "ailments")?,
            divergence: divergence(report.divergence, "divergence")?,
        })
    }
}

impl From<Protect> for v1::Protect {
    fn from(protect: Protect) -> Self {
        let Protect { volumes, workloads, objects } = protect;
        v1::Protect {
            volumes: volumes.0.into_iter().collect(),
            workloads: workloads.0.into_iter().collect(),
            objects: objects.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Protect> for Protect {
    type Error = WireError;
    fn try_from(protect: v1::Protect) -> Parsed<Self> {
        Ok(Protect {
            volumes: selector(protect.volumes, "volumes")?,
            workloads: selector(protect.workloads, "workloads")?,
            objects: list(protect.objects, MOST_OBJECTS, "objects")?,
        })
    }
}

impl From<ObjectSelector> for v1::ObjectSelector {
    fn from(selector: ObjectSelector) -> Self {
        let ObjectSelector { api_version, kind, names } = selector;
        v1::ObjectSelector { api_version, kind, names }
    }
}

impl TryFrom<v1::ObjectSelector> for ObjectSelector {
    type Error = WireError;
    fn try_from(selector: v1::ObjectSelector) -> Parsed<Self> {
        Ok(ObjectSelector {
            api_version: text(selector.api_version, "api_version")?,
            kind: text(selector.kind, "kind")?,
            names: checked_list(selector.names, MOST_OBJECTS, "names", text)?,
        })
    }
}

impl From<Peer> for v1::OtherCluster {
    fn from(peer: Peer) -> Self {
        let Peer { cluster, identity, peer_endpoint, probe_endpoints, eligible } = peer;
        v1::OtherCluster { cluster: cluster.to_string(), identity, peer_endpoint, probe_endpoints, eligible }
    }
}

impl TryFrom<v1::OtherCluster> for Peer {
    type Error = WireError;
    fn try_from(peer: v1::OtherCluster) -> Parsed<Self> {
        Ok(Peer {
            cluster: cluster(&peer.cluster, "cluster")?,
            identity: uid(peer.identity, "identity")?,
            peer_endpoint: optional_text(peer.peer_endpoint, "peer_endpoint")?,
            probe_endpoints: checked_list(peer.probe_endpoints, MOST_ENDPOINTS, "probe_endpoints", text)?,
            eligible: peer.eligible,
        })
    }
}

impl From<Assignment> for v1::Assignment {
    fn from(assignment: Assignment) -> Self {
        let Assignment {
            placement,
            name,
            epoch,
            holder,
            protect,
            replication_class,
            group_class,
            policy,
            peers,
            inventory,
        } = assignment;
        v1::Assignment {
            placement: placement.to_string(),
            namespace: name.namespace,
            name: name.name,
            epoch: epoch.0,
            holder: holder.map(|cluster| cluster.to_string()),
            protect: Some(protect.into()),
            replication_class,
            group_class,
            policy: Some(policy.into()),
            peers: peers.into_iter().map(Into::into).collect(),
            inventory: inventory.map(Into::into),
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = WireError;
    fn try_from(assignment: v1::Assignment) -> Parsed<Self> {
        Ok(Assignment {
            placement: placement(&assignment.placement, "placement")?,
            name: PlacementName::parse(&assignment.namespace, &assignment.name)
                .map_err(|error| Problem::Name(error).at("name"))?,
            epoch: Epoch(assignment.epoch),
            holder: assignment.holder.map(|name| cluster(&name, "holder")).transpose()?,
            protect: part(assignment.protect, "protect")?,
            replication_class: object_name(assignment.replication_class, "replication_class")?,
            group_class: assignment.group_class.map(|name| object_name(name, "group_class")).transpose()?,
            policy: part(assignment.policy, "policy")?,
            peers: list(assignment.peers, MOST_PLACEMENTS, "peers")?,
            inventory: optional_part(assignment.inventory, "inventory")?,
        })
    }
}
