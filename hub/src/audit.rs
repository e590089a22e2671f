//! The audit records: who decided what, why, and on which evidence. A stream of their own in the log, and in what is exported.
//!
//! What is recorded has become durable before; what is sent has been handed to the stream.

use std::collections::{BTreeMap, BTreeSet};

use hub_core::decision::{Explanation, Send};
use hub_core::explain::{Happening, proof_name};
use hub_core::fleet::Cluster;
use hub_core::journal::{Entry, Intent, Line};
use hub_core::{Event, placement::Placement};
use proto::{
    ClusterName, CommandId, Epoch, FromHub, Generation, OperationId, Outcome, PlacementId, PlacementName,
    StepKind,
};
use understudy_telemetry::AUDIT;

use crate::traces::Traces;

/// Who acts where no human said yes.
const HUB: &str = "hub";

/// What must be known to write whole records, and each once.
#[derive(Default)]
pub struct Audit {
    names: BTreeMap<PlacementId, PlacementName>,
    /// What was begun of each placement, and has not ended.
    begun: BTreeMap<PlacementId, OperationId>,
    generations: BTreeMap<PlacementId, Generation>,
    refused: BTreeMap<PlacementId, Generation>,
    clusters: BTreeMap<ClusterName, Cluster>,
    approvals: BTreeMap<(String, String), bool>,
    /// Commands are repeated until they are answered.
    commanded: BTreeMap<(PlacementId, OperationId), BTreeSet<Commanded>>,
    turned_away: BTreeMap<PlacementId, (CommandId, &'static str)>,
}

/// A step of an operation, at an epoch, at a cluster.
type Commanded = (StepKind, Epoch, ClusterName);

/// One record. What is not known is left out.
#[derive(Default)]
struct Record<'a> {
    /// Out of a closed list, in docs/telemetry.md.
    action: &'static str,
    who: &'a str,
    placement: Option<String>,
    operation: Option<&'a OperationId>,
    epoch: Option<u64>,
    /// What it is done to: a cluster, a step, an object.
    what: Option<String>,
    why: Option<&'a str>,
    evidence: Option<String>,
}

