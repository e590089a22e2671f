//! The step of the agent: take in one event, look at everything, say what is to be done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proto::{
    Acknowledgement, Action, Ailment, Assignment, ClusterName, FromAgent, Mark, Moment, Nonce, Outcome,
    PlacementId, PlacementName, Pulses, Role, Rule, StepKind, WallTime, kept,
};

use crate::ailments::reason;
use crate::decision::{Decision, Note, Point, SiteWrite};
use crate::desired::{self, Next, Turn, View};
use crate::divergence;
use crate::duty::{Duty, Seen, duty};
use crate::event::{Concern, Event};
use crate::gates;
use crate::paths::Paths;
use crate::placement::{Attempt, Placement, without_inventory};
use crate::reconcilers::{self, Asked, Steered};
use crate::rest::Before;
use crate::site_state::SiteState;
use crate::survey;
use crate::world::{Followed, World};

/// Reports of one placement are no closer together than this: ten changes in a row are one report.
const REPORT_SPACING: Duration = Duration::from_millis(50);
/// So many placements are remembered as let go of: an assignment that crosses a release is never older than these.
const LET_GO_REMEMBERED: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterName,
    pub version: String,
}

#[derive(Debug)]
pub struct Agent {
    pub(crate) identity: Identity,
    pub(crate) boot: String,
    pub(crate) started: Option<Moment>,
    pub(crate) now: Moment,
    pub(crate) wall: WallTime,
    /// Wall clock less boot clock at the last tick, in milliseconds.
    pub(crate) clock_offset: Option<i64>,
    pub(crate) world: World,
    /// What is watched, and so what of the world is known.
    pub(crate) followed: Followed,
    pub(crate) placements: BTreeMap<PlacementId, Placement>,
    /// Placements that the hub has told this process to let go of. Their uids never come back, so an assignment of one
    /// is an old one.
    let_go: VecDeque<PlacementId>,
    pub(crate) hub_up: bool,
    pub(crate) nonce: Nonce,
    /// Heartbeats that may still be answered.
    pub(crate) sent: BTreeMap<Nonce, crate::hub_says::Sent>,
    pub(crate) mark: Mark,
    /// When this stream began: a probe from before it echoes no mark of this hub.
    pub(crate) marks_since: Moment,
    pub(crate) next_heartbeat: Moment,
    pub(crate) next_probe: Moment,
    pub(crate) next_memory: Moment,
    pub(crate) memory_in_flight: bool,
    pub(crate) last_write: Option<Moment>,
    pub(crate) paths: Paths,
    /// What the clusters' Leases at each witness have shown.
    pub(crate) pulses: BTreeMap<String, Pulses>,
}

impl Agent {
    pub fn new(identity: Identity) -> Agent {
        Agent {
            identity,
            boot: String::new(),
            started: None,
            now: Moment(0),
            wall: WallTime(0),
            clock_offset: None,
            world: World::default(),
            followed: Followed::default(),
            placements: BTreeMap::new(),
            let_go: VecDeque::new(),
            hub_up: false,
            nonce: Nonce(0),
            sent: BTreeMap::new(),
            mark: Mark::default(),
            marks_since: Moment(0),
            next_heartbeat: Moment(0),
            next_probe: Moment(0),
            next_memory: Moment(0),
            memory_in_flight: false,
            last_write: None,
            paths: Paths::default(),
            pulses: BTreeMap::new(),
        }
    }

    /// The admission policies that its API server has to enforce, as they were installed.
    #[must_use]
    pub fn relying_on(mut self, policies: Vec<serde_json::Value>) -> Agent {
        self.world.expect_policies(policies);
        self
    }

