//! Stand-in for a storage array: groups of images that are one to whoever mirrors them, and the conversation about them.
//!
//! What is asked of a group happens to all of its images at one moment, or to none. A group is known at the other site as
//! soon as it is mirrored, by the same id; there nobody but the primary says what is in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use super::{
    csi_addons::Driver,
    image::{Moment, Offer, Role},
    settings::write_atomically,
    shelf::Shelf,
    wire::volumegroup::{
        ControllerGetVolumeGroupRequest, ControllerGetVolumeGroupResponse, CreateVolumeGroupRequest,
        CreateVolumeGroupResponse, DeleteVolumeGroupRequest, DeleteVolumeGroupResponse,
        ModifyVolumeGroupMembershipRequest, ModifyVolumeGroupMembershipResponse, Volume, VolumeGroup,
        controller_server::Controller,
    },
};

const FILE: &str = "groups.json";

/// What one side tells the other about a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffer {
    pub id: String,
    pub images: BTreeSet<String>,
}

/// All groups of one site, in memory and on disk.
pub struct Groups {
    file: PathBuf,
    images: BTreeMap<String, BTreeSet<String>>,
}

impl Groups {
    pub fn open(directory: &Path) -> Result<Groups, io::Error> {
        let file = directory.join(FILE);
        let images = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Groups { file, images })
    }

    pub fn get(&self, id: &str) -> Option<&BTreeSet<String>> {
        self.images.get(id)
    }

    /// The group that an image is in.
    pub fn of(&self, handle: &str) -> Option<(&str, &BTreeSet<String>)> {
        let mut groups = self.images.iter();
        groups.find(|(_, images)| images.contains(handle)).map(|(id, images)| (id.as_str(), images))
    }

    pub fn offers(&self) -> Vec<GroupOffer> {
        let groups = self.images.iter();
        groups.map(|(id, images)| GroupOffer { id: id.clone(), images: images.clone() }).collect()
    }

    fn put(&mut self, id: &str, images: BTreeSet<String>) -> Result<(), io::Error> {
        if self.images.get(id) == Some(&images) {
            return Ok(());
        }
        self.images.insert(id.to_owned(), images);
        self.save()
    }

    fn remove(&mut self, id: &str) -> Result<(), io::Error> {
        self.images.remove(id);
        self.save()
    }

    fn save(&self) -> Result<(), io::Error> {
        write_atomically(&self.file, &serde_json::to_vec_pretty(&self.images)?)
    }
}

