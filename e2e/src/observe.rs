//! What a real Prometheus has seen of an operation, gathered after it, and told as one page that stands on its own.

mod drawing;
mod gathering;
mod page;

use serde::{Deserialize, Serialize};

pub use self::gathering::gather;
pub use self::page::render;
use crate::prometheus::{Point, Span};

/// Everything that the page tells. All of it was asked of Prometheus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub namespace: String,
    pub placement: String,
    pub seen: Seen,
    /// In the order of their beginnings.
    pub operations: Vec<Operation>,
    /// How the hub held each cluster.
    pub sites: Vec<Lane>,
    /// Which cluster owned the placement.
    pub owner: Lane,
    /// The age of each volume's newest copy.
    pub lags: Vec<Curve>,
    pub expected_loss: Vec<Point>,
    /// How much may be lost.
    pub bound: Option<f64>,
    pub alerts: Vec<Alert>,
}

/// How it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub span: Span,
    /// Seconds between two looks.
    pub every: f64,
    /// What the durations in the alerts were divided by.
    pub quicker: u32,
}

/// One operation, from its first moment to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub kind: String,
    pub from: String,
    pub to: String,
    /// For a failover the last sign of life of the lost cluster; for the others the decision.
    pub zero: f64,
    pub ended: f64,
    pub result: String,
    pub phases: Vec<Phase>,
    /// How long the application was away, by the hub's own measure.
    pub downtime: Option<f64>,
    /// What was given up, by the receipt.
    pub data_loss: Option<f64>,
    /// What the placement said right before.
    pub promised_downtime: Option<f64>,
    pub promised_loss: Option<f64>,
}

/// A part of an operation: how long it took by the hub's own measure, and where it lies by what was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub begins: f64,
    pub took: f64,
}

/// Something that is in one state at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    pub name: String,
    pub stays: Vec<Stay>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stay {
    pub state: String,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

/// An alert, and when it was pending or fired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub name: String,
    pub severity: String,
    /// Whom it is about: its labels' values.
    pub about: String,
    pub stays: Vec<Stay>,
}
