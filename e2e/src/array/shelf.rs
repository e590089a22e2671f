//! Stand-in for a storage array: the images of one site, in memory and on disk.
//!
//! `DIR/images/<handle>/` holds `data` (the bytes, append-only, so a snapshot is a length) and `image.json`. Bytes
//! are written through to the operating system before they are acknowledged: they survive a kill of the array,
//! though not a power cut of the machine that runs the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::Timestamp;

use super::{
    groups::Groups,
    image::{Image, ImageStatus, MirrorState, Moment, Offer, Report, Role, Sync},
    settings::{Settings, write_atomically},
};

/// One image and what only this process knows of it.
pub struct Slot {
    pub image: Image,
    directory: PathBuf,
    data: File,
    length: u64,
    pub attachments: usize,
    /// After a resync made the image anew, until when it reports no snapshot.
    starting_until: Option<Instant>,
}

impl Slot {
    fn open(directory: PathBuf, image: Image) -> Result<Slot, io::Error> {
        let data = OpenOptions::new().create(true).read(true).append(true).open(directory.join("data"))?;
        let mut slot = Slot { image, directory, length: 0, data, attachments: 0, starting_until: None };
        slot.drop_unfinished_bytes()?;
        Ok(slot)
    }

    /// A kill may leave half a line behind at a primary, and at a secondary bytes whose snapshot is not complete.
    fn drop_unfinished_bytes(&mut self) -> Result<(), io::Error> {
        self.length = match (&self.image.role, &self.image.head) {
            (Role::Secondary, Some(head)) => head.length,
            (Role::Secondary, None) | (Role::Primary, _) => {
                let bytes = fs::read(self.directory.join("data"))?;
                bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1)
            }
        };
        self.data.set_len(self.length)
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, io::Error> {
        self.data.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(self.length)
    }

    pub fn read(&self, from: u64, until: u64) -> Result<Vec<u8>, io::Error> {
        let mut bytes = Vec::new();
        let mut data = &self.data;
        data.seek(SeekFrom::Start(from))?;
        data.take(until.saturating_sub(from)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn everything(&self) -> Result<Vec<u8>, io::Error> {
        self.read(0, self.length)
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Changes the image and its file together: a change that cannot be written did not happen.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Image) -> T) -> Result<T, io::Error> {
        let mut changed = self.image.clone();
        let result = change(&mut changed);
        if changed != self.image {
            save(&self.directory, &changed)?;
            self.image = changed;
        }
        Ok(result)
    }

    pub fn take_snapshot(&mut self, now: Timestamp) -> Result<(), io::Error> {
        let moment = Moment { now, length: self.length };
        self.change(|image| image.take_snapshot(&moment, false))
    }

    /// Takes over a snapshot whose missing bytes have arrived.
    pub fn replay(&mut self, offer: &Offer, sync: Sync, bytes: &[u8]) -> Result<(), io::Error> {
        self.append(bytes)?;
        self.change(|image| image.replay(offer, sync))
    }
}

/// All images of one site, and what the peer last said of its own.
pub struct Shelf {
    root: PathBuf,
    slots: BTreeMap<String, Slot>,
    offers: BTreeMap<String, Offer>,
    pub groups: Groups,
    /// Images that a resync discarded, and until when they stay away.
    away_until: BTreeMap<String, Instant>,
    /// Images whose promotion was answered "busy" out of habit; the next time it is granted.
    pub busy_answered: BTreeSet<String>,
}

impl Shelf {
    pub fn open(directory: &Path) -> Result<Shelf, io::Error> {
        let root = directory.join("images");
        fs::create_dir_all(&root)?;
        let mut slots = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let directory = entry?.path();
            match fs::read(directory.join("image.json")) {
                Ok(text) => {
                    let image: Image = serde_json::from_slice(&text)?;
                    slots.insert(image.handle.clone(), Slot::open(directory, image)?);
                }
                // Begun and never finished: the image does not exist yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir_all(&directory)?,
                Err(error) => return Err(error),
            }
        }
        Ok(Shelf {
            root,
            slots,
            offers: BTreeMap::new(),
            groups: Groups::open(directory)?,
            away_until: BTreeMap::new(),
            busy_answered: BTreeSet::new(),
        })
    }

