//! The conversation with the API server about DRSiteStates: this cluster's durable word for what it is.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::{CommandResult, Event, Failed, Failure, Promise, Recorded, SiteState, SiteWrite};
use anyhow::Context;
use crds::DRSiteState;
use crds::site_state::{self, DRSiteStateSpec, PromiseSpec, RememberedReplicas, SiteRole};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use proto::volume::WorkloadReplicas;
use proto::{
    Assignment, Epoch, Fencing, Moment, OperationId, PlacementId, PlacementName, Role, WallTime, WorkloadRef,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::apply::failed;
use crate::enforcement::TRIAL;

/// On DRSiteStates: the assignment without its inventory, for an agent that starts while the hub is silent.
const ASSIGNMENT_ANNOTATION: &str = "understudy.dev/assignment";
/// How long one request may take; the next decision repeats it.
const REQUEST: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// All that this agent, or one before it, has written down.
pub async fn read_all(client: &Client) -> anyhow::Result<Vec<Recorded>> {
    let objects = timeout(REQUEST, Api::<DRSiteState>::all(client.clone()).list(&ListParams::default()))
        .await
        .context("reading DRSiteStates: the API server does not answer")?
        .context("reading DRSiteStates")?;
    objects.into_iter().filter(|object| object.name_any() != TRIAL).map(|object| recorded(&object)).collect()
}

/// Writes one, and says what is there instead if somebody else has written it.
pub async fn write(client: Client, write: SiteWrite) -> Vec<Event> {
    let SiteWrite { state, resource_version } = write;
    let placement = state.placement.clone();
    let api: Api<DRSiteState> = Api::namespaced(client, &state.name.namespace);
    let object = match object(&state, resource_version.as_deref()) {
        Ok(object) => object,
        Err(error) => {
            let failed = Failed { failure: Failure::Unavailable, message: format!("{error:#}") };
            return vec![Event::SiteWritten { placement, result: Err(failed) }];
        }
    };
    let parameters = PostParams::default();
    let request = async {
        match resource_version {
            Some(_) => api.replace(&object.name_any(), &parameters, &object).await,
            None => api.create(&parameters, &object).await,
        }
    };
    let result = match timeout(REQUEST, request).await {
        Ok(Ok(written)) => {
            Ok(Box::new(Recorded { state, resource_version: written.resource_version().unwrap_or_default() }))
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => {
            Err(Failed { failure: Failure::Unavailable, message: format!("no answer within {REQUEST:?}") })
        }
    };
    let lost = matches!(&result, Err(Failed { failure: Failure::Conflict | Failure::NotFound, message: _ }));
    let mut events = vec![Event::SiteWritten { placement: placement.clone(), result }];
    if lost {
        events.extend(read(&api, placement).await);
    }
    events
}

async fn read(api: &Api<DRSiteState>, placement: PlacementId) -> Option<Event> {
    let found = timeout(REQUEST, api.get_opt(placement.as_str())).await.ok()?.ok()?;
    let recorded = found.map(|object| recorded(&object)).transpose().ok()?;
    Some(Event::SiteSeen { placement, recorded: recorded.map(Box::new) })
}

/// Tells of every change; most are the agent's own and say nothing new.
pub async fn watch(client: Client, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let api: Api<DRSiteState> = Api::all(client);
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default().timeout(60)));
    while let Some(change) = stream.next().await {
        let seen = match change {
            Ok(
                watcher::Event::Apply(object)
                | watcher::Event::InitApply(object)
                | watcher::Event::Delete(object),
            ) if object.name_any() == TRIAL => continue,
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                recorded(&object).map(|recorded| (recorded.state.placement.clone(), Some(Box::new(recorded))))
            }
            Ok(watcher::Event::Delete(object)) => placement_id(&object).map(|placement| (placement, None)),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "watching DRSiteStates");
                sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        match seen {
            Ok((placement, recorded)) => events.send(Event::SiteSeen { placement, recorded }).await?,
            Err(error) => tracing::warn!(%error, "a DRSiteState cannot be understood"),
        }
    }
    anyhow::bail!("the watch of DRSiteStates has ended")
}

fn object(state: &SiteState, resource_version: Option<&str>) -> anyhow::Result<DRSiteState> {
    let SiteState {
        placement,
        name,
        claims,
        group,
        epoch_seen,
        role,
        operation,
        promise,
        fenced_at,
        handed_over,
        resync,
        results,
        replicas,
        assignment,
    } = state;
    let spec = DRSiteStateSpec {
        placement: name.name.clone(),
        placement_id: placement.to_string(),
        claims: claims.iter().cloned().collect(),
        epoch_seen: i64::try_from(epoch_seen.0).context("an epoch beyond all bounds")?,
        role: site_role(*role),
        operation: operation.as_ref().map(|operation| operation.0.clone()),
        promises_outstanding: promise.as_ref().map(promise_spec),
        fenced_at: fenced_at.and_then(|at| Timestamp::from_millisecond(at.0).ok()).map(Time),
        handed_over: handed_over
            .map(|epoch| i64::try_from(epoch.0))
            .transpose()
            .context("an epoch beyond all bounds")?,
        resync: resync.as_ref().map(|operation| operation.0.clone()),
        group: group.clone(),
        // Not read back: it follows from the assignment, and is there for admission.
        gated: assignment.as_ref().is_some_and(|lived_by| lived_by.policy.fencing == Fencing::Gate),
        last_results: results.iter().map(result_spec).collect::<Result<_, _>>()?,
        replicas: replicas.iter().map(replicas_spec).collect(),
    };
    let mut object = DRSiteState::new(placement.as_str(), spec);
    object.metadata.namespace = Some(name.namespace.clone());
    object.metadata.resource_version = resource_version.map(str::to_owned);
    if let Some(assignment) = assignment {
        let text = serde_json::to_string(assignment).context("writing down the assignment")?;
        object.metadata.annotations = Some(BTreeMap::from([(ASSIGNMENT_ANNOTATION.to_owned(), text)]));
    }
    Ok(object)
}

