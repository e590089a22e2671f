//! Every value of the contract, at random and within what either side accepts.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proto::heartbeat::Known;
use proto::volume::WorkloadReplicas;
use proto::*;
use serde_json::{Value, json};

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?"
}

fn cluster() -> impl Strategy<Value = ClusterName> {
    label().prop_map(|name| ClusterName::parse(&name).expect("a label"))
}

fn placement() -> impl Strategy<Value = PlacementId> {
    label().prop_map(|name| PlacementId::parse(&name).expect("a label"))
}

fn operation() -> impl Strategy<Value = OperationId> {
    label().prop_map(OperationId)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn span() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn gate_nonce() -> impl Strategy<Value = GateNonce> {
    any::<[u8; 16]>().prop_map(GateNonce::of_bytes)
}

fn sealed() -> impl Strategy<Value = Sealed> {
    let bytes = || vec(any::<u8>(), 0..20);
    let chain = vec(bytes().prop_map(gate::Certificate), 0..3);
    let seal = (any::<u16>(), bytes(), chain).prop_map(|(scheme, signature, chain)| gate::Seal {
        scheme,
        signature,
        chain,
    });
    (gate_nonce(), bytes(), of(seal)).prop_map(|(nonce, body, seal)| Sealed { nonce, body, seal })
}

fn mark() -> impl Strategy<Value = Mark> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, at)| Mark { term, at: Moment(at) })
}

fn role() -> impl Strategy<Value = Role> {
    use Role::*;
    prop::sample::select(vec![Holder, Promoting, Standby, Fenced, Unknown])
}

fn step() -> impl Strategy<Value = StepKind> {
    use StepKind::*;
    let all = vec![
        Fence,
        ScaleDown,
        BackUp,
        Demote,
        Restore,
        AwaitFence,
        Promote,
        TakeOwnership,
        ScaleUp,
        AwaitReady,
        Resync,
        AwaitSync,
        Rejoin,
        Release,
    ];
    prop::sample::select(all)
}

