//! Argo CD and Flux leave alone what is stopped, for as long as it has to be, and no longer.

use std::time::Duration;

use agent_core::reconcilers::named_on;
use agent_core::{Change, Event, Kind, Reconciler, ReconcilerKind, Watched};
use proto::*;
use serde_json::{Value, json};

use crate::cluster::*;

const CLAIMS: [&str; 2] = ["data", "logs"];
const MARK: &str = "understudy.dev/paused-for";

fn reconciler(kind: ReconcilerKind, namespace: Option<&str>, guessed: bool) -> Reconciler {
    Reconciler { kind, namespace: namespace.map(str::to_owned), name: "shop".into(), guessed }
}

fn kustomization() -> Reconciler {
    reconciler(ReconcilerKind::Kustomization, Some("flux-system"), false)
}

fn application() -> Reconciler {
    reconciler(ReconcilerKind::Application, None, false)
}

fn flux_labels() -> Value {
    json!({
        "app": "shop",
        "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    })
}

/// The application's Deployment says what applies it.
fn is_applied(cluster: &mut Cluster, labels: Value, annotations: Value) {
    let mut web = deployment(2, &CLAIMS);
    web["metadata"]["labels"] = labels;
    web["metadata"]["annotations"] = annotations;
    let watched = cluster.put(deployments(), "web", web);
    cluster.event(Event::Watched(watched));
}

/// This one stands in the cluster, and the agent reads it.
fn stands(cluster: &mut Cluster, reconciler: &Reconciler, namespace: &str, spec: Value, annotations: Value) {
    let metadata = json!({"name": reconciler.name, "namespace": namespace, "annotations": annotations});
    let object = json!({"kind": reconciler.kind.as_str(), "metadata": metadata, "spec": spec});
    cluster.put(Kind::Reconciler(reconciler.clone()), &reconciler.name, object);
    is_read(cluster, reconciler);
}

fn is_read(cluster: &mut Cluster, reconciler: &Reconciler) {
    let kind = Kind::Reconciler(reconciler.clone());
    let present = cluster.objects.iter().filter(|((of, _), _)| *of == kind);
    let objects = present.map(|(_, object)| object.clone()).collect();
    let namespace = reconciler.namespace.clone();
    let change = Change::Listed { namespace, objects, began: cluster.now };
    cluster.event(Event::Watched(Watched { kind, change }));
}

fn object(cluster: &Cluster, reconciler: &Reconciler) -> Value {
    cluster.objects[&(Kind::Reconciler(reconciler.clone()), reconciler.name.clone())].clone()
}

fn is_suspended(cluster: &Cluster) -> bool {
    object(cluster, &kustomization())["spec"]["suspend"] == json!(true)
}

/// East holds the placement, and a Kustomization of Flux applies its Deployment.
fn east_with_flux() -> Cluster {
    let mut east = holding_east();
    is_applied(&mut east, flux_labels(), json!({}));
    assert!(east.agent.followed().reconcilers.contains(&kustomization()));
    stands(&mut east, &kustomization(), "flux-system", json!({"path": "shop"}), json!({"team": "sales"}));
    east.pass_seconds(1);
    east
}

/// It stops for a planned move, and hands over.
fn hands_over(east: &mut Cluster) {
    east.hears_command("shop-migrate-2", StepKind::ScaleDown, 2, Action::ScaleDown);
    east.pass_seconds(2);
    east.hears_command("shop-migrate-2", StepKind::Demote, 2, Action::Demote);
    east.pass_seconds(1);
    assert!(east.transcript.contains("/Demote: Done"), "{}", east.transcript);
}

fn west_holds(east: &mut Cluster) {
    let held = Assignment { inventory: Some(inventory_of(east)), ..assignment(2, Some("west"), "west") };
    east.hears_assignment(held);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
}

fn ailments(cluster: &Cluster) -> String {
    let told = cluster.reported.as_ref().expect("a report").ailments.iter();
    told.map(|it| format!("{}: {}", it.reason, it.message)).collect::<Vec<_>>().join("\n")
}

fn at(cluster: &Cluster, line: &str) -> usize {
    cluster.transcript.find(line).unwrap_or_else(|| panic!("no line {line}:\n{}", cluster.transcript))
}

#[test]
fn what_applies_a_holders_manifests_is_paused_for_a_move_and_goes_on_at_the_standby() {
    let mut east = east_with_flux();
    let before = object(&east, &kustomization());
    east.transcript.clear();
    east.hears_command("shop-migrate-2", StepKind::ScaleDown, 2, Action::ScaleDown);
    let paused = object(&east, &kustomization());
    assert_eq!(paused["spec"], json!({"path": "shop", "suspend": true}));
    assert_eq!(paused["metadata"]["annotations"][MARK], json!("shop-uid/2"));
    east.pass_seconds(2);
    east.hears_command("shop-migrate-2", StepKind::Demote, 2, Action::Demote);
    east.pass_seconds(1);
    assert!(is_suspended(&east));
    east.say("west holds");
    west_holds(&mut east);
    let mut after = object(&east, &kustomization());
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    assert_eq!(after, before, "it is left as it was");
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_new_agent_process_still_knows_what_it_has_paused() {
    let mut east = east_with_flux();
    hands_over(&mut east);
    east.start("boot-1");
    is_read(&mut east, &kustomization());
    east.event(Event::HubUp);
    east.pass_seconds(10);
    assert!(is_suspended(&east));
    west_holds(&mut east);
    assert!(!is_suspended(&east));
}

#[test]
fn what_is_paused_goes_on_at_the_end_although_nothing_names_it_any_more() {
    let mut east = east_with_flux();
    hands_over(&mut east);
    is_applied(&mut east, json!({"app": "shop"}), json!({}));
    east.pass_seconds(1);
    assert!(is_suspended(&east));
    west_holds(&mut east);
    assert!(!is_suspended(&east));
    let watched = east.put(deployments(), "web", deployment(0, &CLAIMS));
    east.event(Event::Watched(watched));
    assert!(east.agent.followed().reconcilers.is_empty(), "and is not watched for ever");
}

#[test]
fn a_pause_that_is_somebody_elses_is_neither_marked_nor_ended() {
    let mut east = east_with_flux();
    stands(&mut east, &kustomization(), "flux-system", json!({"suspend": true}), json!({}));
    let before = object(&east, &kustomization());
    hands_over(&mut east);
    west_holds(&mut east);
    assert_eq!(object(&east, &kustomization()), before);
    assert_eq!(ailments(&east), "");
}

#[test]
fn what_is_paused_for_two_placements_goes_on_only_with_the_last() {
    let mut east = east_with_flux();
    stands(&mut east, &kustomization(), "flux-system", json!({"suspend": true}), json!({MARK: "cart-uid/7"}));
    hands_over(&mut east);
    let marks = object(&east, &kustomization())["metadata"]["annotations"].clone();
    assert_eq!(marks, json!({MARK: "cart-uid/7,shop-uid/2"}));
    west_holds(&mut east);
    assert!(is_suspended(&east));
    assert_eq!(object(&east, &kustomization())["metadata"]["annotations"], json!({MARK: "cart-uid/7"}));
}

#[test]
fn a_change_that_somebody_else_has_overtaken_is_decided_again() {
    let mut east = east_with_flux();
    let overtaking = object(&east, &kustomization());
    let unseen = east.put(Kind::Reconciler(kustomization()), "shop", overtaking);
    east.hears_command("shop-migrate-2", StepKind::ScaleDown, 2, Action::ScaleDown);
    assert!(!is_suspended(&east), "of an older version nothing is changed");
    east.event(Event::Watched(unseen));
    east.pass_seconds(1);
    assert!(is_suspended(&east));
}

#[test]
fn what_cannot_be_paused_is_told_and_no_step_waits_for_it() {
    let mut east = east_with_flux();
    east.may_steer = false;
    hands_over(&mut east);
    assert!(!east.transcript.contains("RequestFailed"), "{}", east.transcript);
    assert!(!is_suspended(&east));
    insta::assert_snapshot!(ailments(&east), @"ReconcilerNotPaused: what applies Deployment shop/web is not paused: the request to pause Kustomization flux-system/shop fails: it is forbidden; check that deploy/agent/gitops.yaml is applied");
    west_holds(&mut east);
    assert_eq!(ailments(&east), "");
}

#[test]
fn what_cannot_be_read_is_told_only_while_it_ought_to_be_paused() {
    let mut east = holding_east();
    is_applied(&mut east, flux_labels(), json!({}));
    east.pass_seconds(1);
    assert_eq!(ailments(&east), "");
    hands_over(&mut east);
    insta::assert_snapshot!(ailments(&east), @"ReconcilerNotPaused: Deployment shop/web is applied by Flux (Kustomization flux-system/shop), which is not paused: it cannot be read in this cluster: apply deploy/agent/gitops.yaml there");
    stands(&mut east, &kustomization(), "flux-system", json!({"path": "shop"}), json!({}));
    east.pass_seconds(1);
    assert_eq!(ailments(&east), "");
    assert!(is_suspended(&east));
}

#[test]
fn a_holder_that_stops_itself_pauses_and_goes_on_before_it_starts_again() {
    let mut east = east_with_flux();
    east.event(Event::HubDown);
    east.pass_seconds(15);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert!(is_suspended(&east));
    east.transcript.clear();
    east.event(Event::HubUp);
    east.pass_seconds(1);
    east.hears_grant(1);
    east.pass_seconds(3);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Holder, 1)), 2), "{}", east.transcript);
    let goes_on = at(&east, "resume Kustomization flux-system/shop");
    assert!(goes_on < at(&east, "scale Deployment web to 2"), "{}", east.transcript);
    assert!(!is_suspended(&east));
}

