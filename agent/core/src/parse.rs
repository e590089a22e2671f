//! The door through which Kubernetes objects come in: past it nothing is looked up by path any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::gate::{ANNOTATION, GUARDING_CONTAINER, WAITING_CONTAINER};
use proto::{Epoch, Replication, ReplicationState, WallTime, WorkloadRef};
use serde_json::Value;

use crate::group::{GroupContent, GroupObject};
use crate::reconcilers;
use crate::world::{
    AddonsNode, Attachment, Claim, Pod, ReplicationObject, Source, Volume, Workload, WorkloadKind,
};

/// What a workload had before this agent stopped it.
pub const REPLICAS_ANNOTATION: &str = "understudy.dev/replicas";
/// The epoch at which this agent last set a VolumeReplication.
pub const EPOCH_ANNOTATION: &str = "understudy.dev/epoch";
/// On claims that this agent has made as copies of another cluster's.
pub const STAGED_ANNOTATION: &str = "understudy.dev/staged";

/// On a VolumeGroupReplicationContent that this agent has made as a copy of another cluster's: the group it is for.
pub const GROUP_ANNOTATION: &str = "understudy.dev/group";

/// On PersistentVolumes of protected claims: the uid of their placement. Admission refuses to delete such a volume while it
/// is bound.
pub const PROTECTED_BY_ANNOTATION: &str = "understudy.dev/protected-by";

/// Kubernetes' own default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// As `Value::pointer`, for paths of our own that escape nothing: `pointer` copies each name to look for escapes.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let (mut value, mut rest) = (object, path.strip_prefix('/')?);
    loop {
        // Names are so short that looking for the end of one byte by byte is the fastest.
        let Some(end) = rest.bytes().position(|byte| byte == b'/') else { return value.get(rest) };
        value = value.get(&rest[..end])?;
        rest = &rest[end + 1..];
    }
}

