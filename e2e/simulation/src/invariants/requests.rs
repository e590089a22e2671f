//! What an agent may take in and ask for, held against the world as it is.

use agent_core::{Effect, Kind, Recorded};
use proto::{Action, ClusterName, Command, FenceProof, Moment, PlacementName, Policy, Role};
use serde_json::json;

use crate::application::{App, Number, handle_of, number_of};
use crate::kubernetes::deployments;
use crate::reference;
use crate::transition::Time;
use crate::world::World;

/// Four renewals and a call until it is taken back, and the writes for it.
const TAKEN_BACK_WITHIN: Time = 9_000;

impl World {
    /// Before a request leaves an agent.
    pub(crate) fn check_effect(&mut self, site: &ClusterName, app: Number, effect: &Effect) {
        if matches!(effect, Effect::CreateReplication { .. } | Effect::PromoteReplication { .. }) {
            self.epoch_is_durable(site, app, effect);
            self.old_holder_is_stopped(site, app);
        } else if matches!(effect, Effect::DemoteReplication { .. }) {
            if self.runs(self.site(site), app) {
                let what = format!("{site} asks to {} while its pods run", effect.key());
                self.watch.breaks("S4 demotion comes last", what);
            }
        } else if matches!(effect, Effect::Scale { replicas, .. } if *replicas > 0) {
            self.may_start(site, app);
        }
    }

    /// S30: an epoch is durable before anything is asked for in it. (A request may land when the next epoch has come.)
    fn epoch_is_durable(&mut self, site: &ClusterName, app: Number, effect: &Effect) {
        let (Effect::CreateReplication { epoch, .. } | Effect::PromoteReplication { epoch, .. }) = effect
        else {
            return;
        };
        let recorded = self.recorded(site, app);
        let durable = recorded.is_some_and(|recorded| {
            let may = matches!(recorded.state.role, Role::Promoting | Role::Holder);
            may && recorded.state.epoch_seen == *epoch
        });
        if !durable {
            let what = format!("{site} asks to {}", effect.key());
            self.watch.breaks("S30 the epoch is durable before its effects", what);
        }
    }

    /// S4, S6 to S8: where only time is the proof, the lease that the old holder lives by has ended, and so has its time to
    /// stop, by its own clock; whatever it makes of that time.
    fn old_holder_is_stopped(&mut self, site: &ClusterName, app: Number) {
        let lines = &self.apps[app].lines;
        let Some(intent) = reference::running(lines) else { return };
        let by_time = reference::proof(lines, &intent.operation) == Some(&FenceProof::LeaseExpired);
        let Some(from) = intent.from.clone().filter(|from| by_time && intent.to == *site && from != site)
        else {
            return;
        };
        if let Some(why) = self.may_still_write(&from, app) {
            self.watch.breaks("S4 promoted by time before the old holder is certainly stopped", why);
        }
    }

    fn recorded(&self, site: &ClusterName, app: Number) -> Option<&Recorded> {
        self.site(site).kubernetes.site_states.get(&self.apps[app].id)
    }

    fn has_role(&self, site: &ClusterName, app: &App, wanted: Role) -> bool {
        let agent = self.site(site).agent.as_ref();
        let is =
            |(name, role, _): (&PlacementName, Role, _)| role == wanted && name.namespace == app.namespace;
        agent.is_some_and(|agent| agent.roles().any(is))
    }

    fn may_still_write(&self, holder: &ClusterName, app: Number) -> Option<String> {
        let here = self.site(holder);
        if !here.up {
            return None;
        }
        let now = self.agent_now(holder);
        let policy = self.policy_of(holder, app);
        if self.has_role(holder, &self.apps[app], Role::Holder)
            && policy.as_ref().is_some_and(|policy| !policy.expiry_stops())
        {
            return Some(format!("{holder} goes on whatever becomes of its lease"));
        }
        let timing = policy.map(|policy| policy.timing);
        let stop = timing.map(|timing| timing.stop).unwrap_or_default();
        // A lease that was cut short by a jump of the clock still leaves time for one call.
        let one_call = timing.filter(|_| here.slept).map(|timing| timing.rpc).unwrap_or_default();
        let certainly: Moment = here.leases[app].end? + stop - one_call;
        (now < certainly)
            .then(|| format!("{holder} is certainly stopped {} ms later, by its clock", certainly.0 - now.0))
    }

    fn policy_of(&self, site: &ClusterName, app: Number) -> Option<Policy> {
        let recorded = self.recorded(site, app)?;
        recorded.state.assignment.as_ref().map(|assignment| assignment.policy)
    }

