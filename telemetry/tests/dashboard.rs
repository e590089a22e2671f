//! The dashboards show what exists: every metric and label in them, and in the alerts, is one that a binary declares, as
//! docs/metrics.md lists them (a test of each binary holds that list to its declarations). Further rules are those of
//! Grafana's dashboard linter that can be told from the JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// A metric as Prometheus names it, and its labels.
type Declared = BTreeMap<String, BTreeSet<String>>;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path)
}

/// All dashboards, by their files' names.
fn dashboards() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana");
    let files = std::fs::read_dir(folder).expect("deploy/grafana");
    let mut names: Vec<String> =
        files.map(|file| file.expect("a file").file_name().into_string().expect("a name")).collect();
    names.retain(|name| name.ends_with(".json"));
    names.sort();
    assert_eq!(names, ["fleet.json", "hub.json", "operation.json", "placement.json"]);
    let parse = |name: &String| serde_json::from_str(&read(&format!("deploy/grafana/{name}"))).expect("JSON");
    names.iter().map(|name| (name.clone(), parse(name))).collect()
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
    while let Some(at) = ["understudy_", "rpc_server_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
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

fn assert_declared(title: &str, query: &str, declared: &Declared) {
    let selections = selections(query);
    assert!(!selections.is_empty(), "{title:?} asks for no metric of ours: {query}");
    for (name, labels) in selections {
        let known =
            declared.get(&name).unwrap_or_else(|| panic!("{title:?} asks for {name}, which is not declared"));
        for label in labels {
            assert!(known.contains(&label), "{title:?} selects {name} by {label:?}; it has {known:?}");
        }
    }
}

#[test]
fn every_query_uses_metrics_and_labels_that_are_declared() {
    let declared = declared();
    for (_, dashboard) in dashboards() {
        for (title, query) in queries(&dashboard) {
            assert_declared(&title, &query, &declared);
        }
    }
}

#[test]
fn every_metric_that_is_declared_is_shown_or_alerted_on() {
    let of_dashboards = dashboards().into_iter().flat_map(|(_, dashboard)| queries(&dashboard));
    let asked: String = of_dashboards.map(|(_, query)| query + "\n").collect();
    let asked = asked + &read("deploy/alerts/understudy.rules.yaml");
    // For a table of one's own: the newest copy's age is the same in terms that alerts can use.
    // What telemetry was lost matters to those who miss it.
    let elsewhere = [
        "understudy_replication_lag_seconds",
        "understudy_journal_replay_duration_seconds",
        "understudy_telemetry_lost_total",
    ];
    let names: BTreeSet<String> = declared().into_keys().collect();
    let unseen = names.iter().filter(|name| {
        let family = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| name.strip_suffix(suffix));
        !asked.contains(family.unwrap_or(name)) && !elsewhere.contains(&name.as_str())
    });
    assert_eq!(unseen.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_alert_uses_what_is_declared_and_has_its_page() {
    let (rules, declared) = (read("deploy/alerts/understudy.rules.yaml"), declared());
    let lines: Vec<&str> = rules.lines().map(str::trim).collect();
    let mut alerts = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(alert) = line.strip_prefix("- alert: ") else { continue };
        alerts += 1;
        assert_eq!(lines[at + 1], "expr: >-", "{alert}");
        assert_declared(alert, lines[at + 2], &declared);
        let page = read(&format!("docs/runbooks/{alert}.md"));
        assert!(page.contains("## Do\n1. "), "{alert}: its page does not say what to do");
        assert!(rules.contains(&format!("runbook_url: docs/runbooks/{alert}.md")), "{alert} names no page");
        assert!(read("docs/runbooks/README.md").contains(&format!("({alert}.md)")), "{alert} is not listed");
        assert!(
            read("deploy/alerts/tests.yaml").contains(&format!("alertname: {alert}")),
            "{alert} has no test"
        );
    }
    assert!(alerts >= 15, "only {alerts} alerts were found");
}

#[test]
fn what_has_a_namespace_or_placement_is_selected_by_the_variables() {
    let declared = declared();
    for (file, dashboard) in dashboards() {
        for (title, query) in queries(&dashboard).iter().filter(|(title, _)| !title.starts_with("variable")) {
            for (name, labels) in selections(query) {
                for variable in
                    ["namespace", "placement"].into_iter().filter(|one| declared[&name].contains(*one))
                {
                    assert!(
                        labels.iter().any(|label| label == variable),
                        "{file}: {title:?}: {name} ignores ${variable}"
                    );
                }
            }
        }
        for variable in ["datasource", "cluster", "namespace", "placement"] {
            assert!(
                variables(&dashboard).iter().any(|one| one["name"] == variable),
                "{file}: there is no variable {variable}"
            );
        }
    }
}

/// A rate over a fixed range lies as soon as the scrape interval is another.
#[test]
fn counters_are_looked_at_over_the_intervals_that_grafana_gives() {
    for (file, dashboard) in dashboards() {
        for (title, query) in queries(&dashboard) {
            for range in query.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
                let given = ["$__rate_interval", "$__range"].contains(&range);
                assert!(given, "{file}: {title:?} looks at [{range}]");
            }
        }
    }
}

/// Prometheus has them at buckets alone, and Grafana draws them in graphs over time alone.
#[test]
fn exemplars_are_asked_for_where_there_are_some() {
    let mut asking = 0;
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let targets = panel["targets"].as_array().into_iter().flatten();
            for target in targets.filter(|target| target["exemplar"] == true) {
                asking += 1;
                let (title, query) = (&panel["title"], target["expr"].as_str().unwrap_or_default());
                assert_eq!(panel["type"], "timeseries", "{file}: {title}");
                assert!(query.contains("understudy_operation_"), "{file}: {title}: {query}");
                assert!(query.contains("_bucket"), "{file}: {title}: {query}");
            }
        }
    }
    assert_eq!(asking, 3);
}

#[test]
fn every_panel_says_what_it_shows_and_stands_free() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(
            uids.insert(dashboard["uid"].as_str().expect("a uid").to_owned()),
            "{file}: the uid of another"
        );
        assert_eq!(dashboard["links"].as_array().expect("links").len(), 3, "{file}: links to the others");
        panels_stand_free(&file, &dashboard);
    }
}

fn panels_stand_free(file: &str, dashboard: &Value) {
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().expect("a title");
        let described = panel["description"].as_str().is_some_and(|text| text.ends_with('.'));
        assert!(described, "{file}: {title:?} has no description that is a sentence");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{file}: {title:?} has the id of another");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}: {title:?}");
        let shows_seconds = panel["targets"].to_string().contains("_seconds");
        let has_unit = panel["fieldConfig"]["defaults"]["unit"].is_string();
        assert!(!shows_seconds || has_unit, "{file}: {title:?} shows seconds and names no unit");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect(key);
        assert!(place("x") + place("w") <= 24, "{file}: {title:?} hangs over the edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                let other = taken.insert((x, y), title);
                assert_eq!(other, None, "{file}: {title:?} lies on {other:?}");
            }
        }
    }
}