#[test]
fn a_returning_holder_stays_paused_until_it_has_rejoined() {
    let mut east = east_with_flux();
    east.hears_denial(2, DenialReason::Superseded);
    east.hears_assignment(assignment(2, Some("west"), "west"));
    east.pass_seconds(60);
    assert!(is_suspended(&east));
    east.hears_command("shop-resync-2", StepKind::Rejoin, 2, Action::Rejoin);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Standby, 2)), "{}", east.transcript);
    assert!(!is_suspended(&east));
}

#[test]
fn a_release_lets_what_it_has_paused_go_on_before_it_forgets() {
    for may_steer in [true, false] {
        let mut east = east_with_flux();
        hands_over(&mut east);
        assert!(is_suspended(&east));
        east.may_steer = may_steer;
        east.hears_command("shop-release-2", StepKind::Release, 2, Action::Release);
        east.pass(Duration::from_millis(100));
        assert_eq!(east.role().is_none(), may_steer, "{}", east.transcript);
        east.pass(timing().stop);
        assert_eq!(east.role(), None, "it waits no longer than stopping may take: {}", east.transcript);
        assert_eq!(is_suspended(&east), !may_steer);
    }
}

#[test]
fn an_application_of_argo_cd_is_paused_by_its_annotation() {
    let mut east = holding_east();
    let tracked = json!({"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"});
    is_applied(&mut east, json!({"app": "shop"}), tracked);
    stands(&mut east, &application(), "argocd", json!({"project": "default"}), json!({}));
    hands_over(&mut east);
    let paused = object(&east, &application());
    assert_eq!(paused["metadata"]["annotations"]["argocd.argoproj.io/skip-reconcile"], json!("true"));
    assert_eq!(paused["spec"], json!({"project": "default"}));
    west_holds(&mut east);
    assert_eq!(object(&east, &application())["metadata"]["annotations"], json!({}));
}

