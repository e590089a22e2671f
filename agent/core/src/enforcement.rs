//! Whether this cluster's own API server refuses what is stale: its admission policies are there, say what this agent was
//! built with, and were seen to refuse. A fence that nobody enforces is a wish (protocol §2, "Admission").

use std::collections::BTreeMap;

use proto::Ailment;
use serde_json::{Map, Value};

use crate::ailments::{ailment, reason};
use crate::parse::{annotation, text};

/// On a policy or binding that an administrator has changed deliberately: why. What it says is then not compared.
pub const ALTERED_ON_PURPOSE_ANNOTATION: &str = "understudy.dev/altered-on-purpose";

/// A ValidatingAdmissionPolicy or the binding of one, by kind and name.
type Id = (String, String);

#[derive(Debug, Default)]
pub struct Enforcement {
    /// What has to be in force, as installed.
    expected: BTreeMap<Id, Value>,
    /// What the last try of the policies has shown; none: they were not tried yet.
    tried: Option<Result<(), String>>,
}

impl Enforcement {
    pub fn expect(&mut self, objects: Vec<Value>) {
        self.expected = objects.into_iter().map(|object| (id(&object), object)).collect();
    }

    /// Takes in what a dry run that must be refused has shown; true if that is news.
    pub fn tried(&mut self, result: Result<(), String>) -> bool {
        let news = self.tried.as_ref() != Some(&result);
        self.tried = Some(result);
        news
    }

    /// What is wrong, named; `present` finds an object by kind and name. Nothing is expected by who names nothing.
    pub fn ailments<'a>(&self, present: impl Fn(&str, &str) -> Option<&'a Value>) -> Vec<Ailment> {
        let mut found = Vec::new();
        for ((kind, name), expected) in &self.expected {
            match present(kind, name) {
                None => found.push(ailment(
                    reason::POLICY_MISSING,
                    format!(
                        "{kind} {name} does not exist, or this agent may not read it: apply deploy/agent, which has both"
                    ),
                )),
                Some(object) if annotation(object, ALTERED_ON_PURPOSE_ANNOTATION).is_some() => {}
                Some(object) if !says(&expected["spec"], &object["spec"]) => found.push(ailment(
                    reason::POLICY_ALTERED,
                    format!(
                        "{kind} {name} does not say what this agent relies on: delete it and apply deploy/admission, or annotate it with {ALTERED_ON_PURPOSE_ANNOTATION} and the reason"
                    ),
                )),
                Some(_) => {}
            }
        }
        if let Some(Err(why)) = &self.tried
            && found.is_empty()
        {
            let message = format!("the API server did not refuse what its admission policies forbid: {why}");
            found.push(ailment(reason::POLICY_NOT_IN_FORCE, message));
        }
        found
    }
}

fn id(object: &Value) -> Id {
    let part = |at: &str| text(object, at).unwrap_or_default().to_owned();
    (part("/kind"), part("/metadata/name"))
}

/// Whether `present` is `expected`, with nothing added but what the API server itself fills in.
fn says(expected: &Value, present: &Value) -> bool {
    match (expected, present) {
        (Value::Object(expected), Value::Object(present)) => object_says(expected, present),
        (Value::Array(expected), Value::Array(present)) => {
            expected.len() == present.len()
                && expected.iter().zip(present).all(|(expected, present)| says(expected, present))
        }
        (Value::String(expected), Value::String(present)) => expected.trim_end() == present.trim_end(),
        _ => expected == present,
    }
}

fn object_says(expected: &Map<String, Value>, present: &Map<String, Value>) -> bool {
    let kept = expected.iter().all(|(key, value)| {
        // An empty selector may be written down or left out.
        present.get(key).map_or(is_default(key, value), |present| says(value, present))
    });
    let added = present.iter().filter(|(key, _)| !expected.contains_key(*key));
    kept && added.into_iter().all(|(key, value)| is_default(key, value))
}

/// What the API server fills in where nothing was said; anything else would narrow what is refused.
fn is_default(key: &str, value: &Value) -> bool {
    match key {
        "scope" => value == "*",
        "matchPolicy" => value == "Equivalent",
        "failurePolicy" => value == "Fail",
        _ => match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Value {
        json!({
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "fence"},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{"resources": ["pods"], "operations": ["CREATE"]}]},
                "validations": [{"expression": "params.spec.role == 'Holder'"}],
            },
        })
    }

    /// As an API server hands it out.
    fn installed() -> Value {
        let mut policy = policy();
        policy["spec"]["matchConstraints"]["matchPolicy"] = json!("Equivalent");
        policy["spec"]["matchConstraints"]["namespaceSelector"] = json!({});
        policy["spec"]["matchConstraints"]["objectSelector"] = json!({});
        policy["spec"]["matchConstraints"]["resourceRules"][0]["scope"] = json!("*");
        policy
    }

    fn reasons(present: Option<&Value>, tried: Option<Result<(), String>>) -> Vec<String> {
        let mut enforcement = Enforcement::default();
        enforcement.expect(vec![policy()]);
        if let Some(result) = tried {
            enforcement.tried(result);
        }
        let found = enforcement.ailments(|_, _| present);
        found.into_iter().map(|ailment| ailment.reason).collect()
    }

    #[test]
    fn a_policy_as_the_api_server_keeps_it_is_the_one_that_was_applied() {
        assert_eq!(reasons(Some(&installed()), Some(Ok(()))), [""; 0]);
    }

    #[test]
    fn a_policy_that_is_gone_is_named() {
        assert_eq!(reasons(None, None), [reason::POLICY_MISSING]);
    }

    #[test]
    fn a_policy_that_refuses_less_is_altered() {
        let narrower = [
            ("/spec/failurePolicy", json!("Ignore")),
            ("/spec/matchConstraints/namespaceSelector", json!({"matchLabels": {"a": "b"}})),
            ("/spec/matchConstraints/objectSelector", json!({"matchLabels": {"a": "b"}})),
            ("/spec/matchConstraints/resourceRules/0/scope", json!("Cluster")),
            ("/spec/matchConstraints/resourceRules/0/operations", json!(["CREATE", "CONNECT"])),
            ("/spec/validations", json!([])),
            ("/spec/validations/0/expression", json!("true")),
        ];
        for (at, value) in narrower {
            let mut object = installed();
            *object.pointer_mut(at).expect("what is changed is there") = value;
            assert_eq!(reasons(Some(&object), None), [reason::POLICY_ALTERED], "{at}");
        }
        for (key, value) in [
            ("matchConditions", json!([{"name": "never", "expression": "false"}])),
            ("excludeResourceRules", json!([{"resources": ["pods"]}])),
        ] {
            let mut object = installed();
            object["spec"]["matchConstraints"][key] = value;
            assert_eq!(reasons(Some(&object), None), [reason::POLICY_ALTERED], "{key}");
        }
    }

    #[test]
    fn what_an_administrator_has_altered_on_purpose_is_not_compared() {
        let mut object = installed();
        object["spec"]["validations"] = json!([]);
        object["metadata"]["annotations"] =
            json!({ALTERED_ON_PURPOSE_ANNOTATION: "csi-addons runs elsewhere"});
        assert_eq!(reasons(Some(&object), Some(Ok(()))), [""; 0]);
    }

    #[test]
    fn policies_that_are_there_and_refuse_nothing_are_named() {
        let admitted = Some(Err("it was admitted".to_owned()));
        assert_eq!(reasons(Some(&installed()), admitted), [reason::POLICY_NOT_IN_FORCE]);
    }
}
