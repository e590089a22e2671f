//! The checks that every message uses, and the one error they end in: which field, which value, what to do.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::names::{ClusterName, NameError, OperationId, PlacementId, Selector};

/// The longest free text, such as a message for the user; the sender cuts it.
pub(super) const LONGEST_TEXT: usize = 4096;
/// The longest name that Kubernetes gives to an object.
const LONGEST_NAME: usize = 253;
/// The most placements of one cluster, or clusters of one placement.
pub(super) const MOST_PLACEMENTS: usize = 10_000;
/// The most volumes, workloads or ailments of one placement.
pub(super) const MOST_OBJECTS: usize = 1_000;
pub(super) const MOST_LABELS: usize = 64;
pub(super) const MOST_ENDPOINTS: usize = 16;
/// The largest manifest that etcd stores by default.
const LARGEST_MANIFEST: usize = 1_536 * 1_024;
const DEEPEST_MANIFEST: usize = 32;

/// A message of the other side that this side refuses to act on.
#[derive(Debug)]
pub struct WireError {
    /// The path to the field, such as `report.volumes[3].claim`.
    pub field: String,
    pub problem: Problem,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl Error for WireError {
    /// The problem is part of the message already; what lies behind it is not.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("missing; the other side speaks another version of dr.v1: upgrade the older of hub and agent")]
    Missing,
    #[error("has the value {0}, which this version does not know: upgrade the older of hub and agent")]
    UnknownValue(i32),
    #[error(transparent)]
    Name(NameError),
    #[error("{value:?} is not {expected}: correct the object that it comes from")]
    Text { value: String, expected: &'static str },
    #[error("has {found} entries, the limit is {limit}: divide the placement into smaller ones")]
    TooMany { found: usize, limit: usize },
    #[error("has {found} bytes, the limit is {limit}: shorten it in the object that it comes from")]
    TooLong { found: usize, limit: usize },
    #[error("is not JSON: upgrade the older of hub and agent")]
    Json(#[source] serde_json::Error),
    #[error("is nested deeper than {limit} levels: simplify the object that it comes from")]
    TooDeep { limit: usize },
}

pub(super) type Parsed<T> = Result<T, WireError>;

impl Problem {
    pub(super) fn at(self, field: &str) -> WireError {
        WireError { field: field.to_owned(), problem: self }
    }
}

/// Puts the name of the surrounding field before that of the field at fault.
pub(super) trait Within<T> {
    fn within(self, field: impl fmt::Display) -> Parsed<T>;
}

impl<T> Within<T> for Parsed<T> {
    fn within(self, outer: impl fmt::Display) -> Parsed<T> {
        self.map_err(|WireError { field, problem }| WireError { field: format!("{outer}.{field}"), problem })
    }
}

pub(super) fn present<T>(value: Option<T>, field: &str) -> Parsed<T> {
    value.ok_or_else(|| Problem::Missing.at(field))
}

/// A part that must be there and must itself be right.
pub(super) fn part<W, D: TryFrom<W, Error = WireError>>(value: Option<W>, field: &str) -> Parsed<D> {
    D::try_from(present(value, field)?).within(field)
}

pub(super) fn optional_part<W, D: TryFrom<W, Error = WireError>>(
    value: Option<W>,
    field: &str,
) -> Parsed<Option<D>> {
    value.map(|present| D::try_from(present).within(field)).transpose()
}

pub(super) fn list<W, D: TryFrom<W, Error = WireError>>(
    values: Vec<W>,
    limit: usize,
    field: &str,
) -> Parsed<Vec<D>> {
    at_most(values.len(), limit, field)?;
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| D::try_from(value).within(format_args!("{field}[{index}]")))
        .collect()
}

/// A list whose entries have a check instead of a type of their own.
pub(super) fn checked_list<W, D>(
    values: Vec<W>,
    limit: usize,
    field: &str,
    check: impl Fn(W, &str) -> Parsed<D>,
) -> Parsed<Vec<D>> {
    at_most(values.len(), limit, field)?;
    values.into_iter().enumerate().map(|(index, value)| check(value, &format!("{field}[{index}]"))).collect()
}

pub(super) fn at_most(found: usize, limit: usize, field: &str) -> Parsed<()> {
    if found > limit { Err(Problem::TooMany { found, limit }.at(field)) } else { Ok(()) }
}

pub(super) fn cluster(value: &str, field: &str) -> Parsed<ClusterName> {
    ClusterName::parse(value).map_err(|error| Problem::Name(error).at(field))
}

pub(super) fn placement(value: &str, field: &str) -> Parsed<PlacementId> {
    PlacementId::parse(value).map_err(|error| Problem::Name(error).at(field))
}

pub(super) fn operation(value: String, field: &str) -> Parsed<OperationId> {
    object_name(value, field).map(OperationId)
}

/// A name as Kubernetes gives it to objects: a DNS subdomain.
pub(super) fn object_name(value: String, field: &str) -> Parsed<String> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    let fits = bytes.len() <= LONGEST_NAME
        && bytes.first().is_some_and(|byte| letter(*byte))
        && bytes.last().is_some_and(|byte| letter(*byte))
        && bytes.iter().all(|byte| letter(*byte) || *byte == b'-' || *byte == b'.');
    if fits {
        Ok(value)
    } else {
        Err(unfit(
            value,
            field,
            "a name of 1 to 253 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        ))
    }
}

/// A uid as it stands in a certificate's identity.
pub(super) fn uid(value: String, field: &str) -> Parsed<String> {
    let fits = (1..=63).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { Ok(value) } else { Err(unfit(value, field, "a uid of 1 to 63 letters, digits and '-'")) }
}

fn unfit(value: String, field: &str, expected: &'static str) -> WireError {
    Problem::Text { value: cut(&value), expected }.at(field)
}

pub(super) fn text(value: String, field: &str) -> Parsed<String> {
    let found = value.len();
    if found > LONGEST_TEXT {
        Err(Problem::TooLong { found, limit: LONGEST_TEXT }.at(field))
    } else {
        Ok(value)
    }
}

pub(super) fn optional_text(value: Option<String>, field: &str) -> Parsed<Option<String>> {
    value.map(|present| text(present, field)).transpose()
}

/// Free text is for people: a long one is cut by its sender, so that it can never make a whole message unacceptable.
pub(super) fn cut(value: &str) -> String {
    let end = (0..=LONGEST_TEXT.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
    value[..end.unwrap_or(0)].to_owned()
}

pub(super) fn selector(labels: HashMap<String, String>, field: &str) -> Parsed<Selector> {
    at_most(labels.len(), MOST_LABELS, field)?;
    if labels.is_empty() {
        return Err(
            Problem::Text { value: String::new(), expected: "a selector with at least one label" }.at(field)
        );
    }
    let labels = labels
        .into_iter()
        .map(|(key, value)| Ok((text(key, field)?, text(value, field)?)))
        .collect::<Parsed<BTreeMap<_, _>>>()?;
    Ok(Selector(labels))
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn manifest(bytes: Vec<u8>, field: &str) -> Parsed<Value> {
    let found = bytes.len();
    if found > LARGEST_MANIFEST {
        return Err(Problem::TooLong { found, limit: LARGEST_MANIFEST }.at(field));
    }
    let value = serde_json::from_slice(&bytes).map_err(|error| Problem::Json(error).at(field))?;
    if depth_exceeds(&value, DEEPEST_MANIFEST) {
        return Err(Problem::TooDeep { limit: DEEPEST_MANIFEST }.at(field));
    }
    Ok(value)
}

/// serde_json itself refuses at 128 levels, so this recursion is bounded too.
fn depth_exceeds(value: &Value, limit: usize) -> bool {
    let exceeds = |inner: &Value| limit == 0 || depth_exceeds(inner, limit - 1);
    match value {
        Value::Array(items) => items.iter().any(exceeds),
        Value::Object(fields) => fields.values().any(exceeds),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Maps the variants of a domain enum to those of the same name on the wire; zero and unknown numbers are refused.
macro_rules! mirrored {
    ($parse:ident, $domain:ident, [$($variant:ident),+ $(,)?]) => {
        impl From<$crate::$domain> for $crate::wire::v1::$domain {
            fn from(value: $crate::$domain) -> Self {
                match value {
                    $($crate::$domain::$variant => $crate::wire::v1::$domain::$variant,)+
                }
            }
        }

        pub(super) fn $parse(value: i32, field: &str) -> $crate::convert::field::Parsed<$crate::$domain> {
            match $crate::wire::v1::$domain::try_from(value) {
                $(Ok($crate::wire::v1::$domain::$variant) => Ok($crate::$domain::$variant),)+
                Ok($crate::wire::v1::$domain::Unspecified) | Err(_) => {
                    Err($crate::convert::field::Problem::UnknownValue(value).at(field))
                }
            }
        }
    };
}
pub(super) use mirrored;