#[test]
fn an_application_of_argo_cd_in_another_cluster_is_told() {
    let mut east = holding_east();
    let tracked = json!({"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"});
    is_applied(&mut east, json!({"app": "shop"}), tracked);
    is_read(&mut east, &application());
    hands_over(&mut east);
    insta::assert_snapshot!(ailments(&east), @"ReconcilerNotPaused: Deployment shop/web is applied by Argo CD (Application shop), which is not paused: it is not in this cluster: if it is elsewhere, pause it there, or leave the replicas out of what it applies");
}

#[test]
fn a_label_that_argo_cd_shares_with_others_is_believed_only_if_there_is_such_an_application() {
    let guessed = reconciler(ReconcilerKind::Application, None, true);
    let mut east = holding_east();
    is_applied(&mut east, json!({"app": "shop", "app.kubernetes.io/instance": "shop"}), json!({}));
    hands_over(&mut east);
    assert_eq!(ailments(&east), "", "not read yet");
    is_read(&mut east, &guessed);
    east.pass_seconds(1);
    assert_eq!(ailments(&east), "", "not there");
    stands(&mut east, &guessed, "argocd", json!({}), json!({}));
    let marks = &object(&east, &guessed)["metadata"]["annotations"];
    assert_eq!(marks["argocd.argoproj.io/skip-reconcile"], json!("true"));
}

#[test]
fn a_reconciler_is_found_by_what_it_writes_on_what_it_applies() {
    use ReconcilerKind::{Application, HelmRelease, Kustomization};
    let helm = json!({
        "helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "shop",
        "app.kubernetes.io/instance": "shop",
    });
    let tracked = |id: &str| json!({"argocd.argoproj.io/tracking-id": id});
    let instance = json!({"app.kubernetes.io/instance": "shop"});
    for (labels, annotations, expected) in [
        (flux_labels(), json!({}), Some(reconciler(Kustomization, Some("flux-system"), false))),
        (
            flux_labels(),
            json!({"understudy.dev/staged-from": "west"}),
            Some(reconciler(Kustomization, Some("flux-system"), true)),
        ),
        (helm, json!({}), Some(reconciler(HelmRelease, Some("shop"), false))),
        (json!({}), tracked("shop:apps/Deployment:shop/web"), Some(reconciler(Application, None, false))),
        (
            instance.clone(),
            tracked("teams_shop:a/b:c/d"),
            Some(reconciler(Application, Some("teams"), false)),
        ),
        (instance, json!({}), Some(reconciler(Application, None, true))),
        (json!({"kustomize.toolkit.fluxcd.io/name": "shop"}), json!({}), None),
        (json!({}), tracked(":"), None),
        (json!({}), json!({}), None),
    ] {
        let object = json!({"metadata": {"labels": labels, "annotations": annotations}});
        assert_eq!(named_on(&object).into_iter().collect::<Vec<_>>(), Vec::from_iter(expected), "{object}");
    }
}
