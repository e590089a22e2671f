//! What tests and the demo ask of a federation, and how they wait: by watching the real objects.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::cluster::DRCluster;
use crds::conditions::ConditionType;
use crds::operation::{DROperation, OperationKind};
use crds::placement::DRPlacement;
use futures::TryStreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::timeout;

use super::{EAST, Federation, SLOW, WEST};
use crate::array::Call;
use crate::history::{self, History, Survivors, Verdict};
use crate::patience::within;

/// Fewer writes than this prove little.
const SOME_WRITES: usize = 50;

impl Federation {
    pub fn placements(&self) -> Api<DRPlacement> {
        Api::namespaced(self.hub.control_plane.client(), &self.options.application.namespace)
    }

    pub fn operations_api(&self) -> Api<DROperation> {
        Api::namespaced(self.hub.control_plane.client(), &self.options.application.namespace)
    }

    pub async fn placement(&self) -> Result<DRPlacement> {
        let name = &self.options.application.name;
        self.placements().get(name).await.with_context(|| format!("reading the DRPlacement {name}"))
    }

    /// The condition of the placement now, if it has one of that type.
    pub async fn condition(&self, kind: ConditionType) -> Result<Option<Condition>> {
        Ok(condition_of(&self.placement().await?, kind).cloned())
    }

    /// Waits until the hub, perhaps a new one, has heard the cluster once more.
    pub async fn await_heartbeat(&self, cluster: &str) -> Result<()> {
        let clusters: Api<DRCluster> = Api::all(self.hub.control_plane.client());
        let last_heard = async || {
            let found =
                clusters.get(cluster).await.with_context(|| format!("reading DRCluster {cluster}"))?;
            Ok::<_, anyhow::Error>(found.status.and_then(|status| status.last_heartbeat))
        };
        let before = last_heard().await?;
        within(SLOW, &format!("the hub hears {cluster}"), async || {
            // None right after a hub's start, which has not heard anybody.
            let now = last_heard().await?;
            Ok((now.is_some() && now != before).then_some(()))
        })
        .await
    }

    /// All operations, oldest first.
    pub async fn operations(&self) -> Result<Vec<DROperation>> {
        let listed =
            self.operations_api().list(&ListParams::default()).await.context("listing the DROperations")?;
        let mut operations = listed.items;
        operations.sort_by_key(|operation| operation.spec.epoch);
        Ok(operations)
    }

    /// The newest operation of the kind.
    pub async fn operation(&self, kind: OperationKind) -> Result<Option<DROperation>> {
        Ok(self.operations().await?.into_iter().rfind(|operation| operation.spec.kind == kind))
    }

