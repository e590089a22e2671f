//! What the hub says, and in which words.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::Event;
use proto::*;

use super::Cluster;

pub const PLACEMENT: &str = "shop-uid";

/// Timing small enough to be read: renew 1 s, ttl 10 s, hold 8 s, grace 3 s, stop 5 s.
pub fn timing() -> Timing {
    Timing {
        renew: Duration::from_secs(1),
        rpc: Duration::from_secs(1),
        ttl: Duration::from_secs(10),
        hold: Duration::from_secs(8),
        grace: Duration::from_secs(3),
        stop: Duration::from_secs(5),
        clock_rate_error_ppm: 10_000,
        suspect: Duration::from_secs(3),
        unreachable: Duration::from_secs(5),
    }
}

pub fn policy() -> Policy {
    Policy {
        generation: Generation(1),
        timing: timing(),
        on_silence: OnSilence::Stop,
        fencing: Fencing::SelfFence,
    }
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a name")
}

pub fn placement() -> PlacementId {
    PlacementId::parse(PLACEMENT).expect("a uid")
}

fn selector() -> Selector {
    Selector(BTreeMap::from([("app".to_owned(), "shop".to_owned())]))
}

pub fn workload() -> WorkloadRef {
    WorkloadRef { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "web".into() }
}

/// Its epoch and holder; the other cluster is a peer that may be promoted.
pub fn assignment(epoch: u64, holder: Option<&str>, peer: &str) -> Assignment {
    Assignment {
        placement: placement(),
        name: PlacementName::parse("shop", "shop").expect("a name"),
        epoch: Epoch(epoch),
        holder: holder.map(cluster),
        protect: Protect { volumes: selector(), workloads: selector(), objects: Vec::new() },
        replication_class: "rbd-5m".into(),
        group_class: None,
        policy: policy(),
        peers: vec![Peer {
            cluster: cluster(peer),
            identity: format!("{peer}-uid"),
            peer_endpoint: Some(format!("{peer}:7444")),
            probe_endpoints: Vec::new(),
            eligible: true,
        }],
        inventory: None,
    }
}

impl Cluster {
    pub fn hears(&mut self, message: FromHub) {
        self.event(Event::FromHub(message));
    }

    pub fn hears_assignment(&mut self, assignment: Assignment) {
        self.hears(FromHub::Assignment(Box::new(assignment)));
    }

    /// The hub answers the newest heartbeat.
    pub fn hears_grant(&mut self, epoch: u64) {
        self.hears_grant_of(self.nonce, epoch, policy());
    }

    pub fn hears_grant_of(&mut self, nonce: Nonce, epoch: u64, policy: Policy) {
        self.hears_grant_with(nonce, epoch, policy, Vec::new());
    }

    pub fn hears_grant_with(&mut self, nonce: Nonce, epoch: u64, policy: Policy, tickets: Vec<Sealed>) {
        self.line(format!("< grant of epoch {epoch}"));
        let grant = Grant { placement: placement(), epoch: Epoch(epoch), policy, tickets };
        self.hears(FromHub::Reply(Reply {
            term: Term(1),
            nonce,
            mark: Mark::default(),
            grants: vec![grant],
            denials: Vec::new(),
        }));
    }

    pub fn hears_denial(&mut self, epoch: u64, reason: DenialReason) {
        self.line(format!("< denial {reason:?}, epoch {epoch}"));
        let denial =
            Denial { placement: placement(), epoch: Epoch(epoch), holder: Some(cluster("west")), reason };
        self.hears(FromHub::Reply(Reply {
            term: Term(1),
            nonce: self.nonce,
            mark: Mark::default(),
            grants: Vec::new(),
            denials: vec![denial],
        }));
    }

    pub fn hears_command(&mut self, operation: &str, step: StepKind, epoch: u64, action: Action) {
        self.line(format!("< command {operation}/{step} at epoch {epoch}"));
        self.hears(FromHub::Command(Box::new(Command {
            id: CommandId { placement: placement(), operation: OperationId(operation.into()), step },
            epoch: Epoch(epoch),
            nonce: self.nonce,
            lifetime: Duration::from_secs(5),
            action,
            trace_parent: None,
        })));
    }
}

pub fn promote(claims: &[&str], proof: FenceProof) -> Action {
    Action::Promote { proof, claims: claims.iter().map(|&claim| claim.to_owned()).collect() }
}
