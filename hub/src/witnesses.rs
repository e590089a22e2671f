//! The conversations with the witnesses: one task each, which visits when the core asks for it, and tells what it has seen.

use hub_core::Event;
use hub_core::witness::{Visit, Visited};
use tokio::sync::mpsc;
use witness::{Witness, WitnessError, WitnessSettings};

use crate::clock;
use crate::metrics::Metrics;

/// One visit waits while another is under way; what a further one would write is asked for again.
pub const VISITS: usize = 1;

/// Reads every kubeconfig, so that a wrong one is found at the start.
pub async fn connect(settings: &[WitnessSettings]) -> Result<Vec<Witness>, WitnessError> {
    let mut witnesses = Vec::new();
    for one in settings {
        witnesses.push(Witness::new(one.clone()).await?);
    }
    Ok(witnesses)
}

/// Visits one witness as it is asked to. One that does not answer is simply not heard: the core sees it by its silence.
pub async fn attend(
    mut witness: Witness,
    mut wanted: mpsc::Receiver<Visit>,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let name = witness.name().to_owned();
    let mut answers = None;
    while let Some(Visit { witness: _, testimonies, deadline }) = wanted.recv().await {
        let began = clock::now().boot;
        match witness.visit_as_hub(&testimonies, deadline).await {
            Ok(look) => {
                if answers != Some(true) {
                    tracing::info!(witness = name, "a witness answers");
                }
                answers = Some(true);
                metrics.witness_answered(&name, clock::now().wall);
                events.send(Event::Visited(Box::new(Visited { witness: name.clone(), began, look }))).await?;
            }
            Err(error) => {
                if answers != Some(false) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(witness = name, error, "a witness does not answer; it is tried again");
                }
                answers = Some(false);
            }
        }
    }
    Ok(())
}
