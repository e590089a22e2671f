//! Argo CD and Flux, where they apply a placement's manifests: told to pause exactly as long as this cluster is Fenced for
//! the placement, so from the moment that it has to stop the application until it is a standby or runs it again.
//!
//! The fence does not count on them: what they scale up in the meantime is scaled down again, and admission refuses its
//! pods. What cannot be paused is told, and nothing waits for it but a release, and that not for long.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proto::{Ailment, Epoch, PlacementId};
use serde_json::{Value, json};

use crate::ailments::{ailment, reason};
use crate::decision::Effect;
use crate::objects::STAGED_FROM_ANNOTATION;
use crate::parse::{STAGED_ANNOTATION, annotation, text};
use crate::placement::Attempt;
use crate::world::{Workload, World};

/// On what this agent has paused: the placements that it is paused for, as `uid/epoch`, parted by commas.
const PAUSED_FOR: &str = "understudy.dev/paused-for";
/// Of Argo CD ("Skip Application Reconcile" in its user guide).
const SKIP_RECONCILE: &str = "argocd.argoproj.io/skip-reconcile";
/// Of Argo CD ("Resource Tracking" in its user guide): application, kind and object.
pub const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";
/// Argo CD can track by this label instead; Helm and others write it as well.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Where Argo CD usually is: its tracking ids name the namespace only of Applications elsewhere.
const USUAL_NAMESPACE: &str = "argocd";
/// What Flux labels with `name` and `namespace` of the reconciler that has applied it.
const FLUX_LABELS: [(&str, ReconcilerKind); 2] = [
    ("kustomize.toolkit.fluxcd.io/", ReconcilerKind::Kustomization),
    ("helm.toolkit.fluxcd.io/", ReconcilerKind::HelmRelease),
];
/// So many are followed for one placement; each is a watch of its own.
const MOST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReconcilerKind {
    /// Of Flux.
    Kustomization,
    /// Of Flux.
    HelmRelease,
    /// Of Argo CD.
    Application,
}

impl ReconcilerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ReconcilerKind::Kustomization => "Kustomization",
            ReconcilerKind::HelmRelease => "HelmRelease",
            ReconcilerKind::Application => "Application",
        }
    }

    fn project(self) -> &'static str {
        match self {
            ReconcilerKind::Kustomization | ReconcilerKind::HelmRelease => "Flux",
            ReconcilerKind::Application => "Argo CD",
        }
    }

    fn is_paused(self, object: &Value) -> bool {
        match self {
            ReconcilerKind::Kustomization | ReconcilerKind::HelmRelease => {
                object.pointer("/spec/suspend") == Some(&Value::Bool(true))
            }
            ReconcilerKind::Application => annotation(object, SKIP_RECONCILE) == Some("true"),
        }
    }
}

/// A reconciler as the objects that it applies name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reconciler {
    pub kind: ReconcilerKind,
    /// None: not said.
    pub namespace: Option<String>,
    pub name: String,
    /// The label that names it may be somebody else's, or another cluster's: what is not there is not missed.
    pub guessed: bool,
}

impl fmt::Display for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.iter().map(|namespace| format!("{namespace}/")).collect::<String>();
        write!(f, "{} {namespace}{}", self.kind.as_str(), self.name)
    }
}

/// What counts of a reconciler's own object.
#[derive(Clone, Debug, PartialEq)]
pub struct Present {
    pub paused: bool,
    /// The placements that this agent has paused it for: their uids, and the epochs.
    pub paused_for: BTreeMap<String, String>,
    pub resource_version: String,
}

pub fn parse(kind: ReconcilerKind, object: &Value) -> Option<Present> {
    let marks = annotation(object, PAUSED_FOR).unwrap_or_default().split(',');
    let marks = marks.filter_map(|mark| mark.trim().split_once('/'));
    Some(Present {
        paused: kind.is_paused(object),
        paused_for: marks.map(|(placement, epoch)| (placement.to_owned(), epoch.to_owned())).collect(),
        resource_version: text(object, "/metadata/resourceVersion").unwrap_or_default().to_owned(),
    })
}

/// Whatever says on this object that it applies it.
pub fn named_on(object: &Value) -> BTreeSet<Reconciler> {
    let label = |key: &str| object.pointer("/metadata/labels")?.get(key)?.as_str();
    let copied =
        [STAGED_FROM_ANNOTATION, STAGED_ANNOTATION].iter().any(|mark| annotation(object, mark).is_some());
    let mut named = BTreeSet::new();
    for (prefix, kind) in FLUX_LABELS {
        let part = |part: &str| label(&format!("{prefix}{part}")).map(str::to_owned);
        if let (Some(name), namespace @ Some(_)) = (part("name"), part("namespace")) {
            named.insert(Reconciler { kind, namespace, name, guessed: copied });
        }
    }
    let tracked = annotation(object, TRACKING_ID).and_then(|id| id.split_once(':'));
    let application = match (tracked, label(INSTANCE)) {
        (Some((application, _)), _) => Some((application, false)),
        // Flux and Helm write the label as well.
        (None, Some(instance)) if named.is_empty() => Some((instance, true)),
        (None, _) => None,
    };
    if let Some((application, guessed)) = application.filter(|(application, _)| !application.is_empty()) {
        // A name has no underscore: it parts an Application from a namespace that is not Argo CD's own.
        let (namespace, name) = match application.split_once('_') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, application),
        };
        let (kind, name) = (ReconcilerKind::Application, name.to_owned());
        named.insert(Reconciler { kind, namespace, name, guessed });
    }
    named
}

