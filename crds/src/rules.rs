//! What admission refuses, in CEL, each with the field and the remedy. The hub checks again what it lives by.

use serde_json::{Value, json};

/// One rule of a root object.
#[derive(Clone, Copy, Debug)]
pub struct RootRule {
    pub rule: &'static str,
    pub message: &'static str,
    /// None for metadata, whose fields a rule cannot point at.
    pub field_path: Option<&'static str>,
}

impl From<RootRule> for kube::core::Rule {
    fn from(rule: RootRule) -> Self {
        let plain = kube::core::Rule::new(rule.rule).message(rule.message);
        match rule.field_path {
            Some(field_path) => plain.field_path(field_path),
            None => plain,
        }
    }
}

pub const PLACEMENT_NAME_IS_A_LABEL: RootRule = RootRule {
    rule: "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
    message: "metadata.name of a DRPlacement becomes part of other names: use at most 63 lower-case letters, digits and '-'",
    field_path: None,
};

pub const CLUSTER_NAME_IS_A_LABEL: RootRule = RootRule {
    rule: "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
    message: "metadata.name of a DRCluster is what placements list: use at most 63 lower-case letters, digits and '-'",
    field_path: None,
};

pub const ACTIVE_CLUSTER_STAYS_LISTED: RootRule = RootRule {
    rule: "!has(self.status) || !has(self.status.activeCluster) || !(self.status.activeCluster in oldSelf.spec.clusters) || self.status.activeCluster in self.spec.clusters",
    message: "spec.clusters must keep the cluster that owns the placement now (status.activeCluster): move the application away first, then remove it",
    field_path: Some(".spec.clusters"),
};

pub const NOTHING_DEPENDS_ON_ITSELF: RootRule = RootRule {
    rule: "!has(self.spec.dependsOn) || !(self.metadata.name in self.spec.dependsOn)",
    message: "spec.dependsOn names the DRPlacement itself, which would wait for itself for ever: name only others",
    field_path: Some(".spec.dependsOn"),
};

pub const EPOCH_NEVER_DECREASES: RootRule = RootRule {
    rule: "self.spec.epochSeen >= oldSelf.spec.epochSeen",
    message: "spec.epochSeen never decreases: read the object again, and act on the newer epoch",
    field_path: Some(".spec.epochSeen"),
};

pub const SITE_STATE_KEEPS_ITS_PLACEMENT: RootRule = RootRule {
    rule: "self.spec.placementId == oldSelf.spec.placementId && self.spec.placement == oldSelf.spec.placement",
    message: "spec.placement and spec.placementId cannot be changed: another placement has a DRSiteState of its own",
    field_path: Some(".spec.placementId"),
};

pub const SITE_STATE_IS_NAMED_BY_ITS_PLACEMENT: RootRule = RootRule {
    rule: "self.metadata.name == self.spec.placementId",
    message: "spec.placementId must be the name of the DRSiteState, so that there is one for each placement: name it by the placement's uid",
    field_path: Some(".spec.placementId"),
};

pub(crate) fn placement() -> Value {
    json!([
        {
            "rule": "self.preferredCluster in self.clusters",
            "message": "preferredCluster must be one of clusters: list it there, or prefer a cluster that is listed",
            "fieldPath": ".preferredCluster",
        },
        {
            "rule": "self.clusters.all(one, self.clusters.exists_one(other, other == one))",
            "message": "clusters lists a cluster twice: name each cluster once",
            "fieldPath": ".clusters",
        },
        {
            "rule": "!has(self.replication.volumeGroupReplicationClass) || self.protect.volumes.matchLabels == oldSelf.protect.volumes.matchLabels",
            "message": "protect.volumes cannot be changed while the claims are replicated as one group, because the selector of a VolumeGroupReplication cannot be: label the claims to fit it, or take their labels away",
            "fieldPath": ".protect",
        },
    ])
}

/// The kinds that may be copied to another cluster, by apiVersion. Not among them: what is of the whole cluster, what
/// somebody else makes from what is copied (Pods), what holds data or says whose it is (claims, VolumeReplications,
/// DRSiteStates), and what gives rights (Roles, RoleBindings).
pub const COPIED_KINDS: [(&str, &str); 11] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "CronJob"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
];

pub(crate) fn objects() -> Value {
    let kinds = COPIED_KINDS.map(|(version, kind)| format!("'{version} {kind}'")).join(", ");
    let told = COPIED_KINDS.map(|(version, kind)| format!("{version} {kind}")).join(", ");
    json!([
        {
            "rule": format!("self.apiVersion + ' ' + self.kind in [{kinds}]"),
            "message": format!("kind is not one that is copied to another cluster: use one of {told}, and apply any other to each cluster yourself"),
            "fieldPath": ".kind",
        },
        {
            "rule": "self.kind != 'Secret' || (has(self.names) && self.names.size() > 0)",
            "message": "names must be given for the kind Secret, because a Secret that is copied is kept by the hub as well: name each one that may leave its cluster",
            "fieldPath": ".names",
        },
    ])
}

/// What is replicated in a group cannot be taken out of it, or put into another, without ending its mirroring.
pub(crate) fn replication() -> Value {
    json!([{
        "rule": "has(self.volumeGroupReplicationClass) == has(oldSelf.volumeGroupReplicationClass) && (!has(self.volumeGroupReplicationClass) || self.volumeGroupReplicationClass == oldSelf.volumeGroupReplicationClass)",
        "message": "volumeGroupReplicationClass cannot be set, changed or taken away later, because a claim that changes its group ends its mirroring: delete the DRPlacement, which leaves the application running, end the old replication, and make another DRPlacement",
        "fieldPath": ".volumeGroupReplicationClass",
    }])
}