/// Takes over the groups of which the peer has the primary.
pub fn follow(shelf: &mut Shelf, groups: Vec<GroupOffer>, offers: &[Offer]) -> Result<(), io::Error> {
    for GroupOffer { id, images } in groups {
        let mut offered = offers.iter().filter(|offer| images.contains(&offer.handle));
        let is_theirs = offered.all(|offer| offer.role == Role::Primary && offer.mirroring);
        let is_ours = images
            .iter()
            .any(|handle| shelf.slot(handle).is_some_and(|slot| slot.image.role == Role::Primary));
        if is_theirs && !is_ours && !images.is_empty() {
            shelf.groups.put(&id, images)?;
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Controller for Driver {
    async fn create_volume_group(
        &self,
        request: Request<CreateVolumeGroupRequest>,
    ) -> Result<Response<CreateVolumeGroupResponse>, Status> {
        let request = request.into_inner();
        let id = format!("group-{}", request.name);
        let call = self.site.calls.arrived("CreateVolumeGroup", &id, false);
        let made = self.fill(&id, request.volume_ids, true).await;
        let answer = |volume_group| Response::new(CreateVolumeGroupResponse { volume_group });
        call.answer(made.map(|images| answer(Some(described(&id, &images)))))
    }

    async fn modify_volume_group_membership(
        &self,
        request: Request<ModifyVolumeGroupMembershipRequest>,
    ) -> Result<Response<ModifyVolumeGroupMembershipResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_group_id;
        let call = self.site.calls.arrived("ModifyVolumeGroupMembership", &id, false);
        let changed = self.fill(&id, request.volume_ids, false).await;
        let answer = |volume_group| Response::new(ModifyVolumeGroupMembershipResponse { volume_group });
        call.answer(changed.map(|images| answer(Some(described(&id, &images)))))
    }

    async fn delete_volume_group(
        &self,
        request: Request<DeleteVolumeGroupRequest>,
    ) -> Result<Response<DeleteVolumeGroupResponse>, Status> {
        let id = request.into_inner().volume_group_id;
        let call = self.site.calls.arrived("DeleteVolumeGroup", &id, false);
        let deleted = self.delete_group(&id).await;
        call.answer(deleted.map(|()| Response::new(DeleteVolumeGroupResponse {})))
    }

    async fn controller_get_volume_group(
        &self,
        request: Request<ControllerGetVolumeGroupRequest>,
    ) -> Result<Response<ControllerGetVolumeGroupResponse>, Status> {
        let id = request.into_inner().volume_group_id;
        let call = self.site.calls.arrived("ControllerGetVolumeGroup", &id, false);
        let shelf = self.site.shelf.lock().await;
        let found = shelf.groups.get(&id).map(|images| described(&id, images));
        let answer = |volume_group| Response::new(ControllerGetVolumeGroupResponse { volume_group });
        call.answer(found.map(|group| answer(Some(group))).ok_or_else(|| not_found(&id)))
    }
}

impl Driver {
    /// Makes these the group's images. At a primary that is mirrored, one that comes is mirrored from then on, and one that
    /// goes no longer; the others have no part in it.
    async fn fill(&self, id: &str, handles: Vec<String>, create: bool) -> Result<BTreeSet<String>, Status> {
        let wanted: BTreeSet<String> = handles.into_iter().collect();
        let mut shelf = self.site.shelf.lock().await;
        let present = match shelf.groups.get(id) {
            Some(present) => present.clone(),
            None if create => BTreeSet::new(),
            None => return Err(not_found(id)),
        };
        if present == wanted {
            return Ok(wanted);
        }
        for handle in wanted.union(&present) {
            may_join_or_leave(&shelf, id, handle)?;
        }
        let now = Timestamp::now();
        let mirrored = present.iter().find_map(|handle| {
            let image = &shelf.slot(handle)?.image;
            image.mirroring.then(|| image.scheduling_interval.clone())
        });
        for handle in wanted.symmetric_difference(&present) {
            let joins = wanted.contains(handle);
            let Some(slot) = shelf.slot_mut(handle) else { return Err(image_not_found(handle)) };
            let moment = Moment { now, length: slot.length() };
            let changed = slot.change(|image| match &mirrored {
                Some(interval) if joins => {
                    image.scheduling_interval.clone_from(interval);
                    image.enable_mirroring(&self.site.name, &moment);
                }
                Some(_) => image.mirroring = false,
                None => {}
            });
            changed.map_err(|error| Status::internal(format!("writing the image's file: {error}")))?;
        }
        shelf.groups.put(id, wanted.clone()).map_err(unwritten)?;
        Ok(wanted)
    }

    async fn delete_group(&self, id: &str) -> Result<(), Status> {
        let mut shelf = self.site.shelf.lock().await;
        match shelf.groups.get(id) {
            None => Ok(()),
            Some(images) if images.is_empty() => shelf.groups.remove(id).map_err(unwritten),
            Some(images) => {
                Err(Status::failed_precondition(format!("group {id} still has {} images", images.len())))
            }
        }
    }
}

fn may_join_or_leave(shelf: &Shelf, id: &str, handle: &str) -> Result<(), Status> {
    let slot = shelf.slot(handle).ok_or_else(|| image_not_found(handle))?;
    if slot.image.role == Role::Secondary {
        let message = format!("image {handle} is not primary: what is in group {id} is said at its primary");
        return Err(Status::failed_precondition(message));
    }
    match shelf.groups.of(handle) {
        Some((other, _)) if other != id => {
            Err(Status::failed_precondition(format!("image {handle} is in group {other} already")))
        }
        Some(_) | None => Ok(()),
    }
}

fn described(id: &str, images: &BTreeSet<String>) -> VolumeGroup {
    VolumeGroup {
        volume_group_id: id.to_owned(),
        volume_group_context: HashMap::new(),
        volumes: images.iter().map(|handle| Volume { volume_id: handle.clone() }).collect(),
    }
}

pub fn not_found(id: &str) -> Status {
    Status::not_found(format!("group {id} not found"))
}

fn image_not_found(handle: &str) -> Status {
    Status::not_found(format!("image {handle} not found"))
}

fn unwritten(error: io::Error) -> Status {
    Status::internal(format!("writing {FILE}: {error}"))
}
