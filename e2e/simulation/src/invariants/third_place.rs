//! What the hub decides, held against what the witness has shown it.

use hub_core::journal::Intent;

use super::decisions::{MARGIN, SUSPECT};
use crate::application::Number;
use crate::world::World;

impl World {
    /// S3: an epoch that the witness remembers was entered by somebody, whatever the journal says.
    pub(super) fn check_memory(&mut self, app: Number, intent: &Intent) {
        let Some(witness) = &self.witness else { return };
        let remembered = witness.remembers(&self.apps[app].id);
        if intent.epoch <= remembered {
            let what =
                format!("{} enters {}, the witness remembers {remembered}", intent.operation, intent.epoch);
            self.watch.breaks("S3 what the witness remembers never returns", what);
        }
    }

    /// S14 and S16, at the accusation and again right before the point of no return.
    pub(super) fn check_against_the_witness(&mut self, intent: &Intent) {
        let Some(witness) = &self.witness else { return };
        let shown = witness.shown.of_life(self.hub.life);
        let answered = shown.and_then(|shown| shown.at);
        if answered.is_none_or(|at| self.now > at + SUSPECT + MARGIN) {
            let what = format!("{}, and the witness last answered at {answered:?}", intent.operation);
            self.watch.breaks("S14 a silent witness freezes", what);
        }
        let beats = intent.from.as_ref().zip(shown).and_then(|(from, shown)| shown.advanced(from));
        let heard_by_now = |at: &u64| self.now >= *at && self.now < at + SUSPECT - MARGIN;
        if let Some(at) = beats.filter(heard_by_now) {
            let what = format!("{} although the holder's Lease has advanced at {at}", intent.operation);
            self.watch.breaks("S16 a Lease that advances vetoes", what);
        }
    }

    /// S3: what cannot be taken back is remembered outside first.
    pub(super) fn check_testimony(&mut self, app: Number, intent: &Intent) {
        let Some(witness) = &self.witness else { return };
        let shown = witness.shown.of_life(self.hub.life).map(|shown| shown.epoch(&self.apps[app].id));
        if shown.is_none_or(|shown| shown < intent.epoch) {
            let what =
                format!("{} promotes at {}, the witness has shown {shown:?}", intent.operation, intent.epoch);
            self.watch.breaks("S3 the witness knows before a promotion", what);
        }
    }
}