    /// Waits by watch until the placement is as asked for.
    pub async fn await_placement(
        &self,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&DRPlacement) -> bool,
    ) -> Result<DRPlacement> {
        let holds = |found: Option<&DRPlacement>| found.is_some_and(&is_so);
        let name = &self.options.application.name;
        match timeout(deadline, await_condition(self.placements(), name, holds)).await {
            Ok(found) => found
                .with_context(|| format!("watching the DRPlacement {name}"))?
                .with_context(|| format!("the DRPlacement {name} went away")),
            Err(_) => Err(self.diagnosis(&format!("not within {deadline:?}: {what}")).await),
        }
    }

    /// Waits by watch until a condition has the status: True, False or Unknown.
    pub async fn await_condition(
        &self,
        kind: ConditionType,
        status: &str,
        deadline: Duration,
    ) -> Result<Condition> {
        let is_so = |placement: &DRPlacement| {
            condition_of(placement, kind).is_some_and(|condition| condition.status == status)
        };
        let placement = self.await_placement(&format!("{kind} is {status}"), deadline, is_so).await?;
        condition_of(&placement, kind).cloned().with_context(|| format!("{kind} went away"))
    }

    /// Waits by watch until there is an operation as asked for.
    pub async fn await_operation(
        &self,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&DROperation) -> bool,
    ) -> Result<DROperation> {
        let found = async {
            let mut changes = std::pin::pin!(
                watcher(self.operations_api(), watcher::Config::default())
                    .default_backoff()
                    .applied_objects()
            );
            loop {
                match changes.try_next().await {
                    Ok(Some(operation)) if is_so(&operation) => return Ok(operation),
                    // A watch that breaks off is taken up again by itself.
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => bail!("the watch of the DROperations ended"),
                }
            }
        };
        match timeout(deadline, found).await {
            Ok(found) => found,
            Err(_) => Err(self.diagnosis(&format!("not within {deadline:?}: {what}")).await),
        }
    }

    /// Waits until the application is protected, the hub may act alone, and west's copies hold writes.
    pub async fn await_protected(&self) -> Result<()> {
        self.await_writes(EAST, SOME_WRITES, SLOW).await?;
        self.await_placement("Protected and AutomaticFailoverArmed are True", SLOW, |placement| {
            [ConditionType::Protected, ConditionType::AutomaticFailoverArmed, ConditionType::FailoverReady]
                .into_iter()
                .all(|kind| condition_of(placement, kind).is_some_and(|condition| condition.status == "True"))
        })
        .await?;
        self.await_copies(WEST, SLOW).await
    }

    /// Waits until so many writes of the cluster have been acknowledged.
    pub async fn await_writes(&self, cluster: &str, count: usize, deadline: Duration) -> Result<()> {
        let what = format!("{count} writes of {cluster} are acknowledged");
        let waited = within(deadline, &what, async || Ok((self.writes_at(cluster)? >= count).then_some(())));
        self.or_diagnosis(waited).await
    }

    /// The same, of those that come from now on.
    pub async fn await_further_writes(&self, cluster: &str, count: usize, deadline: Duration) -> Result<()> {
        self.await_writes(cluster, self.writes_at(cluster)? + count, deadline).await
    }

    /// How many writes of the cluster have been acknowledged.
    pub fn writes_at(&self, cluster: &str) -> Result<usize> {
        Ok(self.history()?.records().iter().filter(|record| record.cluster == cluster).count())
    }

    /// Waits until so many writes have been acknowledged, wherever that was.
    pub async fn await_acknowledged(&self, count: usize, deadline: Duration) -> Result<()> {
        let what = format!("{count} writes are acknowledged");
        let waited =
            within(deadline, &what, async || Ok((self.history()?.records().len() >= count).then_some(())));
        self.or_diagnosis(waited).await
    }

    /// What was waited for, or an error that says what is wrong.
    pub async fn or_diagnosis<T>(&self, waited: impl Future<Output = Result<T>>) -> Result<T> {
        match waited.await {
            Ok(found) => Ok(found),
            Err(error) => Err(self.diagnosis(&format!("{error:#}")).await),
        }
    }

    /// Waits until each volume has writes at the cluster that holds its copy.
    pub async fn await_copies(&self, cluster: &str, deadline: Duration) -> Result<()> {
        let what = format!("every volume has writes at {cluster}");
        let waited = within(deadline, &what, async || {
            // Images that do not exist there yet cannot be read.
            let survivors = self.survivors(cluster).await.ok();
            let all = survivors.filter(|found| found.images.values().all(|records| !records.is_empty()));
            Ok(all.map(|_| ()))
        });
        self.or_diagnosis(waited).await
    }

    /// All acknowledged writes of the application so far.
    pub fn history(&self) -> Result<History> {
        if !self.writes.exists() {
            return Ok(History::default());
        }
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let all = following.read(&self.writes).context("reading what was written")?;
        Ok(all.of_images(&self.options.application.volume_handles()))
    }

    async fn survivors(&self, cluster: &str) -> Result<Survivors> {
        let site = self.site(cluster)?;
        let handles = self.options.application.volume_handles();
        Survivors::read(cluster, &site.data_socket(), &handles).await.context("reading what survived")
    }

    /// What the writes prove, against what the cluster's volumes hold now.
    pub async fn verdict(&self, cluster: &str) -> Result<Verdict> {
        let history = self.history()?;
        Ok(history::check(&history, &self.survivors(cluster).await?))
    }

    /// No image has been promoted by force but the application's own, each at least once.
    pub fn ensure_all_were_forced(&self, cluster: &str) -> Result<()> {
        let forced = self.site(cluster)?.forced_promotions()?;
        let promoted: BTreeSet<&str> = forced.iter().flat_map(Call::images).map(String::as_str).collect();
        let handles = self.options.application.volume_handles();
        let wanted: BTreeSet<&str> = handles.iter().map(String::as_str).collect();
        ensure!(promoted == wanted, "forced promotions at {cluster} were {promoted:?}, not {wanted:?}");
        Ok(())
    }
}

pub fn condition_of(placement: &DRPlacement, kind: ConditionType) -> Option<&Condition> {
    placement.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind.as_str())
}