/// The reconcilers of these workloads and claims, each with the first object that names it.
pub fn of_application(
    world: &World,
    namespace: &str,
    claims: &BTreeSet<String>,
    workloads: &[Workload],
) -> BTreeMap<Reconciler, String> {
    let mut found = BTreeMap::new();
    let mut add = |named: BTreeSet<Reconciler>, kind: &str, name: &str| {
        for reconciler in named {
            if found.len() < MOST {
                found.entry(reconciler).or_insert_with(|| format!("{kind} {namespace}/{name}"));
            }
        }
    };
    for workload in workloads {
        add(workload.reconcilers.clone(), &workload.workload.kind, &workload.workload.name);
    }
    for name in claims {
        if let Some(claim) = world.claim(namespace, name) {
            add(claim.reconcilers.clone(), "PersistentVolumeClaim", name);
        }
    }
    found
}

pub fn is_paused_for(world: &World, reconciler: &Reconciler, placement: &PlacementId) -> bool {
    let found = world.reconcilers(reconciler).unwrap_or_default();
    found.iter().any(|(_, present)| present.paused_for.contains_key(placement.as_str()))
}

/// One placement and what it asks of its reconcilers now.
pub struct Asked<'a> {
    pub placement: &'a PlacementId,
    pub epoch: Epoch,
    pub paused: bool,
    pub reconcilers: &'a BTreeMap<Reconciler, String>,
    pub attempts: &'a BTreeMap<String, Attempt>,
}

#[derive(Debug, Default)]
pub struct Steered {
    pub effects: Vec<Effect>,
    pub ailments: Vec<Ailment>,
}

/// What is missing now for each to be as this placement asks.
pub fn steer(world: &World, asked: &Asked<'_>) -> Steered {
    let mut steered = Steered::default();
    for (reconciler, applies) in asked.reconcilers {
        match find(world, reconciler) {
            Ok((namespace, present)) => {
                let effect = change(asked, reconciler, namespace, present);
                steered.ailments.extend(effect.iter().filter_map(|it| failing(asked, it, applies)));
                steered.effects.extend(effect);
            }
            Err(why) if asked.paused && !reconciler.guessed => {
                let project = reconciler.kind.project();
                let message =
                    format!("{applies} is applied by {project} ({reconciler}), which is not paused: {why}");
                steered.ailments.push(ailment(reason::RECONCILER_NOT_PAUSED, message));
            }
            Err(_) => {}
        }
    }
    steered
}

/// The one object that this is, in which namespace; or why it is not known.
fn find<'a>(world: &'a World, reconciler: &Reconciler) -> Result<(&'a str, &'a Present), &'static str> {
    let Some(found) = world.reconcilers(reconciler) else {
        return Err("it cannot be read in this cluster: apply deploy/agent/gitops.yaml there");
    };
    match found.as_slice() {
        [] => Err(
            "it is not in this cluster: if it is elsewhere, pause it there, or leave the replicas out of what it applies",
        ),
        [one] => Ok(*one),
        several => match several.iter().find(|(namespace, _)| *namespace == USUAL_NAMESPACE) {
            Some(usual) => Ok(*usual),
            None => Err("several Applications of this name are in this cluster: give them different names"),
        },
    }
}

/// Somebody else's pause is left alone, and ours ends when the last placement that asks for it goes on.
fn change(asked: &Asked<'_>, reconciler: &Reconciler, namespace: &str, present: &Present) -> Option<Effect> {
    let mut paused_for = present.paused_for.clone();
    let ours = paused_for.remove(asked.placement.as_str()).is_some();
    let by_somebody_else = present.paused && present.paused_for.is_empty();
    let (reconciler, namespace) = (reconciler.clone(), namespace.to_owned());
    let resource_version = present.resource_version.clone();
    if asked.paused {
        let done = present.paused && ours;
        paused_for.insert(asked.placement.to_string(), asked.epoch.to_string());
        let pause = Effect::PauseReconciler { reconciler, namespace, paused_for, resource_version };
        (!done && !by_somebody_else).then_some(pause)
    } else {
        ours.then_some(Effect::ResumeReconciler { reconciler, namespace, paused_for, resource_version })
    }
}

fn failing(asked: &Asked<'_>, effect: &Effect, applies: &str) -> Option<Ailment> {
    let attempt = asked.attempts.get(&effect.key()).filter(|attempt| attempt.failures >= 2)?;
    let (reason, state) = match asked.paused {
        true => (reason::RECONCILER_NOT_PAUSED, "paused"),
        false => (reason::RECONCILER_NOT_RESUMED, "resumed"),
    };
    let message = format!(
        "what applies {applies} is not {state}: the request to {effect} fails: {}; check that deploy/agent/gitops.yaml is applied",
        attempt.message.as_deref().unwrap_or("no message")
    );
    Some(ailment(reason, message))
}

/// What makes one paused for exactly these placements, and lets it go on when there are none: a merge patch, in which null
/// takes a field away. Of the version that was seen only: what somebody else has asked of it in between is looked at first.
pub fn patch(kind: ReconcilerKind, paused_for: &BTreeMap<String, String>, resource_version: &str) -> Value {
    let paused = !paused_for.is_empty();
    let marks: Vec<String> =
        paused_for.iter().map(|(placement, epoch)| format!("{placement}/{epoch}")).collect();
    let mut annotations = json!({PAUSED_FOR: paused.then(|| marks.join(","))});
    let mut patch = json!({});
    match kind {
        ReconcilerKind::Kustomization | ReconcilerKind::HelmRelease => {
            patch["spec"] = json!({"suspend": paused.then_some(true)});
        }
        ReconcilerKind::Application => annotations[SKIP_RECONCILE] = json!(paused.then_some("true")),
    }
    patch["metadata"] = json!({"resourceVersion": resource_version, "annotations": annotations});
    patch
}
