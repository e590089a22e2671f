//! Stand-in for a storage array: what one mirrored image is and may do. Values only; nothing here reads a clock or a file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which side of the mirror an image is, in its own opinion. Both sides may think Primary, and nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Primary,
    Secondary,
}

/// A point in an image's history: the first `length` bytes as `tenure` knew them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The time from one promotion to the next demotion or forced promotion elsewhere; its name is unique.
    pub tenure: String,
    pub number: u64,
    pub length: u64,
    pub taken: Timestamp,
    /// The last word of a tenure that ended in order: only on it may a promotion go without force.
    pub demotion: bool,
}

/// The last snapshot that this side took over from the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    pub snapshot: Snapshot,
    pub bytes: u64,
    pub milliseconds: u64,
}

/// What the mirror daemon says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirrorState {
    /// The image is primary: nothing to replay.
    Stopped,
    StartingReplay,
    Replaying,
    /// The other side is no primary, or was not seen yet.
    Unknown,
    SplitBrain,
}

/// What one side tells the other about its copy of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub state: MirrorState,
    pub head: Option<Snapshot>,
    pub sync: Option<Sync>,
}

/// What one side offers the other to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub handle: String,
    pub role: Role,
    pub mirroring: bool,
    pub scheduling_interval: Option<String>,
    pub parents: Vec<Snapshot>,
    pub head: Option<Snapshot>,
}

/// What a person or a test wants to know of an image at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    pub handle: String,
    pub role: Role,
    pub mirroring: bool,
    pub state: MirrorState,
    pub length: u64,
    pub attachments: usize,
    pub head: Option<Snapshot>,
    /// When the newest snapshot was taken that the other side is known to have; only a primary can say.
    pub last_sync: Option<Timestamp>,
}

/// How one copy's history stands to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    Same,
    Behind,
    Ahead,
    Diverged,
}

/// Why the array says no. The wording is ours, the occasions are the real driver's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("mirroring is not enabled on image {0}")]
    NotMirrored(String),
    #[error("promoting image {0}: Device or resource busy: the other side's demotion has not arrived here")]
    Busy(String),
    #[error("image {handle} cannot be demoted: {attachments} client(s) still have it attached")]
    InUse { handle: String, attachments: usize },
    #[error("image {0} is in primary state")]
    IsPrimary(String),
    #[error("image {0} is not in primary state")]
    NotPrimary(String),
    #[error("image {0} is a secondary in state {1:?}: mirroring can be disabled at its primary only")]
    UnhealthySecondary(String, MirrorState),
    #[error("resync of image {0} was asked for: it needs to be recreated")]
    NeedsToBeRecreated(String),
    #[error("failed to get last sync info of image {0}: no snapshot details: {1}")]
    NoSnapshotDetails(String, &'static str),
}

/// One image as it lies on the disk of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub handle: String,
    pub role: Role,
    pub mirroring: bool,
    /// As the class parameter spells it.
    pub scheduling_interval: Option<String>,
    /// Changes when a resync makes the image anew.
    pub created: Timestamp,
    /// Noted at the first demotion; a forced resync discards only an image that is still that old one.
    pub created_before_demotion: Option<Timestamp>,
    /// The last snapshot of every earlier tenure that this content builds on, oldest first.
    pub parents: Vec<Snapshot>,
    pub head: Option<Snapshot>,
    pub resync_requested: bool,
    pub sync: Option<Sync>,
    pub peer_report: Option<Report>,
}

/// The moment at which an image changes: what the values above are stamped with.
#[derive(Clone, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// Bytes in the image's data file.
    pub length: u64,
}

impl Image {
    /// A new volume: writable, not mirrored.
    pub fn provisioned(handle: &str, now: Timestamp) -> Image {
        Image {
            handle: handle.to_owned(),
            role: Role::Primary,
            mirroring: false,
            scheduling_interval: None,
            created: now,
            created_before_demotion: None,
            parents: Vec::new(),
            head: None,
            resync_requested: false,
            sync: None,
            peer_report: None,
        }
    }

    /// The copy that appears when the first snapshot has crossed.
    pub fn copied(offer: &Offer, sync: Sync, now: Timestamp) -> Image {
        let mut image = Image::provisioned(&offer.handle, now);
        image.role = Role::Secondary;
        image.mirroring = true;
        image.replay(offer, sync);
        image
    }