fn timing() -> impl Strategy<Value = Timing> {
    (vec(span(), 8), any::<u32>()).prop_map(|(spans, clock_rate_error_ppm)| Timing {
        renew: spans[0],
        rpc: spans[1],
        ttl: spans[2],
        hold: spans[3],
        grace: spans[4],
        stop: spans[5],
        clock_rate_error_ppm,
        suspect: spans[6],
        unreachable: spans[7],
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    use Fencing::*;
    let on_silence = prop::sample::select(vec![OnSilence::Stop, OnSilence::Continue]);
    let fencing = prop::sample::select(vec![None, SelfFence, Gate, Storage, External]);
    (any::<u64>(), timing(), on_silence, fencing).prop_map(|(generation, timing, on_silence, fencing)| {
        Policy { generation: Generation(generation), timing, on_silence, fencing }
    })
}

fn manifest() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

fn workload() -> impl Strategy<Value = WorkloadRef> {
    (text(), text(), label()).prop_map(|(api_version, kind, name)| WorkloadRef { api_version, kind, name })
}

fn volume_manifest() -> impl Strategy<Value = VolumeManifest> {
    (label(), text(), manifest(), manifest()).prop_map(|(claim, handle, volume, volume_claim)| {
        VolumeManifest { claim, handle, persistent_volume: volume, persistent_volume_claim: volume_claim }
    })
}

fn inventory() -> impl Strategy<Value = Shared<Inventory>> {
    let workloads = vec(
        (workload(), any::<u32>()).prop_map(|(workload, replicas)| WorkloadReplicas { workload, replicas }),
        0..3,
    );
    let objects = vec(manifest(), 0..3);
    (text(), vec(volume_manifest(), 0..3), vec(manifest(), 0..3), workloads, objects).prop_map(
        |(version, volumes, classes, workloads, objects)| {
            Inventory { version, volumes, classes, workloads, objects }.into()
        },
    )
}

fn replication() -> impl Strategy<Value = Replication> {
    use ReplicationState::*;
    let conditions = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let cost = (of(any::<u64>()), of(any::<u32>()));
    let synced = (of(any::<i64>()), cost);
    let state = prop::sample::select(vec![Primary, Secondary, Unknown]);
    (text(), state, any::<bool>(), conditions, synced, of(epoch()), text()).prop_map(
        |(
            desired,
            state,
            current,
            (completed, degraded, resyncing, validated),
            (synced, (bytes, took)),
            epoch,
            message,
        )| {
            Replication {
                desired,
                state,
                current,
                completed,
                degraded,
                resyncing,
                validated,
                last_sync: synced.map(WallTime),
                last_sync_bytes: bytes,
                last_sync_took: took.map(|nanos| Duration::from_nanos(u64::from(nanos))),
                epoch,
                message,
            }
        },
    )
}

fn volume() -> impl Strategy<Value = VolumeState> {
    (label(), of(text()), any::<bool>(), any::<bool>(), of(replication())).prop_map(
        |(claim, handle, bound, attached, replication)| VolumeState {
            claim,
            handle,
            bound,
            attached,
            replication,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let known =
        (placement(), epoch(), role()).prop_map(|(placement, epoch, role)| Known { placement, epoch, role });
    (cluster(), text(), vec(known, 0..4)).prop_map(|(cluster, version, known)| Hello {
        cluster,
        version,
        known,
    })
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let renewal = (placement(), epoch(), any::<u64>(), vec(gate_nonce(), 0..3)).prop_map(
        |(placement, epoch, echo, gates)| Renewal { placement, epoch, echo: Generation(echo), gates },
    );
    let kind = prop::sample::select(vec![PathKind::PeerAgent, PathKind::ApiServer, PathKind::Witness]);
    let path = (cluster(), kind, any::<bool>(), mark(), of(span())).prop_map(
        |(cluster, path, reachable, mark, worked_age)| PathState {
            cluster,
            path,
            reachable,
            mark,
            worked_age,
        },
    );
    (cluster(), any::<u64>(), of(span()), vec(renewal, 0..4), vec(path, 0..4)).prop_map(
        |(cluster, nonce, api_write_age, renewals, paths)| Heartbeat {
            cluster,
            nonce: Nonce(nonce),
            api_write_age,
            renewals,
            paths,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let state = (workload(), any::<u32>(), any::<u32>())
        .prop_map(|(workload, wanted, ready)| WorkloadState { workload, wanted, ready });
    let ailment = (text(), text()).prop_map(|(reason, message)| Ailment { reason, message });
    let identity = (cluster(), placement(), epoch(), role(), of(operation()), of(text()), of(inventory()));
    let divergence = prop_oneof![Just(Divergence::No), Just(Divergence::Unknown), Just(Divergence::Yes)];
    let ailments = vec(ailment, 0..3);
    let seen = (vec(volume(), 0..3), vec(state, 0..3), any::<u32>(), of(any::<bool>()), ailments, divergence);
    (identity, seen).prop_map(
        |(
            (cluster, placement, epoch_seen, role, operation, staged, inventory),
            (volumes, workloads, pods, driver_leader, ailments, divergence),
        )| Report {
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
        },
    )
}

fn command_id() -> impl Strategy<Value = CommandId> {
    (placement(), operation(), step()).prop_map(|(placement, operation, step)| CommandId {
        placement,
        operation,
        step,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use Refusal::*;
    let refusal = prop::sample::select(vec![StaleEpoch, Conflict, Expired, PromiseOutstanding, NotAssigned]);
    prop_oneof![
        Just(Outcome::Done),
        text().prop_map(|waiting_for| Outcome::Working { waiting_for }),
        (refusal, epoch()).prop_map(|(refusal, epoch_seen)| Outcome::Refused { refusal, epoch_seen }),
        (text(), text()).prop_map(|(reason, message)| Outcome::Failing { reason, message }),
    ]
}

pub fn from_agent() -> impl Strategy<Value = FromAgent> {
    let acknowledgement = (cluster(), command_id(), epoch(), outcome())
        .prop_map(|(cluster, command, epoch, outcome)| Acknowledgement { cluster, command, epoch, outcome });
    prop_oneof![
        hello().prop_map(FromAgent::Hello),
        heartbeat().prop_map(FromAgent::Heartbeat),
        report().prop_map(FromAgent::Report),
        acknowledgement.prop_map(FromAgent::Acknowledgement),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    use DenialReason::*;
    let grant = (placement(), epoch(), policy(), vec(sealed(), 0..3))
        .prop_map(|(placement, epoch, policy, tickets)| Grant { placement, epoch, policy, tickets });
    let reason = prop::sample::select(vec![Superseded, NotYours, NotNow]);
    let denial = (placement(), epoch(), of(cluster()), reason)
        .prop_map(|(placement, epoch, holder, reason)| Denial { placement, epoch, holder, reason });
    (any::<u64>(), any::<u64>(), mark(), vec(grant, 0..3), vec(denial, 0..3)).prop_map(
        |(term, nonce, mark, grants, denials)| Reply {
            term: Term(term),
            nonce: Nonce(nonce),
            mark,
            grants,
            denials,
        },
    )
}

fn selector() -> impl Strategy<Value = Selector> {
    btree_map(text(), text(), 1..4).prop_map(|labels: BTreeMap<_, _>| Selector(labels))
}

fn peer() -> impl Strategy<Value = Peer> {
    (cluster(), label(), of(text()), vec(text(), 0..3), any::<bool>()).prop_map(
        |(cluster, identity, peer_endpoint, probe_endpoints, eligible)| Peer {
            cluster,
            identity,
            peer_endpoint,
            probe_endpoints,
            eligible,
        },
    )
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let name = (label(), label())
        .prop_map(|(namespace, name)| PlacementName::parse(&namespace, &name).expect("labels"));
    let object = (text(), text(), vec(label(), 0..3)).prop_map(|(api_version, kind, names)| ObjectSelector {
        api_version,
        kind,
        names,
    });
    let protect = (selector(), selector(), vec(object, 0..3))
        .prop_map(|(volumes, workloads, objects)| Protect { volumes, workloads, objects });
    let ownership = (placement(), name, epoch(), of(cluster()));
    let classes = (label(), of(label()));
    (ownership, protect, classes, policy(), vec(peer(), 0..3), of(inventory())).prop_map(
        |((placement, name, epoch, holder), protect, classes, policy, peers, inventory)| {
            let (replication_class, group_class) = classes;
            Assignment {
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
            }
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let proof = prop_oneof![
        Just(FenceProof::NeverHeld),
        Just(FenceProof::Acknowledged),
        Just(FenceProof::LeaseExpired),
        Just(FenceProof::Storage),
        text().prop_map(|approver| FenceProof::Asserted { approver }),
    ];
    let scale =
        (workload(), any::<u32>()).prop_map(|(workload, replicas)| WorkloadScale { workload, replicas });
    prop_oneof![
        Just(Action::Fence),
        Just(Action::ScaleDown),
        Just(Action::Demote),
        vec(label(), 0..4).prop_map(|claims| Action::Resync { claims }),
        Just(Action::Rejoin),
        inventory().prop_map(|inventory| Action::Restore { inventory }),
        (proof, vec(label(), 0..4)).prop_map(|(proof, claims)| Action::Promote { proof, claims }),
        vec(scale, 0..4).prop_map(|workloads| Action::ScaleUp { workloads }),
        Just(Action::Release),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    (command_id(), epoch(), any::<u64>(), span(), action(), of(text())).prop_map(
        |(id, epoch, nonce, lifetime, action, trace_parent)| Command {
            id,
            epoch,
            nonce: Nonce(nonce),
            lifetime,
            action,
            trace_parent,
        },
    )
}

pub fn from_hub() -> impl Strategy<Value = FromHub> {
    prop_oneof![
        reply().prop_map(FromHub::Reply),
        assignment().prop_map(|assignment| FromHub::Assignment(Box::new(assignment))),
        placement().prop_map(FromHub::Unassign),
        command().prop_map(|command| FromHub::Command(Box::new(command))),
    ]
}

pub fn hold_request() -> impl Strategy<Value = HoldRequest> {
    (cluster(), placement(), epoch(), span(), vec(gate_nonce(), 0..3)).prop_map(
        |(holder, placement, epoch, stop, gates)| HoldRequest { holder, placement, epoch, stop, gates },
    )
}

pub fn hold_answer() -> impl Strategy<Value = HoldAnswer> {
    prop_oneof![
        (span(), vec(sealed(), 0..3)).prop_map(|(hold, tickets)| HoldAnswer::Promised { hold, tickets }),
        epoch().prop_map(|epoch_seen| HoldAnswer::Refused { epoch_seen }),
    ]
}
