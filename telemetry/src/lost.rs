//! What telemetry was given up. Nothing waits for a collector, so what it does not take is dropped, and counted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::metrics::Meter;

use crate::declaration::{Declaration, Kind};

/// For the list of each binary.
pub const TELEMETRY_LOST: Declaration = Declaration {
    name: "understudy.telemetry.lost",
    kind: Kind::Counter,
    unit: "{item}",
    attributes: &["signal", "reason"],
    meaning: "Telemetry that was dropped, because nothing waits for a collector: spans (traces), records (logs) and collections (metrics), by QueueFull (more came than was taken) or NotTaken (refused, or not answered in time).",
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// As in the paths of OTLP over HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    QueueFull,
    NotTaken,
}

impl Reason {
    const ALL: [Reason; 2] = [Reason::QueueFull, Reason::NotTaken];

    fn as_str(self) -> &'static str {
        match self {
            Reason::QueueFull => "QueueFull",
            Reason::NotTaken => "NotTaken",
        }
    }
}

/// How much was lost since the process began. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<[[AtomicU64; Reason::ALL.len()]; Signal::ALL.len()]>);

impl Lost {
    pub fn add(&self, signal: Signal, reason: Reason, count: usize) {
        self.counter(signal, reason).fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn count(&self, signal: Signal, reason: Reason) -> u64 {
        self.counter(signal, reason).load(Ordering::Relaxed)
    }

    /// Shows the counts as a metric of their own, from the beginning: none is lost yet.
    pub fn observe(&self, meter: &Meter) {
        let lost = self.clone();
        meter
            .u64_observable_counter(TELEMETRY_LOST.name)
            .with_unit(TELEMETRY_LOST.unit)
            .with_description(TELEMETRY_LOST.meaning)
            .with_callback(move |observer| {
                for signal in Signal::ALL {
                    for reason in Reason::ALL {
                        let attributes = TELEMETRY_LOST.attributes([signal.as_str(), reason.as_str()]);
                        observer.observe(lost.count(signal, reason), &attributes);
                    }
                }
            })
            .build();
    }

    fn counter(&self, signal: Signal, reason: Reason) -> &AtomicU64 {
        &self.0[signal as usize][reason as usize]
    }
}