    pub fn enable_mirroring(&mut self, site: &str, moment: &Moment) {
        if self.mirroring {
            return;
        }
        self.mirroring = true;
        if self.head.is_none() {
            self.head = Some(first_snapshot(site, moment));
        } else {
            self.take_snapshot(moment, false);
        }
    }

    pub fn disable_mirroring(&mut self, state: MirrorState) -> Result<(), Refusal> {
        match self.role {
            Role::Primary => {
                self.mirroring = false;
                self.peer_report = None;
                Ok(())
            }
            // The peer's image goes when mirroring ends at the primary: a healthy secondary has nothing to do.
            Role::Secondary if state == MirrorState::Replaying || !self.mirroring => Ok(()),
            Role::Secondary => Err(Refusal::UnhealthySecondary(self.handle.clone(), state)),
        }
    }

    /// Without force only a finished tenure is followed by the next; with force any is, at once.
    pub fn promote(&mut self, site: &str, force: bool, moment: &Moment) -> Result<(), Refusal> {
        let head = self.mirrored_head()?.clone();
        if self.role == Role::Primary {
            return Ok(());
        }
        if !force && !head.demotion {
            return Err(Refusal::Busy(self.handle.clone()));
        }
        self.parents.push(head);
        self.head = Some(first_snapshot(site, moment));
        self.become_role(Role::Primary);
        Ok(())
    }

    pub fn demote(&mut self, attachments: usize, moment: &Moment) -> Result<(), Refusal> {
        self.mirrored_head()?;
        if self.role == Role::Secondary {
            return Ok(());
        }
        if attachments > 0 {
            return Err(Refusal::InUse { handle: self.handle.clone(), attachments });
        }
        self.created_before_demotion.get_or_insert(self.created);
        self.take_snapshot(moment, true);
        self.become_role(Role::Secondary);
        Ok(())
    }

    /// Whether the volume is ready, as the driver answers a resync. By force an image that replays nothing and is
    /// still the one that was demoted is marked to be discarded, were it the only good copy.
    pub fn resync(&mut self, force: bool, state: MirrorState) -> Result<bool, Refusal> {
        self.mirrored_head()?;
        if self.role == Role::Primary {
            return Err(Refusal::IsPrimary(self.handle.clone()));
        }
        let replays = state == MirrorState::Replaying && self.sync.is_some();
        let is_the_demoted_one = self.created_before_demotion == Some(self.created);
        if self.resync_requested || (force && is_the_demoted_one && !replays) {
            self.resync_requested = true;
            return Err(Refusal::NeedsToBeRecreated(self.handle.clone()));
        }
        if state == MirrorState::Unknown && self.demotion_has_crossed() {
            return Ok(true);
        }
        if replays { Ok(false) } else { Err(self.no_snapshot_details(state)) }
    }

    /// What the other side is known to have; only a primary can say.
    pub fn last_sync(&self) -> Result<&Sync, Refusal> {
        self.mirrored_head()?;
        if self.role == Role::Secondary {
            return Err(Refusal::NotPrimary(self.handle.clone()));
        }
        match &self.peer_report {
            Some(Report { state: MirrorState::Replaying, sync: Some(sync), .. }) => Ok(sync),
            Some(Report { state, .. }) => Err(self.no_snapshot_details(*state)),
            None => Err(self.no_snapshot_details(MirrorState::Unknown)),
        }
    }

    pub fn take_snapshot(&mut self, moment: &Moment, demotion: bool) {
        if let Some(head) = &mut self.head {
            head.number += 1;
            head.length = moment.length;
            head.taken = moment.now;
            head.demotion = demotion;
        }
    }

    /// What the mirror daemon says of this image, given what the peer offers.
    pub fn mirror_state(&self, offer: Option<&Offer>) -> MirrorState {
        if self.role == Role::Primary {
            return MirrorState::Stopped;
        }
        let Some(offer) = offer else { return MirrorState::Unknown };
        match (offer.role, self.kinship(offer)) {
            (Role::Primary, Kinship::Diverged | Kinship::Ahead) => MirrorState::SplitBrain,
            (Role::Primary, Kinship::Same | Kinship::Behind) if self.sync.is_none() => {
                MirrorState::StartingReplay
            }
            (Role::Primary, Kinship::Same | Kinship::Behind) => MirrorState::Replaying,
            (Role::Secondary, Kinship::Behind) => MirrorState::Replaying,
            (Role::Secondary, Kinship::Same | Kinship::Ahead | Kinship::Diverged) => MirrorState::Unknown,
        }
    }

