//! The custom resource definitions as they are installed: the derived ones, without what a user's reader stumbles over.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

pub const KUSTOMIZATION: &str = "kustomization.yaml";
const GENERATED: &str = "# Generated from crds/src: cargo run -p understudy-crds --bin generate\n";

/// The definitions that live at the hub.
pub fn of_the_hub() -> Vec<Value> {
    vec![
        tidied(&crate::DRPlacement::crd()),
        tidied(&crate::DRCluster::crd()),
        tidied(&crate::DROperation::crd()),
        tidied(&crate::DRApproval::crd()),
    ]
}

/// The definitions that live in each member cluster.
pub fn of_members() -> Vec<Value> {
    vec![tidied(&crate::DRSiteState::crd())]
}

/// The name of the file that holds a definition.
pub fn file_name(definition: &Value) -> String {
    let name = definition["spec"]["names"]["plural"].as_str().unwrap_or("unnamed");
    format!("{name}.yaml")
}

pub fn yaml(definition: &Value) -> Result<String, serde_saphyr::ser::Error> {
    let options =
        serde_saphyr::ser_options! { compact_list_indent: true, prefer_block_scalars: false, yaml_12: false };
    let body = serde_saphyr::to_string_with_options(definition, options)?;
    Ok(format!("{GENERATED}{body}"))
}

/// What `kubectl apply -k` needs to find the definitions in a folder.
pub fn kustomization(definitions: &[Value]) -> String {
    let files: Vec<String> =
        definitions.iter().map(|definition| format!("- {}\n", file_name(definition))).collect();
    format!(
        "{GENERATED}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{}",
        files.concat()
    )
}

fn tidied(definition: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(definition).unwrap_or_default();
    tidy(&mut value);
    value
}

/// Of a schema: titles and `nullable` away (an absent field is absent), lines joined, formats that Kubernetes knows, and
/// whole numbers as such.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("type").is_some_and(Value::is_string) {
                tidy_schema(fields);
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tidy_schema(schema: &mut Map<String, Value>) {
    schema.remove("title");
    schema.remove("nullable");
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::String(format)) = schema.get_mut("format")
        && format.starts_with("uint")
    {
        *format = "int64".to_owned();
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = schema.get(bound).and_then(Value::as_f64) {
            schema.insert(bound.to_owned(), Value::from(number as i64));
        }
    }
}