    pub fn step(&mut self, now: Moment, event: Event) -> Decision {
        let mut decision = Decision::default();
        self.now = now.max(self.now);
        let concern = event.concerns(&self.world);
        let known = self.placements.len();
        self.take(event, &mut decision);
        if self.started.is_none() {
            return decision;
        }
        let mut follows_anew = false;
        let mut placements = std::mem::take(&mut self.placements);
        for (id, placement) in &mut placements {
            let was = placement.role();
            self.watch_lease(id, placement, &mut decision);
            let concerned = concern.includes(id, &placement.name.namespace) || placement.role() != was;
            if concerned || (concern == Concern::WhoeverIsDue && self.is_due(placement)) {
                let before = Before::of(placement, &decision);
                self.decide(id, placement, &mut decision);
                placement.rest = self.rest(placement, before, &decision);
                follows_anew |= placement.follows_anew();
            }
        }
        placements.retain(|_, placement| placement.assignment.is_some() || placement.site.is_some());
        self.placements = placements;
        if follows_anew || self.placements.len() != known {
            self.follow_what_matters();
        }
        self.speak(&mut decision);
        decision
    }

    fn take(&mut self, event: Event, decision: &mut Decision) {
        match event {
            Event::Started(memory) => self.start(memory, decision),
            Event::Tick(wall) => self.compare_clocks(wall, decision),
            Event::HubUp => self.hub_up(decision),
            Event::HubDown => {
                self.hub_up = false;
                self.placements.values_mut().for_each(|placement| placement.lease.lose_hub());
            }
            Event::FromHub(message) => self.hear_hub(message, decision),
            Event::Watched(watched) => self.world.see(watched),
            Event::HoldAsked { ask, request } => self.answer_hold(ask, request, decision),
            Event::HoldAnswered { peer, placement, epoch, asked, answer } => {
                self.take_promise(&peer, &placement, epoch, asked, answer, decision);
            }
            Event::GateAsked(question) => self.gate_asked(question),
            Event::Probed { cluster, path, reachable, mark, began } => {
                let mark = if began > self.marks_since { mark } else { Mark::default() };
                self.paths.probed(cluster, path, reachable, mark, began);
            }
            Event::Witnessed(found) => self.witnessed(&found),
            Event::SiteWritten { placement, result } => {
                self.site_written(&placement, result.map(|it| *it), decision)
            }
            Event::SiteSeen { placement, recorded } => self.site_seen(&placement, recorded.map(|it| *it)),
            Event::PoliciesTried(result) => self.world.see_enforcement(result),
            Event::MemoryWritten { success } => self.memory_written(success),
            Event::Finished { placement, key, result } => self.finished(&placement, &key, result, decision),
        }
    }

    /// What has to be watched, as of the last step.
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    /// All peers of all placements, by the uid in their certificates.
    pub fn peers(&self) -> BTreeMap<String, ClusterName> {
        let assignments = self.placements.values().filter_map(|placement| placement.assignment.as_ref());
        let peers = assignments.flat_map(|assignment| &assignment.peers);
        peers.map(|peer| (peer.identity.clone(), peer.cluster.clone())).collect()
    }

    /// Name, role and, for what is held, the end of the lease.
    pub fn roles(&self) -> impl Iterator<Item = (&PlacementName, Role, Option<Moment>)> {
        let held = |placement: &Placement| match placement.role() {
            Role::Holder => placement.lease.deadline(placement.targets()),
            Role::Promoting | Role::Standby | Role::Fenced | Role::Unknown => None,
        };
        self.placements.values().map(move |placement| (&placement.name, placement.role(), held(placement)))
    }

    /// When this agent last wrote to its API server.
    pub fn last_write(&self) -> Option<Moment> {
        self.last_write
    }

    /// A site that was holder in another life of its node is stopped before anyone is asked (protocol §6). It waits for
    /// that no longer than the time to stop.
    pub fn may_call_hub(&self) -> bool {
        let Some(started) = self.started else { return false };
        self.placements.values().filter(|_| kept(Rule::StoppedBeforeTheHubIsCalled)).all(|placement| {
            let stopping = placement.role() == Role::Fenced && !self.is_stopped(placement);
            let bound = placement.policy().map_or(Duration::ZERO, |policy| policy.timing.stop);
            !stopping || self.now >= started + bound
        })
    }

