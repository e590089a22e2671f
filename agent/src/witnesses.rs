//! The conversation with the witnesses: this cluster's own Lease is advanced at each, and those of the others are looked at.

use std::collections::BTreeMap;

use agent_core::{Event, WitnessVisit, Witnessed};
use futures::future::join_all;
use proto::ClusterName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use witness::leases::SignOfLife;
use witness::settings::ensure_distinct;
use witness::{Witness, WitnessError, WitnessSettings};

use crate::clock;

/// One visit waits while another is under way; a further one would find the same.
const VISITS: usize = 1;

/// Reads every kubeconfig, so that a wrong one is found at the start.
pub async fn connect(settings: &[WitnessSettings]) -> anyhow::Result<Vec<Witness>> {
    ensure_distinct(settings)?;
    let mut witnesses = Vec::new();
    for one in settings {
        witnesses.push(Witness::new(one.clone()).await?);
    }
    Ok(witnesses)
}

/// Begins to visit the witnesses, if there are any, whenever that is asked for on what it returns.
pub fn begin(
    witnesses: Vec<Witness>,
    cluster: &ClusterName,
    events: mpsc::Sender<Event>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> mpsc::Sender<WitnessVisit> {
    let (want, wanted) = mpsc::channel(VISITS);
    if !witnesses.is_empty() {
        tasks.spawn(attend(witnesses, cluster.clone(), wanted, events));
    }
    want
}

/// Visits all witnesses at once, as often as it is asked to. Each visit ends by its deadline, and nothing waits for it.
async fn attend(
    mut witnesses: Vec<Witness>,
    cluster: ClusterName,
    mut wanted: mpsc::Receiver<WitnessVisit>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut silent: BTreeMap<String, bool> = BTreeMap::new();
    while let Some(visit) = wanted.recv().await {
        let WitnessVisit { mark, began, deadline, every, advance } = visit;
        let sign = SignOfLife { cluster: cluster.clone(), every, wall: clock::wall() };
        let sign = advance.then_some(&sign);
        let looks = witnesses.iter_mut().map(async |witness| {
            let look = witness.visit_as_cluster(sign, deadline).await;
            (witness.name().to_owned(), look)
        });
        let mut found = BTreeMap::new();
        for (name, look) in join_all(looks).await {
            let was_silent = silent.insert(name.clone(), look.is_err());
            tell(&name, was_silent, look.as_ref().err());
            found.insert(name, look.ok().map(|look| look.clusters));
        }
        events.send(Event::Witnessed(Witnessed { mark, began, looks: found })).await?;
    }
    Ok(())
}

/// Only what has changed.
fn tell(witness: &str, was_silent: Option<bool>, error: Option<&WitnessError>) {
    match error {
        Some(error) if was_silent != Some(true) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(witness, error, "a witness does not answer; it is tried again");
        }
        None if was_silent != Some(false) => tracing::info!(witness, "a witness answers"),
        Some(_) | None => {}
    }
}
