//! One operation is one trace: the operation is its root, its detection and each step are spans, and an agent's work hangs
//! below its step. It is read from the journal as that goes on, so a restart of the hub does not end it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hub_core::decision::{Explanation, Send};
use hub_core::explain::{OperationView, proof_name};
use hub_core::journal::{Entry, Intent, Line, StepRecord};
use proto::{FromHub, OperationId, PlacementId, StepKind, WallTime};
use understudy_telemetry::{FinishedSpan, KeyValue, Note, SpanAddress, Spans};

/// What a step waits for is noted in its span whenever it changes, so often at most.
const NOTES: usize = 32;

/// The operations that run, as spans that are told when they end.
#[derive(Default)]
pub struct Traces {
    /// None: there is no collector.
    spans: Option<Spans>,
    running: BTreeMap<(PlacementId, OperationId), Running>,
    /// The last one of each placement: what follows from its end is about it.
    ended: BTreeMap<PlacementId, (OperationId, SpanAddress)>,
}

struct Running {
    address: SpanAddress,
    intent: Box<Intent>,
    began: WallTime,
    steps: BTreeMap<StepKind, Step>,
    proof: Option<&'static str>,
}

struct Step {
    began: WallTime,
    /// The newest is the finding in its attributes.
    waited_for: Vec<Note>,
    finding: Option<String>,
}

impl Traces {
    pub fn new(spans: Option<Spans>) -> Traces {
        Traces { spans, ..Traces::default() }
    }

    /// Takes in what an earlier hub had begun. What it had ended, it has told.
    pub fn replayed<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        let spans = self.spans.take();
        lines.for_each(|line| self.entry(&line.entry, line.at));
        self.spans = spans;
    }

    /// Goes on with the journal: these became durable at that time.
    pub fn recorded(&mut self, entries: &[Entry], at: WallTime) {
        entries.iter().for_each(|entry| self.entry(entry, at));
    }

    /// The place of an operation that runs, or was the placement's last.
    pub fn address(&self, placement: &PlacementId, operation: &OperationId) -> Option<SpanAddress> {
        let running = self.running.get(&(placement.clone(), operation.clone()));
        let ended = self.ended.get(placement).filter(|(last, _)| last == operation);
        running.map(|running| running.address).or(ended.map(|(_, address)| *address))
    }

    /// The place of the operation that is explained.
    pub fn place(&self, explanation: &Explanation) -> Option<SpanAddress> {
        match explanation {
            Explanation::Operation(view) => self.address(&view.placement, &view.operation),
            Explanation::Placement(_)
            | Explanation::Site(_)
            | Explanation::Released(..)
            | Explanation::Happened(_) => None,
        }
    }

    /// Notes what its steps wait for.
    pub fn explained(&mut self, view: &OperationView, at: WallTime) {
        let key = (view.placement.clone(), view.operation.clone());
        let Some(running) = self.running.get_mut(&key) else { return };
        for status in &view.status.plan {
            let Some(finding) = &status.waiting_for else { continue };
            let step = running.steps.iter_mut().find(|(step, _)| step.as_str() == status.name);
            if let Some((_, step)) = step {
                step.waits(view.status.reason.as_deref().unwrap_or_default(), finding, at);
            }
        }
    }

    /// Hangs the agent's work below the step that commands it.
    pub fn sending(&self, send: &mut Send) {
        let FromHub::Command(command) = &mut send.message else { return };
        if self.spans.is_none() {
            return;
        }
        let key = (command.id.placement.clone(), command.id.operation.clone());
        let Some(running) = self.running.get(&key) else { return };
        // The best-effort fence goes on after its step is through: then the operation itself is above it.
        let open = running.steps.contains_key(&command.id.step);
        let above = if open { running.step_address(command.id.step) } else { running.address };
        command.trace_parent = Some(above.traceparent());
    }

    fn entry(&mut self, entry: &Entry, at: WallTime) {
        match entry {
            Entry::Intent(intent) => self.begun(intent, at),
            Entry::Step { placement, operation, step, state } => {
                self.step(placement, operation, *step, *state, at);
            }
            Entry::Fence { placement, operation, proof } => {
                let running = self.running.get_mut(&(placement.clone(), operation.clone()));
                running.into_iter().for_each(|running| running.proof = Some(proof_name(proof)));
            }
            Entry::Commit { placement, operation } => self.ended(placement, operation, at, "Succeeded", None),
            Entry::Cut { placement, operation, reason } => {
                self.ended(placement, operation, at, "Failed", Some(reason));
            }
            Entry::Abort { placement, operation, reason } => {
                self.ended(placement, operation, at, "Aborted", Some(reason));
            }
            Entry::Released { placement } => {
                self.ended.remove(placement);
            }
            Entry::Genesis { .. }
            | Entry::Term { .. }
            | Entry::Ownership { .. }
            | Entry::Policy { .. }
            | Entry::Echo { .. }
            | Entry::Block { .. }
            | Entry::Proposal(_)
            | Entry::Withdrawn { .. }
            | Entry::BackedUp { .. }
            | Entry::Resynced { .. }
            | Entry::WishFulfilled { .. }
            | Entry::NeedsHuman { .. } => {}
        }
    }

    fn begun(&mut self, intent: &Intent, at: WallTime) {
        // Names begin anew with a journal that was lost; the time does not.
        let names = [intent.placement.as_str(), &intent.operation.0, &at.0.to_string()];
        let running = Running {
            address: SpanAddress::root(&names),
            intent: Box::new(intent.clone()),
            began: at,
            steps: BTreeMap::new(),
            proof: None,
        };
        if let Some(lost_at) = intent.lost_at {
            self.tell(FinishedSpan {
                address: running.address.part("Detect"),
                parent: Some(running.address),
                name: "Detect",
                start: time(lost_at),
                end: time(at),
                attributes: running.attributes("Detect", Some(intent.evidence.join("; "))),
                notes: Vec::new(),
                failure: None,
            });
        }
        self.running.insert((intent.placement.clone(), intent.operation.clone()), running);
    }

    fn step(
        &mut self,
        placement: &PlacementId,
        operation: &OperationId,
        kind: StepKind,
        state: StepRecord,
        at: WallTime,
    ) {
        let Some(running) = self.running.get_mut(&(placement.clone(), operation.clone())) else { return };
        match state {
            StepRecord::Issued => {
                running.steps.insert(kind, Step { began: at, waited_for: Vec::new(), finding: None });
            }
            StepRecord::Acknowledged => {
                let step = running.steps.remove(&kind);
                let span = step.map(|step| running.finished(kind, step, at, None));
                span.into_iter().for_each(|span| self.tell(span));
            }
        }
    }

    fn ended(
        &mut self,
        placement: &PlacementId,
        operation: &OperationId,
        at: WallTime,
        result: &'static str,
        why: Option<&str>,
    ) {
        let Some(mut running) = self.running.remove(&(placement.clone(), operation.clone())) else { return };
        for (kind, step) in std::mem::take(&mut running.steps) {
            self.tell(running.finished(kind, step, at, why));
        }
        self.ended.insert(placement.clone(), (operation.clone(), running.address));
        self.tell(running.root(at, result, why));
    }

    fn tell(&self, span: FinishedSpan) {
        if let Some(spans) = &self.spans {
            spans.tell(span);
        }
    }
}

