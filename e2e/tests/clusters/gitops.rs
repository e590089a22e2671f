//! Flux applies the application at both sites, replicas and all, over whatever anybody changes: a planned move pauses it
//! where the application is stopped, lets it go on afterwards, and leaves what its user has suspended alone.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crds::foreign;
use crds::operation::{OperationKind, OperationPhase};
use e2e::federation::moves::story;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::gitops::{self, GitOps, kustomization, labelled};
use e2e::patience::within;
use e2e::refusal;
use e2e::site::Site;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const DEFINITIONS: &str = include_str!("../../manifests/gitops.yaml");
const RIGHTS: &str = include_str!("../../../deploy/agent/gitops.yaml");
/// On what the agent has paused.
const MARK: &str = "understudy.dev/paused-for";

#[tokio::test(flavor = "multi_thread")]
async fn flux_is_paused_where_the_application_is_stopped_and_goes_on_afterwards() -> Result<()> {
    let say = progress();
    let federation = Federation::start(Options::unhurried(1), say.clone()).await?;
    for site in [&federation.east, &federation.west] {
        site.control_plane.apply_yaml(&[DEFINITIONS, RIGHTS].join("\n---\n")).await?;
        site.control_plane.apply_yaml(&kustomization("shop", false).to_string()).await?;
    }
    the_agent_may_only_pause(&federation.west).await?;
    federation.deploy().await?;
    let by_hand = suspended_by_its_user(&federation.east, 1).await?;
    suspended_by_its_user(&federation.west, 0).await?;
    let at_east = reconciled(&federation, &federation.east)?;
    federation.protect().await?;
    federation.await_protected().await?;
    let at_west = reconciled(&federation, &federation.west)?;
    await_applied(&federation, &at_west).await?;

    say("preferring west");
    moves(&federation, WEST, 2, &say).await?;
    await_suspended(&federation, &at_east, &[false, true, false]).await?;
    ensure!(at_west.done().suspended == [false], "paused at the winning side: {:?}", at_west.done());
    no_pod_runs(&federation.east).await?;

    say("preferring east again");
    moves(&federation, EAST, 3, &say).await?;
    await_suspended(&federation, &at_west, &[false, true, false]).await?;
    ensure!(at_east.done().suspended == [false, true, false], "{:?}", at_east.done());
    no_pod_runs(&federation.west).await?;

    for reconciler in [&at_east, &at_west] {
        goes_on_unmarked(reconciler).await?;
        ensure!(
            reconciler.done().healed > 0,
            "nothing was ever changed against git: {:?}",
            reconciler.done()
        );
    }
    let web = gitops::kustomizations(federation.east.control_plane.client()).get("web").await?;
    ensure!(web.metadata.resource_version == by_hand, "what its user has suspended was changed: {web:?}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// The application's Deployment as it is in git: with its replicas, for both sites.
fn in_git(federation: &Federation) -> Result<Value> {
    let documents: Vec<Value> = federation
        .options
        .application
        .manifest()
        .split("\n---\n")
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    documents.into_iter().find(|document| document["kind"] == "Deployment").context("a Deployment")
}

fn reconciled(federation: &Federation, site: &Site) -> Result<GitOps> {
    GitOps::start(site.control_plane.client(), "shop", in_git(federation)?)
}

/// A second Deployment of the application, whose Kustomization its user has suspended; the version of that one.
async fn suspended_by_its_user(site: &Site, replicas: u32) -> Result<Option<String>> {
    let web = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "shop-web", "namespace": "shop", "labels": {"app": "shop"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"part": "web"}},
            "template": {
                "metadata": {"labels": {"part": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": "web"}]},
            },
        },
    });
    let documents = [kustomization("web", true), labelled(web, "web")];
    site.control_plane.apply_yaml(&documents.map(|one| one.to_string()).join("\n---\n")).await?;
    let own = gitops::kustomizations(site.control_plane.client()).get("web").await?;
    Ok(own.metadata.resource_version)
}

async fn await_applied(federation: &Federation, reconciler: &GitOps) -> Result<()> {
    let waited = within(SLOW, "Flux has applied", async || Ok((reconciler.done().applied > 0).then_some(())));
    federation.or_diagnosis(waited).await
}

async fn await_suspended(federation: &Federation, reconciler: &GitOps, turns: &[bool]) -> Result<()> {
    let what = format!("whether Flux was suspended, in turns: {turns:?}");
    let waited = within(SLOW, &what, async || Ok((reconciler.done().suspended == turns).then_some(())));
    let waited = async { waited.await.with_context(|| format!("but it has done: {:?}", reconciler.done())) };
    federation.or_diagnosis(waited).await
}

