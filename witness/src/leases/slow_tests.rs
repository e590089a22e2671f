//! Against a stand-in for an API server that keeps Leases and nothing else, and takes its time over each call.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;
use kube::{Api, Client};
use proto::{Epoch, PlacementId, Testimony};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::service_fn;

use super::*;

type Leases = Arc<Mutex<BTreeMap<String, Value>>>;

const CALL: Duration = Duration::from_millis(250);
const DEADLINE: Duration = Duration::from_secs(2);
/// What the hub tells in one visit.
const TOLD_AT_ONCE: usize = 8;

fn locked(leases: &Leases) -> MutexGuard<'_, BTreeMap<String, Value>> {
    leases.lock().expect("no test has panicked")
}

async fn answer(leases: Leases, request: Request<Body>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    sleep(CALL).await;
    let name = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut leases = locked(&leases);
    let found = match parts.method {
        Method::GET if name == "leases" => {
            let items: Vec<&Value> = leases.values().collect();
            Some(
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {}, "items": items}),
            )
        }
        Method::GET => leases.get(&name).cloned(),
        _ => {
            let lease: Value = serde_json::from_slice(&body).expect("a Lease");
            leases.insert(lease["metadata"]["name"].as_str().expect("a name").to_owned(), lease.clone());
            Some(lease)
        }
    };
    let (status, said) = match found {
        Some(found) => (StatusCode::OK, found),
        None => (
            StatusCode::NOT_FOUND,
            json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}),
        ),
    };
    Response::builder().status(status).body(Full::from(said.to_string())).expect("a response")
}

fn slow_witness(leases: &Leases) -> Witness {
    let leases = leases.clone();
    let serve = service_fn(move |request| {
        let leases = leases.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(leases, request).await) }
    });
    let settings = WitnessSettings {
        name: "third".to_owned(),
        failure_domain: "third-site".to_owned(),
        kubeconfig: PathBuf::from("/nowhere"),
        namespace: "understudy".to_owned(),
    };
    let api: Api<Lease> = Api::namespaced(Client::new(serve, "understudy"), "understudy");
    Witness { settings, api, own: None, placements: BTreeMap::new() }
}

fn testimony(number: usize) -> Testimony {
    let placement = PlacementId::parse(&format!("uid-{number}")).expect("a uid");
    Testimony { placement, epoch: Epoch(3), holder: ClusterName::parse("east").ok() }
}

/// All of them at once would take twice the deadline.
#[tokio::test(start_paused = true)]
async fn a_slow_witness_is_told_a_part_at_each_visit_and_answers_every_one() {
    let leases = Leases::default();
    let mut witness = slow_witness(&leases);
    let all: Vec<Testimony> = (0..TOLD_AT_ONCE).map(testimony).collect();
    let mut shown = 0;
    for visit in 0..TOLD_AT_ONCE {
        let look = witness.visit_as_hub(&all, DEADLINE).await.expect("it answers");
        assert!(
            look.placements.len() > shown || shown == all.len(),
            "visit {visit} told nothing more than {shown}"
        );
        shown = look.placements.len();
    }
    assert_eq!(shown, all.len());
}

#[tokio::test(start_paused = true)]
async fn what_a_witness_remembers_already_is_not_written_again() {
    let leases = Leases::default();
    let mut witness = slow_witness(&leases);
    witness.visit_as_hub(&[testimony(0)], DEADLINE).await.expect("it answers");
    let marked = json!("by somebody else");
    locked(&leases).get_mut("understudy-placement-uid-0").expect("told")["metadata"]["annotations"]["mark"] =
        marked.clone();
    witness.visit_as_hub(&[testimony(0)], DEADLINE).await.expect("it answers");
    assert_eq!(locked(&leases)["understudy-placement-uid-0"]["metadata"]["annotations"]["mark"], marked);
    let newer = Testimony { epoch: Epoch(4), ..testimony(0) };
    let look = witness.visit_as_hub(std::slice::from_ref(&newer), DEADLINE).await.expect("it answers");
    assert_eq!(look.placements, [newer]);
}
