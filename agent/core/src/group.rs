//! Claims that are replicated as one group: one VolumeGroupReplication, named like the placement, in the place of a
//! VolumeReplication for each of them.
//!
//! csi-addons (v0.14) makes one VolumeReplication for it, and tells the storage by that one. What it copies from there into
//! the status of the group bears the group's generation whatever it is about, so it is read where it was written, and only
//! when both objects say the same. A claim belongs to the group once csi-addons lists it *and* the storage has taken its
//! volume in; before that it is not replicated, whatever the status of the group says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use proto::{Ailment, Assignment, Epoch, Replication, ReplicationState};
use serde_json::{Value, json};

use crate::ailments::{ailment, reason};
use crate::decision::{Effect, GroupChange};
use crate::desired::{Next, View};
use crate::parse::{GROUP_ANNOTATION, annotation, text, wall_time};
use crate::site_state::CLAIMS_LIMIT;
use crate::stage::conflict;
use crate::volumes::clean;
use crate::world::{ReplicationObject, Source, World};

/// On a claim: csi-addons' note of what replicates it.
const OWN_REPLICATION: &str = "replication.storage.openshift.io/volume-replication-name";
const OWN_GROUP: &str = "replication.storage.openshift.io/volume-group-replication-name";

const CONTENT_KIND: &str = "VolumeGroupReplicationContent";
const HANDLE: &str = "/spec/volumeGroupReplicationHandle";

/// A VolumeGroupReplication.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupObject {
    pub desired: String,
    pub auto_resync: bool,
    /// csi-addons has carried out what it says now, or has failed to.
    pub current: bool,
    pub annotated: bool,
    pub epoch: Option<Epoch>,
    /// Those that csi-addons has found by the selector.
    pub claims: BTreeSet<String>,
    pub content: Option<String>,
    pub message: String,
}

/// A VolumeGroupReplicationContent: to a VolumeGroupReplication what a PersistentVolume is to its claim.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupContent {
    /// The PersistentVolumes that the storage has in the group.
    pub volumes: BTreeSet<String>,
    /// By which the storage knows the group: the same at both sites.
    pub handle: Option<String>,
    /// Made by this agent as a copy: namespace and name of the group that it is for.
    pub staged_for: Option<String>,
    pub object: Value,
}

/// The object that says whether claims are primary here, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Claim(&'a str),
    Group(&'a str),
}

impl Target<'_> {
    fn kind(self) -> &'static str {
        match self {
            Target::Claim(_) => "VolumeReplication",
            Target::Group(_) => "VolumeGroupReplication",
        }
    }

    fn name(self) -> String {
        let (Target::Claim(name) | Target::Group(name)) = self;
        name.to_owned()
    }

    pub fn in_namespace(self, namespace: &str) -> String {
        format!("{} {namespace}/{}", self.kind(), self.name())
    }

    pub fn promotion(self, namespace: &str, epoch: Epoch) -> Effect {
        let (namespace, name) = (namespace.to_owned(), self.name());
        match self {
            Target::Claim(_) => Effect::PromoteReplication { namespace, name, epoch },
            Target::Group(_) => Effect::Group { namespace, name, change: GroupChange::Promote { epoch } },
        }
    }

    pub fn demotion(self, namespace: &str, epoch: Epoch) -> Effect {
        let (namespace, name) = (namespace.to_owned(), self.name());
        match self {
            Target::Claim(_) => Effect::DemoteReplication { namespace, name, epoch },
            Target::Group(_) => Effect::Group { namespace, name, change: GroupChange::Demote { epoch } },
        }
    }

    pub fn resync(self, namespace: &str, epoch: Epoch) -> Effect {
        let (namespace, name) = (namespace.to_owned(), self.name());
        match self {
            Target::Claim(_) => Effect::ResyncReplication { namespace, name, epoch },
            Target::Group(_) => Effect::Group { namespace, name, change: GroupChange::Resync { epoch } },
        }
    }

    pub fn mark(self, namespace: &str, epoch: Epoch) -> Effect {
        let (namespace, name) = (namespace.to_owned(), self.name());
        match self {
            Target::Claim(_) => Effect::MarkReplication { namespace, name, epoch },
            Target::Group(_) => Effect::Group { namespace, name, change: GroupChange::Mark { epoch } },
        }
    }

    pub fn unmarking(self, namespace: &str) -> Effect {
        let (namespace, name) = (namespace.to_owned(), self.name());
        match self {
            Target::Claim(_) => Effect::UnmarkReplication { namespace, name },
            Target::Group(_) => Effect::Group { namespace, name, change: GroupChange::Unmark },
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

pub type Replicated<'a> = (Target<'a>, Cow<'a, ReplicationObject>);

/// What replicates a claim of this placement, if anything does.
pub fn replication_of<'a>(
    world: &'a World,
    assignment: &'a Assignment,
    claim: &str,
) -> Option<Replicated<'a>> {
    match assignment.group() {
        Some(_) => {
            let member = group_of(world, assignment).filter(|_| is_member(world, assignment, claim));
            member.map(|(target, object)| (target, Cow::Owned(as_of_claim(world, assignment, claim, object))))
        }
        None => own_replication_of(world, assignment, claim),
    }
}

