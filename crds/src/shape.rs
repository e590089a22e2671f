//! The bounded building blocks of the schemas: every string, list and map has a largest size, so that rules stay cheap.

use schemars::{Schema, SchemaGenerator, json_schema};

pub(crate) const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN_PATTERN: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
const SPAN_PATTERN: &str = "^([0-9]{1,6}(ms|s|m|h)){1,3}$";
const ENDPOINT_PATTERN: &str = r"^([-.A-Za-z0-9]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";
const IDENTITY_PATTERN: &str = "^[-A-Za-z0-9]+$";
const LABEL_VALUE_PATTERN: &str = "^([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?$";

/// A DNS label: a cluster, a namespace, a placement.
pub fn label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL_PATTERN})
}

/// A DNS subdomain: the name of any other Kubernetes object.
pub fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN_PATTERN})
}

/// A span of time such as 500ms, 20s or 1h30m.
pub fn span(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 2, "maxLength": 24, "pattern": SPAN_PATTERN})
}

/// `host:port`.
pub fn endpoint(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 3, "maxLength": 259, "pattern": ENDPOINT_PATTERN})
}

/// Up to 16 of them.
pub fn endpoints(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "set", "items": endpoint(generator)})
}

/// The last part of an agent's SPIFFE identity.
pub fn identity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": IDENTITY_PATTERN})
}

/// Labels to select by. That there is one is a rule of its own, with a message that says what to do.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN},
    })
}

/// Names of clusters, in an order that means something.
pub fn clusters(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 2, "maxItems": 8, "x-kubernetes-list-type": "atomic", "items": label(generator)})
}

pub fn few_clusters(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 8, "x-kubernetes-list-type": "atomic", "items": label(generator)})
}

/// Up to sixteen names of objects in the same namespace.
pub fn few_names(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "set", "items": label(generator)})
}

/// Up to sixteen names of objects of any kind.
pub fn object_names(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "set", "items": name(generator)})
}

/// The group and version of a kind; which ones may be named is a rule of its own, with a message that says what to do.
pub fn api_version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63})
}

/// The kind of an object.
pub fn kind(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63})
}

/// A time of the day, such as 22:30.
pub fn time_of_day(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 4, "maxLength": 5, "pattern": "^([01]?[0-9]|2[0-3]):[0-5][0-9]$"})
}

/// Names of protected claims.
pub fn claims(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 100, "x-kubernetes-list-type": "set", "items": name(generator)})
}

/// A short text: a reason, a state, a result.
pub fn word(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 256})
}

/// Sentences for a human.
pub fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 4096})
}

/// Up to 64 sentences.
pub fn texts(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic", "items": text(generator)})
}

/// JSON inside a string.
pub fn json_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 16384})
}

/// A point in time.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Conditions as Kubernetes has them, at most one of each type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
            },
        },
    })
}

/// Operation and step of a command.
pub fn command(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 320})
}
