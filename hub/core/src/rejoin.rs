//! After a lost or damaged journal: does anyone know more than this hub? (protocol §3)

use proto::{Epoch, PlacementName, Role, StepKind};

use crate::progress::Progress;

/// Why automation must stop for this placement, if `witness` acts at an epoch at which the journal has told nobody to:
/// the journal has the operation, and has lost how it went on.
pub fn acts_untold(
    progress: Option<&Progress>,
    witness: &str,
    (epoch, role): (Epoch, Role),
    name: Option<&PlacementName>,
) -> Option<String> {
    let acts = matches!(role, Role::Promoting | Role::Holder);
    let operation =
        progress?.operation.as_ref().filter(|operation| acts && operation.intent.epoch == epoch)?;
    let told = operation.step(StepKind::Promote).issued.is_some();
    if told || !operation.intent.kind.enters_an_epoch() {
        return None;
    }
    let name = name.map_or("this placement".to_owned(), ToString::to_string);
    Some(format!(
        "{name}: {witness} is {role:?} at epoch {epoch}, and the hub's journal has never told anybody to be: the journal was restored from an old copy. Nothing is moved. See where the application runs, then delete the DRPlacement (the application stays) and create it anew: it is adopted where it runs"
    ))
}

/// Why automation must stop for this placement, if `witness` remembers an epoch that the journal does not know.
pub fn knows_more(
    progress: Option<&Progress>,
    witness: &str,
    epoch: Epoch,
    name: Option<&PlacementName>,
) -> Option<String> {
    let highest = progress.map_or(Epoch(0), |progress| progress.highest);
    if epoch <= highest {
        return None;
    }
    let name = name.map_or("this placement".to_owned(), ToString::to_string);
    Some(format!(
        "{name}: {witness} remembers epoch {epoch}, and the hub's journal only epoch {highest}: the journal was lost or restored from an old copy. Nothing is moved. See where the application runs, then delete the DRPlacement (the application stays) and create it anew: it is adopted where it runs"
    ))
}