impl Audit {
    /// What an earlier hub has recorded, it has told.
    pub fn replayed<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        for line in lines {
            self.learn(&line.entry);
            self.note_end(&line.entry);
        }
    }

    /// What people and agents said, before it is thought about.
    pub fn heard(&mut self, event: &Event) {
        match event {
            Event::PlacementSeen(placement) => self.edited(placement),
            Event::PlacementRefused(refused) => {
                let known = self.refused.insert(refused.id.clone(), refused.generation);
                if known != Some(refused.generation) {
                    write(Record {
                        action: "EditRefused",
                        who: HUB,
                        placement: Some(refused.name.to_string()),
                        what: Some(format!("generation {}", refused.generation.0)),
                        why: Some(&refused.message),
                        ..Record::default()
                    });
                }
            }
            Event::PlacementGone(id) => self.forget(id),
            Event::ApprovalSeen(approval) => {
                let key = (approval.namespace.clone(), approval.name.clone());
                if self.approvals.insert(key, approval.approve) != Some(approval.approve) {
                    let off =
                        approval.asserts_off.as_ref().map(|cluster| format!("vouches that {cluster} is off"));
                    write(Record {
                        action: if approval.approve { "Approve" } else { "Reject" },
                        who: &approval.approver,
                        placement: Some(format!("{}/{}", approval.namespace, approval.placement)),
                        operation: Some(&OperationId(approval.operation.clone())),
                        epoch: Some(approval.epoch.0),
                        what: Some(format!("DRApproval {}", approval.name)),
                        evidence: off,
                        ..Record::default()
                    });
                }
            }
            Event::ApprovalGone(namespace, name) => {
                if self.approvals.remove(&(namespace.clone(), name.clone())).is_some() {
                    let what = Some(format!("DRApproval {namespace}/{name}"));
                    write(Record { action: "TakeBack", who: "user", what, ..Record::default() });
                }
            }
            Event::ClusterSeen(cluster) => self.cluster(cluster),
            Event::ClusterGone(cluster) => {
                self.clusters.remove(cluster);
                let what = Some(format!("DRCluster {cluster}"));
                write(Record { action: "Unregister", who: "user", what, ..Record::default() });
            }
            Event::Acknowledged(answer) => self.answered(&answer.cluster, &answer.command, &answer.outcome),
            Event::Verified(..)
            | Event::Connected(_)
            | Event::Disconnected(_)
            | Event::Heartbeat(_)
            | Event::Report(_)
            | Event::Visited(_)
            | Event::Tick => {}
        }
    }

    /// What has become durable.
    pub fn recorded(&mut self, entries: &[Entry], traces: &Traces) {
        for entry in entries {
            self.learn(entry);
            self.entry(entry, traces);
        }
    }

    /// The first sending of a command to a cluster.
    pub fn sent(&mut self, send: &Send, traces: &Traces) {
        let FromHub::Command(command) = &send.message else { return };
        let id = &command.id;
        let sent = self.commanded.entry((id.placement.clone(), id.operation.clone())).or_default();
        if sent.insert((id.step, command.epoch, send.to.clone())) {
            let record = Record {
                action: "Command",
                who: HUB,
                placement: self.name(&id.placement),
                operation: Some(&id.operation),
                epoch: Some(command.epoch.0),
                what: Some(format!("{} at {}", id.step, send.to)),
                ..Record::default()
            };
            traced(traces, &id.placement, record);
        }
    }

    /// What was not done, and why.
    pub fn explained(&self, explanation: &Explanation, traces: &Traces) {
        use crds::conditions::EventReason::{DeployRefused, FailoverRefused};
        let Explanation::Happened(Happening { placement, name, reason, warning: _, message, operation }) =
            explanation
        else {
            return;
        };
        if [FailoverRefused, DeployRefused].contains(reason) {
            let record = Record {
                action: "Refuse",
                who: HUB,
                placement: Some(name.to_string()),
                operation: operation.as_ref(),
                what: Some(reason.to_string()),
                why: Some(message),
                ..Record::default()
            };
            traced(traces, placement, record);
        }
    }

    fn learn(&mut self, entry: &Entry) {
        if let Entry::Intent(intent) | Entry::Proposal(intent) = entry {
            self.names.insert(intent.placement.clone(), intent.name.clone());
        }
        if let Entry::Intent(intent) = entry {
            self.begun.insert(intent.placement.clone(), intent.operation.clone());
        }
        if let Entry::Ownership { placement, name, .. } = entry {
            self.names.insert(placement.clone(), name.clone());
        }
    }

    fn note_end(&mut self, entry: &Entry) {
        if let Entry::Commit { placement, .. }
        | Entry::Cut { placement, .. }
        | Entry::Abort { placement, .. }
        | Entry::Released { placement } = entry
        {
            self.begun.remove(placement);
            self.commanded.retain(|(of, _), _| of != placement);
        }
        if let Entry::Released { placement } = entry {
            self.turned_away.remove(placement);
        }
    }

    fn entry(&mut self, entry: &Entry, traces: &Traces) {
        let Some((placement, mut record)) = record(entry) else { return };
        record.placement = self.name(placement);
        // The journal need not say which operation gives a cluster the ownership: there is only one at a time.
        if matches!(entry, Entry::Ownership { .. }) {
            record.operation = self.begun.get(placement);
        }
        traced(traces, placement, record);
        self.note_end(entry);
    }

    fn edited(&mut self, placement: &Placement) {
        let Placement { id, name, generation, .. } = placement;
        let first = self.names.insert(id.clone(), name.clone()).is_none();
        let before = self.generations.insert(id.clone(), *generation);
        self.refused.remove(id);
        // One that the journal knows has been seen by an earlier hub.
        let edited = before.map_or(first, |before| before != *generation);
        if edited {
            write(Record {
                action: "Edit",
                who: "user",
                placement: Some(name.to_string()),
                what: Some(format!("generation {}", generation.0)),
                evidence: Some(format!(
                    "prefers {}, mode {:?}, paused {}, fencing {:?}, deleting {}",
                    placement.preferred,
                    placement.mode,
                    placement.paused,
                    placement.policy.fencing,
                    placement.deleting
                )),
                ..Record::default()
            });
        }
    }

    fn cluster(&mut self, cluster: &Cluster) {
        if self.clusters.insert(cluster.name.clone(), cluster.clone()).as_ref() != Some(cluster) {
            write(Record {
                action: "Register",
                who: "user",
                what: Some(format!("DRCluster {}", cluster.name)),
                evidence: Some(format!(
                    "identity {}, failure domain {}, maintenance {}",
                    cluster.identity, cluster.failure_domain, cluster.maintenance
                )),
                ..Record::default()
            });
        }
    }

    /// An agent that turns a command away tells of two authorities, or of a clock. Told once while it says the same.
    fn answered(&mut self, cluster: &ClusterName, command: &CommandId, outcome: &Outcome) {
        let Outcome::Refused { refusal, epoch_seen } = outcome else { return };
        let now = (command.clone(), refusal.as_str());
        if self.turned_away.insert(command.placement.clone(), now.clone()).as_ref() != Some(&now) {
            write(Record {
                action: "CommandRefused",
                who: cluster.as_str(),
                placement: self.name(&command.placement),
                operation: Some(&command.operation),
                epoch: Some(epoch_seen.0),
                what: Some(command.step.to_string()),
                why: Some(refusal.as_str()),
                ..Record::default()
            });
        }
    }

    fn forget(&mut self, id: &PlacementId) {
        let placement = self.name(id);
        self.names.remove(id);
        self.generations.remove(id);
        self.refused.remove(id);
        if placement.is_some() {
            write(Record { action: "Delete", who: "user", placement, ..Record::default() });
        }
    }

    fn name(&self, placement: &PlacementId) -> Option<String> {
        Some(self.names.get(placement).map_or_else(|| placement.to_string(), ToString::to_string))
    }
}

