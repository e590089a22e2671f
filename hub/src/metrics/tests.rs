use std::path::Path;

use crds::cluster::Liveness;
use crds::conditions::Reason;
use crds::operation::{
    DROperationSpec, DROperationStatus, OperationKind, OperationPhase, PhaseDuration, StepState, StepStatus,
    VolumeLossStatus,
};
use crds::placement::DRPlacementStatus;
use hub_core::explain::{Figures, OperationView, PlacementView, SiteReport, SyncCost};
use hub_core::finding::Finding;
use hub_core::journal::{Intent, OperationKind as RecordedKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use proto::{
    ClusterName, CommandId, Denial, Epoch, Fencing, FromHub, Generation, Grant, Mark, Nonce, OnSilence,
    OperationId, PlacementId, PlacementName, Policy, Refusal, Reply, StepKind, Term, Timing,
};
use understudy_telemetry::{Arguments, Format, Service, Telemetry, build, deviations, markdown_table};

use super::*;

fn telemetry() -> Telemetry {
    let service = Service { name: "understudy-hub", version: "0", instance: "0".into(), cluster: None };
    let arguments = Arguments { log: "off".into(), ..Arguments::default() };
    build(&service, &arguments).expect("telemetry").0
}

fn east() -> ClusterName {
    ClusterName::parse("east").expect("cluster")
}

fn id() -> PlacementId {
    PlacementId::parse("uid-1").expect("uid")
}

fn name() -> PlacementName {
    PlacementName::parse("shop", "web").expect("name")
}

fn time(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).expect("time"))
}

fn precise(seconds: i64) -> MicroTime {
    MicroTime(Timestamp::from_second(seconds).expect("time"))
}

fn cost(bytes: u64) -> SyncCost {
    SyncCost { bytes: Some(bytes), took: Some(Duration::from_millis(bytes)) }
}

fn placement(waiting: Option<Reason>) -> Explanation {
    let condition = Condition {
        type_: "Ready".into(),
        status: "True".into(),
        reason: "Protected".into(),
        message: String::new(),
        observed_generation: Some(1),
        last_transition_time: time(0),
    };
    let blocked = Condition {
        type_: "FailoverReady".into(),
        status: "False".into(),
        reason: "StaleCopy".into(),
        ..condition.clone()
    };
    Explanation::Placement(Box::new(PlacementView {
        id: id(),
        name: name(),
        generation: Generation(1),
        status: DRPlacementStatus { conditions: vec![condition, blocked], ..DRPlacementStatus::default() },
        figures: Figures {
            active: Some(east()),
            expected_loss: Some(Duration::from_secs(30)),
            expected_rto: Duration::from_secs(110),
            last_syncs: vec![("data".into(), Some(WallTime(5_000))), ("logs".into(), None)],
            last_sync_costs: vec![("data".into(), cost(4096))],
            bound: Some(Duration::from_secs(600)),
        },
        waiting: waiting.map(|reason| Finding::new(reason, "waits")),
    }))
}

fn operation(phase: OperationPhase) -> Explanation {
    operation_of(OperationKind::FailOver, phase, None)
}

fn operation_of(kind: OperationKind, phase: OperationPhase, approved_by: Option<&str>) -> Explanation {
    let step = |name: &str, state| StepStatus {
        name: name.into(),
        state,
        started: None,
        finished: None,
        waiting_for: None,
        evidence: None,
    };
    let loss = |claim: &str, at| VolumeLossStatus {
        claim: claim.into(),
        last_sync_time: Some(time(at)),
        lost: String::new(),
        lost_at_most: None,
    };
    Explanation::Operation(Box::new(OperationView {
        placement: id(),
        name: name(),
        operation: OperationId("web-failover-2".into()),
        spec: DROperationSpec {
            placement: "web".into(),
            kind,
            from: Some("east".into()),
            to: Some("west".into()),
            epoch: 2,
        },
        status: DROperationStatus {
            phase: Some(phase),
            approved_by: approved_by.map(str::to_owned),
            plan: vec![step("Fence", StepState::Done), step("Promote", StepState::Running)],
            loss_receipt: vec![loss("data", 90), loss("logs", 60)],
            lost_at: Some(precise(100)),
            started: Some(precise(112)),
            finished: Some(precise(160)),
            durations: vec![PhaseDuration { phase: "Promote".into(), seconds: 3.0 }],
            ..DROperationStatus::default()
        },
    }))
}

