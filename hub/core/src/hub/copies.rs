//! The copy of the holder's manifests and sync times that a failover lives on.

use proto::{PlacementId, Role, StepKind};

use super::Hub;
use crate::checks::unfenceable;
use crate::decision::{Decision, Remembered};
use crate::event::Now;
use crate::journal::OperationKind;
use crate::observation::KEPT_AT_LEAST_EVERY;

impl Hub {
    /// Keeps the holder's manifests and sync times, the newest wins (storage.md, rule 9).
    pub(super) fn keep_copy(&mut self, now: Now, id: &PlacementId, decision: &mut Decision) {
        self.share_inventory(id);
        let Some(kept) = self.newest_copy(now, id) else { return };
        decision.remember.push(kept.clone());
        self.remembered.insert(id.clone(), kept);
    }

    /// What the holder reports and is as the one that is kept becomes that one: from then on it is seen at once.
    fn share_inventory(&mut self, id: &PlacementId) {
        let holder = self.ledger.of(id).and_then(|it| it.ownership.as_ref()).map(|it| &it.holder);
        let site = holder.and_then(|holder| self.fleet.sites.get_mut(holder));
        let report = site.and_then(|site| site.reports.get_mut(id));
        let reported = report.and_then(|report| report.inventory.as_mut());
        if let (Some(reported), Some(known)) = (reported, self.remembered.get(id))
            && !reported.is_the_same_as(&known.inventory)
            && *reported == known.inventory
        {
            *reported = known.inventory.clone();
        }
    }

    /// None: there is none, or nothing but its time has changed, and not long ago.
    fn newest_copy(&self, now: Now, id: &PlacementId) -> Option<Remembered> {
        let progress = self.ledger.of(id)?;
        let ownership = progress.ownership.as_ref()?;
        let site = self.fleet.sites.get(&ownership.holder)?;
        let report = site.reports.get(id)?;
        let owns =
            matches!(report.role, Role::Holder | Role::Promoting) && report.epoch_seen == ownership.epoch;
        let hands_over = progress.running().is_some_and(|operation| {
            operation.current_step() == Some(StepKind::BackUp)
                && report.role == Role::Fenced
                && report.epoch_seen == operation.intent.epoch
                && report.pods == 0
        });
        if !owns && !hands_over {
            return None;
        }
        let known = self.remembered.get(id);
        // While it is being moved, the application's replicas at the new place are not yet what the user wants; nor are they
        // when the move was cut before it could start there.
        let settled = hands_over
            || !progress.never_started()
                && progress.running().is_none_or(|operation| match operation.intent.kind {
                    OperationKind::Deploy | OperationKind::Resync => true,
                    OperationKind::Readopt
                    | OperationKind::FailOver
                    | OperationKind::Migrate
                    | OperationKind::FailBack
                    | OperationKind::Release => false,
                });
        let inventory = report
            .inventory
            .as_ref()
            .filter(|_| settled)
            .or_else(|| known.map(|known| &known.inventory))
            .or(report.inventory.as_ref())?;
        let received = site.heard.as_ref().map_or(now.wall, |heard| heard.at_wall);
        let timing = &self.placements.get(id)?.policy.timing;
        let unfenceable = site.heard.as_ref().and_then(|heard| unfenceable(timing, progress, heard, report));
        let volumes = match known {
            // A stopped holder's volumes are about to show no sync time any more.
            Some(known) if hands_over => &known.volumes,
            Some(_) | None => &report.volumes,
        };
        let doubted = site.syncs.get(id).into_iter().flatten().filter(|(_, sync)| sync.is_doubted());
        let doubted = doubted.map(|(claim, sync)| (claim.clone(), *sync)).collect();
        let worth_keeping = known.is_none_or(|known| {
            known.inventory != *inventory
                || known.volumes != *volumes
                || known.doubted != doubted
                || known.from != ownership.holder
                || known.unfenceable != unfenceable
                || received.since(known.received) >= KEPT_AT_LEAST_EVERY
        });
        let name = progress.name.clone().filter(|_| worth_keeping)?;
        Some(Remembered {
            placement: id.clone(),
            name,
            from: ownership.holder.clone(),
            inventory: inventory.clone(),
            volumes: volumes.clone(),
            doubted,
            received,
            unfenceable,
        })
    }
}