    fn is_stopped(&self, placement: &Placement) -> bool {
        self.world.is_known(&placement.name.namespace)
            && placement
                .survey
                .as_ref()
                .is_some_and(|(_, survey)| survey.workloads.iter().all(|workload| workload.wanted == 0))
    }

    /// The deadline: this is what the whole product hangs on, so it looks at nothing but the clock and the lease.
    fn watch_lease(&self, id: &PlacementId, placement: &mut Placement, decision: &mut Decision) {
        let bound_by_lease = match placement.role() {
            Role::Holder => true,
            Role::Promoting => placement.is_running(),
            Role::Standby | Role::Fenced | Role::Unknown => false,
        };
        // Whoever lets go of a placement gives it to nobody else.
        let bound_by_lease =
            bound_by_lease && !placement.is_being_released() && placement.assignment.is_some();
        let Some(policy) = placement.policy().filter(|_| bound_by_lease) else { return };
        let deadline = placement.lease.deadline(placement.targets());
        if deadline.is_some_and(|deadline| self.now < deadline) || !kept(Rule::DeadlineStops) {
            placement.told_expiry = false;
            return;
        }
        if !placement.told_expiry {
            let (placement, stops) = (placement.name.clone(), policy.expiry_stops());
            decision.note.push(Note::LeaseRanOut { placement, stops });
        }
        placement.told_expiry = true;
        if policy.expiry_stops() {
            // What was commanded before is commanded again, and then judged anew.
            placement.command = None;
            placement.enter_role(id, placement.epoch_seen(), Role::Fenced, self.now, self.wall);
        }
    }

    /// One placement: what it is, what follows, what is told.
    pub(crate) fn decide(&self, id: &PlacementId, placement: &mut Placement, decision: &mut Decision) {
        if placement.withdraw_resync(self.now) {
            decision.note.push(Note::ResyncWithdrawn { placement: placement.name.clone() });
        }
        if !placement.is_being_released() {
            placement.follow_assignment(id, &self.identity.cluster, self.now, self.wall);
            placement.record_assignment();
        }
        self.refresh_survey(id, placement);
        placement.protect_seen_claims();
        let judged = self.next(id, placement);
        if let Some(Judged { next, told, steered, starting: _ }) = &judged {
            self.remember_replicas(placement, next);
            self.turn(id, placement, next.turn);
            self.apply(id, placement, next, steered, decision);
            self.acknowledge(placement, told, decision);
        }
        self.write_site(placement, decision);
        if let Some(Judged { mut next, told: _, steered, starting }) = judged {
            if starting && next.outcome == Outcome::Done && next.effects.is_empty() {
                placement.started(self.now);
            }
            next.ailments.extend(steered.ailments);
            self.report(id, placement, next, decision);
        }
    }

    fn refresh_survey(&self, id: &PlacementId, placement: &mut Placement) {
        let revision = self.world.revision(&placement.name.namespace);
        let Some(assignment) = &placement.assignment else { return };
        let knows_group = assignment.group().is_none() || self.world.knows_group(&placement.name.namespace);
        if !knows_group
            || !self.world.is_known(&placement.name.namespace)
            || placement.survey.as_ref().is_some_and(|(seen, _)| *seen == revision)
        {
            return;
        }
        let commanded = placement.command.iter().flat_map(|current| current.claims()).collect::<Vec<_>>();
        let before = placement.survey.take().map(|(_, survey)| survey).or(placement.survey_before.take());
        let seen = survey::survey(&self.world, assignment, placement.site.as_ref(), &commanded, before);
        placement.gates.follow(self.now, &seen.gated);
        placement.survey = Some((revision, seen));
        placement.surveys += 1;
        placement.notice_refusals(&self.world, self.now);
        placement.notice_reconcilers(id, &self.world);
    }