pub fn text<'a>(object: &'a Value, path: &str) -> Option<&'a str> {
    at(object, path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn owned(object: &Value, path: &str) -> Option<String> {
    text(object, path).map(str::to_owned)
}

fn number(object: &Value, path: &str) -> Option<u64> {
    at(object, path).and_then(Value::as_u64)
}

pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = at(object, "/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    at(object, "/metadata/annotations")?.get(name)?.as_str()
}

pub fn is_terminating(object: &Value) -> bool {
    text(object, "/metadata/deletionTimestamp").is_some()
}

pub fn claim(object: &Value) -> Option<Claim> {
    Some(Claim {
        uid: owned(object, "/metadata/uid").unwrap_or_default(),
        labels: labels(object),
        volume: owned(object, "/spec/volumeName"),
        bound: text(object, "/status/phase") == Some("Bound"),
        terminating: is_terminating(object),
        storage_class: owned(object, "/spec/storageClassName"),
        staged: annotation(object, STAGED_ANNOTATION).is_some(),
        reconcilers: reconcilers::named_on(object),
        object: object.clone(),
    })
}

pub fn volume(object: &Value) -> Option<Volume> {
    let claim = text(object, "/spec/claimRef/namespace").zip(text(object, "/spec/claimRef/name"));
    Some(Volume {
        handle: owned(object, "/spec/csi/volumeHandle"),
        driver: owned(object, "/spec/csi/driver"),
        released: matches!(text(object, "/status/phase"), Some("Released" | "Failed")),
        claim: claim.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
        claim_uid: owned(object, "/spec/claimRef/uid"),
        protected_by: annotation(object, PROTECTED_BY_ANNOTATION).map(str::to_owned),
        object: object.clone(),
    })
}

pub fn pod(object: &Value) -> Option<Pod> {
    let owners = list(object, "/metadata/ownerReferences");
    let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    Some(Pod {
        uid: owned(object, "/metadata/uid").unwrap_or_default(),
        gate: gate_of(object),
        scheduled: text(object, "/spec/nodeName").is_some_and(|node| !node.is_empty()),
        gate_started: has_started_its_gate(object),
        claims: claims_of(object, "/spec/volumes"),
        finished: matches!(text(object, "/status/phase"), Some("Succeeded" | "Failed")),
        terminating: is_terminating(object),
        grace_seconds: number(object, "/spec/terminationGracePeriodSeconds").unwrap_or(DEFAULT_GRACE_SECONDS),
        owner: owner.and_then(|owner| Some((owned(owner, "/kind")?, owned(owner, "/name")?))),
    })
}

fn has_started_its_gate(pod: &Value) -> bool {
    let is_gate =
        |status: &&Value| matches!(text(status, "/name"), Some(WAITING_CONTAINER | GUARDING_CONTAINER));
    let has_run = |status: &Value| {
        ["/state/running", "/state/terminated", "/lastState/terminated"]
            .iter()
            .any(|state| status.pointer(state).is_some())
    };
    // Behind the gate, whatever runs has been let through by it.
    text(pod, "/status/phase") == Some("Running")
        || list(pod, "/status/initContainerStatuses").iter().filter(is_gate).any(has_run)
}

/// The placement that a pod's gate asks for, if nothing that uses a claim runs before the gate has let it through, and
/// the gate can end all of the pod.
fn gate_of(pod: &Value) -> Option<String> {
    let first = list(pod, "/spec/initContainers");
    let place = |name: &str| first.iter().position(|container| text(container, "/name") == Some(name));
    let (waiting, guarding) = (place(WAITING_CONTAINER)?, place(GUARDING_CONTAINER)?);
    let stays = text(&first[guarding], "/restartPolicy") == Some("Always");
    let waits = text(&first[waiting], "/restartPolicy").is_none();
    let shared = pod.pointer("/spec/shareProcessNamespace") == Some(&Value::Bool(true));
    let volumes = list(pod, "/spec/volumes").iter();
    let of_claims: BTreeSet<&str> = volumes
        .filter(|volume| text(volume, "/persistentVolumeClaim/claimName").is_some())
        .filter_map(|volume| text(volume, "/name"))
        .collect();
    let uses = |container: &Value| {
        list(container, "/volumeMounts")
            .iter()
            .any(|mount| text(mount, "/name").is_some_and(|name| of_claims.contains(name)))
    };
    let in_time = !first.iter().take(waiting.max(guarding)).any(uses);
    let placement = annotation(pod, ANNOTATION)?;
    (stays && waits && shared && in_time).then(|| placement.to_owned())
}

fn claims_of(object: &Value, at: &str) -> BTreeSet<String> {
    let volumes = list(object, at).iter();
    volumes.filter_map(|volume| owned(volume, "/persistentVolumeClaim/claimName")).collect()
}

pub fn attachment(object: &Value) -> Option<Attachment> {
    Some(Attachment { volume: owned(object, "/spec/source/persistentVolumeName") })
}

pub fn workload(kind: &WorkloadKind, object: &Value) -> Option<Workload> {
    let name = owned(object, "/metadata/name")?;
    let (wanted, ready, template) = match kind.kind.as_str() {
        "CronJob" => {
            let suspended = object.pointer("/spec/suspend") == Some(&Value::Bool(true));
            (u32::from(!suspended), u32::from(!suspended), "/spec/jobTemplate/spec/template")
        }
        "DaemonSet" => {
            let count = |at: &str| small(number(object, at).unwrap_or(0));
            (count("/status/desiredNumberScheduled"), count("/status/numberReady"), "/spec/template")
        }
        _ => {
            let wanted = number(object, "/spec/replicas").unwrap_or(1);
            let observed = number(object, "/status/observedGeneration");
            let stale = observed < number(object, "/metadata/generation") && observed.is_some();
            // What its controller has said before it saw this spec is about another one.
            let ready = if stale { Some(0) } else { number(object, "/status/readyReplicas") };
            // Having a scale subresource says nothing about readiness: a custom kind that tells none is taken at its word.
            let untold = if kind.api_version == "apps/v1" { 0 } else { wanted };
            (small(wanted), small(ready.unwrap_or(untold)), "/spec/template")
        }
    };
    let templates = list(object, "/spec/volumeClaimTemplates").iter();
    Some(Workload {
        claim_prefixes: templates
            .filter_map(|template| text(template, "/metadata/name"))
            .map(|template| format!("{template}-{name}-"))
            .collect(),
        workload: WorkloadRef { api_version: kind.api_version.clone(), kind: kind.kind.clone(), name },
        labels: labels(object),
        wanted,
        ready,
        refused: list(object, "/status/conditions")
            .iter()
            .find(|condition| {
                text(condition, "/type") == Some("ReplicaFailure")
                    && text(condition, "/status") == Some("True")
            })
            .and_then(|condition| text(condition, "/message"))
            .map(without_pod_name),
        marked: annotation(object, REPLICAS_ANNOTATION).and_then(|text| text.parse().ok()),
        claims: claims_of(object, &format!("{template}/spec/volumes")),
        reconcilers: reconcilers::named_on(object),
        gate: object
            .pointer(template)
            .and_then(|template| annotation(template, ANNOTATION))
            .map(str::to_owned),
        has_template: object.pointer(&format!("{template}/spec/containers")).is_some(),
    })
}

/// Each attempt has another name, and would be told as news: `pods "web-7d9f-x2x4z" is forbidden: exceeded quota`.
fn without_pod_name(message: &str) -> String {
    let named = message.strip_prefix("pods \"").and_then(|rest| rest.split_once("\" "));
    let why = named.map_or(message, |(_, why)| why);
    why.strip_prefix("is forbidden: ").unwrap_or(why).to_owned()
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub fn replication(object: &Value) -> Option<ReplicationObject> {
    let name = owned(object, "/spec/dataSource/name")?;
    let source = match text(object, "/spec/dataSource/kind")? {
        "PersistentVolumeClaim" => Source::Claim(name),
        "VolumeGroupReplication" => Source::Group(name),
        _ => return None,
    };
    let condition = |name: &str| {
        let mut conditions = list(object, "/status/conditions").iter();
        conditions.rfind(|condition| text(condition, "/type") == Some(name))
    };
    let holds = |name: &str| match text(condition(name)?, "/status") {
        Some("True") => Some(true),
        Some("False") => Some(false),
        Some(_) | None => None,
    };
    let epoch = annotation(object, EPOCH_ANNOTATION);
    Some(ReplicationObject {
        source,
        replication: Replication {
            desired: owned(object, "/spec/replicationState").unwrap_or_default(),
            state: match text(object, "/status/state") {
                Some("Primary") => ReplicationState::Primary,
                Some("Secondary") => ReplicationState::Secondary,
                Some(_) | None => ReplicationState::Unknown,
            },
            current: is_current(object),
            completed: holds("Completed"),
            degraded: holds("Degraded"),
            resyncing: holds("Resyncing"),
            validated: holds("Validated"),
            last_sync: text(object, "/status/lastSyncTime").and_then(wall_time),
            last_sync_bytes: number(object, "/status/lastSyncBytes"),
            last_sync_took: text(object, "/status/lastSyncDuration").and_then(go_duration),
            epoch: epoch.and_then(|text| text.parse().ok()).map(Epoch),
            message: owned(object, "/status/message").unwrap_or_default(),
        },
        reason: condition("Completed").and_then(|completed| owned(completed, "/reason")),
        auto_resync: object.pointer("/spec/autoResync") == Some(&Value::Bool(true)),
        annotated: epoch.is_some(),
    })
}

/// As Go writes spans of time: `1h2m3.5s`, `250ms`.
fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = behind;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// The status is about the spec as it is now.
fn is_current(object: &Value) -> bool {
    let generation = number(object, "/metadata/generation");
    generation.is_some() && number(object, "/status/observedGeneration") == generation
}

pub fn group(object: &Value) -> Option<GroupObject> {
    let claims = list(object, "/status/persistentVolumeClaimsRefList").iter();
    let epoch = annotation(object, EPOCH_ANNOTATION);
    Some(GroupObject {
        desired: owned(object, "/spec/replicationState")?,
        auto_resync: object.pointer("/spec/autoResync") == Some(&Value::Bool(true)),
        current: is_current(object),
        annotated: epoch.is_some(),
        epoch: epoch.and_then(|text| text.parse().ok()).map(Epoch),
        claims: claims.filter_map(|claim| owned(claim, "/name")).collect(),
        content: owned(object, "/spec/volumeGroupReplicationContentName"),
        message: owned(object, "/status/message").unwrap_or_default(),
    })
}

pub fn group_content(object: &Value) -> Option<GroupContent> {
    let volumes = list(object, "/status/persistentVolumeRefList").iter();
    Some(GroupContent {
        volumes: volumes.filter_map(|volume| owned(volume, "/name")).collect(),
        handle: owned(object, "/spec/volumeGroupReplicationHandle"),
        staged_for: annotation(object, GROUP_ANNOTATION).map(str::to_owned),
        object: object.clone(),
    })
}

pub fn addons_node(object: &Value) -> Option<AddonsNode> {
    Some(AddonsNode {
        driver: owned(object, "/spec/driver/name")?,
        connected: text(object, "/status/state") == Some("Connected"),
    })
}

/// The form in which Kubernetes writes times: `2026-11-22T18:26:10Z`, with or without a fraction.
pub fn wall_time(text: &str) -> Option<WallTime> {
    let bytes = text.strip_suffix('Z')?;
    let (date, time) = bytes.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>());
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let (second, fraction) = time.next().map(|text| text.split_once('.').unwrap_or((text, "0")))?;
    let second = second.parse::<i64>().ok()?;
    let millis = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let days = days_since_epoch(year, month, day);
    Some(WallTime((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ready_for_another_spec_is_not_ready_for_this_one() {
        let kind = WorkloadKind { api_version: "apps/v1".into(), kind: "Deployment".into() };
        let ready = |generation: u64, observed: Option<u64>| {
            let object = serde_json::json!({
                "metadata": {"name": "web", "generation": generation},
                "spec": {"replicas": 1},
                "status": {"observedGeneration": observed, "readyReplicas": 1},
            });
            workload(&kind, &object).expect("a workload").ready
        };
        assert_eq!((ready(3, Some(2)), ready(3, Some(3))), (0, 1));
        assert_eq!(ready(3, None), 1, "a kind that does not tell");
    }

    #[test]
    fn a_span_of_go_is_read_whatever_its_units() {
        for (text, nanos) in [("0s", 0), ("1.5s", 1_500_000_000), ("12.25ms", 12_250_000), ("7µs", 7_000)] {
            assert_eq!(go_duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(go_duration("1h2m3s"), Some(Duration::from_secs(3723)));
        for wrong in ["5", "soon", "-1s", "1.2.3s", "3 s"] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_of_kubernetes_is_read_to_the_millisecond() {
        assert_eq!(wall_time("1970-01-01T00:00:00Z"), Some(WallTime(0)));
        assert_eq!(wall_time("2024-02-29T12:30:15.25Z"), Some(WallTime(1_709_209_815_250)));
        assert_eq!(wall_time("2026-11-22T18:26:10Z"), Some(WallTime(1_795_371_970_000)));
        assert_eq!(wall_time("yesterday"), None);
    }
}
