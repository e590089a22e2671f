//! The array: one image of each volume at each site, mirrored by snapshots. What promotes, refuses, diverges and is
//! thrown away here behaves as storage.md says; every forced promotion and every discarded write is counted.

use std::collections::BTreeMap;

use proto::{ClusterName, Shared, WallTime};

use crate::transition::Time;

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub primary: bool,
    /// The numbers of the writes it holds.
    pub log: Shared<Vec<u32>>,
    /// Mirroring is enabled: a VolumeReplication has been made.
    pub mirrored: bool,
    /// It was primary, and has been demoted here since.
    pub demoted: bool,
    /// What it held when it was demoted has arrived at the other site.
    pub crossed: bool,
    /// The other site's demotion has arrived here: promotion needs no force.
    pub peer_is_demoted: bool,
    /// Its content does not match its peer's: only a resync makes it a copy again.
    pub split: bool,
    /// A resync has deleted it, and makes it anew.
    pub resyncing: bool,
    /// When the newest snapshot that the other site holds whole was taken.
    pub last_sync: Option<WallTime>,
    /// When it was last promoted or demoted.
    pub turned: Time,
    /// When the newest snapshot that arrived here was taken.
    pub newest: Time,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub handle: String,
    pub from: ClusterName,
    pub content: Shared<Vec<u32>>,
    pub taken: Time,
    pub demotion: bool,
    /// It makes the image at the other side anew.
    pub whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotFound,
    FailedPrecondition,
    InUse,
}

/// A promotion that the driver was asked to force, of an image that was not the last primary itself.
#[derive(Clone, Debug)]
pub struct Forced {
    pub at: Time,
    pub site: ClusterName,
    pub handle: String,
}

/// A resync that has thrown acknowledged writes away.
#[derive(Clone, Debug)]
pub struct Discarded {
    pub at: Time,
    pub site: ClusterName,
    pub handle: String,
    pub writes: Vec<u32>,
}

#[derive(Debug, Default)]
pub struct Array {
    /// By the site, and the handle.
    pub images: BTreeMap<ClusterName, BTreeMap<String, Image>>,
    pub sites: Vec<ClusterName>,
    pub forced: Vec<Forced>,
    pub discarded: Vec<Discarded>,
    /// Counts promotions and demotions.
    pub turns: u64,
}

impl Array {
    /// A new volume: one image, writable where it was made.
    pub fn provision(&mut self, site: &ClusterName, handle: &str) {
        let image = Image { primary: true, ..Image::default() };
        self.images.entry(site.clone()).or_default().insert(handle.to_owned(), image);
        self.turns += 1;
    }

    pub fn image(&self, site: &ClusterName, handle: &str) -> Option<&Image> {
        self.any_image(site, handle).filter(|image| !image.resyncing)
    }

    /// Even one that is being made anew.
    pub fn any_image(&self, site: &ClusterName, handle: &str) -> Option<&Image> {
        self.images.get(site)?.get(handle)
    }

    fn image_mut(&mut self, site: &ClusterName, handle: &str) -> Option<&mut Image> {
        self.images.get_mut(site)?.get_mut(handle)
    }

    pub fn peer(&self, site: &ClusterName) -> Option<ClusterName> {
        self.sites.iter().find(|other| *other != site).cloned()
    }

    pub fn is_writable(&self, site: &ClusterName, handle: &str) -> bool {
        self.image(site, handle).is_some_and(|image| image.primary)
    }

    pub fn append(&mut self, site: &ClusterName, handle: &str, write: u32) {
        if let Some(image) = self.image_mut(site, handle) {
            image.log.push(write);
        }
    }

    pub fn enable(&mut self, site: &ClusterName, handle: &str) {
        if let Some(image) = self.image_mut(site, handle) {
            image.mirrored = true;
        }
    }

    /// Without force only what cannot lose anything: the other site has let go, and everything it held is here.
    pub fn promote(
        &mut self,
        now: Time,
        site: &ClusterName,
        handle: &str,
        force: bool,
    ) -> Result<(), Refused> {
        let peer = self.peer(site);
        let other = peer.as_ref().and_then(|peer| self.image(peer, handle)).cloned();
        let image = self.image(site, handle).ok_or(Refused::NotFound)?;
        if image.primary {
            return Ok(());
        }
        let peer_is_primary = other.as_ref().is_some_and(|other| other.primary);
        let turned = other.as_ref().map_or(0, |other| other.turned);
        // The other one may still call itself primary from before it was replaced: then force loses nothing.
        let was_the_last = image.demoted && image.turned > turned;
        let clean = !image.split && (image.peer_is_demoted || (image.demoted && !peer_is_primary));
        if !clean && !force {
            return Err(Refused::FailedPrecondition);
        }
        if !clean && !was_the_last {
            self.forced.push(Forced { at: now, site: site.clone(), handle: handle.to_owned() });
        }
        self.turns += 1;
        let Some(image) = self.image_mut(site, handle) else { return Err(Refused::NotFound) };
        image.primary = true;
        image.turned = now;
        image.demoted = false;
        image.crossed = false;
        image.peer_is_demoted = false;
        image.split = false;
        image.last_sync = None;
        let held = image.log.clone();
        if let Some(other) = peer.as_ref().and_then(|peer| self.image_mut(peer, handle)) {
            other.peer_is_demoted = false;
            other.split |= !clean || !held.starts_with(other.log.as_slice());
        }
        Ok(())
    }