fn another_is_proposed() -> Explanation {
    let Explanation::Operation(mut view) =
        operation_of(OperationKind::Resync, OperationPhase::Proposed, None)
    else {
        unreachable!("an operation")
    };
    view.operation = OperationId("web-resync-2".into());
    Explanation::Operation(view)
}

fn intent(kind: RecordedKind) -> Box<Intent> {
    Box::new(Intent {
        operation: OperationId("web-2".into()),
        placement: id(),
        name: name(),
        kind,
        from: Some(east()),
        to: ClusterName::parse("west").expect("cluster"),
        epoch: Epoch(2),
        plan: Vec::new(),
        claims: Vec::new(),
        evidence: Vec::new(),
        lost_at: None,
        losses: Vec::new(),
        generation: Generation(1),
        preferred: None,
        approval: None,
    })
}

fn aborted() -> Entry {
    Entry::Abort { placement: id(), operation: OperationId("web-2".into()), reason: "free text".into() }
}

fn withdrawn() -> Entry {
    Entry::Withdrawn { placement: id(), operation: OperationId("web-2".into()), reason: "free text".into() }
}

fn grant() -> hub_core::decision::Send {
    grant_of(&id())
}

fn grant_of(placement: &PlacementId) -> hub_core::decision::Send {
    let policy = Policy {
        generation: Generation(1),
        timing: Timing::FAST,
        on_silence: OnSilence::Stop,
        fencing: Fencing::SelfFence,
    };
    hub_core::decision::Send {
        to: east(),
        message: FromHub::Reply(Reply {
            term: Term(1),
            nonce: Nonce(1),
            mark: Mark::default(),
            grants: vec![Grant {
                placement: placement.clone(),
                epoch: Epoch(1),
                policy,
                tickets: Vec::new(),
            }],
            denials: vec![Denial {
                placement: id(),
                epoch: Epoch(2),
                holder: None,
                reason: DenialReason::Superseded,
            }],
        }),
    }
}

/// A value for every instrument.
fn tell_everything(metrics: &Metrics) {
    metrics.leads(Term(1));
    metrics.witness_answered("third", WallTime(8_500));
    metrics.explain(&Explanation::Site(SiteReport {
        cluster: east(),
        liveness: Liveness::Suspected,
        last_heartbeat: Some(WallTime(7_500)),
        version: String::new(),
    }));
    metrics.explain(&placement(Some(Reason::PeerSilent)));
    metrics.explain(&operation(OperationPhase::Running));
    metrics.sent(&grant(), WallTime(10_000));
    metrics.recorded(&[Entry::NeedsHuman { placement: id(), reason: "free text".into() }]);
    metrics.stepped(Duration::from_micros(20));
    metrics.appended(AppendTimes { total: Duration::from_millis(3), commit: Duration::from_millis(2) });
    metrics.session_began();
    metrics.session_refused("wrong_identity");
    metrics.queues(Queues { wishes: 1, agents: 2, told: 3 });
    metrics.certificate_ends(86_400);
    metrics.replayed(Duration::from_millis(250), [].iter());
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
    tell_everything(&metrics);
    metrics.explain(&operation(OperationPhase::Succeeded));
    metrics.explain(&operation(OperationPhase::Running));
    metrics.explain(&another_is_proposed());
    // Calls are measured by the layer in the server; the telemetry crate tests it.
    let ours: Vec<Declaration> = ALL.iter().copied().filter(|one| *one != CALL_DURATION).collect();
    assert_eq!(deviations(&telemetry.scrape(), &ours), Vec::<String>::new());
}

