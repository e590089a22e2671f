//! What the hub may write down and send, held against the world as it is.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::placement::{FailoverMode, ResyncMode};
use hub_core::journal::{Entry, Intent, OperationKind, StepRecord};
use proto::{ClusterName, Epoch, FenceProof, FromHub, OperationId, PathKind, StepKind};

use crate::application::{App, Number, handle_of};
use crate::reference;
use crate::transition::Time;
use crate::world::{World, wall};

/// A fresh read is four calls old at most, and takes one; then the hub looks again.
const READ_IS_FRESH: Time = 2_600;
/// Suspicion, a probe in each renewal, and its way to the hub.
const SEEN_BY_NOW: Time = 3_000;
pub(super) const SUSPECT: Time = 1_500;
pub(super) const MARGIN: Time = 600;
const AN_HOUR: Time = 3_600_000;
/// As the hub calls a promotion stuck.
const HANGS_AFTER: Duration = Duration::from_secs(10);

impl World {
    /// Before an entry becomes durable.
    pub(crate) fn check_entry(&mut self, app: Number, entry: &Entry) {
        if let Entry::Ownership { epoch, holder, .. } = entry {
            if let Some((invariant, what)) = self.apps[app].judged.own(*epoch, holder) {
                self.watch.breaks(invariant, what);
            }
        } else if let Entry::Intent(intent) = entry {
            self.check_intent(app, intent);
        } else if let Entry::Step { operation, step, state, .. } = entry {
            match state {
                StepRecord::Issued => self.check_issued(app, operation, *step),
                StepRecord::Acknowledged => self.check_acknowledged(app, operation, *step),
            }
        } else if let Entry::Fence { operation, proof, .. } = entry {
            self.watch.fenced.insert(operation.clone());
            if *proof == FenceProof::Acknowledged {
                self.check_word(app, operation);
            }
        } else if let Entry::Withdrawn { operation, .. } = entry {
            self.check_withdrawn(app, operation);
        } else if let Entry::Abort { operation, .. } = entry {
            let watch = &mut self.watch;
            let promoted = watch.issued.contains(&(operation.clone(), StepKind::Promote));
            if promoted && watch.moves.contains(operation) {
                watch.breaks("S12 forward past the point of no return", format!("{operation} is aborted"));
            }
        }
    }

    fn check_intent(&mut self, app: Number, intent: &Intent) {
        let operation = &intent.operation;
        let before = &self.apps[app];
        if let Some(running) = reference::running(&before.lines).map(|running| running.operation.clone()) {
            self.watch.breaks("S13 one operation per placement", format!("{operation} beside {running}"));
        }
        let enters = intent.plan.contains(&StepKind::Promote);
        let entered_there = self.sites.values().find(|site| {
            let heard = self.hub.streams.contains_key(&site.name) && self.hub_has_heard(&site.name);
            heard && site.kubernetes.epochs.get(&before.id).is_some_and(|seen| *seen >= intent.epoch)
        });
        if let (true, Some(site)) = (enters, entered_there) {
            let what = format!("{operation} enters epoch {}, which {} has seen", intent.epoch, site.name);
            self.watch.breaks("S3 whoever knows a higher epoch wins", what);
        }
        if enters {
            self.check_memory(app, intent);
        }
        let judged = &mut self.apps[app].judged;
        if enters && intent.epoch <= judged.entered {
            self.watch.breaks("S3 burned epochs never return", format!("{operation} enters one"));
        }
        judged.entered = judged.entered.max(intent.epoch);
        judged.leaving = enters.then(|| judged.owners.keys().next_back().copied()).flatten();
        let failover = intent.kind == OperationKind::FailOver;
        judged.sought.extend(failover.then(|| intent.to.clone()));
        let moves = intent.plan.contains(&StepKind::Promote) && intent.kind.takes_away();
        self.watch.moves.extend(moves.then(|| operation.clone()));
        if intent.approval.is_some() {
            // A hub that has forgotten an operation gives its name again, and this time somebody was asked.
            self.apps[app].judged.automatic.remove(operation);
        }
        self.check_approval(intent);
        if intent.kind == OperationKind::FailOver && intent.approval.is_none() {
            self.apps[app].judged.automatic.insert(operation.clone());
            self.check_acting_alone(app, intent);
            self.check_accusation(app, intent);
            self.check_loss(app, intent);
        }
    }

