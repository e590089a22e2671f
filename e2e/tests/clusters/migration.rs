//! Planned moves on real clusters: one edit of one field moves the application there, and back, and no write is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use e2e::array;
use e2e::federation::later_claim::LaterClaim;
use e2e::federation::moves::{PLANNED_MOVE, ensure_went_in_order, story, time_of};
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::site::Site;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::json;

/// What was seen of a real array (design, storage.md), divided by four where it makes a test wait.
const PROMOTION: Duration = Duration::from_millis(8_700 / 4);
const CROSSING: Duration = Duration::from_millis(1_000);

/// Longer than csi-addons waits before it looks at a demotion again (15 s), and than the shop is allowed to have lost.
const SLOW_CROSSING: Duration = Duration::from_secs(18);

#[tokio::test(flavor = "multi_thread")]
async fn an_application_moves_and_comes_back_and_no_write_is_lost() -> Result<()> {
    let say = progress();
    let options = Options { east_array: as_seen(), west_array: as_seen(), ..Options::unhurried(2) };
    let federation = Federation::start(options, say.clone()).await?;
    federation.deploy().await?;
    Web::deploy(&federation).await?;
    federation.protect().await?;
    federation.await_protected().await?;
    let at_west = federation.await_storage(WEST, 2).await?;

    say("preferring west");
    federation.prefer(WEST).await?;
    moved(&federation, WEST, 2, &say).await?;
    ensure!(Web::replicas(&federation.west).await? == Web::WANTED, "the former replicas are not restored");
    ensure!(Web::replicas(&federation.east).await? == 0, "something still runs at east");
    let staged = federation.storage_uids(WEST).await?;
    ensure!(at_west.iter().all(|(name, uid)| staged.get(name) == Some(uid)), "{at_west:?}, now {staged:?}");
    federation.await_at_rest(WEST, 2, SLOW).await?;

    let at_east = federation.storage_uids(EAST).await?;
    let later = LaterClaim::of(&federation.options.application);
    say("creating another claim at west");
    later.create(&federation, WEST, "written at west").await?;
    later.await_synced(&federation).await?;
    later.await_bound(&federation, EAST).await?;
    federation.await_at_rest(WEST, 2, SLOW).await?;

    say("preferring east again");
    federation.prefer(EAST).await?;
    moved(&federation, EAST, 3, &say).await?;
    let back = federation.storage_uids(EAST).await?;
    ensure!(at_east.iter().all(|(name, uid)| back.get(name) == Some(uid)), "{at_east:?}, now {back:?}");
    ensure!(later.lines(&federation, EAST).await? == ["written at west"], "the new volume is not whole");
    ensure!(Web::replicas(&federation.east).await? == Web::WANTED, "the former replicas are not restored");
    ensure!(Web::replicas(&federation.west).await? == 0, "something still runs at west");
    federation.await_at_rest(EAST, 3, SLOW).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_that_is_slow_to_cross_is_waited_for_and_nothing_is_forced() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(1), say.clone()).await?;
    say("the mirror is slow from now on; preferring west");
    federation
        .west
        .set_array(&array::Settings { sync_delay: SLOW_CROSSING, ..array::Settings::default() })?;
    federation.prefer(WEST).await?;
    let operation = moved(&federation, WEST, 2, &say).await?;
    let crossing = time_of(&operation, "Demote")?;
    ensure!(crossing >= SLOW_CROSSING, "the demotion counted as crossed after {crossing:?}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

fn as_seen() -> array::Settings {
    array::Settings { promote_delay: PROMOTION, sync_delay: CROSSING, ..array::Settings::default() }
}

/// Waits for the planned move, and proves it.
async fn moved(federation: &Federation, to: &str, epoch: i64, say: &Progress) -> Result<DROperation> {
    let kind = OperationKind::Migrate;
    let operation = federation.await_phase(kind, epoch, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&operation));
    federation.await_serving(to, epoch, SLOW).await?;
    let writes = federation.history()?.records().iter().filter(|record| record.cluster == to).count();
    federation.await_writes(to, writes + 50, SLOW).await?;

    ensure_went_in_order(&operation, &PLANNED_MOVE)?;
    let proof = operation.status.as_ref().and_then(|status| status.fence_proof.as_deref());
    ensure!(proof == Some("Acknowledged"), "fenced by {proof:?}");
    demoted_before_promoted(federation, to)?;
    federation.ensure_never_forced()?;
    let compared = federation.ensure_nothing_lost(to).await?;
    say(&format!("{compared} acknowledged writes are at {to}, byte by byte"));
    let verdict = federation.verdict(to).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    ensure!(verdict.clusters().len() == usize::try_from(epoch)?, "one move for each epoch, but:\n{verdict}");
    Ok(operation)
}

/// As the arrays saw it: the last word of one side is spoken before the other's first.
fn demoted_before_promoted(federation: &Federation, to: &str) -> Result<()> {
    let from = if to == WEST { EAST } else { WEST };
    for handle in federation.options.application.volume_handles() {
        let done = |cluster: &str, method: &str| -> Result<Vec<Timestamp>> {
            let calls = federation.site(cluster)?.calls()?.into_iter();
            let meant =
                calls.filter(|call| call.handle == handle && call.method == method && call.succeeded());
            Ok(meant.map(|call| call.arrived).collect())
        };
        let began = done(from, "PromoteVolume")?.into_iter().max();
        let ended = done(from, "DemoteVolume")?.into_iter().filter(|at| Some(*at) > began).min();
        let ended = ended.with_context(|| format!("{handle} was never demoted at {from}"))?;
        let promoted = done(to, "PromoteVolume")?.into_iter().max();
        ensure!(
            Some(ended) < promoted,
            "{handle}: demoted at {from} at {ended}, promoted at {to} at {promoted:?}"
        );
    }
    Ok(())
}

/// A part of the application without volumes, of which there are several.
struct Web;

impl Web {
    const WANTED: i32 = 3;
    const NAME: &str = "shop-web";

    /// It runs at east, and GitOps has left it without replicas at west.
    async fn deploy(federation: &Federation) -> Result<()> {
        for (site, replicas) in [(&federation.east, Web::WANTED), (&federation.west, 0)] {
            let manifest = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": Web::NAME, "namespace": "shop", "labels": {"app": "shop"}},
                "spec": {
                    "replicas": replicas, "selector": {"matchLabels": {"part": "web"}},
                    "template": {
                        "metadata": {"labels": {"part": "web"}},
                        "spec": {
                            "terminationGracePeriodSeconds": 1,
                            "containers": [{"name": "web", "image": "web"}],
                        },
                    },
                },
            });
            site.control_plane.apply_yaml(&manifest.to_string()).await?;
        }
        Ok(())
    }

    async fn replicas(site: &Site) -> Result<i32> {
        let deployments: Api<Deployment> = Api::namespaced(site.control_plane.client(), "shop");
        let spec = deployments.get(Web::NAME).await?.spec.context("a spec")?;
        Ok(spec.replicas.unwrap_or(1))
    }
}
