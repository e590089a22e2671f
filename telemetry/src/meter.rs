//! Where a binary's instruments are made.

use opentelemetry::metrics;

use crate::exemplars::Exemplars;
use crate::gauges::Gauges;

/// Clones make the same instruments.
#[derive(Clone, Debug)]
pub struct Meter {
    /// For what is counted and remembered, which is scraped and sent.
    pub(crate) remembered: metrics::Meter,
    /// Where gauges are read from for a scrape.
    pub(crate) scraped: Gauges,
    /// Where histograms keep what leads to traces.
    pub(crate) exemplars: Exemplars,
    /// Where they are read from for the collector, if there is one.
    pub(crate) sent: Option<metrics::Meter>,
}
