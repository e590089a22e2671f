//! The endpoint that Prometheus scrapes and kubelets probe.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::Telemetry;

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

#[derive(Clone)]
struct Served {
    registry: Arc<Registry>,
    health: watch::Receiver<Health>,
}

/// Binds `address`, and returns where it listens and what serves it until it is dropped.
pub async fn serve(
    address: SocketAddr,
    telemetry: &Telemetry,
    health: watch::Receiver<Health>,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send + use<>)> {
    let served = Served { registry: Arc::new(telemetry.registry.clone()), health };
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(served);
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((bound, async move { axum::serve(listener, routes).await }))
}

async fn metrics(State(served): State<Served>) -> Response {
    // Asking for the values takes locks that a slow reader of a snapshot may hold.
    let scraped = tokio::task::spawn_blocking(move || scrape(&served.registry)).await;
    match scraped {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub fn scrape(registry: &Registry) -> String {
    // What fails is a family without a name or with mixed types, which declarations cannot make.
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
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
