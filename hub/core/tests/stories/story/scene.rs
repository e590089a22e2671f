//! What every story begins with: the names, the placement, and what its application consists of.

use std::collections::BTreeMap;
use std::time::Duration;

use hub_core::fleet::Cluster;
use hub_core::placement::{Failback, Mode, Placement};
use proto::{
    ClusterName, Fencing, Generation, Inventory, OnSilence, PlacementId, PlacementName, Policy, Protect,
    Selector, Shared, Timing, VolumeManifest, WorkloadRef,
};

pub const TIMING: Timing = Timing {
    renew: Duration::from_millis(500),
    rpc: Duration::from_millis(500),
    ttl: Duration::from_secs(3),
    hold: Duration::from_secs(2),
    grace: Duration::from_secs(1),
    stop: Duration::from_secs(4),
    clock_rate_error_ppm: 10_000,
    suspect: Duration::from_millis(1500),
    unreachable: Duration::from_secs(3),
};

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a cluster name")
}

pub fn configured(name: &str) -> Cluster {
    Cluster {
        name: cluster(name),
        identity: format!("uid-{name}"),
        failure_domain: format!("{name}-site"),
        peer_endpoint: None,
        probe_endpoints: Vec::new(),
        maintenance: false,
    }
}

pub fn placement() -> Placement {
    Placement {
        id: PlacementId::parse("uid-shop").expect("a uid"),
        name: PlacementName::parse("shop", "shop").expect("a name"),
        generation: Generation(1),
        created: None,
        deleting: false,
        preferred: cluster("east"),
        clusters: vec![cluster("east"), cluster("west")],
        protect: Protect { volumes: shop(), workloads: shop(), objects: Vec::new() },
        replication_class: "rbd-5m".to_owned(),
        group_class: None,
        mode: Mode::Automatic,
        max_data_loss: Some(Duration::from_secs(600)),
        max_skew: None,
        policy: Policy {
            generation: Generation(1),
            timing: TIMING,
            on_silence: OnSilence::Stop,
            fencing: Fencing::SelfFence,
        },
        paused: false,
        move_deadline: Duration::from_secs(60),
        failback: Failback {
            automatic: false,
            resync_automatic: false,
            stabilization: Duration::from_secs(60),
            windows: Vec::new(),
        },
        depends_on: Vec::new(),
        told: None,
        acknowledged: None,
    }
}

fn shop() -> Selector {
    Selector(BTreeMap::from([("app".to_owned(), "shop".to_owned())]))
}

pub fn inventory() -> Shared<Inventory> {
    let inventory = Inventory {
        version: "v1".to_owned(),
        volumes: vec![VolumeManifest {
            claim: "shop-data".to_owned(),
            handle: "image-1".to_owned(),
            persistent_volume: serde_json::json!({}),
            persistent_volume_claim: serde_json::json!({}),
        }],
        classes: Vec::new(),
        workloads: vec![proto::volume::WorkloadReplicas { workload: workload(), replicas: 1 }],
        objects: Vec::new(),
    };
    inventory.into()
}

pub fn workload() -> WorkloadRef {
    WorkloadRef { api_version: "apps/v1".to_owned(), kind: "Deployment".to_owned(), name: "shop".to_owned() }
}