    /// What its duty asks for next.
    fn next(&self, id: &PlacementId, placement: &mut Placement) -> Option<Judged> {
        let assignment = placement.assignment.as_ref()?;
        let (_, survey) = placement.survey.as_ref()?;
        let unwritten = SiteState::new(id.clone(), placement.name.clone());
        let view = View {
            now: self.now,
            world: &self.world,
            survey,
            assignment,
            site: placement.site.as_ref().unwrap_or(&unwritten),
            recorded: placement.recorded.as_ref().map(|recorded| &recorded.state),
            fence: placement.fence.as_ref(),
            granted: placement.lease.is_granted(self.now, placement.targets()),
            stopping: placement.is_stopping(),
            told: placement.has_told_inventory(),
            refused_for: placement.refused_for(self.now),
            commanded_for: placement
                .command
                .as_ref()
                .map_or(Duration::ZERO, |current| self.now.since(current.admitted)),
        };
        let command = placement.command.as_ref().map(|current| &current.command);
        let seen = Seen {
            fence_complete: placement.fence_is_complete(),
            demoted: survey.has_demoted_volume(placement.epoch_seen()),
            release_is_due: placement.release_is_due(self.now),
        };
        let duty = duty(placement.site.as_ref(), command, assignment.inventory.as_deref(), seen);
        let steered = self.steer(id, placement, duty);
        // A write that is under way could bring back what is deleted meanwhile.
        let next = if duty == Duty::Release && placement.writing.in_flight {
            Next::waiting_for("the last write of the DRSiteState to be answered")
        } else if duty == Duty::Release && !steered.effects.is_empty() && !seen.release_is_due {
            Next::waiting_for("Argo CD or Flux to go on")
        } else {
            desired::next(&view, duty)
        };
        let starting = matches!(duty, Duty::Resume(_) | Duty::ScaleUp(_));
        let told = match command {
            Some(command) if !duty.serves(&command.action) => duty.comes_first(),
            Some(_) | None => next.outcome.clone(),
        };
        if let Some(progress) = placement.fence.as_mut().filter(|_| duty.stops()) {
            progress.complete = next.fenced.unwrap_or(progress.complete);
            if survey.has_users() {
                progress.in_use = self.now;
            }
        }
        Some(Judged { next, told, steered, starting })
    }

    /// Argo CD and Flux are paused as long as this cluster is Fenced, until it lets go.
    fn steer(&self, id: &PlacementId, placement: &Placement, duty: Duty<'_>) -> Steered {
        let asked = Asked {
            placement: id,
            epoch: placement.epoch_seen(),
            paused: placement.role() == Role::Fenced && duty != Duty::Release,
            reconcilers: &placement.reconcilers,
            attempts: &placement.attempts,
        };
        reconcilers::steer(&self.world, &asked)
    }

    fn remember_replicas(&self, placement: &mut Placement, next: &Next) {
        let Some(site) = &mut placement.site else { return };
        for had in &next.remember {
            if !site.replicas.iter().any(|known| known.workload == had.workload) {
                site.replicas.push(had.clone());
            }
        }
    }

    /// What has been seen is written down, and counts once it is durable.
    fn turn(&self, id: &PlacementId, placement: &mut Placement, turn: Option<Turn>) {
        let epoch = placement.epoch_seen();
        match turn {
            Some(Turn::HandedOver) => placement.site_mut(id).handed_over = Some(epoch),
            Some(Turn::Rejoined) => placement.enter_role(id, epoch, Role::Standby, self.now, self.wall),
            None => {}
        }
    }

    fn apply(
        &self,
        id: &PlacementId,
        placement: &mut Placement,
        next: &Next,
        steered: &Steered,
        decision: &mut Decision,
    ) {
        let aside = steered.effects.iter().map(|effect| (effect, true));
        let effects: Vec<_> = next.effects.iter().map(|effect| (effect, false)).chain(aside).collect();
        let wanted: BTreeSet<String> = effects.iter().map(|(effect, _)| effect.key()).collect();
        placement.attempts.retain(|key, attempt| attempt.in_flight || wanted.contains(key));
        for (effect, aside) in effects {
            let attempt = placement.attempts.entry(effect.key()).or_default();
            if attempt.may_begin(self.now) {
                attempt.in_flight = true;
                attempt.stops = effect.stops();
                attempt.aside = aside;
                decision.apply.push((id.clone(), effect.clone()));
            }
        }
    }

