use std::path::Path;

use proto::{ClusterName, CommandId, Epoch, OperationId, PlacementId, Refusal, StepKind};
use understudy_telemetry::{Arguments, Service, Telemetry, build, deviations, markdown_table};

use super::*;

fn telemetry() -> Telemetry {
    let service = Service { name: "understudy-agent", version: "0", instance: "0".into(), cluster: None };
    let arguments = Arguments { log: "off".into(), ..Arguments::default() };
    build(&service, &arguments).expect("telemetry").0
}

fn snapshot(role: Role) -> Snapshot {
    let name = PlacementName::parse("shop", "web").expect("name");
    let lease_expiry = (role == Role::Holder).then_some(WallTime(30_000));
    Snapshot {
        last_api_write: Some(WallTime(5_000)),
        certificate_ends: 86_400,
        backlog: 3,
        requests: 1,
        placements: vec![PlacementSnapshot { name, role, lease_expiry }],
    }
}

fn answer(outcome: Outcome) -> FromAgent {
    FromAgent::Acknowledgement(Acknowledgement {
        cluster: ClusterName::parse("east").expect("cluster"),
        command: CommandId {
            placement: PlacementId::parse("uid-1").expect("uid"),
            operation: OperationId("web-failover-2".into()),
            step: StepKind::Promote,
        },
        epoch: Epoch(2),
        outcome,
    })
}

fn assert_has(scrape: &str, lines: &[&str]) {
    for line in lines {
        assert!(scrape.lines().any(|one| one == *line), "{line} is missing in\n{scrape}");
    }
}

#[test]
fn every_declared_instrument_is_scraped_with_its_kind_and_labels() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.publish(snapshot(Role::Holder));
    metrics.publish(snapshot(Role::Fenced));
    metrics.publish(snapshot(Role::Holder));
    metrics.sent(&answer(Outcome::Done));
    metrics.connected();
    metrics.disconnected();
    // Calls are measured by the layer in the server; the telemetry crate tests it.
    let ours: Vec<Declaration> = ALL.iter().copied().filter(|one| *one != CALL_DURATION).collect();
    assert_eq!(deviations(&telemetry.scrape(), &ours), Vec::<String>::new());
}

#[test]
fn gauges_show_the_newest_snapshot() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.publish(snapshot(Role::Holder));
    assert_has(
        &telemetry.scrape(),
        &[
            "understudy_agent_api_write_time_seconds 5",
            r#"understudy_agent_lease_expiry_time_seconds{namespace="shop",placement="web"} 30"#,
            r#"understudy_agent_role{namespace="shop",placement="web",role="Holder"} 1"#,
            r#"understudy_agent_role{namespace="shop",placement="web",role="Fenced"} 0"#,
        ],
    );
    metrics.publish(snapshot(Role::Standby));
    let scrape = telemetry.scrape();
    assert_has(&scrape, &[r#"understudy_agent_role{namespace="shop",placement="web",role="Standby"} 1"#]);
    assert!(!scrape.contains("understudy_agent_lease_expiry_time_seconds{"), "nothing is held\n{scrape}");
}

#[test]
fn a_holder_that_becomes_fenced_is_counted_once() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    for role in [Role::Unknown, Role::Fenced, Role::Holder, Role::Fenced, Role::Fenced, Role::Standby] {
        metrics.publish(snapshot(role));
    }
    assert_has(
        &telemetry.scrape(),
        &[r#"understudy_agent_fences_total{namespace="shop",placement="web"} 1"#],
    );
}

#[test]
fn answers_are_counted_by_step_and_outcome() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.sent(&answer(Outcome::Working { waiting_for: "a volume".into() }));
    metrics.sent(&answer(Outcome::Done));
    metrics.sent(&answer(Outcome::Refused { refusal: Refusal::StaleEpoch, epoch_seen: Epoch(3) }));
    assert_has(
        &telemetry.scrape(),
        &[
            r#"understudy_agent_commands_total{outcome="Working",step="Promote"} 1"#,
            r#"understudy_agent_commands_total{outcome="Done",step="Promote"} 1"#,
            r#"understudy_agent_commands_total{outcome="StaleEpoch",step="Promote"} 1"#,
        ],
    );
}

#[test]
fn the_docs_list_exactly_these_instruments() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"));
    let table = markdown_table(ALL);
    assert!(
        docs.expect("docs/metrics.md").contains(&format!("<!-- agent -->\n{table}<!-- end -->")),
        "docs/metrics.md, between the marks <!-- agent --> and <!-- end -->, must be:\n{table}"
    );
}

#[test]
fn the_methods_that_are_measured_are_those_of_the_service() {
    use proto::wire::v1::peer_server::SERVICE_NAME;
    assert_eq!(METHODS, [format!("{SERVICE_NAME}/Probe"), format!("{SERVICE_NAME}/Hold")]);
}