impl Running {
    fn step_address(&self, step: StepKind) -> SpanAddress {
        self.address.part(step.as_str())
    }

    fn finished(&self, kind: StepKind, step: Step, at: WallTime, why: Option<&str>) -> FinishedSpan {
        let Step { began, waited_for, finding } = step;
        let mut attributes = self.attributes(kind.as_str(), finding);
        let proof = self.proof.filter(|_| kind == StepKind::AwaitFence);
        attributes.extend(proof.map(|proof| KeyValue::new("proof", proof)));
        FinishedSpan {
            address: self.step_address(kind),
            parent: Some(self.address),
            name: kind.as_str(),
            start: time(began),
            end: time(at),
            attributes,
            notes: waited_for,
            failure: why.map(str::to_owned),
        }
    }

    /// What the span of each part says.
    fn attributes(&self, part: &'static str, finding: Option<String>) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("placement", self.intent.name.to_string()),
            KeyValue::new("operation", self.intent.operation.to_string()),
            KeyValue::new("epoch", signed(self.intent.epoch.0)),
            KeyValue::new("step", part),
            KeyValue::new("command", format!("{}/{part}", self.intent.operation)),
        ];
        attributes.extend(finding.map(|finding| KeyValue::new("finding", finding)));
        attributes
    }

    /// The whole operation: one that answers a loss begins with the loss.
    fn root(&self, at: WallTime, result: &'static str, why: Option<&str>) -> FinishedSpan {
        let intent = &self.intent;
        let mut attributes = vec![
            KeyValue::new("placement", intent.name.to_string()),
            KeyValue::new("operation", intent.operation.to_string()),
            KeyValue::new("epoch", signed(intent.epoch.0)),
            KeyValue::new("to", intent.to.to_string()),
            KeyValue::new("finding", intent.evidence.join("; ")),
            KeyValue::new("result", result),
        ];
        let optional = [
            ("from", intent.from.as_ref().map(ToString::to_string)),
            ("approval", intent.approval.as_ref().map(|yes| yes.name.clone())),
            ("approver", intent.approval.as_ref().map(|yes| yes.approver.clone())),
            ("proof", self.proof.map(str::to_owned)),
            ("reason", why.map(str::to_owned)),
        ];
        let known = optional.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?)));
        attributes.extend(known);
        FinishedSpan {
            address: self.address,
            parent: None,
            name: intent.kind.as_str(),
            start: time(intent.lost_at.unwrap_or(self.began)),
            end: time(at),
            attributes,
            notes: Vec::new(),
            failure: why.map(str::to_owned),
        }
    }
}