    /// S25.
    fn check_approval(&mut self, intent: &Intent) {
        let Some(used) = &intent.approval else { return };
        let given = self.hub.approvals.iter().find(|given| given.name == used.name);
        let fits = given.is_some_and(|given| {
            (given.operation == intent.operation.0, given.epoch, given.generation)
                == (true, intent.epoch, intent.generation)
        });
        if !fits {
            let what =
                format!("{} answers {}, but does not mean it as it is now", used.name, intent.operation);
            self.watch.breaks("S25 an approval counts for what it names", what);
        }
    }

    /// S25: a hub that has just started does not know what has become of a question, and an answer may be under way.
    fn check_withdrawn(&mut self, app: Number, operation: &OperationId) {
        if self.now + MARGIN >= self.hub.started + SUSPECT {
            return;
        }
        let proposed = self.apps[app].proposed.as_ref().filter(|proposed| proposed.operation == *operation);
        let concerned = proposed.into_iter().flat_map(|proposed| proposed.from.iter().chain([&proposed.to]));
        if let Some(unheard) = concerned.into_iter().find(|site| !self.hub_has_heard(site)).cloned() {
            let what = format!("{operation} is withdrawn by a hub that has not heard {unheard} yet");
            self.watch.breaks("S25 a question outlives its hub", what);
        }
    }

    /// Since it started.
    fn hub_has_heard(&self, site: &ClusterName) -> bool {
        self.watch.heard.get(site).is_some_and(|at| *at > self.hub.started)
    }

    /// S20, S27, S29: what the user has said, as far as the hub must know it.
    fn check_acting_alone(&mut self, app: Number, intent: &Intent) {
        let known = |since: Option<Time>, now: Time| since.is_some_and(|since| now >= since + READ_IS_FRESH);
        let judged = &self.apps[app].judged;
        if known(judged.paused_since, self.now) {
            self.watch.breaks("S27 pause wins", format!("{} begins", intent.operation));
        }
        if known(judged.not_automatic_since, self.now) {
            self.watch.breaks("S29 modes are respected", format!("{} begins by itself", intent.operation));
        }
        let before = |operation: &&OperationId| {
            **operation != intent.operation
                && self.watch.issued.contains(&((*operation).clone(), StepKind::Promote))
        };
        if let Some(before) = judged.automatic.iter().find(before) {
            let what = format!("{} after {before}, and nobody has looked", intent.operation);
            self.watch.breaks("S20 one automatic failover", what);
        }
        let lately = self.watch.left.iter().filter(|(_, at)| self.now < **at + AN_HOUR);
        let another = lately.map(|(site, _)| site).find(|site| Some(*site) != intent.from.as_ref()).cloned();
        if let Some(another) = another.filter(|_| !self.watch.restored) {
            let what = format!("{} within an hour of the loss of {another}", intent.operation);
            self.watch.breaks("S20 one site an hour", what);
        }
    }

    /// S14 to S17, at the accusation and again right before the point of no return.
    fn check_accusation(&mut self, app: Number, intent: &Intent) {
        let Some(from) = &intent.from else { return };
        self.check_against_the_witness(intent);
        let fresh = self.apps[app].judged.read_afresh.is_some_and(|read| self.now < read + READ_IS_FRESH);
        if !fresh {
            let what = format!("{} without having read the wish", intent.operation);
            self.watch.breaks("S14 nothing moves without a fresh read", what);
        }
        let (sites, dark) = (self.sites.len(), self.sites.keys().filter(|site| self.is_dark(site)).count());
        if dark >= sites || (sites >= 3 && dark * 100 >= sites * 55) {
            let what = format!("{} while {dark} of {sites} are silent", intent.operation);
            self.watch.breaks("S15 all dark moves nothing", what);
        }
        let settled = self.now >= self.watch.disturbed + SEEN_BY_NOW && self.network.is_calm();
        let reached = [PathKind::PeerAgent, PathKind::ApiServer]
            .into_iter()
            .find(|path| self.path_works(&intent.to, from, *path));
        if let (true, Some(path)) = (settled, reached) {
            let what = format!("{} although {} reaches the {path:?} of {from}", intent.operation, intent.to);
            self.watch.breaks("S16 a sign of life vetoes", what);
        }
    }

    /// Silent for so long that the hub must call it so.
    fn is_dark(&self, site: &ClusterName) -> bool {
        let since = self.watch.heard.get(site).copied().unwrap_or(0).max(self.hub.started);
        self.now >= since + SUSPECT + MARGIN
    }