/// Everything that replicates any of these claims, each object once: what is told to stop must not depend on what csi-addons
/// has listed by now.
pub fn replications<'a>(
    world: &'a World,
    assignment: &'a Assignment,
    claims: impl IntoIterator<Item = &'a String>,
) -> Vec<Replicated<'a>> {
    let own = claims.into_iter().filter_map(|claim| own_replication_of(world, assignment, claim));
    own.chain(group_of(world, assignment)).collect()
}

fn own_replication_of<'a>(
    world: &'a World,
    assignment: &'a Assignment,
    claim: &str,
) -> Option<Replicated<'a>> {
    let (name, object) = world.replication_of(&assignment.name.namespace, claim)?;
    Some((Target::Claim(name), Cow::Borrowed(object)))
}

fn group_of<'a>(world: &'a World, assignment: &'a Assignment) -> Option<Replicated<'a>> {
    let (namespace, name) = (assignment.name.namespace.as_str(), assignment.group()?);
    let group = world.group(namespace, name)?;
    let made = world.replication_of_group(namespace, name);
    Some((Target::Group(name), Cow::Owned(as_replication(name, group, made))))
}

/// A copy of the group that is older than the claim has nothing of it.
fn as_of_claim(
    world: &World,
    assignment: &Assignment,
    claim: &str,
    group: Cow<'_, ReplicationObject>,
) -> ReplicationObject {
    let created = world
        .claim(&assignment.name.namespace, claim)
        .and_then(|claim| wall_time(text(&claim.object, "/metadata/creationTimestamp")?));
    let mut group = group.into_owned();
    group.replication.last_sync = group.replication.last_sync.filter(|at| Some(*at) > created);
    group
}

fn is_member(world: &World, assignment: &Assignment, claim: &str) -> bool {
    let namespace = assignment.name.namespace.as_str();
    let group = assignment.group().and_then(|name| world.group(namespace, name));
    let Some(group) = group.filter(|group| group.claims.contains(claim)) else { return false };
    let content = group.content.as_deref().and_then(|name| world.group_content(name));
    let volume = world.claim(namespace, claim).and_then(|claim| claim.volume.as_ref());
    content.zip(volume).is_some_and(|(content, volume)| content.volumes.contains(volume))
}

/// What the group is told, with the answer of the VolumeReplication that csi-addons has made for it. What csi-addons cannot
/// carry over to that one has failed as it would there.
fn as_replication(name: &str, group: &GroupObject, made: Option<&ReplicationObject>) -> ReplicationObject {
    let follows = made
        .filter(|made| made.replication.desired == group.desired && made.auto_resync == group.auto_resync);
    let refusal = refusal(group, made).filter(|_| follows.is_none());
    let status = made.map(|made| &made.replication);
    let failed =
        if group.desired == "primary" { reason::FAILED_TO_PROMOTE } else { reason::FAILED_TO_DEMOTE };
    ReplicationObject {
        source: Source::Group(name.to_owned()),
        replication: Replication {
            desired: group.desired.clone(),
            state: status.map_or(ReplicationState::Unknown, |status| status.state),
            current: group.current && follows.is_some_and(|made| made.replication.current),
            completed: status
                .and_then(|status| status.completed)
                .filter(|_| refusal.is_none())
                .or(refusal.map(|_| false)),
            degraded: status.and_then(|status| status.degraded),
            resyncing: status.and_then(|status| status.resyncing),
            validated: status.and_then(|status| status.validated),
            last_sync: status.and_then(|status| status.last_sync),
            last_sync_bytes: status.and_then(|status| status.last_sync_bytes),
            last_sync_took: status.and_then(|status| status.last_sync_took),
            epoch: group.epoch,
            message: refusal.or(status.map(|status| status.message.as_str())).unwrap_or_default().to_owned(),
        },
        reason: refusal.map(|_| failed.to_owned()).or_else(|| made.and_then(|made| made.reason.clone())),
        auto_resync: group.auto_resync,
        annotated: group.annotated,
    }
}

/// What csi-addons says against the group itself: not what it has copied from the VolumeReplication.
fn refusal<'a>(group: &'a GroupObject, made: Option<&ReplicationObject>) -> Option<&'a str> {
    let copied = made.is_some_and(|made| made.replication.message == group.message);
    (group.current && !copied && !group.message.is_empty()).then_some(group.message.as_str())
}

