//! What the hub's edge makes of proposals and answers, with the rights it is installed with, on a real API server.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::operation::{DROperationSpec, DROperationStatus, OperationKind, OperationPhase};
use crds::{DRApproval, DROperation, DRPlacement};
use e2e::assets::Assets;
use e2e::control_plane::{ControlPlane, Options};
use e2e::installation::{self, HUB, HUB_ACCOUNT};
use e2e::{patience, refusal};
use hub_core::explain::OperationView;
use hub_core::{Event, Explanation};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use proto::{OperationId, PlacementId, PlacementName};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use understudy_hub::{approvals, status_writer};

const NAMESPACE: &str = "shop";
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_operation_is_one_object_from_its_proposal_to_its_end() -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the test")?;
    let installed = Installed::start(folder.path()).await?;
    let (tell, told) = mpsc::channel(16);
    let writer = tokio::spawn(status_writer::run(installed.hub.clone(), told));

    one_object_is_made_and_goes_on(&installed, &tell).await?;
    a_withdrawn_proposal_stays(&installed, &tell).await?;
    what_somebody_deletes_in_mid_operation_is_made_anew(&installed, &tell).await?;
    drop(tell);
    timeout(DEADLINE, writer).await.context("the writer did not end")??.context("the writer failed")?;

    answers_are_told_and_never_written(&installed).await
}

struct Installed {
    cluster: ControlPlane,
    /// With the rights of the hub.
    hub: Client,
    placement: PlacementId,
}

impl Installed {
    async fn start(folder: &std::path::Path) -> Result<Installed> {
        let assets = Assets::ensure(|doing| eprintln!("{doing}"))?;
        let options = Options::at(Ipv4Addr::new(127, 0, 48, 1));
        let cluster = ControlPlane::start(&assets, "hub", folder, options).await?;
        cluster.apply_yaml(&installation::without_workloads(HUB)?).await?;
        cluster.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}").await?;
        let hub = cluster.client_as(&cluster.token(installation::NAMESPACE, HUB_ACCOUNT).await?).await?;
        let placements: Api<DRPlacement> = Api::namespaced(cluster.client(), NAMESPACE);
        let placement = json!({
            "metadata": {"name": "shop"},
            "spec": {
                "preferredCluster": "east", "clusters": ["east", "west"],
                "protect": {"volumes": {"matchLabels": {"app": "shop"}}, "workloads": {"matchLabels": {"app": "shop"}}},
                "replication": {"volumeReplicationClass": "rbd-5m"},
            },
        });
        let made = placements.create(&PostParams::default(), &serde_json::from_value(placement)?).await?;
        let placement = PlacementId::parse(&made.uid().unwrap_or_default()).context("the placement's uid")?;
        Ok(Installed { cluster, hub, placement })
    }

    fn operations(&self) -> Api<DROperation> {
        Api::namespaced(self.cluster.client(), NAMESPACE)
    }

    fn told(&self, name: &str, status: DROperationStatus) -> Explanation {
        Explanation::Operation(Box::new(OperationView {
            placement: self.placement.clone(),
            name: PlacementName { namespace: NAMESPACE.into(), name: "shop".into() },
            operation: OperationId(name.into()),
            spec: DROperationSpec {
                placement: "shop".into(),
                kind: OperationKind::FailOver,
                from: Some("east".into()),
                to: Some("west".into()),
                epoch: 2,
            },
            status,
        }))
    }

    /// Waits until the object shows this phase.
    async fn shows(&self, name: &str, phase: OperationPhase) -> Result<DROperation> {
        let operations = self.operations();
        patience::until(&format!("{name} is shown as {phase:?}"), async || {
            let seen = operations.get_opt(name).await.context("reading a DROperation")?;
            Ok(seen.filter(|seen| seen.status.as_ref().and_then(|status| status.phase) == Some(phase)))
        })
        .await
    }
}

fn is(phase: OperationPhase) -> DROperationStatus {
    DROperationStatus { phase: Some(phase), generation: Some(1), ..DROperationStatus::default() }
}