    /// S19, from what the arrays hold and not from what the hub was told: how old the oldest write is that only the lost
    /// copy has.
    fn check_loss(&mut self, number: Number, intent: &Intent) {
        let app = &self.apps[number];
        let bound = app.wish.as_ref().and_then(|wish| wish.spec.failover.max_data_loss.clone());
        let bound = bound.and_then(|text| crds::span::parse(&text).ok());
        let (Some(from), Some(bound)) = (&intent.from, bound) else { return };
        let bound = Time::try_from(bound.as_millis()).unwrap_or(Time::MAX);
        let lost_at = self.watch.heard.get(from).copied().unwrap_or(self.now);
        for claim in &app.claims {
            let log = |site: &ClusterName| {
                let image = self.array.any_image(site, &handle_of(claim));
                image.map(|image| image.log.as_slice()).unwrap_or_default()
            };
            let kept: BTreeSet<u32> = log(&intent.to).iter().copied().collect();
            let oldest = log(from).iter().filter(|write| !kept.contains(write)).min();
            let given_up =
                oldest.and_then(|write| app.history.at(*write)).map(|at| lost_at.saturating_sub(at));
            if given_up.is_some_and(|lost| lost > bound) {
                let what = format!(
                    "{} gives up {given_up:?} ms of {claim}, and {bound} ms are allowed",
                    intent.operation
                );
                self.watch.breaks("S19 loss bound", what);
            }
        }
    }

    fn check_issued(&mut self, app: Number, operation: &OperationId, step: StepKind) {
        let mut intents = reference::intents(&self.apps[app].lines);
        let intent = intents.find(|intent| intent.operation == *operation).cloned();
        drop(intents);
        self.watch.issued.insert((operation.clone(), step));
        let leaves = step == StepKind::Promote && self.watch.moves.contains(operation);
        if leaves && !self.watch.fenced.contains(operation) {
            self.watch.breaks("S4 fence before promote", format!("{operation} promotes without a proof"));
        }
        let Some(intent) = intent else { return };
        if step == StepKind::Resync {
            let wish = self.apps[app].wish.as_ref();
            let allowed = wish.is_some_and(|wish| wish.spec.failback.resync == ResyncMode::Automatic);
            if intent.approval.is_none() && !allowed {
                self.watch.breaks("S22 no silent discard", format!("{operation} was not approved"));
            }
        }
        if leaves {
            self.check_point_of_no_return(app, &intent);
        }
    }

    fn check_point_of_no_return(&mut self, app: Number, intent: &Intent) {
        let paused = self.apps[app].judged.paused_since;
        if paused.is_some_and(|since| self.now >= since + READ_IS_FRESH) {
            self.watch.breaks("S27 pause wins until the last read", format!("{} promotes", intent.operation));
        }
        if intent.kind != OperationKind::FailOver {
            return;
        }
        for claim in &self.apps[app].claims {
            let image = self.array.any_image(&intent.to, &handle_of(claim));
            if image.is_some_and(|image| image.split || image.resyncing) {
                let what = format!("{} promotes {claim}, which does not follow", intent.operation);
                self.watch.breaks("S22 no failover onto a copy that does not follow", what);
            }
        }
        self.check_path(app, intent);
        if intent.approval.is_none() {
            self.watch.left.extend(intent.from.clone().map(|from| (from, self.now)));
            self.check_accusation(app, intent);
            self.check_testimony(app, intent);
        }
    }

    /// S20: of many that leave a cluster one is promoted before the others are, unless it hangs.
    fn check_path(&mut self, app: Number, intent: &Intent) {
        let from = intent.from.as_ref();
        let proven = |lines| {
            let began = reference::began(&self.apps[app].lines, &intent.operation);
            reference::promoted_at(lines, from).is_some_and(|at| Some(at) >= began)
        };
        if self.apps.iter().any(|other| proven(&other.lines)) {
            return;
        }
        let ahead = self.apps.iter().filter(|other| other.number != app).find_map(|other| {
            let running = reference::running(&other.lines)?;
            let same = running.kind == OperationKind::FailOver && running.from.as_ref() == from;
            let since = reference::issued_at(&other.lines, &running.operation, StepKind::Promote)?;
            let waits = wall(self.now).since(since) < HANGS_AFTER;
            (same && waits && !reference::is_promoted(&other.lines, &running.operation)).then_some(running)
        });
        if let Some(ahead) = ahead {
            let what =
                format!("{} promotes while {} has not shown that it can", intent.operation, ahead.operation);
            self.watch.breaks("S20 the first proves the path", what);
        }
    }

