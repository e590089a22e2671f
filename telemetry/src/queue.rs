//! Between what happens and the collector: a bounded queue for spans and one for log records. Whoever adds never waits.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_otlp::{LogExporter, SpanExporter};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::lost::{Lost, Reason, Signal};

/// What waits for the collector: an operation has some tens of spans, so this is the work of many operations at once.
pub const QUEUE: usize = 2048;
/// What is handed over at once.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHERING: Duration = Duration::from_secs(1);

/// One log record, and what logged it.
pub type Record = (SdkLogRecord, InstrumentationScope);

/// The end at which things are added. Clones fill the same queue.
#[derive(Debug)]
pub struct Queue<T> {
    items: mpsc::Sender<T>,
    signal: Signal,
    lost: Lost,
    ending: CancellationToken,
    /// Disconnected when everything has been handed over.
    handed_over: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        let Queue { items, signal, lost, ending, handed_over } = self;
        Queue {
            items: items.clone(),
            signal: *signal,
            lost: lost.clone(),
            ending: ending.clone(),
            handed_over: handed_over.clone(),
        }
    }
}

/// Where batches go.
pub trait Export: Send + Sync + 'static {
    type Item: Send + Debug + 'static;
    const SIGNAL: Signal;
    fn export(&self, batch: Vec<Self::Item>) -> impl Future<Output = OTelSdkResult> + Send;
}

impl Export for SpanExporter {
    type Item = SpanData;
    const SIGNAL: Signal = Signal::Traces;

    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        opentelemetry_sdk::trace::SpanExporter::export(self, batch)
    }
}

impl Export for LogExporter {
    type Item = Record;
    const SIGNAL: Signal = Signal::Logs;

    async fn export(&self, batch: Vec<Record>) -> OTelSdkResult {
        let borrowed: Vec<_> = batch.iter().map(|(record, scope)| (record, scope)).collect();
        opentelemetry_sdk::logs::LogExporter::export(self, LogBatch::new(&borrowed)).await
    }
}

impl<T: Send + Debug + 'static> Queue<T> {
    /// Begins to hand over. An export takes `limit` at most. To be called within the Tokio runtime.
    pub fn begin<E: Export<Item = T>>(exporter: E, limit: Duration, lost: Lost) -> Queue<T> {
        let (items, waiting) = mpsc::channel(QUEUE);
        let ending = CancellationToken::new();
        let (over, handed_over) = std::sync::mpsc::channel();
        let handing_over =
            HandingOver { exporter, limit, lost: lost.clone(), waiting, ending: ending.clone() };
        tokio::spawn(async move {
            handing_over.run().await;
            drop(over);
        });
        Queue { items, signal: E::SIGNAL, lost, ending, handed_over: Arc::new(Mutex::new(handed_over)) }
    }

    pub fn add(&self, item: T) {
        let reason = match self.items.try_send(item) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => Reason::QueueFull,
            Err(mpsc::error::TrySendError::Closed(_)) => Reason::NotTaken,
        };
        self.lost.add(self.signal, reason, 1);
    }

    /// Takes no more, and hands over what waits.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Waits, on a thread that may, until what waited is handed over.
    fn ended_within(&self, limit: Duration) -> OTelSdkResult {
        self.end();
        let handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        match handed_over.recv_timeout(limit) {
            Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Ok(()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(OTelSdkError::Timeout(limit)),
        }
    }
}

/// The other end.
struct HandingOver<E: Export> {
    exporter: E,
    limit: Duration,
    lost: Lost,
    waiting: mpsc::Receiver<E::Item>,
    ending: CancellationToken,
}

impl<E: Export> HandingOver<E> {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let count = batch.len();
            let taken = timeout(self.limit, self.exporter.export(batch)).await;
            if !matches!(taken, Ok(Ok(()))) {
                self.lost.add(E::SIGNAL, Reason::NotTaken, count);
            }
        }
    }

    /// None when all is handed over, and no more comes.
    async fn next_batch(&mut self) -> Option<Vec<E::Item>> {
        let mut batch = vec![self.next().await?];
        let gathered = Instant::now() + GATHERING;
        while batch.len() < BATCH {
            match timeout_at(gathered, self.next()).await {
                Ok(Some(item)) => batch.push(item),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    async fn next(&mut self) -> Option<E::Item> {
        tokio::select! {
            biased;
            item = self.waiting.recv() => item,
            () = self.ending.cancelled() => {
                self.waiting.close();
                self.waiting.recv().await
            }
        }
    }
}

impl SpanProcessor for Queue<SpanData> {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.add(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.ended_within(limit)
    }
}

impl LogProcessor for Queue<Record> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.add((record.clone(), scope.clone()));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.ended_within(limit)
    }
}