    /// Whether it was primary; refused while it is in use.
    pub fn demote(
        &mut self,
        now: Time,
        site: &ClusterName,
        handle: &str,
        in_use: bool,
    ) -> Result<bool, Refused> {
        self.image(site, handle).ok_or(Refused::NotFound)?;
        let Some(image) = self.image_mut(site, handle) else { return Err(Refused::NotFound) };
        if !image.primary {
            return Ok(false);
        }
        if in_use {
            return Err(Refused::InUse);
        }
        image.primary = false;
        image.turned = now;
        image.demoted = true;
        image.crossed = false;
        self.turns += 1;
        Ok(true)
    }

    /// What the mirror would send from here now; none: nothing is mirrored from here.
    pub fn snapshot(&self, now: Time, from: &ClusterName, handle: &str) -> Option<Snapshot> {
        let image = self.image(from, handle)?;
        let peer = self.peer(from)?;
        let target = self.any_image(&peer, handle);
        let blocked =
            target.is_some_and(|target| (target.split && !target.resyncing) || target.primary || image.split);
        let demotion = image.demoted && !image.crossed;
        ((image.primary || demotion) && image.mirrored && !blocked).then(|| Snapshot {
            handle: handle.to_owned(),
            from: from.clone(),
            content: image.log.clone(),
            taken: now,
            demotion,
            whole: target.is_some_and(|target| target.resyncing),
        })
    }

    /// A snapshot is complete at the other site; false: it is of no use any more.
    pub fn arrive(&mut self, snapshot: &Snapshot, wall: WallTime) -> bool {
        let Snapshot { handle, from, content, taken, demotion, whole } = snapshot;
        let Some(peer) = self.peer(from) else { return false };
        let Some(source) = self.image(from, handle) else { return false };
        let stale =
            if *demotion { !source.demoted || source.crossed } else { !source.primary && !source.demoted };
        if stale {
            return false;
        }
        let target = self.images.entry(peer).or_default().entry(handle.clone()).or_default();
        let anew = target.resyncing;
        if target.primary || (target.split && !anew) || (anew && !whole) || *taken <= target.newest {
            return false;
        }
        target.log = content.clone();
        target.newest = *taken;
        target.mirrored = true;
        target.resyncing = false;
        target.split = false;
        target.demoted = false;
        target.peer_is_demoted = *demotion;
        if let Some(source) = self.image_mut(from, handle) {
            source.crossed |= demotion;
            if source.primary {
                source.last_sync = Some(wall);
            }
        }
        true
    }

    /// Deletes the image here, so that the next snapshot makes it anew. What only this image held is lost.
    pub fn resync(&mut self, now: Time, site: &ClusterName, handle: &str) -> Result<(), Refused> {
        let peer = self.peer(site).ok_or(Refused::NotFound)?;
        let held = self.image(&peer, handle).map(|image| image.log.clone()).unwrap_or_default();
        let image = self.image_mut(site, handle).ok_or(Refused::NotFound)?;
        if image.primary {
            return Err(Refused::FailedPrecondition);
        }
        if !image.split || image.resyncing {
            return Ok(());
        }
        let common = image.log.iter().zip(held.iter()).take_while(|(one, other)| one == other).count();
        let rest = image.log.iter().skip(common);
        let writes: Vec<u32> = rest.filter(|write| !held.contains(write)).copied().collect();
        *image = Image { split: true, resyncing: true, mirrored: true, ..Image::default() };
        self.discarded.push(Discarded { at: now, site: site.clone(), handle: handle.to_owned(), writes });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ClusterName {
        ClusterName::parse(name).expect("a name")
    }

    fn mirrored() -> Array {
        let mut array = Array { sites: vec![name("east"), name("west")], ..Array::default() };
        array.provision(&name("east"), "data");
        array.enable(&name("east"), "data");
        array.append(&name("east"), "data", 0);
        let snapshot = array.snapshot(10, &name("east"), "data").expect("a snapshot");
        assert!(array.arrive(&snapshot, WallTime(10)));
        array.append(&name("east"), "data", 1);
        array
    }

    #[test]
    fn a_demotion_that_has_not_crossed_can_only_be_followed_by_a_forced_promotion() {
        let (east, west) = (name("east"), name("west"));
        let mut array = mirrored();
        assert_eq!(array.demote(15, &east, "data", true), Err(Refused::InUse));
        assert_eq!(array.demote(15, &east, "data", false), Ok(true));
        assert_eq!(array.promote(20, &west, "data", false), Err(Refused::FailedPrecondition));
        let last = array.snapshot(21, &east, "data").expect("the demotion's snapshot");
        assert!(array.arrive(&last, WallTime(21)));
        assert_eq!(array.promote(30, &west, "data", false), Ok(()));
        assert!(array.forced.is_empty());
        assert_eq!(array.image(&west, "data").expect("an image").log.as_slice(), [0, 1]);
    }

    #[test]
    fn a_forced_promotion_splits_the_images_until_a_resync_throws_one_away() {
        let (east, west) = (name("east"), name("west"));
        let mut array = mirrored();
        assert_eq!(array.promote(20, &west, "data", true), Ok(()));
        assert_eq!(array.forced.len(), 1);
        assert!(
            array.is_writable(&east, "data") && array.is_writable(&west, "data"),
            "two primaries are silent"
        );
        assert_eq!(array.demote(15, &east, "data", false), Ok(true));
        assert!(array.snapshot(30, &west, "data").is_none(), "nothing is replicated into a split image");
        assert_eq!(array.resync(40, &east, "data"), Ok(()));
        let whole = array.snapshot(41, &west, "data").expect("a whole copy");
        assert!(array.arrive(&whole, WallTime(41)));
        assert_eq!(array.discarded[0].writes, [1]);
    }
}