/// One edit of one field, and the application is there, with every write, and only there.
async fn moves(federation: &Federation, to: &str, epoch: i64, say: &Progress) -> Result<()> {
    federation.prefer(to).await?;
    let operation =
        federation.await_phase(OperationKind::Migrate, epoch, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&operation));
    federation.await_serving(to, epoch, SLOW).await?;
    let writes = federation.history()?.records().iter().filter(|record| record.cluster == to).count();
    federation.await_writes(to, writes + 20, SLOW).await?;
    federation.ensure_never_forced()?;
    federation.ensure_nothing_lost(to).await?;
    let verdict = federation.verdict(to).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    Ok(())
}

/// Although Flux scales up there what is stopped.
async fn no_pod_runs(site: &Site) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(site.control_plane.client(), "shop");
    let there = pods.list(&ListParams::default().labels("app=shop")).await?;
    ensure!(there.items.is_empty(), "{} has pods: {:?}", site.name, there.items);
    Ok(())
}

async fn goes_on_unmarked(reconciler: &GitOps) -> Result<()> {
    let own = reconciler.kustomization().await?;
    let expected = kustomization(&reconciler.name, false);
    ensure!(own.data["spec"] == expected["spec"], "it is not as it was: {:?}", own.data);
    let annotations = own.metadata.annotations.unwrap_or_default();
    ensure!(annotations.keys().eq(["team"]), "marks are left: {annotations:?}");
    Ok(())
}

/// Its rights are wide, because RBAC knows no fields; admission holds it to the one that pauses.
async fn the_agent_may_only_pause(site: &Site) -> Result<()> {
    let token = site.control_plane.token("understudy-system", "understudy-agent").await?;
    let agent = site.control_plane.client_as(&token).await?;
    let of = |namespace: &str, resource: &ApiResource| -> Api<DynamicObject> {
        Api::namespaced_with(agent.clone(), namespace, resource)
    };
    let application = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
        "metadata": {"name": "cart", "namespace": "argocd"}, "spec": {"project": "default"},
    });
    let release = json!({
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"name": "cart", "namespace": "flux-system"}, "spec": {"chart": {"spec": {"chart": "cart"}}},
    });
    let theirs = [application, release, kustomization("cart", false)].map(|one| one.to_string());
    site.control_plane.apply_yaml(&theirs.join("\n---\n")).await?;
    let kustomizations = of("flux-system", &foreign::kustomization());
    let releases = of("flux-system", &foreign::helm_release());
    let applications = of("argocd", &foreign::argo_application());

    // What is not refused yet must not change what is asked next.
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    let patched = async |api: &Api<DynamicObject>, patch: Value| {
        api.patch("cart", &dry_run, &Patch::Merge(&patch)).await
    };
    let elsewhere = json!({"spec": {"path": "./attack"}});
    let ask = async || patched(&kustomizations, elsewhere.clone()).await;
    refusal::comes_into_force("change nothing else of its spec", ask).await?;
    for (api, patch, why) in [
        (&kustomizations, json!({"spec": {"prune": null}}), "nothing else of its spec"),
        (&kustomizations, json!({"spec": {"targetNamespace": "kube-system"}}), "nothing else of its spec"),
        (&kustomizations, json!({"metadata": {"labels": {"a": "b"}}}), "nothing else of its metadata"),
        (
            &kustomizations,
            json!({"metadata": {"annotations": {"team": null}}}),
            "nothing else of its metadata",
        ),
        (&releases, json!({"spec": {"chart": {"spec": {"chart": "attack"}}}}), "nothing else of its spec"),
        (&applications, json!({"spec": {"project": "admin"}}), "nothing else of its spec"),
        (&applications, json!({"spec": {"suspend": true}}), "nothing else of its spec"),
        (&applications, json!({"operation": {"sync": {}}}), "not operate it"),
    ] {
        refusal::expect(patched(api, patch).await, 422, &[why])?;
    }
    let skip = "argocd.argoproj.io/skip-reconcile";
    for (api, paused) in [
        (&kustomizations, json!({"spec": {"suspend": true}, "metadata": {"annotations": {MARK: "uid/1"}}})),
        (&releases, json!({"spec": {"suspend": true}, "metadata": {"annotations": {MARK: "uid/1"}}})),
        (&applications, json!({"metadata": {"annotations": {skip: "true", MARK: "uid/1"}}})),
    ] {
        patched(api, paused).await.context("pausing it, as the agent")?;
    }
    Ok(())
}