    /// Whether this copy may take over what the peer offers.
    pub fn follows(&self, offer: &Offer) -> bool {
        self.role == Role::Secondary && !self.resync_requested && self.kinship(offer) == Kinship::Behind
    }

    pub fn same_or_behind(&self, offer: &Offer) -> bool {
        matches!(self.kinship(offer), Kinship::Same | Kinship::Behind)
    }

    /// Takes over the peer's snapshot; its bytes must lie in the data file already.
    pub fn replay(&mut self, offer: &Offer, sync: Sync) {
        self.parents = offer.parents.clone();
        self.head = Some(sync.snapshot.clone());
        self.scheduling_interval = offer.scheduling_interval.clone();
        self.sync = Some(sync);
    }

    pub fn offer(&self) -> Offer {
        Offer {
            handle: self.handle.clone(),
            role: self.role,
            mirroring: self.mirroring,
            scheduling_interval: self.scheduling_interval.clone(),
            parents: self.parents.clone(),
            head: self.head.clone(),
        }
    }

    pub fn kinship(&self, other: &Offer) -> Kinship {
        let (mine, theirs) = match (&self.head, &other.head) {
            (Some(mine), Some(theirs)) => (mine, theirs),
            (None, Some(_)) => return Kinship::Behind,
            (Some(_), None) => return Kinship::Ahead,
            (None, None) => return Kinship::Same,
        };
        if mine.tenure == theirs.tenure {
            return match mine.number.cmp(&theirs.number) {
                std::cmp::Ordering::Less => Kinship::Behind,
                std::cmp::Ordering::Equal => Kinship::Same,
                std::cmp::Ordering::Greater => Kinship::Ahead,
            };
        }
        if is_ancestor(mine, &other.parents) {
            Kinship::Behind
        } else if is_ancestor(theirs, &self.parents) {
            Kinship::Ahead
        } else {
            Kinship::Diverged
        }
    }

    fn demotion_has_crossed(&self) -> bool {
        self.peer_report
            .as_ref()
            .is_some_and(|report| report.state == MirrorState::Unknown && report.head == self.head)
    }

    fn mirrored_head(&self) -> Result<&Snapshot, Refusal> {
        match &self.head {
            Some(head) if self.mirroring => Ok(head),
            Some(_) | None => Err(Refusal::NotMirrored(self.handle.clone())),
        }
    }

    /// What either side knew of the other belongs to the former role.
    fn become_role(&mut self, role: Role) {
        self.role = role;
        self.sync = None;
        self.peer_report = None;
        self.resync_requested = false;
    }

    fn no_snapshot_details(&self, state: MirrorState) -> Refusal {
        let why = match state {
            MirrorState::Stopped => "the other image is primary too",
            MirrorState::StartingReplay => "starting replay",
            MirrorState::Replaying => "replaying, no snapshot complete yet",
            MirrorState::Unknown => "the other image is not primary or was not seen yet",
            MirrorState::SplitBrain => "split-brain",
        };
        Refusal::NoSnapshotDetails(self.handle.clone(), why)
    }
}

fn first_snapshot(site: &str, moment: &Moment) -> Snapshot {
    Snapshot {
        tenure: format!("{site}-{}", moment.now.as_nanosecond()),
        number: 1,
        length: moment.length,
        taken: moment.now,
        demotion: false,
    }
}

