//! Marks on PersistentVolumes whose claims are protected: admission refuses to delete them while they are bound. A volume has
//! no namespace, so no DRSiteState can speak for it there.

use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::world::Volume;

/// Each protected claim's volume names its placement.
pub fn mark_volumes(view: &View<'_>, next: &mut Next) {
    let placement = &view.assignment.placement;
    for (name, volume) in volumes(view) {
        if volume.protected_by.as_deref() != Some(placement.as_str()) {
            let volume = name.to_owned();
            next.effects.push(Effect::MarkVolume { volume, placement: Some(placement.clone()) });
        }
    }
}

/// Takes this placement's marks away.
pub fn unmark_volumes(view: &View<'_>, next: &mut Next) {
    let placement = view.assignment.placement.as_str();
    for (name, _) in volumes(view).filter(|(_, volume)| volume.protected_by.as_deref() == Some(placement)) {
        next.effects.push(Effect::MarkVolume { volume: name.to_owned(), placement: None });
    }
}

fn volumes<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a str, &'a Volume)> {
    let View { world, survey, assignment, .. } = *view;
    survey.claims.iter().filter_map(move |claim| {
        let name =
            world.claim(&assignment.name.namespace, claim).filter(|claim| claim.bound)?.volume.as_deref()?;
        Some((name, world.volume(name)?))
    })
}