fn promise_spec(promise: &Promise) -> PromiseSpec {
    let Promise { boot, clock_offset, until, wait } = promise;
    PromiseSpec {
        boot_id: boot.clone(),
        clock_offset_ms: *clock_offset,
        until_ms: until.0,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    }
}

fn result_spec(result: &CommandResult) -> anyhow::Result<site_state::CommandResult> {
    let CommandResult { command, outcome } = result;
    let outcome = serde_json::to_string(outcome).context("writing down an answer")?;
    Ok(site_state::CommandResult { command: command.clone(), outcome })
}

fn replicas_spec(remembered: &WorkloadReplicas) -> RememberedReplicas {
    let WorkloadReplicas { workload: WorkloadRef { api_version, kind, name }, replicas } = remembered.clone();
    RememberedReplicas { api_version, kind, name, replicas }
}

fn placement_id(object: &DRSiteState) -> anyhow::Result<PlacementId> {
    let name = object.name_any();
    PlacementId::parse(&name).with_context(|| format!("the name of DRSiteState {name}"))
}

fn recorded(object: &DRSiteState) -> anyhow::Result<Recorded> {
    let placement = placement_id(object)?;
    let namespace = object.namespace().unwrap_or_default();
    let spec = &object.spec;
    let assignment = object.annotations().get(ASSIGNMENT_ANNOTATION);
    let name = PlacementName::parse(&namespace, &spec.placement)
        .with_context(|| format!("spec.placement of DRSiteState {namespace}/{placement}"))?;
    Ok(Recorded {
        resource_version: object.resource_version().unwrap_or_default(),
        state: SiteState {
            placement,
            name,
            claims: spec.claims.iter().cloned().collect(),
            group: spec.group.clone(),
            epoch_seen: Epoch(u64::try_from(spec.epoch_seen).unwrap_or(0)),
            role: role(spec.role),
            operation: spec.operation.clone().map(OperationId),
            promise: spec.promises_outstanding.as_ref().map(promise),
            fenced_at: spec.fenced_at.as_ref().map(|Time(at)| WallTime(at.as_millisecond())),
            handed_over: spec.handed_over.and_then(|epoch| u64::try_from(epoch).ok()).map(Epoch),
            resync: spec.resync.clone().map(OperationId),
            results: spec.last_results.iter().filter_map(result).collect(),
            replicas: spec.replicas.iter().cloned().map(replicas).collect(),
            assignment: assignment.and_then(|text| read_assignment(text)),
        },
    })
}

/// A note of another version that is not understood is as good as none: the hub will say it again.
fn read_assignment(text: &str) -> Option<Assignment> {
    serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(%error, "a recorded assignment cannot be read"))
        .ok()
}

fn promise(spec: &PromiseSpec) -> Promise {
    let PromiseSpec { boot_id, clock_offset_ms, until_ms, wait_ms } = spec;
    Promise {
        boot: boot_id.clone(),
        clock_offset: *clock_offset_ms,
        until: Moment(*until_ms),
        wait: Duration::from_millis(*wait_ms),
    }
}

fn result(spec: &site_state::CommandResult) -> Option<CommandResult> {
    let outcome = serde_json::from_str(&spec.outcome).ok()?;
    Some(CommandResult { command: spec.command.clone(), outcome })
}

fn replicas(remembered: RememberedReplicas) -> WorkloadReplicas {
    let RememberedReplicas { api_version, kind, name, replicas } = remembered;
    WorkloadReplicas { workload: WorkloadRef { api_version, kind, name }, replicas }
}

fn site_role(role: Role) -> SiteRole {
    match role {
        Role::Holder => SiteRole::Holder,
        Role::Promoting => SiteRole::Promoting,
        Role::Standby => SiteRole::Standby,
        Role::Fenced => SiteRole::Fenced,
        Role::Unknown => SiteRole::Unknown,
    }
}

fn role(role: SiteRole) -> Role {
    match role {
        SiteRole::Holder => Role::Holder,
        SiteRole::Promoting => Role::Promoting,
        SiteRole::Standby => Role::Standby,
        SiteRole::Fenced => Role::Fenced,
        SiteRole::Unknown => Role::Unknown,
    }
}
