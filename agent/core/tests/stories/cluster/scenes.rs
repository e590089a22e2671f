//! Where stories begin.

use std::time::Duration;

use agent_core::{Agent, Change, Event, Identity, Kind, MemoryRead, Watched};
use proto::*;

use super::objects::{cron_jobs, deployments, stateful_sets};
use super::{Cluster, assignment, promote};

/// East holds the placement at epoch 1 with a fresh grant, its application running on two claims.
pub fn holding_east() -> Cluster {
    let mut east = Cluster::new("east");
    east.run_application(&["data", "logs"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.hears_command(
        "shop-deploy-1",
        StepKind::Promote,
        1,
        promote(&["data", "logs"], FenceProof::NeverHeld),
    );
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.hears_grant(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.pass(Duration::from_millis(500));
    east
}

/// West is standby at epoch 1 with east's inventory staged.
pub fn standby_west() -> Cluster {
    let east = holding_east();
    let mut west = Cluster::new("west");
    west.add_classes();
    west.add_stopped_workload(&["data", "logs"]);
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(Assignment {
        inventory: Some(inventory_of(&east)),
        ..assignment(1, Some("east"), "east")
    });
    west.pass(Duration::from_millis(500));
    assert_eq!(west.role(), Some((Role::Standby, 1)));
    west
}

/// What the agent of this cluster tells of its volumes.
pub fn inventory_of(cluster: &Cluster) -> Shared<Inventory> {
    let mut fresh = Agent::new(Identity { cluster: cluster.name.clone(), version: "test".into() });
    let memory = MemoryRead { boot: "b".into(), ..MemoryRead::default() };
    fresh.step(Moment(1), Event::Started(memory));
    fresh.step(Moment(1), Event::HubUp);
    fresh.step(Moment(1), Event::FromHub(FromHub::Assignment(Box::new(assignment(0, None, "west")))));
    for ((kind, _), object) in &cluster.objects {
        let change = Change::Applied(object.clone());
        fresh.step(Moment(1), Event::Watched(Watched { kind: kind.clone(), change }));
    }
    let mut lists = Cluster::new("east");
    lists.objects = cluster.objects.clone();
    let mut told = None;
    let mut now = Moment(100);
    for (kind, namespaced) in [
        (Kind::Claim, true),
        (Kind::Volume, false),
        (Kind::StorageClass, false),
        (Kind::Replication, true),
        (Kind::ReplicationClass, false),
        (Kind::Attachment, false),
        (Kind::Pod, true),
        (deployments(), true),
        (stateful_sets(), true),
        (cron_jobs(), true),
    ] {
        now = now + Duration::from_millis(100);
        let decision = fresh.step(now, Event::Watched(lists.list(kind, namespaced)));
        for message in decision.send {
            if let FromAgent::Report(report) = message {
                told = report.inventory.or(told);
            }
        }
    }
    told.expect("an inventory")
}
