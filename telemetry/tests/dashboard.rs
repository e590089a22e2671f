//! The dashboard shows what exists: every metric and label in it is one that a binary declares, as docs/metrics.md lists
//! them (a test of each binary holds that list to its declarations).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// A metric as Prometheus names it, and its labels.
type Declared = BTreeMap<String, BTreeSet<String>>;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path)
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/understudy.json")).expect("JSON")
}

fn declared() -> Declared {
    let mut declared = Declared::new();
    for line in read("docs/metrics.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[2].trim_matches('`').to_owned();
        let labels: BTreeSet<String> = quoted(cells[5]).map(|label| label.replace('.', "_")).collect();
        if cells[3] == "histogram" {
            for suffix in ["_sum", "_count"] {
                declared.insert(format!("{name}{suffix}"), labels.clone());
            }
            let bucket = labels.iter().cloned().chain(["le".to_owned()]).collect();
            declared.insert(format!("{name}_bucket"), bucket);
        } else {
            declared.insert(name, labels);
        }
    }
    assert!(declared.len() > 20, "docs/metrics.md lists only {declared:?}");
    declared
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The panels, those within rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let listed = dashboard["panels"].as_array().expect("panels");
    let nested = listed.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    listed.iter().chain(nested).collect()
}

fn variables(dashboard: &Value) -> &Vec<Value> {
    dashboard["templating"]["list"].as_array().expect("variables")
}

/// Every query, with the title of what it belongs to.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_panels = panels(dashboard).into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (text(&panel["title"]), text(&target["expr"])))
    });
    let of_variables = variables(dashboard).iter().filter(|one| one["type"] == "query").map(|variable| {
        assert_eq!(variable["definition"], variable["query"]["query"], "{variable}");
        (format!("variable {}", text(&variable["name"])), text(&variable["definition"]))
    });
    let annotations = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    let of_annotations =
        annotations.map(|one| (format!("annotation {}", text(&one["name"])), text(&one["expr"])));
    of_panels.chain(of_variables).chain(of_annotations).collect()
}

/// Each metric in a query, with the labels by which it is selected.
fn selections(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = ["understudy_", "rpc_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        rest = &rest[at..];
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let selector = behind
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
            .map_or("", |(inside, _)| inside);
        let labels = selector.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
        found.push((name.to_owned(), labels.filter(|label| !label.is_empty()).map(str::to_owned).collect()));
        rest = behind;
    }
    found
}

#[test]
fn every_query_uses_metrics_and_labels_that_are_declared() {
    let (dashboard, declared) = (dashboard(), declared());
    for (title, query) in queries(&dashboard) {
        let selections = selections(&query);
        assert!(!selections.is_empty(), "{title:?} asks for no metric of ours: {query}");
        for (name, labels) in selections {
            let known = declared
                .get(&name)
                .unwrap_or_else(|| panic!("{title:?} asks for {name}, which is not declared"));
            for label in labels {
                assert!(known.contains(&label), "{title:?} selects {name} by {label:?}; it has {known:?}");
            }
        }
    }
}

#[test]
fn what_has_a_cluster_namespace_or_placement_is_selected_by_the_variables() {
    let (dashboard, declared) = (dashboard(), declared());
    for (title, query) in queries(&dashboard).iter().filter(|(title, _)| !title.starts_with("variable")) {
        for (name, labels) in selections(query) {
            for variable in
                ["namespace", "placement"].into_iter().filter(|one| declared[&name].contains(*one))
            {
                assert!(
                    labels.iter().any(|label| label == variable),
                    "{title:?}: {name} ignores ${variable}"
                );
            }
        }
    }
    let all: String = queries(&dashboard).into_iter().map(|(_, query)| query).collect();
    for variable in ["cluster", "namespace", "placement"] {
        assert!(all.contains(&format!("{variable}=~\"${variable}\"")), "nothing uses ${variable}");
        assert!(
            variables(&dashboard).iter().any(|one| one["name"] == variable),
            "there is no variable {variable}"
        );
    }
}

#[test]
fn every_panel_says_what_it_shows_and_stands_free() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        let described = panel["description"].as_str().is_some_and(|text| text.ends_with('.'));
        assert!(described, "{title:?} has no description that is a sentence");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title:?} has the id of another");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect(key);
        assert!(place("x") + place("w") <= 24, "{title:?} hangs over the edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                let other = taken.insert((x, y), title);
                assert_eq!(other, None, "{title:?} lies on {other:?}");
            }
        }
    }
}