    /// Tells the outcome of the running command whenever it has changed; what is done is remembered, and over.
    fn acknowledge(&self, placement: &mut Placement, told: &Outcome, decision: &mut Decision) {
        let Some(mut current) = placement.command.take() else { return };
        let step = current.command.id.step;
        if !current.accepted && placement.is_durable_at(current.command.epoch) {
            current.accepted = true;
            decision.reached.push((step, Point::Accepted));
        }
        let outcome = with_failures(told, &placement.attempts);
        let done = outcome == Outcome::Done;
        if done {
            decision.reached.push((step, Point::Applied));
            decision.note.push(Note::CommandDone { command: current.command.id.clone() });
            if let Some(site) = &mut placement.site {
                site.remember_result(current.command.id.to_string(), outcome.clone());
                if step == StepKind::Resync {
                    // It replays: from here on it is a copy that must not be thrown away again.
                    site.resync = None;
                }
            }
        }
        let working = matches!(outcome, Outcome::Working { .. });
        let may_tell = self.hub_up && (!working || self.now >= current.quiet_until);
        if may_tell && current.answered.as_ref() != Some(&outcome) {
            current.quiet_until = self.now + REPORT_SPACING;
            decision.send.push(FromAgent::Acknowledgement(Acknowledgement {
                cluster: self.identity.cluster.clone(),
                command: current.command.id.clone(),
                epoch: current.command.epoch,
                outcome: outcome.clone(),
            }));
            current.answered = Some(outcome);
            if done {
                decision.reached.push((step, Point::Acknowledged));
            }
        }
        match done {
            // The watch may tell of the deletion before its own answer comes: nothing is to be written anew.
            true if current.command.action == Action::Release => {
                placement.assignment = None;
                placement.released();
            }
            true => {}
            false => placement.command = Some(current),
        }
    }

    fn write_site(&self, placement: &mut Placement, decision: &mut Decision) {
        if !placement.is_dirty() || !placement.writing.may_begin(self.now) {
            return;
        }
        let Some(site) = &placement.site else { return };
        placement.writing.in_flight = true;
        let resource_version = placement.recorded.as_ref().map(|recorded| recorded.resource_version.clone());
        decision.remember.push(SiteWrite { state: site.clone(), resource_version });
    }

    fn report(&self, id: &PlacementId, placement: &mut Placement, next: Next, decision: &mut Decision) {
        let Some((_, seen)) = &placement.survey else { return };
        if !self.hub_up || placement.assignment.is_none() || self.now < placement.reporting.not_before {
            return;
        }
        let failing = match next.outcome {
            Outcome::Failing { reason, message } if next.ailments.is_empty() => {
                Some(Ailment { reason, message })
            }
            Outcome::Failing { .. } | Outcome::Done | Outcome::Working { .. } | Outcome::Refused { .. } => {
                None
            }
        };
        let standing = survey::Standing {
            epoch_seen: placement.epoch_seen(),
            role: placement.role(),
            operation: placement.site.as_ref().and_then(|site| site.operation.clone()),
            staged: next.staged,
            ailments: next
                .ailments
                .into_iter()
                .chain(failing)
                .chain(invalid_timing(placement))
                .chain(gates::silent(placement, self.now))
                .collect(),
            source: placement.is_source(),
            divergence: divergence::divergence(placement, self.now),
        };
        let basis = (placement.surveys, standing.clone());
        if placement.reporting.basis.as_ref() == Some(&basis) {
            return;
        }
        placement.reporting.basis = Some(basis);
        let report = survey::report(&self.identity.cluster, id, seen, standing);
        if placement.reporting.sent.as_ref() == Some(&report) {
            return;
        }
        let version = report.inventory.as_ref().map(|inventory| inventory.version.clone());
        let mut told = report.clone();
        if version == placement.reporting.inventory_sent {
            told.inventory = None;
        }
        placement.reporting.inventory_sent = version;
        placement.reporting.sent = Some(report);
        placement.reporting.not_before = self.now + REPORT_SPACING;
        decision.send.push(FromAgent::Report(told));
    }

