//! Stand-in for a storage array: the conversation with the csi-addons sidecar, error codes as ceph-csi gives them.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    calls::OpenCall,
    groups,
    image::{Image, MirrorState, Moment, Refusal, Sync},
    serve::Site,
    settings::{Handles, Settings},
    shelf::{Shelf, Slot},
    wire::{
        identity::{
            Capability, GetCapabilitiesRequest, GetCapabilitiesResponse, GetIdentityRequest,
            GetIdentityResponse, ProbeRequest, ProbeResponse, capability, identity_server::Identity,
        },
        replication::{
            DemoteVolumeRequest, DemoteVolumeResponse, DisableVolumeReplicationRequest,
            DisableVolumeReplicationResponse, EnableVolumeReplicationRequest,
            EnableVolumeReplicationResponse, GetVolumeReplicationInfoRequest,
            GetVolumeReplicationInfoResponse, PromoteVolumeRequest, PromoteVolumeResponse, ReplicationSource,
            ResyncVolumeRequest, ResyncVolumeResponse, controller_server::Controller,
            get_volume_replication_info_response::Status as Replicating, replication_source,
        },
    },
};

const SCHEDULING_INTERVAL: &str = "schedulingInterval";
const HANG_RECHECK: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Driver {
    pub site: Arc<Site>,
    pub name: String,
    pub busy: VolumeLocks,
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_identity(
        &self,
        _: Request<GetIdentityRequest>,
    ) -> Result<Response<GetIdentityResponse>, Status> {
        self.site.calls.arrived("GetIdentity", "", false).answer(Ok(Response::new(GetIdentityResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        })))
    }

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let service = capability::Service { r#type: capability::service::Type::ControllerService.into() };
        let replication = capability::VolumeReplication {
            r#type: capability::volume_replication::Type::VolumeReplication.into(),
        };
        let group = capability::VolumeGroup { r#type: capability::volume_group::Type::VolumeGroup.into() };
        let capabilities = vec![
            Capability { r#type: Some(capability::Type::Service(service)) },
            Capability { r#type: Some(capability::Type::VolumeReplication(replication)) },
            Capability { r#type: Some(capability::Type::VolumeGroup(group)) },
        ];
        let answer = GetCapabilitiesResponse { capabilities };
        self.site.calls.arrived("GetCapabilities", "", false).answer(Ok(Response::new(answer)))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let answer = ProbeResponse { ready: Some(true) };
        self.site.calls.arrived("Probe", "", false).answer(Ok(Response::new(answer)))
    }
}

#[tonic::async_trait]
impl Controller for Driver {
    async fn enable_volume_replication(
        &self,
        request: Request<EnableVolumeReplicationRequest>,
    ) -> Result<Response<EnableVolumeReplicationResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("EnableVolumeReplication", source, false).await;
        let enabled = async { self.enable(&subject?, &request.parameters).await }.await;
        call.answer(enabled.map(|()| Response::new(EnableVolumeReplicationResponse {})))
    }

    async fn disable_volume_replication(
        &self,
        request: Request<DisableVolumeReplicationRequest>,
    ) -> Result<Response<DisableVolumeReplicationResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("DisableVolumeReplication", source, false).await;
        let disabled = async { self.disable(&subject?).await }.await;
        call.answer(disabled.map(|()| Response::new(DisableVolumeReplicationResponse {})))
    }

    async fn promote_volume(
        &self,
        request: Request<PromoteVolumeRequest>,
    ) -> Result<Response<PromoteVolumeResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("PromoteVolume", source, request.force).await;
        let promoted = async { self.promote(&subject?, request.force, &request.parameters).await }.await;
        call.answer(promoted.map(|()| Response::new(PromoteVolumeResponse {})))
    }

    async fn demote_volume(
        &self,
        request: Request<DemoteVolumeRequest>,
    ) -> Result<Response<DemoteVolumeResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("DemoteVolume", source, request.force).await;
        let demoted = async { self.demote(&subject?).await }.await;
        call.answer(demoted.map(|()| Response::new(DemoteVolumeResponse {})))
    }

    async fn resync_volume(
        &self,
        request: Request<ResyncVolumeRequest>,
    ) -> Result<Response<ResyncVolumeResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("ResyncVolume", source, request.force).await;
        let resynced = async { self.resync(&subject?, request.force).await }.await;
        call.answer(resynced.map(|ready| Response::new(ResyncVolumeResponse { ready })))
    }

    async fn get_volume_replication_info(
        &self,
        request: Request<GetVolumeReplicationInfoRequest>,
    ) -> Result<Response<GetVolumeReplicationInfoResponse>, Status> {
        let request = request.into_inner();
        let source = (request.replication_source, request.volume_id);
        let (call, subject) = self.arrived("GetVolumeReplicationInfo", source, false).await;
        let info = async { self.info(&subject?).await }.await;
        call.answer(info.map(Response::new))
    }
}

