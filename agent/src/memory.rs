//! The conversation with the API server about the agent's Lease, which is three things at once: the proof that this
//! agent can write, the turnstile that lets one agent of a cluster act, and a memory across restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::decision::Memory;
use agent_core::{Accounted, PathMemory, Promised};
use anyhow::Context;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use proto::{Moment, PlacementId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock;

const NAME: &str = "understudy-agent";
const MEMORY_ANNOTATION: &str = "understudy.dev/memory";
const REQUEST: Duration = Duration::from_secs(5);
/// How often a waiting agent looks whether the other one still writes.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// After this many missed writes an agent has lost its turn.
const MISSED_WRITES: u32 = 3;
const SHORTEST_TURN: Duration = Duration::from_secs(2);

/// What is written beside the turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub boot: String,
    /// What an older version has written has none.
    #[serde(default)]
    pub clock_offset: Option<i64>,
    pub leases: BTreeMap<PlacementId, Accounted>,
    /// What an older version has written has none.
    #[serde(default)]
    pub promises: BTreeMap<PlacementId, Promised>,
    pub paths: Vec<PathMemory>,
}

/// The turn to act for this cluster. Whoever holds it is the only one that writes.
pub struct Turn {
    api: Api<Lease>,
    holder: String,
    lease: Lease,
}

#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("another agent acts for this cluster now: this one ends")]
    Lost,
    #[error("writing the agent's Lease")]
    Write(#[source] Box<kube::Error>),
    #[error("writing the agent's Lease: no answer within {REQUEST:?}")]
    Late,
}

