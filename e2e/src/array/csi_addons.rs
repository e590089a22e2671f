//! Stand-in for a storage array: the conversation with the csi-addons sidecar, error codes as ceph-csi gives them.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{Request, Response, Status};

use super::{
    image::{MirrorState, Refusal, Sync},
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
        let capabilities = vec![
            Capability { r#type: Some(capability::Type::Service(service)) },
            Capability { r#type: Some(capability::Type::VolumeReplication(replication)) },
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
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("EnableVolumeReplication", &handle, false);
        let enabled = self.enable(&handle, &request.parameters).await;
        call.answer(enabled.map(|()| Response::new(EnableVolumeReplicationResponse {})))
    }

    async fn disable_volume_replication(
        &self,
        request: Request<DisableVolumeReplicationRequest>,
    ) -> Result<Response<DisableVolumeReplicationResponse>, Status> {
        let request = request.into_inner();
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("DisableVolumeReplication", &handle, false);
        let disabled = self.disable(&handle).await;
        call.answer(disabled.map(|()| Response::new(DisableVolumeReplicationResponse {})))
    }

    async fn promote_volume(
        &self,
        request: Request<PromoteVolumeRequest>,
    ) -> Result<Response<PromoteVolumeResponse>, Status> {
        let request = request.into_inner();
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("PromoteVolume", &handle, request.force);
        let promoted = self.promote(&handle, request.force, &request.parameters).await;
        call.answer(promoted.map(|()| Response::new(PromoteVolumeResponse {})))
    }

    async fn demote_volume(
        &self,
        request: Request<DemoteVolumeRequest>,
    ) -> Result<Response<DemoteVolumeResponse>, Status> {
        let request = request.into_inner();
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("DemoteVolume", &handle, request.force);
        let demoted = self.demote(&handle).await;
        call.answer(demoted.map(|()| Response::new(DemoteVolumeResponse {})))
    }

    async fn resync_volume(
        &self,
        request: Request<ResyncVolumeRequest>,
    ) -> Result<Response<ResyncVolumeResponse>, Status> {
        let request = request.into_inner();
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("ResyncVolume", &handle, request.force);
        let resynced = self.resync(&handle, request.force).await;
        call.answer(resynced.map(|ready| Response::new(ResyncVolumeResponse { ready })))
    }

    async fn get_volume_replication_info(
        &self,
        request: Request<GetVolumeReplicationInfoRequest>,
    ) -> Result<Response<GetVolumeReplicationInfoResponse>, Status> {
        let request = request.into_inner();
        let handle = volume_handle(request.replication_source, request.volume_id);
        let call = self.site.calls.arrived("GetVolumeReplicationInfo", &handle, false);
        let info = self.info(&handle).await;
        call.answer(info.map(Response::new))
    }
}

impl Driver {
    async fn enable(&self, handle: &str, parameters: &HashMap<String, String>) -> Result<(), Status> {
        let _lock = self.busy.acquire(handle)?;
        let mut shelf = self.site.shelf.lock().await;
        let slot = existing(&mut shelf, handle)?;
        let moment = slot.moment();
        let enabled = slot.change(|image| {
            image.scheduling_interval = parameters.get(SCHEDULING_INTERVAL).cloned();
            image.enable_mirroring(&self.site.name, &moment);
            Ok(())
        });
        answer(enabled)
    }

    async fn disable(&self, handle: &str) -> Result<(), Status> {
        let _lock = self.busy.acquire(handle)?;
        let settings = self.settings()?;
        let mut shelf = self.site.shelf.lock().await;
        let state = state_of(&shelf, handle, &settings)?;
        answer(existing(&mut shelf, handle)?.change(|image| image.disable_mirroring(state)))
    }

    async fn promote(
        &self,
        handle: &str,
        force: bool,
        parameters: &HashMap<String, String>,
    ) -> Result<(), Status> {
        let _lock = self.busy.acquire(handle)?;
        self.while_listed(handle, |settings| &settings.promote_hangs).await?;
        let settings = self.settings()?;
        tokio::time::sleep(settings.promote_delay).await;
        if let Some(message) = settings.promotion_failure(handle) {
            return Err(Status::internal(message));
        }
        let mut shelf = self.site.shelf.lock().await;
        if !force
            && settings.busy_first_promote.contain(handle)
            && shelf.busy_answered.insert(handle.to_owned())
        {
            existing(&mut shelf, handle)?;
            return Err(refused(&Refusal::Busy(handle.to_owned())));
        }
        let slot = existing(&mut shelf, handle)?;
        let moment = slot.moment();
        let promoted = slot.change(|image| {
            image.promote(&self.site.name, force, &moment)?;
            if let Some(interval) = parameters.get(SCHEDULING_INTERVAL) {
                image.scheduling_interval = Some(interval.clone());
            }
            Ok(())
        });
        answer(promoted)
    }

    async fn demote(&self, handle: &str) -> Result<(), Status> {
        let _lock = self.busy.acquire(handle)?;
        let settings = self.settings()?;
        tokio::time::sleep(settings.demote_delay).await;
        if let Some(message) = settings.demotion_refusal(handle) {
            return Err(Status::failed_precondition(message));
        }
        let mut shelf = self.site.shelf.lock().await;
        shelf.busy_answered.remove(handle);
        let slot = existing(&mut shelf, handle)?;
        let (moment, attachments) = (slot.moment(), slot.attachments);
        answer(slot.change(|image| image.demote(attachments, &moment)))
    }

    async fn resync(&self, handle: &str, force: bool) -> Result<bool, Status> {
        let _lock = self.busy.acquire(handle)?;
        let settings = self.settings()?;
        let mut shelf = self.site.shelf.lock().await;
        let state = state_of(&shelf, handle, &settings)?;
        let ready = answer(existing(&mut shelf, handle)?.change(|image| image.resync(force, state)))?;
        Ok(ready && !settings.never_ready.contain(handle))
    }

    async fn info(&self, handle: &str) -> Result<GetVolumeReplicationInfoResponse, Status> {
        let _lock = self.busy.acquire(handle)?;
        let settings = self.settings()?;
        let mut shelf = self.site.shelf.lock().await;
        let slot = existing(&mut shelf, handle)?;
        let sync = slot.image.last_sync().map_err(|refusal| match refusal {
            // The controller takes NotFound as "nothing to tell yet" and looks again after the interval.
            Refusal::NoSnapshotDetails(..) => Status::not_found(refusal.to_string()),
            Refusal::NotMirrored(_)
            | Refusal::Busy(_)
            | Refusal::InUse { .. }
            | Refusal::IsPrimary(_)
            | Refusal::NotPrimary(_)
            | Refusal::UnhealthySecondary(..)
            | Refusal::NeedsToBeRecreated(_) => refused(&refusal),
        })?;
        replication_info(slot, sync, &settings)
    }

    /// Waits for as long as the volume is listed; the caller's own deadline, or its patience, ends the wait.
    async fn while_listed(&self, handle: &str, list: fn(&Settings) -> &Handles) -> Result<(), Status> {
        while list(&self.settings()?).contain(handle) {
            tokio::time::sleep(HANG_RECHECK).await;
        }
        Ok(())
    }

    fn settings(&self) -> Result<Settings, Status> {
        Settings::read(&self.site.directory).map_err(|error| Status::internal(error.to_string()))
    }
}

fn replication_info(
    slot: &Slot,
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
        status_message: format!("{} is primary", slot.image.handle),
    })
}

fn volume_handle(source: Option<ReplicationSource>, volume_id: String) -> String {
    match source.and_then(|source| source.r#type) {
        Some(replication_source::Type::Volume(volume)) => volume.volume_id,
        Some(replication_source::Type::Volumegroup(group)) => group.volume_group_id,
        None => volume_id,
    }
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
    handle: String,
}

impl VolumeLocks {
    fn acquire(&self, handle: &str) -> Result<VolumeLock, Status> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.to_owned()) {
            Ok(VolumeLock { locks: self.clone(), handle: handle.to_owned() })
        } else {
            Err(Status::aborted(format!("an operation on volume {handle} is under way already")))
        }
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        self.locks.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.handle);
    }
}