pub(crate) fn selector() -> Value {
    json!([{
        "rule": "self.matchLabels.size() > 0",
        "message": "matchLabels must not be empty, because that would select the whole namespace: give at least one label",
        "fieldPath": ".matchLabels",
    }])
}

pub(crate) fn failover() -> Value {
    json!([
        {
            "rule": "self.mode != 'Automatic' || !has(self.onSilence) || self.onSilence == 'Stop'",
            "message": "onSilence must be Stop in mode Automatic, because waiting proves nothing about a cluster that goes on: set it to Stop, or use mode Confirm or Manual",
            "fieldPath": ".onSilence",
        },
        {
            "rule": "self.mode != 'Automatic' || self.fencing != 'None'",
            "message": "fencing must not be None in mode Automatic, because nothing would stop the old holder: use SelfFence or stronger, or mode Confirm or Manual",
            "fieldPath": ".fencing",
        },
        {
            "rule": "!has(self.maxDataLoss) || duration(self.maxDataLoss) > duration('0s')",
            "message": "maxDataLoss must be more than 0s, because an asynchronous copy is always behind: give a span such as 10m",
            "fieldPath": ".maxDataLoss",
        },
    ])
}

pub(crate) fn migration() -> Value {
    json!([more_than_nothing(
        "deadline",
        "deadline must be more than 0s, because every move would be rolled back at once: give a span such as 15m",
    )])
}

pub(crate) fn failback() -> Value {
    json!([more_than_nothing(
        "stabilization",
        "stabilization must be more than 0s, because a copy that is whole for the first time may fall behind again: give a span such as 30m",
    )])
}

/// 1:30 and 01:30 are one time.
pub(crate) fn window() -> Value {
    json!([{
        "rule": "self.from != self.to && '0' + self.from != self.to && self.from != '0' + self.to",
        "message": "to must not be from, because that is no time at all: end the window later, or leave windows out to allow any time",
        "fieldPath": ".to",
    }])
}

fn more_than_nothing(field: &str, message: &str) -> Value {
    json!({
        "rule": format!("!has(self.{field}) || duration(self.{field}) > duration('0s')"),
        "message": message,
        "fieldPath": format!(".{field}"),
    })
}

/// The inequality of the timing, over what is given here and what the profile gives.
pub(crate) fn timing() -> Value {
    let positive = ["renew", "rpc", "ttl", "hold", "stop"].map(|field| {
        json!({
            "rule": format!("!has(self.{field}) || duration(self.{field}) > duration('0s')"),
            "message": format!("timing.{field} must be more than 0s: give a span such as 500ms or 20s"),
            "fieldPath": format!(".{field}"),
        })
    });
    let (renew, rpc, ttl) = (effective("renew"), effective("rpc"), effective("ttl"));
    let (grace, stop) = (effective("grace"), effective("stop"));
    let (suspect, unreachable) = (effective("suspect"), effective("unreachable"));
    let relations = [
        json!({
            "rule": format!("{renew} + {renew} + {rpc} + {rpc} + {rpc} + {rpc} <= {ttl}"),
            "message": "timing.ttl is too short: renew + 2 rpc must fit in half of it, or one lost call fences a healthy site; raise ttl to 2 renew + 4 rpc, or lower renew or rpc (values not given are the profile's)",
            "fieldPath": ".ttl",
        }),
        json!({
            "rule": format!("{stop} >= {grace} + duration('1500ms')"),
            "message": "timing.stop is too short: the pods' grace and 1.5s for the rest must fit in it; raise stop, or lower grace (values not given are the profile's)",
            "fieldPath": ".stop",
        }),
        json!({
            "rule": format!("{suspect} >= {renew} + {renew} + {renew}"),
            "message": "timing.suspect is too short: three renewals must fit in it; raise suspect, or lower renew (values not given are the profile's)",
            "fieldPath": ".suspect",
        }),
        json!({
            "rule": format!("{unreachable} >= {suspect}"),
            "message": "timing.unreachable must not be shorter than suspect: raise unreachable, or lower suspect (values not given are the profile's)",
            "fieldPath": ".unreachable",
        }),
    ];
    Value::Array(positive.into_iter().chain(relations).collect())
}

pub(crate) fn immutable() -> Value {
    json!([{
        "rule": "self == oldSelf",
        "message": "spec cannot be changed once written: delete the object and make another",
    }])
}

/// The spans of a profile, for the rules. A test in this crate compares them with the protocol's.
pub const PROFILES: [(&str, [(&str, &str); 3]); 7] = [
    ("renew", [("Fast", "2s"), ("Default", "5s"), ("Conservative", "60s")]),
    ("rpc", [("Fast", "2s"), ("Default", "5s"), ("Conservative", "10s")]),
    ("ttl", [("Fast", "20s"), ("Default", "45s"), ("Conservative", "600s")]),
    ("grace", [("Fast", "10s"), ("Default", "30s"), ("Conservative", "60s")]),
    ("stop", [("Fast", "25s"), ("Default", "60s"), ("Conservative", "90s")]),
    ("suspect", [("Fast", "6s"), ("Default", "15s"), ("Conservative", "180s")]),
    ("unreachable", [("Fast", "12s"), ("Default", "30s"), ("Conservative", "360s")]),
];

/// CEL for a value of the timing: the one given, or the profile's.
fn effective(field: &str) -> String {
    let spans: Vec<String> = PROFILES
        .iter()
        .filter(|(name, _)| *name == field)
        .flat_map(|(_, spans)| spans)
        .map(|(profile, span)| format!("'{profile}': '{span}'"))
        .collect();
    format!(
        "duration(has(self.{field}) ? self.{field} : {{{}}}[has(self.profile) ? self.profile : 'Default'])",
        spans.join(", ")
    )
}