/// What a call is about: one image, or all of a group.
struct Subject {
    id: String,
    images: Vec<String>,
}

impl Subject {
    /// A habit is set for an image or for a group.
    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.id).chain(&self.images)
    }

    fn is_in(&self, listed: &Handles) -> bool {
        self.names().any(|name| listed.contain(name))
    }
}

impl Driver {
    async fn arrived(
        &self,
        method: &'static str,
        (source, volume_id): (Option<ReplicationSource>, String),
        force: bool,
    ) -> (OpenCall, Result<Subject, Status>) {
        let (id, is_group) = match source.and_then(|source| source.r#type) {
            Some(replication_source::Type::Volume(volume)) => (volume.volume_id, false),
            Some(replication_source::Type::Volumegroup(group)) => (group.volume_group_id, true),
            None => (volume_id, false),
        };
        let mut call = self.site.calls.arrived(method, &id, force);
        if !is_group {
            let images = vec![id.clone()];
            return (call, Ok(Subject { id, images }));
        }
        let images = match self.site.shelf.lock().await.groups.get(&id) {
            Some(images) => images.iter().cloned().collect::<Vec<_>>(),
            None => return (call, Err(groups::not_found(&id))),
        };
        call.concerns(&images);
        (call, Ok(Subject { id, images }))
    }

    async fn enable(&self, subject: &Subject, parameters: &HashMap<String, String>) -> Result<(), Status> {
        let _lock = self.busy.acquire(subject)?;
        let mut shelf = self.site.shelf.lock().await;
        change_all(&mut shelf, subject, &self.settings()?, |image, at| {
            image.scheduling_interval = parameters.get(SCHEDULING_INTERVAL).cloned();
            image.enable_mirroring(&self.site.name, &at.moment);
            Ok(())
        })
    }

    async fn disable(&self, subject: &Subject) -> Result<(), Status> {
        let _lock = self.busy.acquire(subject)?;
        let mut shelf = self.site.shelf.lock().await;
        change_all(&mut shelf, subject, &self.settings()?, |image, at| image.disable_mirroring(at.state))
    }

    async fn promote(
        &self,
        subject: &Subject,
        force: bool,
        parameters: &HashMap<String, String>,
    ) -> Result<(), Status> {
        let _lock = self.busy.acquire(subject)?;
        self.while_listed(subject, |settings| &settings.promote_hangs).await?;
        let settings = self.settings()?;
        tokio::time::sleep(settings.promote_delay).await;
        if let Some(message) = subject.names().find_map(|name| settings.promotion_failure(name)) {
            return Err(Status::internal(message));
        }
        let mut shelf = self.site.shelf.lock().await;
        if !force
            && subject.is_in(&settings.busy_first_promote)
            && shelf.busy_answered.insert(subject.id.clone())
        {
            subject.images.iter().try_for_each(|handle| existing(&mut shelf, handle).map(drop))?;
            return Err(refused(&Refusal::Busy(subject.id.clone())));
        }
        change_all(&mut shelf, subject, &settings, |image, at| {
            image.promote(&self.site.name, force, &at.moment)?;
            if let Some(interval) = parameters.get(SCHEDULING_INTERVAL) {
                image.scheduling_interval = Some(interval.clone());
            }
            Ok(())
        })
    }