    fn check_acknowledged(&mut self, app: Number, operation: &OperationId, step: StepKind) {
        if step == StepKind::Resync {
            self.watch.resynced.insert(operation.clone(), self.now);
        }
        let made_anew = self.watch.resynced.get(operation).copied();
        let (StepKind::AwaitSync, Some(made_anew)) = (step, made_anew) else { return };
        let app = &self.apps[app];
        let Some((_, owner)) = reference::owner(&app.lines) else { return };
        let synced = |claim: &&String| {
            let image = self.array.image(owner, &handle_of(claim));
            image.is_some_and(|image| image.last_sync.is_some_and(|synced| synced > wall(made_anew)))
        };
        if let Some(claim) = app.claims.iter().find(|claim| !synced(claim)) {
            let what = format!("{operation}: {claim} was not synced after it was made anew");
            self.watch.breaks("L3 protection returns with a later sync", what);
        }
    }

    /// The old holder's word is taken: nothing of it runs, and nothing of it can start.
    fn check_word(&mut self, app: Number, operation: &OperationId) {
        let app = &self.apps[app];
        let intent = reference::intents(&app.lines).find(|intent| intent.operation == *operation);
        let Some(from) = intent.and_then(|intent| intent.from.clone()) else { return };
        let here = self.site(&from);
        if self.runs(here, app.number) {
            self.watch
                .breaks("S4 a word means stopped", format!("pods run in {from} at the end of its fence"));
        } else if here.up && here.kubernetes.admits_users_of(&app.claims) {
            self.watch.breaks("S4 a word means stopped", format!("new pods may start in {from}"));
        }
    }

    /// Before a message leaves the hub.
    pub(crate) fn check_sent(&mut self, to: &ClusterName, message: &FromHub) {
        match message {
            FromHub::Reply(reply) => {
                for grant in &reply.grants {
                    self.check_grant(to, self.app_of(&grant.placement), grant.epoch);
                }
            }
            FromHub::Command(command) => {
                let key = (command.id.operation.clone(), command.id.step);
                if !self.watch.issued.contains(&key) {
                    let what = format!("{} was sent and never issued", command.id);
                    self.watch.breaks("S9 journal before effect", what);
                }
                if command.id.step == StepKind::Resync {
                    let app = self.app_of(&command.id.placement);
                    self.apps[app].judged.resync_sent = self.now;
                }
            }
            FromHub::Assignment(_) | FromHub::Unassign(_) => {}
        }
    }

    fn check_grant(&mut self, to: &ClusterName, app: Number, granted: Epoch) {
        let app = &self.apps[app];
        let owner = reference::owner(&app.lines).map(|(epoch, holder)| (epoch, holder.clone()));
        let human = reference::needs_human(&app.lines).is_some();
        let leaving = reference::running(&app.lines).is_some() && app.judged.leaving == Some(granted);
        if owner != Some((granted, to.clone())) && !human {
            let what = format!("{to} is granted epoch {granted}, and {owner:?} owns it");
            self.watch.breaks("S2 grants go to the owner", what);
        }
        if leaving {
            let what = format!("{to} is granted epoch {granted} after the intent to leave it");
            self.watch.breaks("S5 no grant after intent", what);
        }
    }

    /// The user has edited the DRPlacement.
    pub(crate) fn watch_wish(&mut self, app: Number) {
        let App { wish, judged, .. } = &mut self.apps[app];
        let Some(wish) = wish else { return };
        let automatic = wish.spec.failover.mode == FailoverMode::Automatic;
        judged.paused_since = wish.spec.paused.then(|| judged.paused_since.unwrap_or(self.now));
        judged.not_automatic_since = (!automatic).then(|| judged.not_automatic_since.unwrap_or(self.now));
    }

    /// The journal is an older one: what nobody has seen was never entered.
    pub(crate) fn watch_restore(&mut self) {
        for app in &mut self.apps {
            let known = reference::intents(&app.lines).map(|intent| intent.epoch).max();
            app.judged.entered = known.unwrap_or_default();
            app.judged.leaving = None;
        }
        // What is not in the journal any more has never been begun by whoever reads it.
        let apps = &self.apps;
        self.watch.issued.retain(|(operation, step)| {
            apps.iter().any(|app| reference::issued_at(&app.lines, operation, *step).is_some())
        });
        self.watch.restored = true;
    }
}
