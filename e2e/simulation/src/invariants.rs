//! What must hold after every event, whatever has failed. Numbers are those of docs/invariants.md.

use std::collections::{BTreeMap, BTreeSet};

use hub_core::journal::OperationKind;
use proto::{ClusterName, Epoch, OperationId, PlacementId, Role, StepKind};
use serde_json::json;

mod decisions;
mod requests;
mod third_place;

use crate::application::{App, handle_of, number_of};
use crate::kubernetes::deployments;
use crate::reference;
use crate::transition::Time;
use crate::world::{Site, World, wall};

#[derive(Debug, Default)]
pub struct Watch {
    pub violations: Vec<String>,
    issued: BTreeSet<(OperationId, StepKind)>,
    /// Operations that take a placement from one cluster to another.
    moves: BTreeSet<OperationId>,
    fenced: BTreeSet<OperationId>,
    /// Containers have been started since the last look.
    pub(crate) look_at_pods: bool,
    primaries: BTreeSet<(ClusterName, String)>,
    turns: u64,
    discarded: usize,
    forced: usize,
    /// When anything was last done to the world.
    disturbed: Time,
    /// When the hub last heard each cluster.
    heard: BTreeMap<ClusterName, Time>,
    /// Clusters that were left without asking, and when.
    left: BTreeMap<ClusterName, Time>,
    resynced: BTreeMap<OperationId, Time>,
    restored: bool,
    /// What agents have carried out: they give the old answer again.
    pub(crate) done: BTreeSet<(ClusterName, PlacementId, String)>,
    /// Commands that agents have refused.
    pub(crate) refused: u64,
}

/// What has been seen of one placement.
#[derive(Debug, Default)]
pub struct Judged {
    owners: BTreeMap<Epoch, ClusterName>,
    /// The highest epoch that an intent has entered.
    entered: Epoch,
    /// The epoch that the running operation leaves.
    leaving: Option<Epoch>,
    /// Where failovers were meant to go.
    sought: BTreeSet<ClusterName>,
    pub(crate) read_afresh: Option<Time>,
    paused_since: Option<Time>,
    not_automatic_since: Option<Time>,
    /// Operations that moved the placement without asking.
    automatic: BTreeSet<OperationId>,
    resync_sent: Time,
}

impl Judged {
    /// What is wrong with an owner on record.
    fn own(&mut self, epoch: Epoch, holder: &ClusterName) -> Option<(&'static str, String)> {
        self.leaving = None;
        let before = self.owners.insert(epoch, holder.clone());
        if before.as_ref().is_some_and(|before| before != holder) {
            return Some(("S2 one owner per epoch", format!("epoch {epoch} goes to {holder} as well")));
        }
        let older = self.owners.keys().next_back().is_some_and(|highest| *highest > epoch);
        older.then(|| ("S3 epochs never decrease", format!("{holder} gets the older epoch {epoch}")))
    }
}

impl Watch {
    pub(crate) fn disturbed(&mut self, now: Time) {
        self.disturbed = now;
    }

    /// One of the faults that make a human look has happened.
    pub(crate) fn needs_a_human_already(&self) -> bool {
        self.restored
    }

    pub(crate) fn heard(&mut self, cluster: &ClusterName, now: Time) {
        self.heard.insert(cluster.clone(), now);
    }

    pub(crate) fn breaks(&mut self, invariant: &str, what: String) {
        self.violations.push(format!("{invariant}: {what}"));
    }
}

/// Since anything was last done to the world.
const STOPPED_WITHIN: Time = 4_000;

fn is_started_standby(site: &Site, app: &App) -> bool {
    let recorded = site.kubernetes.site_states.get(&app.id);
    let standby = recorded.is_some_and(|recorded| recorded.state.role == Role::Standby);
    let workload = site.kubernetes.get(&deployments(), &app.workload);
    standby && workload.is_some_and(|workload| workload["spec"]["replicas"] != json!(0))
}

impl World {
    /// After every event.
    pub(crate) fn check(&mut self) {
        self.one_writer();
        self.fenced_before_promoted();
        self.nothing_discarded_unasked();
        self.nothing_forced_but_in_a_failover();
    }

    /// S1: looked at whenever containers have started.
    fn one_writer(&mut self) {
        if !std::mem::take(&mut self.watch.look_at_pods) {
            return;
        }
        for app in &self.apps {
            let running = self.sites.values().filter(|site| self.runs(site, app.number));
            let running: Vec<&ClusterName> = running.map(|site| &site.name).collect();
            if let [a, b, ..] = running.as_slice() {
                let what = format!("pods of {} run in {a} and in {b}", app.id);
                self.watch.breaks("S1 single writer", what);
            }
        }
    }

