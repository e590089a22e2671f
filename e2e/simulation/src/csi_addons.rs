//! The csi-addons controller of a member cluster, as the table of storage.md has it: what it calls for which spec and
//! status, what it then shows, and when it looks again. Delays are those seen on a real array, scaled.

use agent_core::Kind;
use proto::{ClusterName, WallTime};
use serde_json::{Value, json};

use crate::network::End;
use crate::storage::{Refused, Snapshot};
use crate::transition::{Happening, Time};
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Promote {
        generation: u64,
    },
    /// The refused promotion again, by force: the object shows nothing of it.
    ForcePromote {
        generation: u64,
    },
    Info {
        generation: u64,
    },
    Demote {
        generation: u64,
    },
    Resync {
        generation: u64,
        force: bool,
    },
}

/// One VolumeReplication in the controller's work queue.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    busy: bool,
    /// Of the newest wish to look; older ones are void.
    turn: u64,
    look_after: bool,
}

const CALL: std::ops::RangeInclusive<u64> = 100..=400;
const PROMOTION: std::ops::RangeInclusive<u64> = 400..=1_000;
const FORCED_PROMOTION: std::ops::RangeInclusive<u64> = 800..=1_500;
const LOOK_FOR_INFO: Time = 700;
/// Stands for the 15 s after a demotion.
const LOOK_AFTER_DEMOTION: Time = 1_000;
const LOOK_WHILE_RESYNCING: Time = 1_500;
const TRY_AGAIN: Time = 1_000;
pub const SYNC_EVERY: Time = 2_000;
const CROSSING: std::ops::RangeInclusive<u64> = 200..=900;
const COPYING: std::ops::RangeInclusive<u64> = 1_500..=3_000;

impl World {
    pub(crate) fn reconcile_after(&mut self, site: &ClusterName, claim: &str, delay: Time) {
        let boot = self.site(site).boot;
        let worker = self.site_mut(site).workers.entry(claim.to_owned()).or_default();
        if worker.busy {
            worker.look_after = true;
            return;
        }
        worker.turn += 1;
        let turn = worker.turn;
        self.later(delay, Happening::Reconciles { site: site.clone(), claim: claim.to_owned(), boot, turn });
    }

    pub(crate) fn reconciles(&mut self, site: &ClusterName, claim: &str, boot: u64, turn: u64) {
        let here = self.site(site);
        let current = here.workers.get(claim).is_some_and(|worker| worker.turn == turn && !worker.busy);
        if here.boot != boot || !here.up || !current {
            return;
        }
        let Some(object) = here.kubernetes.get(&Kind::Replication, claim) else { return };
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
        let before = object["status"]["state"].as_str().unwrap_or("Unknown");
        let force = object["spec"]["autoResync"] == json!(true);
        let (call, takes) = match (object["spec"]["replicationState"].as_str(), before) {
            (Some("primary"), "Primary") => (Call::Info { generation }, CALL),
            (Some("primary"), _) => (Call::Promote { generation }, PROMOTION),
            (Some("secondary"), "Secondary") => (Call::Resync { generation, force }, CALL),
            (Some("secondary"), _) => (Call::Demote { generation }, CALL),
            (Some("resync"), _) => (Call::Resync { generation, force: true }, CALL),
            (_, _) => return,
        };
        let takes = self.random.within(&takes);
        self.begin_call(site, claim, call, takes);
    }

    fn begin_call(&mut self, site: &ClusterName, claim: &str, call: Call, takes: Time) {
        let boot = self.site(site).boot;
        self.site_mut(site).workers.entry(claim.to_owned()).or_default().busy = true;
        let happening = Happening::CallEnds { site: site.clone(), claim: claim.to_owned(), boot, call };
        self.later(takes, happening);
    }

    pub(crate) fn call_ends(&mut self, site: &ClusterName, claim: &str, boot: u64, call: Call) {
        if self.site(site).boot != boot || !self.site(site).up {
            return;
        }
        let Some(handle) = self.handle_of(site, claim) else {
            return self.finish(site, claim, Some(TRY_AGAIN));
        };
        match call {
            Call::Promote { generation } => self.promotes(site, claim, &handle, generation, false),
            Call::ForcePromote { generation } => self.promotes(site, claim, &handle, generation, true),
            Call::Info { generation } => {
                let last_sync = self.array.image(site, &handle).and_then(|image| image.last_sync);
                self.show(site, claim, generation, |status| {
                    // It promotes nothing that is Primary already, and calls it promoted all the same: also what it could
                    // not demote before it was meant to be primary again.
                    let known = status["lastSyncTime"].take();
                    *status = shown("Primary", generation, (true, "Promoted"), Some(false), Some(false));
                    if known.is_string() {
                        status["lastSyncTime"] = known;
                    }
                    tell_last_sync(status, last_sync);
                });
                self.finish(site, claim, Some(LOOK_FOR_INFO));
            }
            Call::Demote { generation } => self.demotes(site, claim, &handle, generation),
            Call::Resync { generation, force } => self.resyncs(site, claim, &handle, generation, force),
        }
    }