/// Waits until no other agent acts, and returns what it remembered.
pub async fn take_turn(
    client: Client,
    namespace: &str,
    holder: String,
) -> anyhow::Result<(Turn, Option<Remembered>)> {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut observed = None;
    loop {
        match try_turn(&api, namespace, &holder, &mut observed).await {
            Ok(Some(lease)) => {
                let remembered = remembered(&lease);
                return Ok((Turn { api, holder, lease }, remembered));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the agent's Lease cannot be taken yet")
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// What was seen of the other agent's turn: its version, and since when on our own clock.
type Observed = Option<(String, Moment)>;

async fn try_turn(
    api: &Api<Lease>,
    namespace: &str,
    holder: &str,
    observed: &mut Observed,
) -> anyhow::Result<Option<Lease>> {
    let found =
        timeout(REQUEST, api.get_opt(NAME)).await.context("reading the agent's Lease: no answer")??;
    let Some(found) = found else {
        let mut fresh = Lease::default();
        fresh.metadata.name = Some(NAME.to_owned());
        fresh.metadata.namespace = Some(namespace.to_owned());
        mark(&mut fresh, holder, SHORTEST_TURN);
        return Ok(Some(timeout(REQUEST, api.create(&PostParams::default(), &fresh)).await??));
    };
    if !may_take(&found, holder, observed, clock::now()) {
        return Ok(None);
    }
    let mut taken = found;
    mark(&mut taken, holder, SHORTEST_TURN);
    Ok(Some(timeout(REQUEST, api.replace(NAME, &PostParams::default(), &taken)).await??))
}

/// Free, ours, or unchanged for as long as its holder said it would not be. Times that others wrote mean nothing here.
fn may_take(found: &Lease, holder: &str, observed: &mut Observed, now: Moment) -> bool {
    let spec = found.spec.as_ref();
    let other = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|other| !other.is_empty());
    if other.is_none_or(|other| other == holder) {
        return true;
    }
    let version = found.resource_version().unwrap_or_default();
    match observed {
        Some((known, since)) if *known == version => {
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
            now.since(*since) > Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
        Some(_) | None => {
            *observed = Some((version, now));
            false
        }
    }
}

fn mark(lease: &mut Lease, holder: &str, turn: Duration) {
    let now = Timestamp::from_millisecond(clock::wall().0).map(MicroTime).ok();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(holder) {
        spec.acquire_time = now.clone();
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
    }
    spec.holder_identity = Some(holder.to_owned());
    spec.renew_time = now;
    spec.lease_duration_seconds = Some(i32::try_from(turn.as_millis().div_ceil(1000)).unwrap_or(i32::MAX));
}

fn remembered(lease: &Lease) -> Option<Remembered> {
    let text = lease.annotations().get(MEMORY_ANNOTATION)?;
    serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(%error, "the agent's memory cannot be read"))
        .ok()
}

impl Turn {
    /// Writes what is to be remembered, and keeps the turn.
    pub async fn keep(&mut self, memory: Memory) -> Result<(), TurnError> {
        let Memory { boot, clock_offset, every, leases, promises, paths } = memory;
        let remembered = Remembered {
            boot,
            clock_offset,
            leases: leases.into_iter().collect(),
            promises: promises.into_iter().collect(),
            paths,
        };
        mark(&mut self.lease, &self.holder, (every * MISSED_WRITES).max(SHORTEST_TURN));
        if let Ok(text) = serde_json::to_string(&remembered) {
            self.lease.annotations_mut().insert(MEMORY_ANNOTATION.to_owned(), text);
        }
        self.write().await
    }

    /// Gives the turn back, so that the next agent need not wait.
    pub async fn give_back(&mut self) -> Result<(), TurnError> {
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
        }
        self.write().await
    }

    async fn write(&mut self) -> Result<(), TurnError> {
        let written = timeout(REQUEST, self.api.replace(NAME, &PostParams::default(), &self.lease)).await;
        match written.map_err(|_| TurnError::Late)? {
            Ok(lease) => {
                self.lease = lease;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.read_again().await
            }
            Err(error) => Err(TurnError::Write(Box::new(error))),
        }
    }

    /// A write whose answer was lost leaves a newer version behind that is still ours.
    async fn read_again(&mut self) -> Result<(), TurnError> {
        let read = timeout(REQUEST, self.api.get(NAME)).await.map_err(|_| TurnError::Late)?;
        let lease = read.map_err(|error| TurnError::Write(Box::new(error)))?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(self.holder.as_str()) {
            return Err(TurnError::Lost);
        }
        self.lease = lease;
        Ok(())
    }
}

/// Writes the newest memory whenever there is one. Each write is answered on `answered`; losing the turn ends it.
pub async fn keep_writing(
    mut turn: Turn,
    mut newest: watch::Receiver<Memory>,
    answered: tokio::sync::mpsc::Sender<agent_core::Event>,
) -> anyhow::Result<()> {
    while newest.changed().await.is_ok() {
        let memory = newest.borrow_and_update().clone();
        let kept = turn.keep(memory).await;
        if let Err(TurnError::Lost) = kept {
            return Err(TurnError::Lost.into());
        }
        if let Err(error) = &kept {
            tracing::warn!(error = error as &dyn std::error::Error, "the agent's memory is not written");
        }
        answered.send(agent_core::Event::MemoryWritten { success: kept.is_ok() }).await?;
    }
    // The driver has ended, so nobody acts any more.
    Ok(turn.give_back().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        mark(&mut lease, holder, Duration::from_secs(3));
        lease
    }

    #[test]
    fn another_agents_turn_is_over_only_after_it_was_seen_unchanged_for_its_whole_length() {
        let mut observed = None;
        assert!(!may_take(&lease("other", "1"), "me", &mut observed, Moment(0)));
        assert!(!may_take(&lease("other", "1"), "me", &mut observed, Moment(3_000)));
        assert!(!may_take(&lease("other", "2"), "me", &mut observed, Moment(3_100)), "it has written");
        assert!(!may_take(&lease("other", "2"), "me", &mut observed, Moment(6_100)));
        assert!(may_take(&lease("other", "2"), "me", &mut observed, Moment(6_101)));
    }

    #[test]
    fn a_turn_that_was_given_back_is_free_at_once() {
        assert!(may_take(&lease("", "7"), "me", &mut None, Moment(0)));
    }
}