/// Makes the group for these claims, all of them or none; and says what it waits for where it stands, and lacks this one.
pub fn form(view: &View<'_>, group: &str, claims: &[String], claim: &str, next: &mut Next) {
    if let Some(object) = view.world.group(view.namespace(), group) {
        return await_member(view, group, object, claim, next);
    }
    if view.survey.claims.len() > CLAIMS_LIMIT {
        return next.fail(reason::TOO_MANY_CLAIMS, too_many(view, group));
    }
    // Copies are of a group that the storage has already: it is found by its handle, and never made a second time.
    if has_copies(view, claims) && staged_content(view.world, view.assignment).is_none() {
        let message = format!(
            "VolumeGroupReplication {}/{group} needs the VolumeGroupReplicationContent of the former holder, and no copy of it stands here: create it with the handle of the storage's group and the annotation {GROUP_ANNOTATION}: {}",
            view.namespace(),
            view.assignment.name
        );
        return next.fail(reason::GROUP_NOT_STAGED, message);
    }
    next.wait_also_for(format!("VolumeGroupReplication {group} to exist"));
    next.effects.extend(creation(view, claims));
}

/// None as long as one of these claims cannot be taken in: what is in the group is promoted at once.
pub fn creation(view: &View<'_>, claims: &[String]) -> Option<Effect> {
    let (name, group_class) = (view.assignment.group()?, view.assignment.group_class.clone()?);
    let fits = |claim: &String| {
        let usable =
            view.world.claim(view.namespace(), claim).is_some_and(|claim| claim.bound && !claim.terminating);
        usable && obstacle(view.world, view.assignment, claim).is_none()
    };
    let missing = view.world.group(view.namespace(), name).is_none();
    let content = staged_content(view.world, view.assignment).map(str::to_owned);
    (missing && view.survey.claims.len() <= CLAIMS_LIMIT && claims.iter().all(fits)).then(|| Effect::Group {
        namespace: view.namespace().to_owned(),
        name: name.to_owned(),
        change: GroupChange::Create {
            class: view.assignment.replication_class.clone(),
            group_class,
            selector: view.assignment.protect.volumes.0.clone(),
            content,
            epoch: view.site.epoch_seen,
        },
    })
}

fn has_copies(view: &View<'_>, claims: &[String]) -> bool {
    claims.iter().any(|name| view.world.claim(view.namespace(), name).is_some_and(|claim| claim.staged))
}

fn staged_content<'a>(world: &'a World, assignment: &Assignment) -> Option<&'a str> {
    let wanted = assignment.name.to_string();
    let mut contents = world.group_contents();
    contents.find(|(_, content)| content.staged_for.as_ref() == Some(&wanted)).map(|(name, _)| name)
}

/// What another cluster needs to find the storage's group; none before the storage has made it.
pub fn content_manifest(world: &World, assignment: &Assignment) -> Option<Value> {
    let group = world.group(&assignment.name.namespace, assignment.group()?)?;
    let content =
        world.group_content(group.content.as_deref()?).filter(|content| content.handle.is_some())?;
    let mut spec = content.object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    spec.remove("volumeGroupReplicationRef");
    let api_version = "replication.storage.openshift.io/v1alpha1";
    let mut manifest = clean(api_version, CONTENT_KIND, &content.object, false, Some(spec));
    manifest["metadata"]["annotations"] = json!({GROUP_ANNOTATION: assignment.name.to_string()});
    Some(manifest)
}

/// It is bound to its group only when that is made, by a promotion. Which volumes it names then is csi-addons' business.
pub fn stage_content(view: &View<'_>, manifest: &Value, next: &mut Next) {
    let name = text(manifest, "/metadata/name").unwrap_or_default();
    let handle = text(manifest, HANDLE);
    if let Some(present) = view.world.group_content(name) {
        if present.handle.as_deref() != handle {
            let message = format!(
                "VolumeGroupReplicationContent {name} has the handle {}, but {} is expected: delete or rename it",
                present.handle.as_deref().unwrap_or("none"),
                handle.unwrap_or("none")
            );
            conflict(message, next);
        }
        return;
    }
    // It comes from another trust domain: what it may name is this placement's group, and nothing is bound by it.
    let class = text(manifest, "/spec/volumeGroupReplicationClassName");
    let fits = class.is_some() && class == view.assignment.group_class.as_deref();
    let bound = manifest.pointer("/spec/volumeGroupReplicationRef").is_some_and(|bound| !bound.is_null());
    let meant = annotation(manifest, GROUP_ANNOTATION) == Some(view.assignment.name.to_string().as_str());
    if !fits || bound || !meant || handle.is_none() {
        let message = format!(
            "VolumeGroupReplicationContent {name} is not one of this placement's group: check the cluster it came from"
        );
        return conflict(message, next);
    }
    next.wait_also_for(format!("VolumeGroupReplicationContent {name} to exist"));
    next.effects.push(Effect::Create { object: manifest.clone() });
}

