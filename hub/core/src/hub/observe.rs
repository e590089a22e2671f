//! From what the hub holds to what it knows about one placement now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{ClusterName, Moment, Outcome, PlacementId, Rule, StepKind, kept};

use super::Hub;
use crate::approval::Approval;
use crate::event::Now;
use crate::journal::OperationKind;
use crate::observation::{FirstOut, HubView, Observation, SiteView, is_ready};
use crate::placement::Placement;
use crate::progress::{Operation, Progress};
use crate::step::stuck_after;
use crate::tell::Tell;

impl Hub {
    /// Everything known about one placement now, as ages.
    pub(super) fn observe<'a>(&'a self, now: Now, id: &PlacementId, tell: &Tell) -> Option<Observation<'a>> {
        static NOTHING_YET: Progress = Progress::NEW;
        let placement = self.placements.get(id)?;
        let progress = self.ledger.of(id).unwrap_or(&NOTHING_YET);
        let holder = progress.ownership.as_ref().map(|ownership| &ownership.holder);
        let timing = &placement.policy.timing;
        let dark = self
            .fleet
            .sites
            .values()
            .filter(|site| site.silent_for(now.boot, self.awake_since) >= timing.suspect);
        let holder_by_edit_outside = holder.filter(|holder| !placement.clusters.contains(holder));
        let target = progress.running().map(|operation| &operation.intent.to);
        let target_by_edit_outside =
            target.filter(|target| !placement.clusters.contains(target) && holder != Some(target));
        let concerned = placement.clusters.iter().chain(holder_by_edit_outside).chain(target_by_edit_outside);
        let sites = concerned.filter_map(|cluster| self.fleet.sites.get(cluster));
        let as_if_granted_at = if kept(Rule::BootWait) { self.started } else { Moment::default() };
        let last_grant = self.last_grant.get(id).copied().unwrap_or(as_if_granted_at);
        // Any reply may have moved a deadline at the holder (the agent counts from its own sending), so the wait counts
        // from the last word that could have been answered.
        let last_heard = holder.and_then(|holder| self.answered.get(holder)).copied().unwrap_or(last_grant);
        let views = sites.map(|site| SiteView {
            cluster: &site.cluster,
            connected: site.connected,
            liveness: site.liveness(now.boot, self.awake_since, timing.suspect, timing.unreachable),
            silent: site.silent_for(now.boot, self.awake_since),
            back_for: site.back_for(now.boot, timing.suspect),
            heard: site.heard.as_ref(),
            report: site.reports.get(id),
            mute: site.mute(id),
            sees_holder: holder
                .map(|holder| site.sees(holder, now.boot, self.ledger.term))
                .unwrap_or_default(),
            answers: self.answers_of(id, progress, &site.cluster.name),
        });
        let mut observation = Observation {
            placement,
            progress,
            remembered: self.remembered.get(id),
            sites: views.collect(),
            unconfigured: placement
                .clusters
                .iter()
                .filter(|name| !self.fleet.sites.contains_key(name))
                .collect(),
            hub: HubView {
                failure_domain: &self.settings.failure_domain,
                listening: now.boot.since(self.awake_since),
                witnesses: self.witnesses.view(now.boot, id, holder),
                sites: self.fleet.sites.len(),
                dark: dark.count(),
                lost_lately: self.lost_lately(now),
                steady_after: self.settings.steady_after,
                moving: self.moving(now, id),
                moving_at_most: self.settings.moves_at_once,
                first_out: self.first_out(now, id, progress),
            },
            lease_age: now.boot.since(last_grant.max(last_heard)),
            verified_age: self.verified.get(id).map(|began| now.boot.since(*began)),
            aim: None,
            preferred_flaw: None,
            standbys: Vec::new(),
            approvals: self.approvals_of(placement),
            missing_dependencies: self.missing_dependencies(now, placement, progress),
            protected_since: tell.protected_since(id),
            overlapping: self.overlapped_by(placement),
            shared_claim: self.shared_claim(placement, progress),
            wall: now.wall,
        };
        observation.look_at_the_standbys();
        Some(observation)
    }

    fn approvals_of(&self, placement: &Placement) -> Vec<&Approval> {
        let from = (placement.name.namespace.clone(), String::new());
        let of_namespace = self.approvals.range(from..).map(|(_, approval)| approval);
        let of_namespace = of_namespace.take_while(|it| it.namespace == placement.name.namespace);
        of_namespace.filter(|approval| approval.concerns(placement)).collect()
    }

    /// Other placements that ask something of the storage now. One that is stuck is for a human, and takes nobody's turn.
    fn moving(&self, now: Now, id: &PlacementId) -> usize {
        let others = self.ledger.moving.iter().filter(|moving| *moving != id);
        let running = others.filter_map(|moving| self.ledger.of(moving)?.running());
        let patience = |operation: &Operation| {
            let placement = self.placements.get(&operation.intent.placement);
            placement.map_or(Duration::ZERO, |placement| stuck_after(&placement.policy.timing))
        };
        let goes_on = |operation: &&Operation| {
            let issued = operation.step(StepKind::Promote).issued;
            issued.is_none_or(|issued| now.wall.since(issued) < patience(operation))
        };
        running.filter(goes_on).count()
    }

    fn lost_lately(&self, now: Now) -> Vec<&ClusterName> {
        const LATELY: Duration = Duration::from_secs(3600);
        let lately = self.ledger.lost.iter().filter(|(_, at)| now.wall.since(**at) < LATELY);
        lately.map(|(cluster, _)| cluster).collect()
    }

    /// The newest failover of another placement that leaves the same cluster, as long as none has got through: one that is
    /// stuck makes room for the next, and not for all.
    fn first_out(&self, now: Now, id: &PlacementId, progress: &Progress) -> Option<FirstOut<'_>> {
        let from = progress.running()?.intent.from.as_ref()?;
        let began = progress.running()?.started;
        if self.ledger.proven.get(from).is_some_and(|proven| *proven >= began) {
            return None;
        }
        let others = self.ledger.moving.iter().filter(|moving| *moving != id);
        let promoting = others.filter_map(|moving| {
            let operation = self.ledger.of(moving)?.running()?;
            let intent = &operation.intent;
            let promote = operation.step(StepKind::Promote);
            let leads = intent.kind == OperationKind::FailOver && intent.from.as_ref() == Some(from);
            let issued = promote.issued.filter(|_| leads && promote.acknowledged.is_none())?;
            Some(FirstOut {
                placement: moving,
                name: &intent.name,
                from: from.clone(),
                promoting_for: now.wall.since(issued),
            })
        });
        promoting.min_by_key(|first| first.promoting_for)
    }

    /// What a placement that is being moved needs first, and does not find.
    fn missing_dependencies(&self, now: Now, placement: &Placement, progress: &Progress) -> Vec<String> {
        if progress.running().is_none() {
            return Vec::new();
        }
        let namespace = &placement.name.namespace;
        let missing = placement.depends_on.iter().filter_map(|name| {
            let other = self
                .placements
                .values()
                .find(|other| other.name.namespace == *namespace && other.name.name == *name);
            match other {
                None => Some(format!("{namespace}/{name}, which does not exist")),
                Some(other) if self.needs(other, &placement.name.name, &mut BTreeSet::new()) => {
                    Some(format!("{}, which waits for it in turn", other.name))
                }
                Some(other) => (!self.serves(now, other)).then(|| other.name.to_string()),
            }
        });
        missing.collect()
    }

    /// Whether a placement depends on another, directly or by others.
    fn needs(&self, placement: &Placement, name: &str, seen: &mut BTreeSet<PlacementId>) -> bool {
        if !seen.insert(placement.id.clone()) {
            return false;
        }
        let namespace = &placement.name.namespace;
        let mut others = self.placements.values().filter(|other| {
            other.name.namespace == *namespace && placement.depends_on.contains(&other.name.name)
        });
        others.any(|other| other.name.name == name || self.needs(other, name, seen))
    }

    fn serves(&self, now: Now, placement: &Placement) -> bool {
        let ownership = self.ledger.of(&placement.id).and_then(|progress| progress.ownership.as_ref());
        let site = ownership.and_then(|ownership| self.fleet.sites.get(&ownership.holder));
        let timing = &placement.policy.timing;
        site.is_some_and(|site| {
            let heard = site.silent_for(now.boot, self.awake_since) < timing.suspect && site.connected;
            heard && site.reports.get(&placement.id).is_some_and(is_ready)
        })
    }

    fn answers_of<'a>(
        &'a self,
        id: &PlacementId,
        progress: &Progress,
        cluster: &ClusterName,
    ) -> BTreeMap<StepKind, &'a Outcome> {
        let running = progress.running().map(|operation| &operation.intent.operation);
        self.answers
            .get(id)
            .filter(|answers| Some(&answers.operation) == running)
            .map(|answers| {
                let own = answers.outcomes.iter().filter(|((from, _), _)| from == cluster);
                own.map(|((_, step), outcome)| (*step, outcome)).collect()
            })
            .unwrap_or_default()
    }

    /// Labels of two placements may differ and still select one claim.
    fn shared_claim(
        &self,
        placement: &Placement,
        progress: &Progress,
    ) -> Option<(&proto::PlacementName, &str)> {
        let holder = progress.ownership.as_ref().map(|ownership| &ownership.holder);
        if holder == Some(&placement.preferred) {
            return None;
        }
        let here =
            self.fleet.sites.iter().filter(|(cluster, _)| holder.is_none_or(|holder| holder == *cluster));
        let reports = here.filter_map(|(_, site)| site.reports.get(&placement.id));
        let claims: BTreeSet<&str> =
            reports.flat_map(|report| &report.volumes).map(|volume| volume.claim.as_str()).collect();
        let namespace = &placement.name.namespace;
        let others = self
            .remembered
            .values()
            .filter(|kept| kept.placement != placement.id && kept.name.namespace == *namespace);
        others.filter(|kept| self.placements.contains_key(&kept.placement)).find_map(|kept| {
            let volumes = kept.inventory.volumes.iter();
            let shared = volumes.map(|volume| volume.claim.as_str()).find(|claim| claims.contains(claim))?;
            Some((&kept.name, shared))
        })
    }

    pub(super) fn overlapping(&self, id: &PlacementId) -> Vec<PlacementId> {
        let Some(placement) = self.placements.get(id) else { return Vec::new() };
        let others = self.placements.values().filter(|other| other.overlaps(placement));
        others.map(|other| other.id.clone()).collect()
    }

    /// The other placement that selects the same and goes before: the one that owns something, or the first by name.
    fn overlapped_by(&self, placement: &Placement) -> Option<&proto::PlacementName> {
        let owned =
            |id: &PlacementId| self.ledger.of(id).is_some_and(|progress| progress.ownership.is_some());
        if owned(&placement.id) {
            return None;
        }
        let mut others = self.placements.values().filter(|other| other.overlaps(placement));
        others.find(|other| owned(&other.id) || other.name < placement.name).map(|other| &other.name)
    }
}