    async fn demote(&self, subject: &Subject) -> Result<(), Status> {
        let _lock = self.busy.acquire(subject)?;
        let settings = self.settings()?;
        tokio::time::sleep(settings.demote_delay).await;
        if let Some(message) = subject.names().find_map(|name| settings.demotion_refusal(name)) {
            return Err(Status::failed_precondition(message));
        }
        let mut shelf = self.site.shelf.lock().await;
        shelf.busy_answered.remove(&subject.id);
        change_all(&mut shelf, subject, &settings, |image, at| image.demote(at.attachments, &at.moment))
    }

    /// The one change of which a part stands although it is refused: what has to be made anew is noted.
    async fn resync(&self, subject: &Subject, force: bool) -> Result<bool, Status> {
        let _lock = self.busy.acquire(subject)?;
        let settings = self.settings()?;
        let mut shelf = self.site.shelf.lock().await;
        let mut answers = Vec::new();
        for handle in &subject.images {
            let state = state_of(&shelf, handle, &settings)?;
            answers.push(answer(existing(&mut shelf, handle)?.change(|image| image.resync(force, state))));
        }
        let ready = answers.into_iter().collect::<Result<Vec<bool>, Status>>()?;
        Ok(ready.into_iter().all(|ready| ready) && !subject.is_in(&settings.never_ready))
    }

    /// Of a group the oldest copy counts, and there is none before every image has one.
    async fn info(&self, subject: &Subject) -> Result<GetVolumeReplicationInfoResponse, Status> {
        let _lock = self.busy.acquire(subject)?;
        let settings = self.settings()?;
        let mut shelf = self.site.shelf.lock().await;
        let mut oldest: Option<Sync> = None;
        for handle in &subject.images {
            let sync = last_sync(existing(&mut shelf, handle)?)?;
            if oldest.as_ref().is_none_or(|oldest| sync.snapshot.taken < oldest.snapshot.taken) {
                oldest = Some(sync.clone());
            }
        }
        let oldest = oldest.ok_or_else(|| Status::not_found(format!("group {} is empty", subject.id)))?;
        replication_info(&subject.id, &oldest, &settings)
    }

    /// Waits for as long as the subject is listed; the caller's own deadline, or its patience, ends the wait.
    async fn while_listed(&self, subject: &Subject, list: fn(&Settings) -> &Handles) -> Result<(), Status> {
        while subject.is_in(list(&self.settings()?)) {
            tokio::time::sleep(HANG_RECHECK).await;
        }
        Ok(())
    }

    fn settings(&self) -> Result<Settings, Status> {
        Settings::read(&self.site.directory).map_err(|error| Status::internal(error.to_string()))
    }
}

/// What is true of an image when it is changed.
struct At {
    moment: Moment,
    attachments: usize,
    state: MirrorState,
}

/// Changes all images of a subject at one moment; if one refuses, none is changed.
fn change_all(
    shelf: &mut Shelf,
    subject: &Subject,
    settings: &Settings,
    change: impl Fn(&mut Image, &At) -> Result<(), Refusal>,
) -> Result<(), Status> {
    let now = Timestamp::now();
    let mut changed = Vec::new();
    for handle in &subject.images {
        let state = state_of(shelf, handle, settings)?;
        let slot = existing(shelf, handle)?;
        let moment = Moment { now, length: slot.length() };
        let mut image = slot.image.clone();
        change(&mut image, &At { moment, attachments: slot.attachments, state })
            .map_err(|refusal| refused(&refusal))?;
        changed.push(image);
    }
    for image in changed {
        let slot = existing(shelf, &image.handle)?;
        answer(slot.change(|present| {
            *present = image.clone();
            Ok(())
        }))?;
    }
    Ok(())
}