fn is_ancestor(snapshot: &Snapshot, parents: &[Snapshot]) -> bool {
    parents.iter().any(|parent| parent.tenure == snapshot.tenure && snapshot.number <= parent.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, length: u64) -> Moment {
        Moment { now: Timestamp::from_second(second).expect("a valid second"), length }
    }

    fn sync_of(offer: &Offer) -> Sync {
        Sync { snapshot: offer.head.clone().expect("a mirrored image has a head"), bytes: 0, milliseconds: 0 }
    }

    /// An image mirrored from east to west, in sync.
    fn mirrored() -> (Image, Image) {
        let mut east = Image::provisioned("vol-1", at(1, 0).now);
        east.enable_mirroring("east", &at(1, 10));
        let west = Image::copied(&east.offer(), sync_of(&east.offer()), at(2, 10).now);
        (east, west)
    }

    #[test]
    fn a_planned_move_needs_no_force_once_the_demotion_has_crossed() {
        let (mut east, mut west) = mirrored();
        east.demote(0, &at(3, 20)).expect("nobody uses it");
        assert_eq!(west.promote("west", false, &at(4, 10)), Err(Refusal::Busy("vol-1".to_owned())));
        assert!(west.follows(&east.offer()));
        west.replay(&east.offer(), sync_of(&east.offer()));
        west.promote("west", false, &at(5, 20)).expect("the demotion has crossed");
        assert_eq!(east.mirror_state(Some(&west.offer())), MirrorState::StartingReplay);
        assert!(east.follows(&west.offer()));
    }

    #[test]
    fn a_forced_promotion_is_a_split_brain_only_after_the_old_primary_is_demoted() {
        let (mut east, mut west) = mirrored();
        west.promote("west", true, &at(3, 10)).expect("force asks nobody");
        assert_eq!(east.mirror_state(Some(&west.offer())), MirrorState::Stopped);
        assert_eq!(west.mirror_state(Some(&east.offer())), MirrorState::Stopped);
        east.demote(0, &at(4, 30)).expect("nobody uses it");
        assert_eq!(east.mirror_state(Some(&west.offer())), MirrorState::SplitBrain);
        assert!(!east.follows(&west.offer()));
        let refused = east.resync(false, MirrorState::SplitBrain).expect_err("split-brain");
        assert!(refused.to_string().contains("no snapshot details: split-brain"), "{refused}");
    }

    #[test]
    fn a_forced_resync_discards_the_demoted_image_but_no_copy_that_replays() {
        let (mut east, mut west) = mirrored();
        west.promote("west", true, &at(3, 10)).expect("force asks nobody");
        east.demote(0, &at(4, 30)).expect("nobody uses it");
        let refused = east.resync(true, MirrorState::SplitBrain);
        assert_eq!(refused, Err(Refusal::NeedsToBeRecreated("vol-1".to_owned())));
        assert!(east.resync_requested);
        let mut anew = Image::copied(&west.offer(), sync_of(&west.offer()), at(9, 10).now);
        assert_eq!(anew.resync(true, anew.mirror_state(Some(&west.offer()))), Ok(false));
        assert!(!anew.resync_requested);
    }

    #[test]
    fn a_forced_resync_right_after_a_planned_demotion_destroys_the_good_copy() {
        let (mut east, _) = mirrored();
        east.demote(0, &at(3, 20)).expect("nobody uses it");
        assert!(east.resync(true, MirrorState::Unknown).is_err());
        assert!(east.resync_requested);
    }

    #[test]
    fn ready_means_that_the_peer_reports_the_very_demotion() {
        let (mut east, mut west) = mirrored();
        east.demote(0, &at(3, 20)).expect("nobody uses it");
        assert!(east.resync(false, MirrorState::Unknown).is_err(), "nothing has crossed");
        west.replay(&east.offer(), sync_of(&east.offer()));
        let state = west.mirror_state(Some(&east.offer()));
        east.peer_report = Some(Report { state, head: west.head.clone(), sync: west.sync.clone() });
        assert_eq!(east.resync(false, east.mirror_state(Some(&west.offer()))), Ok(true));
    }

    #[test]
    fn an_attached_image_is_not_demoted() {
        let (mut east, _) = mirrored();
        let refused = east.demote(2, &at(3, 20));
        assert_eq!(refused, Err(Refusal::InUse { handle: "vol-1".to_owned(), attachments: 2 }));
        assert_eq!(east.role, Role::Primary);
    }

    #[test]
    fn only_a_primary_whose_peer_replays_knows_its_last_sync() {
        let (mut east, west) = mirrored();
        assert!(east.last_sync().is_err(), "no report yet");
        let state = west.mirror_state(Some(&east.offer()));
        east.peer_report = Some(Report { state, head: west.head.clone(), sync: west.sync.clone() });
        assert_eq!(east.last_sync().map(|sync| sync.snapshot.length), Ok(10));
        assert_eq!(west.last_sync(), Err(Refusal::NotPrimary("vol-1".to_owned())));
    }
}