    fn promotes(&mut self, site: &ClusterName, claim: &str, handle: &str, generation: u64, force: bool) {
        self.array.enable(site, handle);
        if self.storage_ails.promotion
            || self.storage_ails.promotion_of.is_some_and(|of| claim.starts_with(of))
        {
            self.show(site, claim, generation, |status| {
                *status = shown("Unknown", generation, (false, "FailedToPromote"), Some(true), None);
                status["message"] = json!("deadline exceeded");
            });
            return self.finish(site, claim, Some(TRY_AGAIN));
        }
        let forced = self.array.forced.len();
        match self.array.promote(self.now, site, handle, force) {
            Ok(()) => {
                let how = if self.array.forced.len() > forced { "by force" } else { "cleanly" };
                self.say(format!("{site}: the image of {claim} is promoted {how}"));
                self.show(site, claim, generation, |status| {
                    *status = shown("Primary", generation, (true, "Promoted"), Some(false), Some(false));
                });
                self.finish(site, claim, Some(LOOK_FOR_INFO));
            }
            Err(Refused::FailedPrecondition) if !force => {
                let takes = self.random.within(&FORCED_PROMOTION);
                self.begin_call(site, claim, Call::ForcePromote { generation }, takes);
            }
            Err(refused) => {
                self.show(site, claim, generation, |status| {
                    *status = shown("Unknown", generation, (false, "FailedToPromote"), Some(true), None);
                    status["message"] = json!(format!("{refused:?}"));
                });
                self.finish(site, claim, Some(TRY_AGAIN));
            }
        }
    }

    fn demotes(&mut self, site: &ClusterName, claim: &str, handle: &str, generation: u64) {
        let in_use = self.is_attached(site, claim) || self.storage_ails.demotion;
        match self.array.demote(self.now, site, handle, in_use) {
            Ok(was_primary) => {
                if was_primary {
                    self.say(format!("{site}: the image of {claim} is demoted"));
                    self.mirror(site, handle);
                }
                self.show(site, claim, generation, |status| {
                    *status = shown("Secondary", generation, (true, "Demoted"), Some(true), Some(false));
                });
                self.finish(site, claim, Some(LOOK_AFTER_DEMOTION));
            }
            Err(refused) => {
                self.show(site, claim, generation, |status| {
                    let before = status["state"].as_str().unwrap_or("Unknown").to_owned();
                    *status = shown(&before, generation, (false, "FailedToDemote"), Some(true), None);
                    status["message"] = json!(format!("{refused:?}"));
                });
                self.finish(site, claim, Some(TRY_AGAIN));
            }
        }
    }

    fn resyncs(&mut self, site: &ClusterName, claim: &str, handle: &str, generation: u64, force: bool) {
        if force {
            self.check_discard(site, claim);
        }
        if force && self.array.resync(self.now, site, handle).is_ok() {
            let peer = self.array.peer(site);
            peer.into_iter().for_each(|peer| self.mirror(&peer, handle));
        }
        let image = self.array.image(site, handle);
        let (completed, degraded, resyncing, again) = match image {
            None => ((false, "FailedToDemote"), Some(true), Some(true), Some(LOOK_WHILE_RESYNCING)),
            Some(image) if image.split => {
                ((false, "FailedToResync"), Some(true), Some(false), Some(LOOK_WHILE_RESYNCING))
            }
            // Not looked at again: so it stays when the other site is promoted. Once it is, and is reached, this one
            // replays what it writes.
            Some(image) if image.demoted && image.crossed && !self.is_led_by_its_peer(site, handle) => {
                ((true, "Demoted"), Some(false), Some(false), None)
            }
            Some(_) => ((true, "Demoted"), Some(true), Some(true), Some(LOOK_WHILE_RESYNCING)),
        };
        self.show(site, claim, generation, |status| {
            *status = shown("Secondary", generation, completed, degraded, resyncing);
            if !completed.0 {
                status["message"] = json!("no snapshot details");
            }
        });
        self.finish(site, claim, again);
    }