    /// An agent that takes a placement to be at rest would not find anything there.
    pub(crate) fn check_rest(&mut self, site: &ClusterName) {
        let agent = self.site(site).agent.as_ref().filter(|_| self.doubts_rest);
        if let Some(overlooked) = agent.map(agent_core::Agent::overlooked).filter(|found| !found.is_empty()) {
            self.watch.breaks("what is at rest is at rest", format!("{site} overlooks {overlooked:?}"));
        }
    }

    /// S21: looked at now and then, because it has its time.
    pub(crate) fn nothing_stays_started_at_a_standby(&mut self) {
        if self.now < self.watch.disturbed + STOPPED_WITHIN {
            return;
        }
        let able = |site: &&Site| {
            let agent = site.agent.is_some() && site.frozen_until <= self.now && site.up && site.api_up;
            agent && site.api_slow == 0 && site.conflicts == 0 && site.watch_lag == 0
        };
        let started = self.sites.values().filter(able).find_map(|site| {
            let app = self.apps.iter().find(|app| is_started_standby(site, app))?;
            Some(format!("{} runs on in {}, which is a standby", app.workload, site.name))
        });
        if let Some(what) = started {
            self.watch.breaks("S21 nothing runs at a standby", what);
        }
    }

    /// S4, seen from the array: no image becomes primary while pods that use it run elsewhere.
    fn fenced_before_promoted(&mut self) {
        if self.watch.turns == self.array.turns {
            return;
        }
        self.watch.turns = self.array.turns;
        let images = self.array.images.iter().flat_map(|(site, images)| {
            images
                .iter()
                .filter(|(_, image)| image.primary)
                .map(move |(handle, _)| (site.clone(), handle.clone()))
        });
        let primaries: BTreeSet<(ClusterName, String)> = images.collect();
        for (site, handle) in primaries.difference(&self.watch.primaries) {
            let app = number_of(handle);
            let elsewhere = self.sites.values().find(|other| other.name != *site && self.runs(other, app));
            if let Some(other) = elsewhere {
                let what = format!("{handle} became primary in {site} while pods ran in {}", other.name);
                self.watch.violations.push(format!("S4 fence before promote: {what}"));
            }
        }
        self.watch.primaries = primaries;
    }

    /// S22.
    fn nothing_discarded_unasked(&mut self) {
        let seen = self.watch.discarded;
        self.watch.discarded = self.array.discarded.len();
        for discarded in &self.array.discarded[seen..] {
            let app = &self.apps[number_of(&discarded.handle)];
            let issued = reference::intents(&app.lines)
                .any(|intent| self.watch.issued.contains(&(intent.operation.clone(), StepKind::Resync)));
            if !issued {
                let what = format!("{} was resynced in {} without a step", discarded.handle, discarded.site);
                self.watch.violations.push(format!("S22 no silent discard: {what}"));
            }
        }
    }

    /// storage.md: a planned move forces nothing, and neither does a deployment or a readoption.
    fn nothing_forced_but_in_a_failover(&mut self) {
        let seen = self.watch.forced;
        self.watch.forced = self.array.forced.len();
        for forced in &self.array.forced[seen..] {
            let app = &self.apps[number_of(&forced.handle)];
            let running = reference::running(&app.lines);
            let failover = running
                .is_some_and(|intent| intent.kind == OperationKind::FailOver && intent.to == forced.site);
            // A journal that was restored meanwhile has forgotten it.
            let forgotten = self.watch.restored && app.judged.sought.contains(&forced.site);
            if !failover && !forgotten {
                let running = running.map_or("nothing".to_owned(), |intent| intent.operation.to_string());
                let what = format!("{} in {} while {running} ran", forced.handle, forced.site);
                self.watch.violations.push(format!("forced promotion outside a failover: {what}"));
            }
        }
    }

    /// Every acknowledged write is on the owner's images, or a failover's receipt has said that it would not be (S19).
    pub fn books(&self, app: &App) -> Result<(), String> {
        let Some((_, owner)) = reference::owner(&app.lines) else { return Ok(()) };
        let failovers: Vec<_> = reference::failovers(&app.lines).collect();
        for claim in &app.claims {
            let image = self.array.image(owner, &handle_of(claim));
            let log = image.map(|image| image.log.as_slice()).unwrap_or_default();
            for number in app.history.missing_in(log) {
                let written = &app.history.writes[usize::try_from(number).unwrap_or(0)];
                let at = wall(written.at);
                let receipted = failovers.iter().any(|intent| {
                    let loss = intent.losses.iter().find(|loss| loss.claim == *claim);
                    let from = intent.from.as_ref() == Some(&written.site);
                    from && loss.is_some_and(|loss| loss.last_sync.is_none_or(|synced| at >= synced))
                });
                if !receipted {
                    let at = written.at;
                    return Err(format!(
                        "write {number} of {at} ms in {} is lost from {claim}",
                        written.site
                    ));
                }
            }
        }
        Ok(())
    }
}