    /// Makes a new, empty, writable image; one that exists stays as it is.
    pub fn provision(&mut self, handle: &str) -> Result<(), io::Error> {
        if self.slots.contains_key(handle) {
            return Ok(());
        }
        self.put(Image::provisioned(handle, Timestamp::now()), &[])
    }

    /// Puts a complete copy on the shelf: it is visible only when all of it is there.
    pub fn put(&mut self, image: Image, bytes: &[u8]) -> Result<(), io::Error> {
        let directory = self.root.join(&image.handle);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("data"), bytes)?;
        save(&directory, &image)?;
        self.slots.insert(image.handle.clone(), Slot::open(directory, image)?);
        Ok(())
    }

    /// A copy made anew after a resync, which reports no snapshot for a while.
    pub fn put_anew(&mut self, image: Image, bytes: &[u8], starting_until: Instant) -> Result<(), io::Error> {
        let handle = image.handle.clone();
        self.put(image, bytes)?;
        if self.away_until.remove(&handle).is_some()
            && let Some(slot) = self.slots.get_mut(&handle)
        {
            slot.starting_until = Some(starting_until);
        }
        Ok(())
    }

    /// The image is gone with all its bytes; `away_until` keeps it from coming back at once.
    pub fn discard(&mut self, handle: &str, away_until: Option<Instant>) -> Result<(), io::Error> {
        if let Some(slot) = self.slots.remove(handle) {
            fs::remove_file(slot.directory.join("image.json"))?;
            fs::remove_dir_all(&slot.directory)?;
        }
        if let Some(until) = away_until {
            self.away_until.insert(handle.to_owned(), until);
        }
        Ok(())
    }

    pub fn is_away(&self, handle: &str) -> bool {
        self.away_until.get(handle).is_some_and(|until| Instant::now() < *until)
    }

    pub fn slot(&self, handle: &str) -> Option<&Slot> {
        self.slots.get(handle)
    }

    pub fn slot_mut(&mut self, handle: &str) -> Option<&mut Slot> {
        self.slots.get_mut(handle)
    }

    pub fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.values_mut()
    }

    /// What the mirror daemon says of an image.
    pub fn state(&self, slot: &Slot, settings: &Settings) -> MirrorState {
        let state = slot.image.mirror_state(self.offers.get(&slot.image.handle));
        let secondary = slot.image.role == Role::Secondary;
        if secondary && settings.spurious_split_brain.contain(&slot.image.handle) {
            MirrorState::SplitBrain
        } else if state == MirrorState::Replaying && slot.is_starting() {
            MirrorState::StartingReplay
        } else {
            state
        }
    }

    pub fn offers(&self) -> Vec<Offer> {
        self.slots.values().map(|slot| slot.image.offer()).collect()
    }

    pub fn remember_offers(&mut self, offers: Vec<Offer>) {
        self.offers = offers.into_iter().map(|offer| (offer.handle.clone(), offer)).collect();
    }

    pub fn reports(&self, settings: &Settings) -> Vec<(String, Report)> {
        let mirrored = self.slots.values().filter(|slot| slot.image.mirroring);
        mirrored
            .map(|slot| {
                let state = self.state(slot, settings);
                let Image { handle, head, sync, .. } = slot.image.clone();
                (handle, Report { state, head, sync })
            })
            .collect()
    }

    pub fn note_reports(&mut self, reports: Vec<(String, Report)>) -> Result<(), io::Error> {
        for (handle, report) in reports {
            if let Some(slot) = self.slots.get_mut(&handle) {
                slot.change(|image| image.peer_report = Some(report))?;
            }
        }
        Ok(())
    }

    pub fn status(&self, handle: &str, settings: &Settings) -> Option<ImageStatus> {
        let slot = self.slots.get(handle)?;
        Some(ImageStatus {
            handle: handle.to_owned(),
            role: slot.image.role,
            mirroring: slot.image.mirroring,
            state: self.state(slot, settings),
            length: slot.length,
            attachments: slot.attachments,
            head: slot.image.head.clone(),
            last_sync: slot.image.last_sync().ok().map(|sync| sync.snapshot.taken),
        })
    }
}

impl Slot {
    fn is_starting(&self) -> bool {
        self.starting_until.is_some_and(|until| Instant::now() < until)
    }
}

fn save(directory: &Path, image: &Image) -> Result<(), io::Error> {
    write_atomically(&directory.join("image.json"), &serde_json::to_vec_pretty(image)?)
}