async fn one_object_is_made_and_goes_on(
    installed: &Installed,
    tell: &mpsc::Sender<Explanation>,
) -> Result<()> {
    let name = "shop-failover-2";
    let asks = DROperationStatus {
        message: Some("approve it with a DRApproval".into()),
        expected_loss: Some("12s".into()),
        ..is(OperationPhase::Proposed)
    };
    tell.send(installed.told(name, asks)).await?;
    let proposed = installed.shows(name, OperationPhase::Proposed).await?;
    let owner = proposed.owner_references().first().context("an owner")?;
    ensure!(owner.uid == installed.placement.as_str(), "it belongs to {owner:?}");

    let approved = DROperationStatus { approved_by: Some("jane".into()), ..is(OperationPhase::Running) };
    tell.send(installed.told(name, approved.clone())).await?;
    let running = installed.shows(name, OperationPhase::Running).await?;
    let status = running.status.clone().unwrap_or_default();
    ensure!(status.message.is_none(), "what was asked is still shown: {:?}", status.message);
    ensure!(status.approved_by.as_deref() == Some("jane"), "who approved is not shown: {status:?}");

    let succeeded = DROperationStatus { phase: Some(OperationPhase::Succeeded), ..approved };
    tell.send(installed.told(name, succeeded)).await?;
    let ended = installed.shows(name, OperationPhase::Succeeded).await?;
    for later in [&running, &ended] {
        ensure!(later.uid() == proposed.uid(), "another object took its place");
        ensure!(later.metadata.generation == Some(1), "its spec was written again");
    }
    let all = installed.operations().list(&ListParams::default()).await?.items;
    ensure!(all.len() == 1, "more than one object: {all:?}");
    Ok(())
}

async fn a_withdrawn_proposal_stays(installed: &Installed, tell: &mpsc::Sender<Explanation>) -> Result<()> {
    let name = "shop-failover-3";
    tell.send(installed.told(name, is(OperationPhase::Proposed))).await?;
    let proposed = installed.shows(name, OperationPhase::Proposed).await?;
    let gone = DROperationStatus { message: Some("east answers".into()), ..is(OperationPhase::Withdrawn) };
    tell.send(installed.told(name, gone)).await?;
    let withdrawn = installed.shows(name, OperationPhase::Withdrawn).await?;
    ensure!(withdrawn.uid() == proposed.uid(), "another object took its place");
    let why = withdrawn.status.and_then(|status| status.message);
    ensure!(why.as_deref() == Some("east answers"), "why it was withdrawn: {why:?}");
    Ok(())
}

/// A human answers what can be seen: it must not stay away because somebody tidied up.
async fn what_somebody_deletes_in_mid_operation_is_made_anew(
    installed: &Installed,
    tell: &mpsc::Sender<Explanation>,
) -> Result<()> {
    let name = "shop-failover-3-1";
    tell.send(installed.told(name, is(OperationPhase::Proposed))).await?;
    let proposed = installed.shows(name, OperationPhase::Proposed).await?;
    installed.operations().delete(name, &DeleteParams::default()).await.context("tidying up")?;
    tell.send(installed.told(name, is(OperationPhase::Running))).await?;
    let running = installed.shows(name, OperationPhase::Running).await?;
    ensure!(running.uid() != proposed.uid(), "it was not deleted");
    ensure!(running.spec == proposed.spec, "it is another operation: {:?}", running.spec);
    Ok(())
}

async fn answers_are_told_and_never_written(installed: &Installed) -> Result<()> {
    let (tell, mut told) = mpsc::channel(1);
    let watch = tokio::spawn(approvals::watch_approvals(installed.hub.clone(), tell));
    let administrator: Api<DRApproval> = Api::namespaced(installed.cluster.client(), NAMESPACE);
    for name in ["yes", "yes-again"] {
        administrator.create(&PostParams::default(), &approval(name)?).await.context("approving")?;
    }
    let mut seen = vec![next(&mut told).await?, next(&mut told).await?];
    seen.sort();
    ensure!(seen == ["seen shop/yes admin", "seen shop/yes-again admin"], "told: {seen:?}");
    administrator.delete("yes", &DeleteParams::default()).await.context("taking it back")?;
    let gone = next(&mut told).await?;
    ensure!(gone == "gone shop/yes", "told: {gone}");

    let as_hub: Api<DRApproval> = Api::namespaced(installed.hub.clone(), NAMESPACE);
    let own = as_hub.create(&PostParams::default(), &approval("own")?).await;
    refusal::expect(own, 403, &["cannot create resource \"drapprovals\""])?;
    let tidied = as_hub.delete("yes-again", &DeleteParams::default()).await;
    refusal::expect(tidied, 403, &["cannot delete resource \"drapprovals\""])?;
    watch.abort();
    Ok(())
}

fn approval(name: &str) -> Result<DRApproval> {
    let approval = json!({
        "metadata": {"name": name},
        "spec": {"operation": "shop-failover-2", "placement": "shop", "epoch": 2, "generation": 1,
                 "approver": "admin", "approve": true, "expires": "2030-01-01T00:00:00Z"},
    });
    serde_json::from_value(approval).context("reading the approval")
}

async fn next(told: &mut mpsc::Receiver<Event>) -> Result<String> {
    let event = timeout(DEADLINE, told.recv()).await.context("nothing was told")?;
    let event = event.context("the watch ended")?;
    if let Event::ApprovalSeen(one) = event {
        Ok(format!("seen {}/{} {}", one.namespace, one.name, one.approver))
    } else if let Event::ApprovalGone(namespace, name) = event {
        Ok(format!("gone {namespace}/{name}"))
    } else {
        bail!("told: {event:?}")
    }
}
