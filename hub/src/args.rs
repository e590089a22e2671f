//! The command line of the hub.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tls::{Files, TrustDomain};

#[derive(Debug, Parser)]
#[command(
    name = "understudy-hub",
    version,
    about = "Keeps stateful Kubernetes applications running when a whole cluster dies."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the hub.
    Run(Box<RunArguments>),
    /// Makes a certificate authority and issues certificates, for a first installation.
    #[command(subcommand)]
    Pki(crate::pki::PkiCommand),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where agents connect.
    #[arg(long, default_value = "0.0.0.0:7443", env = "UNDERSTUDY_LISTEN")]
    pub listen: SocketAddr,

    /// The directory of the journal. It must be durable, and belong to this hub alone.
    #[arg(long, env = "UNDERSTUDY_JOURNAL")]
    pub journal: PathBuf,

    /// The hub's certificate, in PEM; read again when it changes.
    #[arg(long, env = "UNDERSTUDY_CERT")]
    pub cert: PathBuf,

    /// Its key, in PEM.
    #[arg(long, env = "UNDERSTUDY_KEY")]
    pub key: PathBuf,

    /// The authorities that agents' certificates must come from, in PEM.
    #[arg(long, env = "UNDERSTUDY_CA")]
    pub ca: PathBuf,

    /// The trust domain in every identity: spiffe://TRUST-DOMAIN/dr/...
    #[arg(long, default_value = "understudy", value_parser = parse_trust_domain, env = "UNDERSTUDY_TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,

    /// Names the hub in its journal; a journal of another hub is refused.
    #[arg(long, default_value = "hub", env = "UNDERSTUDY_HUB_NAME")]
    pub hub_name: String,

    /// What the hub shares its fate with: a site, a zone. Automatic failover needs three distinct ones.
    #[arg(long, env = "UNDERSTUDY_FAILURE_DOMAIN")]
    pub failure_domain: String,

    /// How long a cluster that was lost must be heard again before anything is moved to it.
    #[arg(long, default_value = "10m", value_parser = parse_span, env = "UNDERSTUDY_STEADY_AFTER")]
    pub steady_after: Duration,

    /// How many placements may be moved at once.
    #[arg(long, default_value_t = 16, env = "UNDERSTUDY_MOVES_AT_ONCE")]
    pub moves_at_once: usize,

    /// How often time is looked at; no wait is cut shorter than it must be.
    #[arg(long, default_value = "20ms", value_parser = parse_span, hide = true)]
    pub tick: Duration,

    #[command(flatten)]
    pub telemetry: understudy_telemetry::Arguments,
}

impl RunArguments {
    pub fn certificate_files(&self) -> Files {
        Files { certificate: self.cert.clone(), key: self.key.clone(), authority: self.ca.clone() }
    }
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn parse_span(text: &str) -> Result<Duration, String> {
    crds::span::parse(text).map_err(|error| error.to_string())
}