    fn finish(&mut self, site: &ClusterName, claim: &str, again: Option<Time>) {
        let worker = self.site_mut(site).workers.entry(claim.to_owned()).or_default();
        worker.busy = false;
        let changed = std::mem::take(&mut worker.look_after);
        if let Some(delay) = if changed { Some(20) } else { again } {
            self.reconcile_after(site, claim, delay);
        }
    }

    fn show(&mut self, site: &ClusterName, claim: &str, generation: u64, change: impl FnOnce(&mut Value)) {
        let kubernetes = &mut self.site_mut(site).kubernetes;
        let _gone_is_fine = kubernetes.change(&Kind::Replication, claim, |object| {
            change(&mut object["status"]);
            object["status"]["observedGeneration"] = json!(generation);
        });
    }

    pub(crate) fn handle_of(&self, site: &ClusterName, claim: &str) -> Option<String> {
        let kubernetes = &self.site(site).kubernetes;
        let volume = kubernetes.get(&Kind::Claim, claim)?["spec"]["volumeName"].as_str()?;
        let handle = kubernetes.get(&Kind::Volume, volume)?["spec"]["csi"]["volumeHandle"].as_str()?;
        Some(handle.to_owned())
    }

    fn is_attached(&self, site: &ClusterName, claim: &str) -> bool {
        let kubernetes = &self.site(site).kubernetes;
        let volume =
            kubernetes.get(&Kind::Claim, claim).and_then(|claim| claim["spec"]["volumeName"].as_str());
        volume.is_some_and(|volume| kubernetes.get(&Kind::Attachment, &format!("va-{volume}")).is_some())
    }

    /// The mirror's schedule: whoever is primary sends what it holds.
    pub(crate) fn snapshot_due(&mut self, handle: &str) {
        for site in self.array.sites.clone() {
            self.mirror(&site, handle);
        }
        self.later(SYNC_EVERY, Happening::SnapshotDue { handle: handle.to_owned() });
    }

    fn mirror(&mut self, from: &ClusterName, handle: &str) {
        if !self.arrays_connect() {
            return;
        }
        if self.storage_ails.mirroring {
            return;
        }
        let Some(snapshot) = self.array.snapshot(self.now, from, handle) else { return };
        if snapshot.whole && self.storage_ails.resync {
            return;
        }
        let takes =
            self.random.within(if snapshot.whole { &COPYING } else { &CROSSING }) + self.crossing_delay;
        self.later(takes, Happening::SnapshotArrives { snapshot });
    }

    pub(crate) fn snapshot_arrives(&mut self, snapshot: &Snapshot) {
        let wall = WallTime(crate::world::wall(snapshot.taken).0);
        if self.arrays_connect() && self.array.arrive(snapshot, wall) && snapshot.demotion {
            self.say(format!(
                "array: everything that {} held of {} has crossed",
                snapshot.from, snapshot.handle
            ));
        }
    }

    fn is_led_by_its_peer(&self, site: &ClusterName, handle: &str) -> bool {
        let peer = self.array.peer(site);
        self.arrays_connect() && peer.is_some_and(|peer| self.array.is_writable(&peer, handle))
    }

    fn arrays_connect(&self) -> bool {
        let ends: Vec<End> = self.array.sites.iter().cloned().map(End::Array).collect();
        let linked = match ends.as_slice() {
            [a, b, ..] => self.network.is_up(a.clone(), b.clone()),
            [] | [_] => false,
        };
        linked && self.array.sites.iter().all(|site| self.site(site).up)
    }
}

fn tell_last_sync(status: &mut Value, last_sync: Option<WallTime>) {
    if let Some(last_sync) = last_sync {
        status["lastSyncTime"] = json!(crate::world::stamp(last_sync));
    }
}

fn shown(
    state: &str,
    generation: u64,
    (completed, reason): (bool, &str),
    degraded: Option<bool>,
    resyncing: Option<bool>,
) -> Value {
    let word = |holds: bool| if holds { "True" } else { "False" };
    let mut conditions = vec![json!({"type": "Completed", "status": word(completed), "reason": reason})];
    for (name, holds) in [("Degraded", degraded), ("Resyncing", resyncing)] {
        conditions.extend(holds.map(|holds| json!({"type": name, "status": word(holds)})));
    }
    json!({"state": state, "observedGeneration": generation, "conditions": conditions})
}
