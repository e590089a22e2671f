//! The definitions that are checked in are the ones that the types say, and every part of them is bounded.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crds::{conditions, definitions, rules, span};
use proto::policy::Timing;
use serde_json::Value;

#[test]
fn the_definitions_checked_in_are_what_the_types_generate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for (part, all) in [("hub", definitions::of_the_hub()), ("member", definitions::of_members())] {
        let mut expected: BTreeSet<String> = all.iter().map(definitions::file_name).collect();
        expected.insert(definitions::KUSTOMIZATION.to_owned());
        assert_eq!(files(&folder.join(part)), expected, "in crds/yaml/{part}");
        let present = std::fs::read_to_string(folder.join(part).join(definitions::KUSTOMIZATION));
        assert_eq!(present.expect("the file can be read"), definitions::kustomization(&all));
        for definition in all {
            let file = folder.join(part).join(definitions::file_name(&definition));
            let present = std::fs::read_to_string(&file).expect("the file can be read");
            let fresh = definitions::yaml(&definition).expect("a definition can be written as YAML");
            assert_eq!(present, fresh, "run: cargo run -p understudy-crds --bin generate");
        }
    }
}

#[test]
fn every_string_list_and_map_has_a_largest_size() {
    for definition in definitions::of_the_hub().into_iter().chain(definitions::of_members()) {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let name = definition["spec"]["names"]["kind"].as_str().expect("a kind");
        let mut unbounded = Vec::new();
        find_unbounded(schema, name, &mut unbounded);
        assert!(unbounded.is_empty(), "without bounds: {unbounded:?}");
    }
}

#[test]
fn the_profiles_in_the_rules_are_those_of_the_protocol() {
    let profiles =
        [("Fast", Timing::FAST), ("Default", Timing::DEFAULT), ("Conservative", Timing::CONSERVATIVE)];
    let mut compared = 0;
    for (field, spans) in rules::PROFILES {
        for (profile, text) in spans {
            let (_, timing) = profiles.iter().find(|(name, _)| *name == profile).expect("a known profile");
            assert_eq!(span::parse(text).expect("a span"), of_field(timing, field), "{field} of {profile}");
            compared += 1;
        }
    }
    assert_eq!(compared, 21);
}

#[test]
fn columns_ask_for_conditions_that_exist() {
    let mut asked = 0;
    for definition in definitions::of_the_hub().into_iter().chain(definitions::of_members()) {
        let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array();
        for path in columns.into_iter().flatten().filter_map(|column| column["jsonPath"].as_str()) {
            if let Some((_, rest)) = path.split_once("@.type==\"") {
                let (kind, _) = rest.split_once('"').expect("a closing quote");
                assert!(conditions::ConditionType::parse(kind).is_some(), "{path}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 4, "only {asked} columns show conditions");
}

fn files(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("crds/yaml is there");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

fn of_field(timing: &Timing, field: &str) -> Duration {
    match field {
        "renew" => timing.renew,
        "rpc" => timing.rpc,
        "ttl" => timing.ttl,
        "grace" => timing.grace,
        "stop" => timing.stop,
        "suspect" => timing.suspect,
        "unreachable" => timing.unreachable,
        other => panic!("the protocol has no timing {other}"),
    }
}

fn find_unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
    let has = |bound: &str| schema.get(bound).is_some();
    let bounded = match schema["type"].as_str() {
        Some("string") => has("maxLength") || has("enum") || schema["format"] == "date-time",
        Some("array") => has("maxItems"),
        Some("object") => has("properties") || has("maxProperties"),
        Some("integer" | "number" | "boolean") => true,
        other => panic!("{path} is of type {other:?}"),
    };
    if !bounded {
        found.push(path.to_owned());
    }
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        find_unbounded(part, &format!("{path}.{name}"), found);
    }
    for (mark, part) in [("[]", &schema["items"]), ("{}", &schema["additionalProperties"])] {
        if !part.is_null() {
            find_unbounded(part, &format!("{path}{mark}"), found);
        }
    }
}
