//! Stand-in for a storage array: takes a mirror snapshot of each primary image whenever its interval is over.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    image::{Image, Role},
    serve::Site,
    settings::Settings,
    span,
};

const TICK: Duration = Duration::from_millis(20);

pub async fn run(site: Arc<Site>) -> Result<(), io::Error> {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        match Settings::read(&site.directory) {
            Ok(settings) => take_due_snapshots(&site, &settings).await?,
            Err(error) => tracing::warn!(%error, "snapshots wait for readable settings"),
        }
    }
}

async fn take_due_snapshots(site: &Site, settings: &Settings) -> Result<(), io::Error> {
    let mut shelf = site.shelf.lock().await;
    let now = Timestamp::now();
    let is_due = |image: &Image| is_due(image, settings, now);
    let due: Vec<String> =
        shelf.slots_mut().filter(|slot| is_due(&slot.image)).map(|slot| slot.image.handle.clone()).collect();
    let mates = due.iter().filter_map(|handle| shelf.groups.of(handle)).flat_map(|(_, images)| images);
    let all: BTreeSet<String> = mates.chain(&due).cloned().collect();
    // Nothing is written in between: the copies of a group are of one moment.
    for slot in shelf.slots_mut().filter(|slot| all.contains(&slot.image.handle) && is_mirrored(&slot.image))
    {
        slot.take_snapshot(now)?;
    }
    Ok(())
}

fn is_mirrored(image: &Image) -> bool {
    image.mirroring && image.role == Role::Primary
}

fn is_due(image: &Image, settings: &Settings, now: Timestamp) -> bool {
    let Some(head) = image.head.as_ref().filter(|_| is_mirrored(image)) else {
        return false;
    };
    // An interval that nobody can read schedules nothing, as with the real array: only lastSyncTime tells.
    let Some(interval) =
        settings.snapshot_interval.or_else(|| span::parse(image.scheduling_interval.as_ref()?).ok())
    else {
        return false;
    };
    now.duration_since(head.taken).unsigned_abs() >= interval
}