    /// S21, S24: pods are asked for only under a lease, and when every volume is primary.
    fn may_start(&mut self, site: &ClusterName, app: Number) {
        let claims = &self.apps[app].claims;
        let split = claims.iter().find(|claim| !self.array.is_writable(site, &handle_of(claim)));
        if let Some(claim) = split {
            let what = format!("{site} starts pods, and {claim} is not primary");
            self.watch.breaks("S24 all volumes or no pods", what);
        }
        let (lease, now) = (self.site(site).leases[app], self.agent_now(site));
        let epoch = self.recorded(site, app).map(|recorded| recorded.state.epoch_seen);
        if lease.granted.is_none() || lease.granted < epoch || lease.end.is_none_or(|end| end <= now) {
            self.watch.breaks("S21 down until granted", format!("{site} starts pods without a lease"));
        }
    }

    /// What is wrong with a command, by the clock of the cluster that it reaches (R4, R5); nothing: it may be carried out.
    pub(crate) fn unfit(&self, site: &ClusterName, command: &Command) -> Option<String> {
        let here = self.site(site);
        let state = here.kubernetes.site_states.get(&command.id.placement).map(|recorded| &recorded.state)?;
        let told =
            self.watch.done.contains(&(site.clone(), command.id.placement.clone(), command.id.to_string()));
        if command.action == Action::Release || told {
            return None;
        }
        if command.epoch < state.epoch_seen {
            return Some(format!("it is of epoch {}, and {} was entered", command.epoch, state.epoch_seen));
        }
        let mends = matches!(command.action, Action::Resync { .. } | Action::Rejoin);
        let another = state.operation.as_ref().filter(|known| **known != command.id.operation && !mends);
        if let Some(another) = another.filter(|_| command.epoch == state.epoch_seen) {
            return Some(format!("{another} has entered epoch {}", command.epoch));
        }
        let now = self.agent_now(site);
        let sent = here.sent.get(&command.nonce)?;
        (now >= *sent + command.lifetime)
            .then(|| format!("its life ended {} ms ago", now.since(*sent + command.lifetime).as_millis()))
    }

    /// S21: what another boot has left behind is no lease.
    pub(crate) fn check_start(&mut self, site: &ClusterName, another_boot: bool) {
        let holds = self.apps.iter().any(|app| self.has_role(site, app, Role::Holder));
        if holds && another_boot {
            let what = format!("{site} goes on as holder after a cold start");
            self.watch.breaks("S21 a returned site stays down until granted", what);
        }
    }

    /// S21: within its time to stop, a returned holder calls the hub only when it has asked everything to stop.
    pub(crate) fn check_call(&mut self, site: &ClusterName) {
        let running = self.apps.iter().find(|app| self.calls_too_early(site, app));
        if let Some(running) = running {
            let what = format!("{site} calls the hub, and has not stopped {}", running.workload);
            self.watch.breaks("S21 a returned site stops before it calls", what);
        }
    }

    fn calls_too_early(&self, site: &ClusterName, app: &App) -> bool {
        let here = self.site(site);
        let Some(recorded) = self.recorded(site, app.number) else { return false };
        let stop = recorded.state.assignment.as_ref().map(|it| it.policy.timing.stop).unwrap_or_default();
        let stop = u64::try_from(stop.as_millis()).unwrap_or(0);
        let young = self.now + 200 < here.agent_since + stop;
        let workload = here.kubernetes.get(&deployments(), &app.workload);
        let wanted = workload.is_some_and(|workload| workload["spec"]["replicas"] != json!(0));
        young && here.boot > 1 && wanted && self.has_role(site, app, Role::Fenced)
    }

    /// S22: a copy is about to be thrown away by what its VolumeReplication says.
    pub(crate) fn check_discard(&mut self, site: &ClusterName, claim: &str) {
        let here = self.site(site);
        let app = number_of(claim);
        let Some(recorded) = self.recorded(site, app) else { return };
        if recorded.state.role == Role::Standby {
            let what = format!("{claim} at the standby {site} throws its copy away by itself");
            return self.watch.breaks("S22 no silent discard", what);
        }
        let asked = self.apps[app].judged.resync_sent.max(self.watch.disturbed).max(here.agent_since);
        let able = here.agent.is_some() && here.api_up && here.api_slow == 0 && here.conflicts == 0;
        let listed = here.kubernetes.get(&Kind::Replication, claim).is_some();
        if able && listed && here.watch_lag == 0 && self.now > asked + TAKEN_BACK_WITHIN {
            let what = format!("{claim} in {site} is still to be made anew, and nobody asks for it");
            self.watch.breaks("S22 a resync is taken back", what);
        }
    }
}