#[test]
fn gauges_show_the_newest_of_what_was_told_until_a_placement_is_released() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    tell_everything(&metrics);
    let scrape = telemetry.scrape();
    assert_has(
        &scrape,
        &[
            r#"understudy_site_heartbeat_time_seconds{cluster="east"} 7.5"#,
            r#"understudy_witness_answer_time_seconds{witness="third"} 8.5"#,
            r#"understudy_site_liveness{cluster="east",state="Suspected"} 1"#,
            r#"understudy_site_liveness{cluster="east",state="Live"} 0"#,
            r#"understudy_lease_expiry_time_seconds{cluster="east",namespace="shop",placement="web"} 30"#,
            r#"understudy_replication_last_sync_time_seconds{cluster="east",namespace="shop",placement="web",volume="data"} 5"#,
            r#"understudy_replication_last_sync_size_bytes{cluster="east",namespace="shop",placement="web",volume="data"} 4096"#,
            r#"understudy_replication_last_sync_duration_seconds{cluster="east",namespace="shop",placement="web",volume="data"} 4.096"#,
            r#"understudy_placement_blocked{condition="FailoverReady",reason="StaleCopy"} 1"#,
            r#"understudy_placement_blocked{condition="FailoverReady",reason="CannotFence"} 0"#,
            r#"understudy_refusals_total{reason="Superseded",refused="Renewal"} 1"#,
            r#"understudy_placement_expected_loss_seconds{namespace="shop",placement="web"} 30"#,
            r#"understudy_placement_expected_rto_seconds{namespace="shop",placement="web"} 110"#,
            r#"understudy_placement_condition{condition="Ready",namespace="shop",placement="web",reason="Protected"} 1"#,
            r#"understudy_placement_active{cluster="east",namespace="shop",placement="web"} 1"#,
            r#"understudy_operation_active{kind="FailOver",namespace="shop",placement="web",step="Promote"} 1"#,
            "understudy_hub_leader 1",
            "understudy_hub_term 1",
            r#"understudy_hub_frozen{reason="HubFrozen"} 0"#,
            r#"understudy_hub_queue_length{queue="agents"} 2"#,
            r#"understudy_placement_loss_bound_seconds{namespace="shop",placement="web"} 600"#,
            "understudy_certificate_expiry_time_seconds 86400",
            "understudy_journal_replay_duration_seconds 0.25",
        ],
    );
    assert!(!scrape.contains(r#"volume="logs""#), "a volume that never synced has no time\n{scrape}");

    metrics.explain(&Explanation::Released(id(), name()));
    let scrape = telemetry.scrape();
    assert!(!scrape.contains(r#"placement="web""#), "a released placement is still told\n{scrape}");
}

#[test]
fn an_operation_that_ends_is_counted_once_with_its_times_and_its_worst_loss() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.explain(&operation(OperationPhase::Running));
    for _ in 0..2 {
        metrics.explain(&operation(OperationPhase::Succeeded));
    }
    let scrape = telemetry.scrape();
    assert_has(
        &scrape,
        &[
            r#"understudy_operations_total{kind="FailOver",result="Succeeded",trigger="Observed"} 1"#,
            r#"understudy_operation_duration_seconds_sum{kind="FailOver",result="Succeeded"} 48"#,
            r#"understudy_operation_downtime_seconds_sum{kind="FailOver"} 60"#,
            r#"understudy_operation_step_duration_seconds_sum{kind="FailOver",step="Promote"} 3"#,
            r#"understudy_operation_data_loss_seconds_sum{kind="FailOver"} 40"#,
        ],
    );
    assert!(!scrape.contains("understudy_operation_active{"), "it has ended\n{scrape}");
}

#[test]
fn what_an_operation_took_leads_to_its_trace_and_each_step_to_its_span() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    let failover = SpanAddress::root(&["uid-1", "web-failover-2"]);
    metrics.explain_within(Some(failover), &operation(OperationPhase::Running));
    metrics.explain_within(Some(failover), &operation(OperationPhase::Succeeded));
    let scrape = telemetry.scrape_in(Format::OpenMetrics);
    let of = |place: SpanAddress| {
        format!(r#" # {{trace_id="{}",span_id="{}"}} "#, place.trace_id(), place.span_id())
    };
    for (bucket, place, value) in [
        (r#"downtime_seconds_bucket{kind="FailOver",le="60.0"} 1"#, failover, 60),
        (r#"duration_seconds_bucket{kind="FailOver",result="Succeeded",le="60.0"} 1"#, failover, 48),
        (r#"data_loss_seconds_bucket{kind="FailOver",le="60.0"} 1"#, failover, 40),
        (
            r#"step_duration_seconds_bucket{kind="FailOver",step="Promote",le="5.0"} 1"#,
            failover.part("Promote"),
            3,
        ),
    ] {
        let expected = format!("understudy_operation_{bucket}{}{value} ", of(place));
        let found = scrape.lines().filter(|line| line.starts_with(&expected)).count();
        assert_eq!(found, 1, "{expected} in\n{scrape}");
    }
    assert_eq!(scrape.matches("trace_id").count(), 4, "{scrape}");
}

#[test]
fn an_aborted_operation_gave_up_nothing() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.explain(&operation(OperationPhase::Running));
    metrics.explain(&operation(OperationPhase::Aborted));
    let scrape = telemetry.scrape();
    let counted = r#"understudy_operations_total{kind="FailOver",result="Aborted",trigger="Observed"} 1"#;
    assert_has(&scrape, &[counted]);
    assert!(!scrape.contains("understudy_operation_data_loss"), "it promoted nothing\n{scrape}");
}

#[test]
fn a_proposal_is_shown_until_a_human_says_yes_and_the_operation_counts_as_approved() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    let told = |phase, by| metrics.explain(&operation_of(OperationKind::FailBack, phase, by));
    let shown = r#"understudy_operation_proposed{kind="FailBack",namespace="shop",placement="web"} 1"#;

    told(OperationPhase::Proposed, None);
    let scrape = telemetry.scrape();
    assert_has(&scrape, &[shown]);
    assert!(!scrape.contains("understudy_operation_active{"), "it does not run yet\n{scrape}");

    told(OperationPhase::Running, Some("jane"));
    let scrape = telemetry.scrape();
    assert!(!scrape.contains("understudy_operation_proposed{"), "it runs\n{scrape}");
    assert!(scrape.contains("understudy_operation_active{"), "it runs\n{scrape}");

    told(OperationPhase::Succeeded, Some("jane"));
    let counted = r#"understudy_operations_total{kind="FailBack",result="Succeeded",trigger="Approved"} 1"#;
    assert_has(&telemetry.scrape(), &[counted]);
}

#[test]
fn a_withdrawn_proposal_is_no_operation_that_ended() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.explain(&operation(OperationPhase::Proposed));
    metrics.explain(&operation(OperationPhase::Withdrawn));
    let scrape = telemetry.scrape();
    for absent in ["proposed{", "active{", "duration_seconds", "data_loss"] {
        assert!(!scrape.contains(&format!("understudy_operation_{absent}")), "{absent} in\n{scrape}");
    }
    assert!(!scrape.contains("understudy_operations_total{"), "it was never begun\n{scrape}");
}

#[test]
fn what_is_proposed_withdrawn_begun_and_aborted_is_counted_by_its_kind() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.recorded(&[Entry::Proposal(intent(RecordedKind::Resync)), withdrawn()]);
    // The holder gets its application back in the same decision in which the move is given up.
    metrics.recorded(&[Entry::Intent(intent(RecordedKind::Migrate))]);
    metrics.recorded(&[aborted(), Entry::Intent(intent(RecordedKind::Readopt))]);
    metrics.recorded(&[aborted(), aborted(), withdrawn()]);
    assert_has(
        &telemetry.scrape(),
        &[
            r#"understudy_decisions_total{decision="Propose",reason="Resync"} 1"#,
            r#"understudy_decisions_total{decision="Withdraw",reason="Resync"} 1"#,
            r#"understudy_decisions_total{decision="Begin",reason="Migrate"} 1"#,
            r#"understudy_decisions_total{decision="Abort",reason="Migrate"} 1"#,
            r#"understudy_decisions_total{decision="Abort",reason="Readopt"} 1"#,
        ],
    );
}

#[test]
fn what_an_earlier_hub_had_begun_is_known_by_its_kind_and_not_counted_again() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.replayed(Duration::ZERO, [Entry::Intent(intent(RecordedKind::FailOver))].iter());
    metrics.recorded(&[aborted()]);
    let scrape = telemetry.scrape();
    assert_has(&scrape, &[r#"understudy_decisions_total{decision="Abort",reason="FailOver"} 1"#]);
    assert!(!scrape.contains(r#"decision="Begin""#), "the earlier hub has counted it\n{scrape}");
}

#[test]
fn an_operation_that_had_ended_before_this_hub_started_is_not_counted_again() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.explain(&operation(OperationPhase::Succeeded));
    assert!(!telemetry.scrape().contains("understudy_operations_total{"));
}

#[test]
fn waiting_is_a_decision_when_its_reason_begins_and_not_while_it_lasts() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    for reason in [Some(Reason::PeerSilent), Some(Reason::PeerSilent), None, Some(Reason::PeerSilent)] {
        metrics.explain(&placement(reason));
    }
    metrics.explain(&placement(Some(Reason::CannotFence)));
    assert_has(
        &telemetry.scrape(),
        &[
            r#"understudy_decisions_total{decision="Wait",reason="PeerSilent"} 2"#,
            r#"understudy_decisions_total{decision="Wait",reason="CannotFence"} 1"#,
        ],
    );
}

#[test]
fn beyond_sixteen_volumes_the_oldest_of_the_others_stands_for_them() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    let Explanation::Placement(mut view) = placement(None) else { unreachable!("a placement") };
    view.figures.last_syncs =
        (10..30).map(|number| (format!("volume-{number}"), Some(WallTime(number * 1000)))).collect();
    view.figures.last_sync_costs =
        (10..30).map(|number| (format!("volume-{number}"), cost(number))).collect();
    metrics.explain(&Explanation::Placement(view));
    let scrape = telemetry.scrape();
    let shown =
        scrape.lines().filter(|line| line.starts_with("understudy_replication_last_sync_time_seconds{"));
    assert_eq!(shown.count(), 17);
    assert_has(
        &scrape,
        &[
            r#"understudy_replication_last_sync_time_seconds{cluster="east",namespace="shop",placement="web",volume="others"} 26"#,
            r#"understudy_replication_last_sync_size_bytes{cluster="east",namespace="shop",placement="web",volume="others"} 110"#,
            r#"understudy_replication_last_sync_duration_seconds{cluster="east",namespace="shop",placement="web",volume="others"} 0.029"#,
        ],
    );
}

#[test]
fn a_command_that_an_agent_turns_away_is_counted_by_its_reason() {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.heard(&Event::Acknowledged(Acknowledgement {
        cluster: east(),
        command: CommandId {
            placement: id(),
            operation: OperationId("web-2".into()),
            step: StepKind::Promote,
        },
        epoch: Epoch(2),
        outcome: Outcome::Refused { refusal: Refusal::StaleEpoch, epoch_seen: Epoch(3) },
    }));
    let counted = r#"understudy_refusals_total{reason="StaleEpoch",refused="Command"} 1"#;
    assert_has(&telemetry.scrape(), &[counted]);
}

/// A hub with so many placements, of so many volumes each.
fn fleet(placements: usize, volumes: usize) -> Telemetry {
    let telemetry = telemetry();
    let metrics = Metrics::new(&telemetry.meter());
    metrics.leads(Term(1));
    for number in 0..placements {
        let Explanation::Placement(mut view) = placement(None) else { unreachable!("a placement") };
        view.id = PlacementId::parse(&format!("uid-{number}")).expect("uid");
        view.name = PlacementName::parse("shop", &format!("web-{number}")).expect("name");
        let names = || (0..volumes).map(|volume| format!("data-{volume}"));
        view.figures.last_syncs = names().map(|name| (name, Some(WallTime(5_000)))).collect();
        view.figures.last_sync_costs = names().map(|name| (name, cost(1))).collect();
        let granted = grant_of(&view.id);
        metrics.explain(&Explanation::Placement(view));
        metrics.sent(&granted, WallTime(10_000));
    }
    telemetry
}

fn series(scrape: &str) -> usize {
    scrape.lines().filter(|line| !line.starts_with('#')).count()
}

/// As docs/metrics.md says it. These have never been moved.
#[test]
fn a_thousand_placements_of_five_volumes_have_as_many_series_as_documented() {
    let of_none = series(&fleet(0, 5).scrape());
    let of_thousand = fleet(1000, 5);
    let began = std::time::Instant::now();
    let scrape = of_thousand.scrape();
    eprintln!("{} series, {} bytes, rendered in {:?}", series(&scrape), scrape.len(), began.elapsed());
    let (per_volume, conditions, per_placement) = (4, 2, 5);
    // The refusals have a series once there is one.
    assert_eq!(series(&scrape) - of_none, 1000 * (5 * per_volume + conditions + per_placement) + 1);
}

#[test]
fn a_scrape_grows_with_the_fleet_and_not_with_its_square() {
    let fastest = |telemetry: &Telemetry| {
        let once = || {
            let began = std::time::Instant::now();
            assert!(!telemetry.scrape().is_empty());
            began.elapsed()
        };
        (0..5).map(|_| once()).min().expect("some")
    };
    let (hundred, thousand) = (fastest(&fleet(100, 5)), fastest(&fleet(1000, 5)));
    // Ten times as much; thirty times where a cache ends, and a square would be a hundred.
    assert!(thousand < 50 * hundred, "100 placements: {hundred:?}; 1,000: {thousand:?}");
}

#[test]
fn the_docs_list_exactly_these_instruments() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"));
    let table = markdown_table(ALL);
    assert!(
        docs.expect("docs/metrics.md").contains(&format!("<!-- hub -->\n{table}<!-- end -->")),
        "docs/metrics.md, between the marks <!-- hub --> and <!-- end -->, must be:\n{table}"
    );
}

#[test]
fn the_methods_that_are_measured_are_those_of_the_service() {
    use proto::wire::v1::{federation_server, telemetry_server};
    let (agents, telemetry) = (federation_server::SERVICE_NAME, telemetry_server::SERVICE_NAME);
    assert_eq!(METHODS, [format!("{agents}/Connect"), format!("{telemetry}/Export")]);
}
