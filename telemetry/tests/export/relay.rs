//! An agent without a collector tells the hub, and the hub's collector hears it as that cluster's agent.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use understudy_telemetry::{AUDIT, Arguments, OtlpProtocol, Reason, Relay, Signal, build, build_through};

use crate::patience::at_best;
use crate::receiver::{Habit, Received, arguments, collector, service, span};

fn silent() -> Arguments {
    Arguments { log: "off".into(), ..Arguments::default() }
}

fn named(resource: Option<&Resource>, key: &str) -> Vec<String> {
    let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
    let values = attributes.filter(|one| one.key == key).filter_map(|one| one.value.as_ref()?.value.as_ref());
    let text = |value: &Value| {
        let Value::StringValue(text) = value else { return None };
        Some(text.clone())
    };
    values.filter_map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_collector_hears_it_as_of_the_cluster_that_the_connection_named() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let (address, mut receiver) = collector(protocol, Habit::Takes).await;
        let (hub, _dispatch) = build(&service(), &arguments(address, protocol)).expect("build");
        let pass_on = hub.pass_on().expect("a collector");
        let (way, mut batches) = Relay::new();
        let carrying = tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let passed_on = pass_on.pass_on(batch.signal, &batch.body, "west").await;
                batch.answer(passed_on.is_ok());
            }
        });
        // It calls itself by another name and another cluster.
        let (agent, dispatch) = build_through(&service(), &silent(), Some(way)).expect("build");
        let lost = agent.lost();
        tracing::dispatcher::with_default(&dispatch, || tracing::info!(target: AUDIT, "audit"));
        agent.spans().expect("a way").tell(span());
        agent.shutdown().await;

        let of_each = |all: &Received| ![all.spans.len(), all.metrics.len(), all.logs.len()].contains(&0);
        let Received { spans, metrics, logs } = Received::until(&mut receiver, of_each).await;
        carrying.abort();
        let resources = spans.iter().map(|one| one.resource.as_ref());
        let resources = resources.chain(metrics.iter().map(|one| one.resource.as_ref()));
        let resources: Vec<_> = resources.chain(logs.iter().map(|one| one.resource.as_ref())).collect();
        for resource in resources {
            assert_eq!(named(resource, "service.name"), ["understudy-agent"]);
            assert_eq!(named(resource, "k8s.cluster.name"), ["west"]);
            assert_eq!(named(resource, "service.instance.id"), ["pod-0"]);
        }
        assert_eq!(Signal::ALL.map(|signal| lost.count(signal, Reason::NotTaken)), [0; 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_takes_nothing_costs_an_agent_spans_and_no_time() {
    at_best(async || {
        let (way, batches) = Relay::new();
        let (agent, _dispatch) = build_through(&service(), &silent(), Some(way)).expect("build");
        let lost = agent.lost();
        (0..7).for_each(|_| agent.spans().expect("a way").tell(span()));
        let began = Instant::now();
        agent.shutdown().await;
        let took = began.elapsed();
        assert!(batches.len() <= 4, "{} batches wait", batches.len());
        drop(batches);
        assert!(lost.count(Signal::Traces, Reason::NotTaken) <= 7);
        if took < Duration::from_secs(5) { Ok(()) } else { Err(format!("the shutdown took {took:?}")) }
    })
    .await;
}
