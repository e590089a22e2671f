//! CustomResourceDefinitions: applied all at once, and awaited until every client can see what they define.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use tokio::time::{sleep, timeout};
use tonic::codegen::http::Request;

use super::manifests::{DEFINITION_DEADLINE, DISCOVERY_POLL, FIELD_MANAGER};

const NOT_FOUND: u16 = 404;
const TOO_MANY_REQUESTS: u16 = 429;

/// Applies definitions, and waits until the kinds they define are listed and served.
///
/// Both come some moments later, and who asks in between waits long: an API server sends a client away for a second
/// while it fills the cache of a kind, and the csi-addons manager sleeps for five when a kind is not listed.
pub async fn define(client: &Client, definitions: &[DynamicObject]) -> Result<()> {
    let applied = try_join_all(definitions.iter().map(|definition| apply(client, definition))).await?;
    let defined: BTreeSet<Defined> = applied.iter().flat_map(served).collect();
    let ready = async {
        while !(are_in_the_long_list(client, &defined).await?
            && are_in_their_groups(client, &defined).await?)
        {
            sleep(DISCOVERY_POLL).await;
        }
        try_join_all(defined.iter().map(|one| await_cached(client, one))).await
    };
    match timeout(DEFINITION_DEADLINE, ready).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => bail!("not all of {defined:?} were served within {DEFINITION_DEADLINE:?}"),
    }
}

async fn apply(client: &Client, definition: &DynamicObject) -> Result<CustomResourceDefinition> {
    let name = definition.name_any();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let started = Instant::now();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = definitions
        .patch(&name, &parameters, &Patch::Apply(definition))
        .await
        .with_context(|| format!("applying CustomResourceDefinition {name}"))?;
    let established = await_condition(definitions, &name, is_crd_established());
    match timeout(DEFINITION_DEADLINE, established).await {
        Ok(outcome) => outcome.with_context(|| format!("watching the definition {name}"))?,
        Err(_) => bail!("the definition {name} was not established after {:?}", started.elapsed()),
    };
    Ok(applied)
}

/// A resource in one of its versions, as a client asks for it: group/version, and the plural name.
type Defined = (String, String);

fn served(definition: &CustomResourceDefinition) -> Vec<Defined> {
    let spec = &definition.spec;
    let versions = spec.versions.iter().filter(|version| version.served);
    versions.map(|one| (format!("{}/{}", spec.group, one.name), spec.names.plural.clone())).collect()
}

/// The first who asks makes the API server fill its cache of the kind; until then it is too busy for everyone.
async fn await_cached(client: &Client, (group, resource): &Defined) -> Result<()> {
    let asking = || format!("listing {resource} of {group}");
    loop {
        let path = format!("/apis/{group}/{resource}?limit=1&resourceVersion=0");
        let request = Request::get(path).body(Vec::new()).with_context(asking)?;
        match client.request_text(request).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if [NOT_FOUND, TOO_MANY_REQUESTS].contains(&status.code) => {
                sleep(DISCOVERY_POLL).await;
            }
            Err(error) => return Err(error).with_context(asking),
        }
    }
}

/// The list of everything, by which most clients learn at once what there is.
async fn are_in_the_long_list(client: &Client, defined: &BTreeSet<Defined>) -> Result<bool> {
    let list = client.list_api_groups_aggregated().await.context("asking what is served")?;
    let mut listed = BTreeSet::new();
    for group in list.items {
        let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        for version in group.versions {
            let place = format!("{name}/{}", version.version.unwrap_or_default());
            let resources = version.resources.into_iter().filter_map(|found| found.resource);
            listed.extend(resources.map(|resource| (place.clone(), resource)));
        }
    }
    Ok(defined.is_subset(&listed))
}

/// The lists of single groups, by which the others learn it.
async fn are_in_their_groups(client: &Client, defined: &BTreeSet<Defined>) -> Result<bool> {
    let groups: BTreeSet<&String> = defined.iter().map(|(group, _)| group).collect();
    for group in groups {
        let listed = match client.list_api_group_resources(group).await {
            Ok(listed) => listed.resources,
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("asking what {group} serves")),
        };
        let mut wanted = defined.iter().filter(|(of, _)| of == group);
        if !wanted.all(|(_, resource)| listed.iter().any(|one| one.name == *resource)) {
            return Ok(false);
        }
    }
    Ok(true)
}