fn await_member(view: &View<'_>, group: &str, object: &GroupObject, claim: &str, next: &mut Next) {
    match refusal(object, view.world.replication_of_group(view.namespace(), group)) {
        Some(why) => {
            let message = format!(
                "VolumeGroupReplication {}/{group} does not replicate claim {claim} ({why}): see its events and the log of the csi-addons controller; this goes on by itself once it does",
                view.namespace()
            );
            next.fail(reason::CLAIM_NOT_IN_GROUP, message);
        }
        None => next.wait_also_for(format!("VolumeGroupReplication {group} to replicate claim {claim}")),
    }
}

fn too_many(view: &View<'_>, group: &str) -> String {
    format!(
        "VolumeGroupReplication {}/{group} would take {} claims, and {CLAIMS_LIMIT} is the most: narrow spec.protect.volumes of the DRPlacement",
        view.namespace(),
        view.survey.claims.len()
    )
}

/// Why a claim cannot be replicated as this placement asks: csi-addons takes it into one VolumeReplication or one group.
pub fn obstacle(world: &World, assignment: &Assignment, claim: &str) -> Option<Ailment> {
    let namespace = assignment.name.namespace.as_str();
    let seen = world.claim(namespace, claim)?;
    let noted = |key: &str| annotation(&seen.object, key).filter(|name| !name.is_empty());
    let in_group = noted(OWN_GROUP).filter(|name| Some(*name) != assignment.group());
    if let Some(other) = in_group {
        let message = format!(
            "PersistentVolumeClaim {namespace}/{claim} is in VolumeGroupReplication {other} already: take its labels out of that group's selector first"
        );
        return Some(ailment(reason::CLAIM_REPLICATED_OTHERWISE, message));
    }
    let group = assignment.group()?;
    let own = world.replication_of(namespace, claim).map(|(name, _)| name).or_else(|| noted(OWN_REPLICATION));
    if let Some(own) = own {
        let message = format!(
            "PersistentVolumeClaim {namespace}/{claim} has VolumeReplication {own}, and is to be in VolumeGroupReplication {group}: delete that VolumeReplication, which ends its mirroring, or make the DRPlacement without spec.replication.volumeGroupReplicationClass"
        );
        return Some(ailment(reason::CLAIM_REPLICATED_OTHERWISE, message));
    }
    (!assignment.protect.volumes.matches(&seen.labels)).then(|| {
        let message = format!(
            "PersistentVolumeClaim {namespace}/{claim} is protected, and VolumeGroupReplication {group} cannot find it: give it the labels {}",
            assignment.protect.volumes.query()
        );
        ailment(reason::CLAIM_NOT_IN_GROUP, message)
    })
}

/// All that stands against the group, or against claims that another group has.
pub fn ailments(world: &World, assignment: &Assignment, claims: &BTreeSet<String>, found: &mut Vec<Ailment>) {
    let namespace = assignment.name.namespace.as_str();
    found.extend(claims.iter().filter_map(|claim| obstacle(world, assignment, claim)));
    let Some(group) = assignment.group() else { return };
    let class = assignment.group_class.as_deref().unwrap_or_default();
    let has_claims = claims.iter().any(|claim| world.claim(namespace, claim).is_some());
    if has_claims && world.group_class(class).is_none() {
        let message =
            format!("VolumeGroupReplicationClass {class} does not exist in this cluster: create it");
        found.push(ailment(reason::NO_REPLICATION_CLASS, message));
    }
    found.extend(strangers(world, assignment).map(|claim| {
        let message = format!(
            "PersistentVolumeClaim {namespace}/{claim} would be promoted with VolumeGroupReplication {group}, and the holder has none of this name: delete it here, or take its labels away"
        );
        ailment(reason::STRANGER_IN_GROUP, message)
    }));
}

/// At a standby: what the selector would take in although it is no copy of what the holder has.
fn strangers<'a>(world: &'a World, assignment: &'a Assignment) -> impl Iterator<Item = &'a str> {
    let copies = assignment.inventory.iter();
    let selected = copies.flat_map(move |inventory| {
        let is_copy = move |name: &str| inventory.volumes.iter().any(|volume| volume.claim == name);
        world
            .claims(&assignment.name.namespace)
            .filter(move |(name, claim)| assignment.protect.volumes.matches(&claim.labels) && !is_copy(name))
    });
    selected.map(|(name, _)| name)
}
