//! Stands in for a member cluster's nodes: the program around `e2e::nodes`.

use anyhow::{Context, bail};
use clap::Parser;
use e2e::nodes::{self, Arguments};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(about = "A stand-in for the nodes of one site")]
struct CommandLine {
    #[command(flatten)]
    nodes: Arguments,
}

/// One thread: the kernel ties a pod's process to the life of the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let CommandLine { nodes } = CommandLine::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("another TLS provider is already installed");
    }
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    nodes::run(nodes, ended).await
}
