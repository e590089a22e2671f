//! What goes over the wire comes out as it was; what cannot be right is refused by name.

mod wire_values;

use proptest::prelude::*;
use prost::Message;
use proto::convert::WireError;
use proto::wire::v1;
use proto::{Ailment, Assignment, FromAgent, FromHub, HoldAnswer, HoldRequest, Report};
use wire_values::{from_agent, from_hub, hold_answer, hold_request};

/// Encodes, decodes and converts, as two processes would.
fn carried<D, W>(value: D) -> Result<D, WireError>
where
    W: Message + Default + From<D>,
    D: TryFrom<W, Error = WireError>,
{
    let bytes = W::from(value).encode_to_vec();
    D::try_from(W::decode(bytes.as_slice()).expect("what was encoded can be decoded"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_an_agent_says_arrives_as_it_was(message in from_agent()) {
        prop_assert_eq!(carried::<_, v1::AgentMessage>(message.clone()).expect("accepted"), message);
    }

    #[test]
    fn what_the_hub_says_arrives_as_it_was(message in from_hub()) {
        prop_assert_eq!(carried::<_, v1::HubMessage>(message.clone()).expect("accepted"), message);
    }

    #[test]
    fn a_hold_and_its_answer_arrive_as_they_were(request in hold_request(), answer in hold_answer()) {
        prop_assert_eq!(carried::<HoldRequest, v1::HoldRequest>(request.clone()).expect("accepted"), request);
        prop_assert_eq!(carried::<HoldAnswer, v1::HoldResponse>(answer.clone()).expect("accepted"), answer);
    }

    #[test]
    fn garbage_is_refused_or_understood_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        receive(&bytes);
    }

    /// Nearly right is more dangerous than noise.
    #[test]
    fn a_damaged_message_is_refused_or_understood_but_never_a_panic(
        agent in from_agent(),
        hub in from_hub(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for mut bytes in [v1::AgentMessage::from(agent).encode_to_vec(), v1::HubMessage::from(hub).encode_to_vec()] {
            for (at, with) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *with;
            }
            receive(&bytes);
        }
    }
}

fn receive(bytes: &[u8]) {
    let _ = v1::AgentMessage::decode(bytes).map(FromAgent::try_from);
    let _ = v1::HubMessage::decode(bytes).map(FromHub::try_from);
    let _ = v1::HoldRequest::decode(bytes).map(HoldRequest::try_from);
    let _ = v1::HoldResponse::decode(bytes).map(HoldAnswer::try_from);
}

fn agent_message(body: v1::agent_message::Body) -> v1::AgentMessage {
    v1::AgentMessage { body: Some(body) }
}

fn hello(cluster: &str) -> v1::Hello {
    v1::Hello { cluster: cluster.into(), version: String::new(), known: Vec::new() }
}

fn report() -> v1::Report {
    v1::Report {
        cluster: "east".into(),
        placement: "p-1".into(),
        role: v1::Role::Holder.into(),
        divergence: v1::Divergence::No.into(),
        ..v1::Report::default()
    }
}

fn refusal(message: v1::AgentMessage) -> String {
    FromAgent::try_from(message).expect_err("must be refused").to_string()
}

fn report_refusal(report: v1::Report) -> String {
    refusal(agent_message(v1::agent_message::Body::Report(report)))
}

#[test]
fn a_refusal_names_the_field_the_value_and_the_remedy() {
    let refused = refusal(agent_message(v1::agent_message::Body::Hello(hello("East"))));
    assert!(refused.starts_with("hello.cluster:"), "{refused}");
    assert!(refused.contains("\"East\"") && refused.contains("lower-case"), "{refused}");

    let volume = |claim: &str| v1::VolumeState { claim: claim.into(), ..v1::VolumeState::default() };
    let refused = report_refusal(v1::Report { volumes: vec![volume("a"), volume("B")], ..report() });
    assert!(refused.starts_with("report.volumes[1].claim:") && refused.contains("\"B\""), "{refused}");
}

#[test]
fn an_unknown_or_missing_enum_value_is_refused_rather_than_guessed() {
    for value in [0, 99, -1] {
        let refused = report_refusal(v1::Report { role: value, ..report() });
        assert!(refused.starts_with("report.role:"), "{refused}");
        assert!(refused.contains(&value.to_string()) && refused.contains("upgrade"), "{refused}");
    }
}

#[test]
fn an_empty_message_is_refused() {
    assert!(refusal(v1::AgentMessage { body: None }).contains("missing"));
    assert!(FromHub::try_from(v1::HubMessage { body: None }).is_err());
}

#[test]
fn a_list_beyond_its_bound_is_refused_with_the_bound() {
    let refused = report_refusal(v1::Report { volumes: vec![v1::VolumeState::default(); 1001], ..report() });
    assert!(refused.contains("1001") && refused.contains("1000"), "{refused}");
}

fn restaged(manifest: Vec<u8>) -> String {
    let volume = v1::VolumeManifest {
        claim: "data".into(),
        handle: "h".into(),
        persistent_volume_json: manifest,
        persistent_volume_claim_json: b"{}".to_vec(),
    };
    let inventory = v1::Inventory { volumes: vec![volume], ..v1::Inventory::default() };
    report_refusal(v1::Report { inventory: Some(inventory), ..report() })
}

#[test]
fn a_manifest_that_is_no_json_too_deep_or_too_large_is_refused() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    for (manifest, why) in [
        (b"{".to_vec(), "JSON"),
        (nested(33), "deeper than 32"),
        (nested(100_000), "JSON"),
        (format!("\"{}\"", "x".repeat(2 * 1024 * 1024)).into_bytes(), "bytes"),
    ] {
        let refused = restaged(manifest);
        assert!(refused.starts_with("report.inventory.volumes[0].persistent_volume:"), "{refused}");
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn free_text_is_cut_by_its_sender_so_that_it_cannot_make_a_report_unacceptable() {
    let long = "é".repeat(10_000);
    let report = Report::try_from(report()).expect("a report");
    let report = Report { ailments: vec![Ailment { reason: "Long".into(), message: long }], ..report };
    let carried = carried::<Report, v1::Report>(report).expect("accepted");
    assert_eq!(carried.ailments[0].message.len(), 4096);
}

#[test]
fn an_empty_selector_is_refused_because_it_would_select_everything() {
    let mut assignment = v1::Assignment {
        placement: "p-1".into(),
        namespace: "shop".into(),
        name: "shop".into(),
        replication_class: "rbd-5m".into(),
        ..v1::Assignment::default()
    };
    assignment.protect = Some(v1::Protect {
        volumes: std::iter::once(("app".to_owned(), "shop".to_owned())).collect(),
        workloads: std::iter::empty().collect(),
        objects: Vec::new(),
    });
    let refused = Assignment::try_from(assignment).expect_err("must be refused").to_string();
    assert!(refused.starts_with("protect.workloads:"), "{refused}");
}