/// What an entry of the journal is to those who audit.
fn record(entry: &Entry) -> Option<(&PlacementId, Record<'_>)> {
    let about = |action, operation, why| Record { action, who: HUB, operation, why, ..Record::default() };
    Some(match entry {
        Entry::Proposal(intent) => (&intent.placement, decided("Propose", intent)),
        Entry::Intent(intent) => (&intent.placement, decided("Begin", intent)),
        Entry::Withdrawn { placement, operation, reason } => {
            (placement, about("Withdraw", Some(operation), Some(reason)))
        }
        Entry::Fence { placement, operation, proof } => (
            placement,
            Record {
                evidence: Some(proof_name(proof).to_owned()),
                ..about("AcceptFence", Some(operation), None)
            },
        ),
        Entry::Ownership { placement, name: _, epoch, holder } => (
            placement,
            Record { epoch: Some(epoch.0), what: Some(holder.to_string()), ..about("Own", None, None) },
        ),
        Entry::Policy { placement, policy, clusters: _ } => (
            placement,
            Record {
                what: Some(format!("generation {}", policy.generation.0)),
                evidence: Some(format!("{:?}, on silence {:?}", policy.fencing, policy.on_silence)),
                ..about("SetPolicy", None, None)
            },
        ),
        Entry::Commit { placement, operation } => (placement, about("Complete", Some(operation), None)),
        Entry::Cut { placement, operation, reason } => {
            (placement, about("Cut", Some(operation), Some(reason)))
        }
        Entry::Abort { placement, operation, reason } => {
            (placement, about("Abort", Some(operation), Some(reason)))
        }
        Entry::Block { placement, operation, until: _ } => (placement, about("Block", Some(operation), None)),
        Entry::Released { placement } => (placement, about("Release", None, None)),
        Entry::NeedsHuman { placement, reason } => (placement, about("AskHuman", None, Some(reason))),
        Entry::Genesis { hub: _ }
        | Entry::Term { term: _ }
        | Entry::Echo { .. }
        | Entry::BackedUp { .. }
        | Entry::Resynced { .. }
        | Entry::WishFulfilled { .. }
        | Entry::Step { .. } => return None,
    })
}

fn decided<'a>(action: &'static str, intent: &'a Intent) -> Record<'a> {
    let from = intent.from.as_ref().map_or("none", ClusterName::as_str);
    Record {
        action,
        who: intent.approval.as_ref().map_or(HUB, |yes| yes.approver.as_str()),
        operation: Some(&intent.operation),
        epoch: Some(intent.epoch.0),
        what: Some(format!("{} from {from} to {}", intent.kind.as_str(), intent.to)),
        why: intent.approval.as_ref().map(|yes| yes.name.as_str()),
        evidence: Some(intent.evidence.join("; ")),
        ..Record::default()
    }
}

/// A record of an operation belongs to its trace.
fn traced(traces: &Traces, placement: &PlacementId, record: Record<'_>) {
    let address = record.operation.and_then(|operation| traces.address(placement, operation));
    match address {
        Some(address) => address.within(|| tell(record, Some(address.trace_id()))),
        None => write(record),
    }
}

fn write(record: Record<'_>) {
    tell(record, None);
}

fn tell(record: Record<'_>, trace_id: Option<String>) {
    let Record { action, who, placement, operation, epoch, what, why, evidence } = record;
    tracing::info!(
        name: "understudy.audit",
        target: AUDIT,
        action,
        who,
        placement,
        operation = operation.map(tracing::field::display),
        epoch,
        what,
        why,
        evidence,
        trace_id,
        "audit"
    );
}