impl Step {
    fn waits(&mut self, reason: &str, finding: &str, at: WallTime) {
        if self.finding.as_deref() == Some(finding) || self.waited_for.len() >= NOTES {
            return;
        }
        self.finding = Some(finding.to_owned());
        let attributes =
            vec![KeyValue::new("reason", reason.to_owned()), KeyValue::new("finding", finding.to_owned())];
        self.waited_for.push(Note { name: "waits", at: time(at), attributes });
    }
}

fn time(at: WallTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or_default())
}

fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use hub_core::journal::{OperationKind, Tip};
    use proto::{
        Action, ClusterName, Command, CommandId, Epoch, FenceProof, Generation, Nonce, PlacementName,
    };

    use super::*;

    fn east() -> ClusterName {
        ClusterName::parse("east").expect("cluster")
    }

    fn id() -> PlacementId {
        PlacementId::parse("uid-1").expect("uid")
    }

    fn failover() -> OperationId {
        OperationId("web-failover-2".into())
    }

    fn intent() -> Entry {
        Entry::Intent(Box::new(Intent {
            operation: failover(),
            placement: id(),
            name: PlacementName::parse("shop", "web").expect("name"),
            kind: OperationKind::FailOver,
            from: Some(east()),
            to: ClusterName::parse("west").expect("cluster"),
            epoch: Epoch(2),
            plan: Vec::new(),
            claims: Vec::new(),
            evidence: Vec::new(),
            lost_at: Some(WallTime(1_000)),
            losses: Vec::new(),
            generation: Generation(1),
            preferred: None,
            approval: None,
        }))
    }

    fn promote(state: StepRecord) -> Entry {
        Entry::Step { placement: id(), operation: failover(), step: StepKind::Promote, state }
    }

    fn command() -> Send {
        let action = Action::Promote { proof: FenceProof::LeaseExpired, claims: Vec::new() };
        let id = CommandId { placement: id(), operation: failover(), step: StepKind::Promote };
        Send {
            to: east(),
            message: FromHub::Command(Box::new(Command {
                id,
                epoch: Epoch(2),
                nonce: Nonce(1),
                lifetime: Duration::from_secs(1),
                action,
                trace_parent: None,
            })),
        }
    }

    #[test]
    fn a_hub_that_is_restarted_goes_on_with_the_same_trace() {
        let entries = [intent(), promote(StepRecord::Issued)];
        let mut first = Traces::default();
        first.recorded(&entries, WallTime(5_000));
        let mut tip = Tip::default();
        let lines = entries.map(|entry| tip.seal(WallTime(5_000), entry));
        let mut second = Traces::default();
        second.replayed(lines.iter());
        let place = first.address(&id(), &failover());
        assert!(place.is_some());
        assert_eq!(second.address(&id(), &failover()), place);

        second.recorded(&[Entry::Commit { placement: id(), operation: failover() }], WallTime(9_000));
        assert_eq!(second.address(&id(), &failover()), place, "what is told of its end belongs to it");
        assert!(second.running.is_empty());
    }

    #[test]
    fn the_same_operation_of_another_journal_is_another_trace() {
        let at = |millis| {
            let mut traces = Traces::default();
            traces.recorded(&[intent()], WallTime(millis));
            traces.address(&id(), &failover())
        };
        assert_ne!(at(5_000), at(6_000));
    }

    #[test]
    fn without_a_collector_no_agent_is_told_of_a_trace() {
        let mut traces = Traces::default();
        traces.recorded(&[intent(), promote(StepRecord::Issued)], WallTime(5_000));
        let mut send = command();
        traces.sending(&mut send);
        assert_eq!(send, command());
    }

    #[test]
    fn what_a_step_waits_for_is_noted_when_it_changes_and_not_without_end() {
        let mut step = Step { began: WallTime(0), waited_for: Vec::new(), finding: None };
        step.waits("PeerSilent", "west: silent", WallTime(1));
        step.waits("PeerSilent", "west: silent", WallTime(2));
        assert_eq!(step.waited_for.len(), 1);
        (0..100).for_each(|number| step.waits("PeerSilent", &format!("west: {number}"), WallTime(3)));
        assert_eq!(step.waited_for.len(), NOTES);
    }
}
