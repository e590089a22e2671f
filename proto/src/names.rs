//! Names, checked once where they enter.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{what} {value:?} is not a DNS label: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
)]
pub struct NameError {
    pub what: &'static str,
    pub value: String,
}

fn dns_label(what: &'static str, value: &str) -> Result<(), NameError> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = value.as_bytes();
    let fits = bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if fits { Ok(()) } else { Err(NameError { what, value: value.to_owned() }) }
}

/// A Kubernetes cluster as configured: the name of its DRCluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterName(SmolStr);

impl ClusterName {
    pub fn parse(value: &str) -> Result<Self, NameError> {
        dns_label("cluster name", value)?;
        Ok(ClusterName(value.into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The uid of a DRPlacement: a placement deleted and made anew under the same name is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlacementId(SmolStr);

impl PlacementId {
    pub fn parse(value: &str) -> Result<Self, NameError> {
        dns_label("placement uid", value)?;
        Ok(PlacementId(value.into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for PlacementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Namespace and name of a DRPlacement. The namespace is the application's own, in the hub and in every member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlacementName {
    pub namespace: String,
    pub name: String,
}

impl PlacementName {
    pub fn parse(namespace: &str, name: &str) -> Result<Self, NameError> {
        dns_label("namespace", namespace)?;
        dns_label("placement name", name)?;
        Ok(PlacementName { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for PlacementName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The name of an operation, derived from what it is: `shop-failover-2` enters epoch 2. Unique within a placement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub String);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Equality-based label selector; never empty, because an empty one would select a whole namespace unasked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub BTreeMap<String, String>);

impl Selector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// In the form that the Kubernetes API takes as a query: `a=b,c=d`.
    pub fn query(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_kubernetes_would_refuse_is_refused_with_the_value_in_the_message() {
        for bad in ["", "East", "-east", "east-", "e_ast", "ea.st", &"e".repeat(64)] {
            let refused = ClusterName::parse(bad).expect_err("must be refused");
            assert!(refused.to_string().contains(&format!("{bad:?}")), "{refused}");
        }
        assert!(ClusterName::parse("east-1").is_ok());
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!Selector::default().matches(&BTreeMap::from([("app".into(), "shop".into())])));
    }
}