fn last_sync(slot: &Slot) -> Result<&Sync, Status> {
    slot.image.last_sync().map_err(|refusal| match refusal {
        // The controller takes NotFound as "nothing to tell yet" and looks again after the interval.
        Refusal::NoSnapshotDetails(..) => Status::not_found(refusal.to_string()),
        Refusal::NotMirrored(_)
        | Refusal::Busy(_)
        | Refusal::InUse { .. }
        | Refusal::IsPrimary(_)
        | Refusal::NotPrimary(_)
        | Refusal::UnhealthySecondary(..)
        | Refusal::NeedsToBeRecreated(_) => refused(&refusal),
    })
}

fn replication_info(
    id: &str,
    sync: &Sync,
    settings: &Settings,
) -> Result<GetVolumeReplicationInfoResponse, Status> {
    let taken = sync.snapshot.taken;
    let last_sync_time =
        prost_types::Timestamp { seconds: taken.as_second(), nanos: taken.subsec_nanosecond() };
    let duration = prost_types::Duration::try_from(Duration::from_millis(sync.milliseconds))
        .map_err(|error| Status::internal(format!("duration of the last sync: {error}")))?;
    let reported = if settings.reports_replicating { Replicating::Healthy } else { Replicating::Unknown };
    Ok(GetVolumeReplicationInfoResponse {
        last_sync_time: Some(last_sync_time),
        last_sync_duration: Some(duration),
        last_sync_bytes: i64::try_from(sync.bytes).unwrap_or(i64::MAX),
        status: reported.into(),
        status_message: format!("{id} is primary"),
    })
}

fn existing<'a>(shelf: &'a mut Shelf, handle: &str) -> Result<&'a mut Slot, Status> {
    shelf.slot_mut(handle).ok_or_else(|| image_not_found(handle))
}

fn state_of(shelf: &Shelf, handle: &str, settings: &Settings) -> Result<MirrorState, Status> {
    let slot = shelf.slot(handle).ok_or_else(|| image_not_found(handle))?;
    Ok(shelf.state(slot, settings))
}

fn image_not_found(handle: &str) -> Status {
    Status::not_found(format!("image {handle} not found"))
}

fn answer<T>(changed: Result<Result<T, Refusal>, io::Error>) -> Result<T, Status> {
    match changed {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refusal)) => Err(refused(&refusal)),
        Err(error) => Err(Status::internal(format!("writing the image's file: {error}"))),
    }
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Busy(_) | Refusal::InUse { .. } => Status::failed_precondition(message),
        Refusal::NotMirrored(_)
        | Refusal::IsPrimary(_)
        | Refusal::NotPrimary(_)
        | Refusal::UnhealthySecondary(..) => Status::invalid_argument(message),
        Refusal::NeedsToBeRecreated(_) | Refusal::NoSnapshotDetails(..) => Status::internal(message),
    }
}

/// One call at a time for each volume: a second one is told to come back, it does not wait.
#[derive(Clone, Default)]
pub struct VolumeLocks(Arc<Mutex<BTreeSet<String>>>);

pub struct VolumeLock {
    locks: VolumeLocks,
    names: BTreeSet<String>,
}

impl VolumeLocks {
    /// A group and each of its images.
    fn acquire(&self, subject: &Subject) -> Result<VolumeLock, Status> {
        let names: BTreeSet<String> = subject.names().cloned().collect();
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.intersection(&busy).next() {
            return Err(Status::aborted(format!("an operation on volume {name} is under way already")));
        }
        busy.extend(names.iter().cloned());
        Ok(VolumeLock { locks: self.clone(), names })
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        let mut busy = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|name| !self.names.contains(name));
    }
}