    /// Takes a placement out of the agent's care; the cluster stays as it is. Where its application may run or a fence is
    /// not known to be over, it stays in care: the hub has counted on this cluster's lease and on its fence. A release
    /// goes on to its end.
    pub(crate) fn unassign(&mut self, id: &PlacementId) {
        let Some(placement) = self.placements.get_mut(id) else { return };
        let bound = match placement.role() {
            Role::Holder | Role::Promoting | Role::Fenced => true,
            Role::Standby | Role::Unknown => false,
        };
        if bound || placement.is_being_released() {
            return;
        }
        placement.assignment = None;
        placement.command = None;
        match &mut placement.site {
            Some(site) => site.assignment = None,
            None => {
                self.placements.remove(id);
            }
        }
    }

    pub(crate) fn let_go_of(&mut self, id: &PlacementId) {
        if self.let_go.contains(id) {
            return;
        }
        self.let_go.push_back(id.clone());
        if self.let_go.len() > LET_GO_REMEMBERED {
            self.let_go.pop_front();
        }
    }

    pub(crate) fn assigned(&mut self, mut assignment: Assignment, decision: &mut Decision) {
        let id = assignment.placement.clone();
        if self.let_go.contains(&id) {
            return;
        }
        let refused = assignment.policy.timing.check().err();
        if let Some(error) = &refused {
            let placement = assignment.name.clone();
            decision.note.push(Note::PolicyRefused { placement, message: error.to_string() });
            let known = self.placements.get(&id).and_then(|known| known.assignment.as_ref());
            let Some(known) = known else { return };
            assignment.policy = known.policy;
        }
        let placement = self.placements.entry(id).or_insert_with(|| Placement::new(assignment.name.clone()));
        match &placement.assignment {
            Some(known) if asks_for_the_same(known, &assignment) => placement.survey_anew(),
            Some(_) | None => (placement.survey, placement.survey_before) = (None, None),
        }
        if let Some(site) = &mut placement.site
            && site.assignment.is_none()
        {
            site.assignment = Some(without_inventory(&assignment));
        }
        placement.refused_policy = refused.map(|error| error.to_string());
        placement.assignment = Some(assignment);
    }
}

/// Whether the same is to be protected.
fn asks_for_the_same(known: &Assignment, newer: &Assignment) -> bool {
    known.name == newer.name
        && known.protect == newer.protect
        && known.replication_class == newer.replication_class
        && known.group_class == newer.group_class
}

fn invalid_timing(placement: &Placement) -> Option<Ailment> {
    let why = placement.refused_policy.as_ref()?;
    let message = format!(
        "DRPlacement {}: its policy is not taken, and the one before stays in force: {why}",
        placement.name
    );
    Some(Ailment { reason: reason::INVALID_TIMING.to_owned(), message })
}

/// A duty's next effects, and what the hub is told.
struct Judged {
    next: Next,
    /// The outcome of the running command, which is the duty's only if that is what it serves.
    told: Outcome,
    steered: Steered,
    /// The duty is to start the workloads.
    starting: bool,
}

/// Requests that keep failing tell more than what they were waited for.
fn with_failures(outcome: &Outcome, attempts: &BTreeMap<String, Attempt>) -> Outcome {
    let stuck = attempts.iter().find(|(_, attempt)| attempt.failures >= 2 && !attempt.aside);
    match (outcome, stuck) {
        (Outcome::Working { .. }, Some((effect, attempt))) => Outcome::Failing {
            reason: reason::REQUEST_FAILED.to_owned(),
            message: format!(
                "request to {effect} fails: {}; it is repeated until it succeeds: check the API server and the agent's rights",
                attempt.message.as_deref().unwrap_or("no message")
            ),
        },
        (outcome, _) => outcome.clone(),
    }
}
