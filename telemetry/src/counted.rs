//! Counts the collections of metrics that the collector does not take.

use std::time::Duration;

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

use crate::lost::{Lost, Reason, Signal};

#[derive(Debug)]
pub struct Counted {
    exporter: MetricExporter,
    lost: Lost,
}

impl Counted {
    pub fn new(exporter: MetricExporter, lost: Lost) -> Counted {
        Counted { exporter, lost }
    }
}

impl PushMetricExporter for Counted {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let taken = self.exporter.export(metrics).await;
        if taken.is_err() {
            self.lost.add(Signal::Metrics, Reason::NotTaken, 1);
        }
        taken
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
