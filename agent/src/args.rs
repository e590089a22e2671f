//! The command line of the agent.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use proto::ClusterName;
use tls::{Files, TrustDomain};
use witness::WitnessSettings;

#[derive(Debug, Parser)]
#[command(
    name = "understudy-agent",
    version,
    about = "Protects the stateful applications of one cluster, as its hub decides."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the agent.
    Run(Box<RunArguments>),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The name of this cluster: that of its DRCluster at the hub.
    #[arg(long, value_parser = parse_cluster, env = "UNDERSTUDY_CLUSTER")]
    pub cluster: ClusterName,

    /// Where the hub listens: https://HOST:PORT.
    #[arg(long, value_parser = parse_hub, env = "UNDERSTUDY_HUB")]
    pub hub: String,

    /// This cluster's certificate, in PEM; read again when it changes.
    #[arg(long, env = "UNDERSTUDY_CERT")]
    pub cert: PathBuf,

    /// Its key, in PEM.
    #[arg(long, env = "UNDERSTUDY_KEY")]
    pub key: PathBuf,

    /// The authorities that the hub's and the other clusters' certificates must come from, in PEM.
    #[arg(long, env = "UNDERSTUDY_CA")]
    pub ca: PathBuf,

    /// The trust domain in every identity: spiffe://TRUST-DOMAIN/dr/...
    #[arg(long, default_value = "understudy", value_parser = parse_trust_domain, env = "UNDERSTUDY_TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,

    /// Where other clusters' agents connect.
    #[arg(long, default_value = "0.0.0.0:7444", env = "UNDERSTUDY_PEER_LISTEN")]
    pub peer_listen: SocketAddr,

    /// Where the gates of this cluster's pods connect. Without it no pod that has a gate starts.
    #[arg(long, env = "UNDERSTUDY_GATE_LISTEN")]
    pub gate_listen: Option<SocketAddr>,

    /// The namespace of the agent's own Lease, which is its memory.
    #[arg(long, default_value = crds::SYSTEM_NAMESPACE, env = "UNDERSTUDY_NAMESPACE")]
    pub namespace: String,

    /// A witness: an API server in a failure domain of its own, in which Leases show which clusters live. May be given
    /// several times; in the environment, they are separated by semicolons.
    #[arg(
        long = "witness",
        value_delimiter = ';',
        value_name = "name=…,kubeconfig=…,namespace=…,failureDomain=…",
        env = "UNDERSTUDY_WITNESSES"
    )]
    pub witnesses: Vec<WitnessSettings>,

    /// Names the boot of this node. Tests of cold restarts name another file.
    #[arg(
        long,
        default_value = "/proc/sys/kernel/random/boot_id",
        hide = true,
        env = "UNDERSTUDY_BOOT_ID_FILE"
    )]
    pub boot_id_file: PathBuf,

    /// Without an OTLP endpoint of its own, sends telemetry to the hub, whose collector gets it.
    #[arg(long, env = "UNDERSTUDY_TELEMETRY_BY_HUB")]
    pub telemetry_by_hub: bool,

    #[command(flatten)]
    pub telemetry: understudy_telemetry::Arguments,
}

impl RunArguments {
    pub fn certificate_files(&self) -> Files {
        Files { certificate: self.cert.clone(), key: self.key.clone(), authority: self.ca.clone() }
    }
}

fn parse_cluster(text: &str) -> Result<ClusterName, String> {
    ClusterName::parse(text).map_err(|error| error.to_string())
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

/// Host and port, without the scheme: the transport is always mutual TLS.
fn parse_hub(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) if !authority.contains("://") => Ok(authority.to_owned()),
        Some(_) | None => Err(format!("{text:?} is not an address of the hub: use https://HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_address_is_taken_with_and_without_its_scheme_and_never_without_its_port() {
        assert_eq!(parse_hub("https://hub.example:7443"), Ok("hub.example:7443".to_owned()));
        assert_eq!(parse_hub("127.0.40.1:7443"), Ok("127.0.40.1:7443".to_owned()));
        for wrong in ["http://hub.example:7443", "https://hub.example", "hub"] {
            assert!(parse_hub(wrong).is_err(), "{wrong}");
        }
    }
}
