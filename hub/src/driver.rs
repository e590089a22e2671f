//! The loop around the core: an event in, then write down, then send, then tell. It does not know what is decided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_core::explain::Happening;
use hub_core::witness::Visit;
use hub_core::{Decision, Event, Explanation, Hub};
use proto::PlacementName;
use tls::Credentials;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::clock;
use crate::crash::CrashPoint;
use crate::journal_store::JournalStore;
use crate::metrics::{Metrics, Queues};
use crate::seal::seal;
use crate::sessions::{SessionEvent, SessionInbox, Sessions};
use crate::traces::Traces;

pub struct Driver {
    pub hub: Hub,
    pub journal: JournalStore,
    pub sessions: Sessions,
    /// Signs what is told to gates.
    pub credentials: Arc<Credentials>,
    /// To the status writer, which takes it at once; its bound is only a guard.
    pub told: mpsc::Sender<Explanation>,
    /// To the reader of DRPlacements; a full queue means that reads are under way, and the wish comes again.
    pub wanted_reads: mpsc::Sender<PlacementName>,
    /// To the visitor of each witness by its name; a full queue means that one is under way, and the wish comes again.
    pub wanted_visits: BTreeMap<String, mpsc::Sender<Visit>>,
    pub metrics: Metrics,
    pub traces: Traces,
    pub audit: Audit,
    pub crash: Option<CrashPoint>,
}

impl Driver {
    /// Runs until asked to stop, or until the journal cannot be written: then the process must end, because nobody
    /// knows what the disk holds.
    pub async fn run(
        mut self,
        first: Decision,
        mut wishes: mpsc::Receiver<Event>,
        mut inbox: SessionInbox,
        tick: Duration,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        self.carry_out(first).await?;
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                // Before the messages, so that no flood of them can stop the time.
                _ = ticks.tick() => {
                    let told = self.told.max_capacity() - self.told.capacity();
                    self.metrics.queues(Queues { wishes: wishes.len(), agents: inbox.len(), told });
                    Event::Tick
                }
                said = inbox.receive() => match said {
                    Some(said) => heard(said),
                    None => anyhow::bail!("the sessions ended"),
                },
                wish = wishes.recv() => match wish {
                    Some(wish) => wish,
                    None => anyhow::bail!("the watches of DRPlacements, DRClusters and DRApprovals ended"),
                },
            };
            self.handle(event).await?;
        }
    }

    async fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        let began = Instant::now();
        self.audit.heard(&event);
        self.metrics.heard(&event);
        let decision = self.hub.step(clock::now(), event);
        self.metrics.stepped(began.elapsed());
        self.carry_out(decision).await
    }

    /// Protocol R8: durable before it is sent, sent before it is told. A crash between any two is repaired by deciding
    /// again.
    async fn carry_out(&mut self, decision: Decision) -> anyhow::Result<()> {
        let Decision { record, remember, send, explain, verify, visit } = decision;
        self.crash_point("Decided", &record);
        if !record.is_empty() || !remember.is_empty() {
            let at = clock::now().wall;
            let times = tokio::task::block_in_place(|| self.journal.append(at, &record, &remember))?;
            self.metrics.appended(times);
            self.metrics.recorded(&record);
            self.traces.recorded(&record, at);
            self.audit.recorded(&record, &self.traces);
        }
        self.crash_point("Recorded", &record);
        for mut send in send {
            self.traces.sending(&mut send);
            seal(&self.credentials, &mut send.message);
            self.metrics.sent(&send, clock::now().wall);
            self.audit.sent(&send, &self.traces);
            self.sessions.send(&send.to, send.message);
        }
        self.crash_point("Sent", &record);
        for name in verify {
            let _full_means_reading = self.wanted_reads.try_send(name);
        }
        for visit in visit {
            if let Some(visitor) = self.wanted_visits.get(&visit.witness) {
                let _full_means_visiting = visitor.try_send(visit);
            }
        }
        for explanation in explain {
            self.metrics.explain_within(self.traces.place(&explanation), &explanation);
            self.audit.explained(&explanation, &self.traces);
            self.log(&explanation);
            self.told.send(explanation).await?;
        }
        Ok(())
    }

    /// The log prints the same finding as the event, within the trace of its operation.
    fn log(&mut self, explanation: &Explanation) {
        match explanation {
            Explanation::Operation(view) => self.traces.explained(view, clock::now().wall),
            Explanation::Happened(happening) => {
                let operation = happening.operation.as_ref();
                match operation.and_then(|one| self.traces.address(&happening.placement, one)) {
                    Some(address) => address.within(|| log(happening, Some(address.trace_id()))),
                    None => log(happening, None),
                }
            }
            Explanation::Placement(_) | Explanation::Site(_) | Explanation::Released(..) => {}
        }
    }

    fn crash_point(&self, boundary: &str, record: &[hub_core::journal::Entry]) {
        if let Some(crash) = &self.crash {
            crash.reached(boundary, record);
        }
    }
}

fn heard(said: SessionEvent) -> Event {
    match said {
        SessionEvent::Connected(hello) => Event::Connected(hello),
        SessionEvent::Disconnected(cluster) => Event::Disconnected(cluster),
        SessionEvent::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
        SessionEvent::Report(report) => Event::Report(report),
        SessionEvent::Acknowledged(acknowledgement) => Event::Acknowledged(acknowledgement),
    }
}

fn log(happening: &Happening, trace_id: Option<String>) {
    let Happening { placement: _, name, reason, warning, message, operation } = happening;
    let operation = operation.as_ref().map(tracing::field::display);
    if *warning {
        tracing::warn!(
            placement = %name,
            operation,
            %reason,
            finding = message,
            trace_id,
            "something happened that somebody should know"
        );
    } else {
        tracing::info!(placement = %name, operation, %reason, finding = message, trace_id, "something happened");
    }
}
