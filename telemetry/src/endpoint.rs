//! The endpoint that Prometheus scrapes and kubelets probe.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::Telemetry;
use crate::exemplars::Exemplars;
use crate::format::Format;
use crate::gauges::Gauges;
use crate::open_metrics;

/// What the probes are told. The owner of the process's state replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why the process should be restarted, if it should.
    pub alive: Result<(), String>,
    /// Why it cannot do its work now, if it cannot.
    pub ready: Result<(), String>,
}

impl Health {
    pub fn starting() -> Health {
        Health { alive: Ok(()), ready: Err("starting".to_owned()) }
    }

    pub fn ready() -> Health {
        Health { alive: Ok(()), ready: Ok(()) }
    }
}

/// All values as Prometheus reads them.
#[derive(Clone, Debug, Default)]
pub struct Scraped {
    /// What is counted and remembered.
    pub registry: Registry,
    pub gauges: Gauges,
    pub exemplars: Exemplars,
}

impl Scraped {
    pub fn text(&self, format: Format) -> String {
        match format {
            Format::Text => {
                // What fails is a family without a name or with mixed types, which declarations cannot make.
                let mut text =
                    TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default();
                self.gauges.write(format, &mut text);
                text
            }
            Format::OpenMetrics => {
                let mut text = String::new();
                // First: then each bucket has counted at least what its exemplar is of.
                let exemplars = self.exemplars.for_prometheus();
                open_metrics::write(&self.registry.gather(), &exemplars, &mut text);
                self.gauges.write(format, &mut text);
                text.push_str(open_metrics::END);
                text
            }
        }
    }
}

#[derive(Clone)]
struct Served {
    scraped: Scraped,
    health: watch::Receiver<Health>,
}

/// Binds `address`, and returns where it listens and what serves it until it is dropped.
pub async fn serve(
    address: SocketAddr,
    telemetry: &Telemetry,
    health: watch::Receiver<Health>,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send + use<>)> {
    let served = Served { scraped: telemetry.scraped.clone(), health };
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(served);
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((bound, async move { axum::serve(listener, routes).await }))
}

async fn metrics(State(served): State<Served>, asked: HeaderMap) -> Response {
    let accepts: Vec<&str> = asked.get_all(ACCEPT).iter().filter_map(|one| one.to_str().ok()).collect();
    let format = Format::accepted(&accepts.join(","));
    // Asking for the values takes locks that a slow reader of a snapshot may hold.
    let scraped = tokio::task::spawn_blocking(move || served.scraped.text(format)).await;
    match scraped {
        Ok(text) => ([(CONTENT_TYPE, format.content_type()), (VARY, ACCEPT.as_str())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(served): State<Served>) -> Response {
    answer(&served.health.borrow().alive)
}

async fn readyz(State(served): State<Served>) -> Response {
    answer(&served.health.borrow().ready)
}

fn answer(state: &Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
