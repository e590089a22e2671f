//! The hub's journal: its disk is full, or is set back to an old backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::conditions::{ConditionType, Reason};
use crds::operation::{OperationKind, OperationPhase};

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, longest_pause};
use crate::federation::service::Service;
use crate::federation::{EAST, Federation, SLOW, WEST, boot_nanoseconds};
use crate::patience::within;

/// Room for the journal as it is, and not for much more.
const DISK_MEGABYTES: u64 = 8;
const MEGABYTE: u64 = 1024 * 1024;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("hub: the journal's disk is full", |stage| Box::pin(disk_full(stage))),
    Scenario::new("hub: the journal is set back to an old backup", |stage| Box::pin(old_backup(stage))),
];

async fn disk_full(stage: &Stage) -> Result<String> {
    let (hub, since) = (&stage.shop.hub, boot_nanoseconds());
    hub.kill9();
    let disk = SmallDisk::under(hub.journal(), &stage.shop.folder().join("small-disk.log")).await?;
    hub.start_through(&disk.entrance()).await?;
    stage.await_well().await?;

    disk.fill()?;
    // Each edit is a record.
    let ended = within(SLOW, "the hub stops when it cannot write", async || {
        stage.bank.touch().await?;
        Ok(hub.service.exited())
    });
    let ended = ended.await?;
    let said = hub.service.whole_log()?;
    ensure!(!ended.success(), "it ended as if all were well: {said}");
    let why = said.lines().rfind(|line| line.contains("append to the journal"));
    let why = why.with_context(|| format!("it does not say why it ended: {said}"))?.trim();
    let away = stage.stays(&stage.bank, LONG_AGAINST_W).await.context("while the hub is away")?;
    hub.service.start_through(&disk.entrance())?;
    within(SLOW, "a hub that starts without room stops again", async || Ok(hub.service.exited())).await?;
    hub.kill9();

    disk.make_room()?;
    hub.start_through(&disk.entrance()).await?;
    stage.await_well().await?;
    stage.both_stay(LONG_AGAINST_W / 2).await?;
    hub.kill9();
    disk.copy_to(hub.journal())?;
    drop(disk);
    hub.start().await?;
    Ok(format!(
        "the hub ends ({ended}) and says: {why}; the applications run on (longest pause {:.1} s, of all {:.1} s); with room it goes on without loss",
        away.as_secs_f64(),
        longest_pause(&stage.shop, since)?.as_secs_f64()
    ))
}

/// A file system of its own in memory, which only those see who enter by its process; it ends with it.
struct SmallDisk {
    keeper: Service,
    path: PathBuf,
}

const KEEP: &str = r#"set -e
cp -a "$1" "$1.before"
mount -t tmpfs -o "mode=0700,size=$2m" tmpfs "$1"
cp -a "$1.before/." "$1"
rm -r "$1.before"
touch "$1/.ready"
exec sleep infinity
"#;

impl SmallDisk {
    async fn under(path: &Path, log: &Path) -> Result<SmallDisk> {
        let keeper = Service::new("small disk", Path::new("sh"), log, |launch| {
            let script = ["-c", KEEP, "small-disk"].map(str::to_owned);
            let arguments = [path.display().to_string(), DISK_MEGABYTES.to_string()];
            launch.through(["unshare", "--mount", "--"]).arguments(script).arguments(arguments)
        });
        keeper.start()?;
        let disk = SmallDisk { keeper, path: path.to_owned() };
        within(SLOW, "the small disk is mounted", async || {
            disk.keeper.still_runs()?;
            Ok(disk.seen()?.join(".ready").exists().then_some(()))
        })
        .await?;
        Ok(disk)
    }

    fn keeper(&self) -> Result<u32> {
        self.keeper.id().context("the small disk has gone")
    }

    /// The same files, seen from outside.
    fn seen(&self) -> Result<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper()?));
        Ok(root.join(self.path.strip_prefix("/").unwrap_or(&self.path)))
    }

    fn entrance(&self) -> Vec<String> {
        let id = self.keeper.id().unwrap_or_default();
        ["nsenter", &format!("--mount=/proc/{id}/ns/mnt"), "--"].map(str::to_owned).to_vec()
    }

    fn filler(&self) -> Result<PathBuf> {
        Ok(self.seen()?.join("filler"))
    }

    /// Writes until nothing more goes in.
    fn fill(&self) -> Result<()> {
        let filler = self.filler()?;
        let written = fs::write(&filler, vec![1; usize::try_from(DISK_MEGABYTES * MEGABYTE)?]);
        ensure!(written.is_err(), "{} took everything", filler.display());
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        let filler = self.filler()?;
        fs::remove_file(&filler).with_context(|| format!("removing {}", filler.display()))
    }

    fn copy_to(&self, folder: &Path) -> Result<()> {
        copy(&self.seen()?, folder)
    }
}

/// Copies the journal's files over those in another folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copying = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(copying)?;
    for entry in fs::read_dir(from).with_context(copying)? {
        let entry = entry.with_context(copying)?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(copying)?;
    }
    Ok(())
}

async fn old_backup(stage: &Stage) -> Result<String> {
    let (hub, since) = (&stage.shop.hub, boot_nanoseconds());
    let [old, new] = ["journal-old", "journal-new"].map(|name| stage.shop.folder().join(name));
    hub.kill9();
    copy(hub.journal(), &old)?;
    hub.start().await?;
    let epoch = moved_to(stage, WEST).await?;

    hub.kill9();
    copy(hub.journal(), &new)?;
    hub.empty_journal()?;
    copy(&old, hub.journal())?;
    hub.start().await?;
    let asks = needs_human(&stage.shop).await?;
    needs_human(&stage.bank).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;

    hub.kill9();
    hub.empty_journal()?;
    copy(&new, hub.journal())?;
    hub.start().await?;
    stage.await_well().await?;
    moved_to(stage, EAST).await?;
    Ok(format!(
        "set back from epoch {epoch}: {asks}; {stay}; with the newest journal it goes on (longest pause of all, two moves in it, {:.1} s)",
        longest_pause(&stage.shop, since)?.as_secs_f64()
    ))
}

/// Somebody knows a later epoch than the journal: nothing is automatic until a human has looked.
async fn needs_human(application: &Federation) -> Result<String> {
    let stalled = application.await_condition(ConditionType::Stalled, "True", SLOW).await?;
    ensure!(stalled.reason == Reason::NeedsHuman.as_str(), "{}: {}", stalled.reason, stalled.message);
    Ok(format!("NeedsHuman: {}", stalled.message))
}

/// Moves both by an edit each; returns the epoch of the shop.
async fn moved_to(stage: &Stage, cluster: &str) -> Result<i64> {
    let mut entered = 0;
    for application in stage.both().into_iter().rev() {
        let epoch =
            application.placement().await?.status.and_then(|status| status.epoch).context("an epoch")?;
        entered = epoch + 1;
        application.prefer(cluster).await?;
        application.await_phase(OperationKind::Migrate, entered, OperationPhase::Succeeded, SLOW).await?;
        application.await_at_rest(cluster, entered, SLOW).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(entered)
}
