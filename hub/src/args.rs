//! The command line of the hub.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tls::{Files, TrustDomain};
use witness::{SettingsError, WitnessSettings};

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
    #[arg(long, default_value = "16", value_parser = parse_moves, env = "UNDERSTUDY_MOVES_AT_ONCE")]
    pub moves_at_once: usize,

    /// A witness: an API server in a failure domain of its own, in which Leases show which clusters live. May be given
    /// several times; in the environment, they are separated by semicolons.
    #[arg(
        long = "witness",
        value_delimiter = ';',
        value_name = "name=…,kubeconfig=…,namespace=…,failureDomain=…",
        env = "UNDERSTUDY_WITNESSES"
    )]
    pub witnesses: Vec<WitnessSettings>,

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

    /// What no single witness can show to be wrong.
    pub fn check_witnesses(&self) -> Result<(), SettingsError> {
        witness::settings::ensure_distinct(&self.witnesses)?;
        let apart =
            |one: &WitnessSettings| one.ensure_apart_from(&self.failure_domain, "the hub (--failure-domain)");
        self.witnesses.iter().try_for_each(apart)
    }
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn parse_moves(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("nothing would ever be moved: give at least 1".to_owned()),
        Ok(moves) => Ok(moves),
        Err(error) => Err(format!("{error}: give a number, at least 1")),
    }
}

fn parse_span(text: &str) -> Result<Duration, String> {
    crds::span::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(flag: &str) -> Result<RunArguments, String> {
        let files = ["--journal=j", "--cert=c", "--key=k", "--ca=a", "--failure-domain=hub-site"];
        let given = ["understudy-hub", "run"].into_iter().chain(files).chain([flag]);
        match Arguments::try_parse_from(given).map_err(|error| error.to_string())?.command {
            Command::Run(arguments) => Ok(*arguments),
            Command::Pki(_) => Err("another command".to_owned()),
        }
    }

    #[test]
    fn a_hub_that_would_never_move_anything_does_not_start() {
        let refused = run_with("--moves-at-once=0").expect_err("a refusal");
        assert!(refused.contains("--moves-at-once") && refused.contains("give at least 1"), "{refused}");
        assert_eq!(run_with("--moves-at-once=1").map(|arguments| arguments.moves_at_once), Ok(1));
    }

    #[test]
    fn a_witness_that_cannot_count_is_refused_at_the_start() {
        let refused = run_with("--witness=name=third,kubeconfig=k").expect_err("a refusal");
        assert!(refused.contains("--witness") && refused.contains("namespace is missing"), "{refused}");
        let two = "--witness=name=a,kubeconfig=k,namespace=n,failureDomain=x;name=b,kubeconfig=k,namespace=n,failureDomain=hub-site";
        let given = run_with(two).expect("well formed");
        assert_eq!(given.witnesses.len(), 2);
        let refused = given.check_witnesses().expect_err("not its own").to_string();
        assert!(refused.contains("failureDomain \"hub-site\" of witness \"b\""), "{refused}");
    }

    #[test]
    fn how_long_a_cluster_must_be_steady_is_a_span() {
        let refused = run_with("--steady-after=soon").expect_err("a refusal");
        assert!(refused.contains("--steady-after"), "{refused}");
        let accepted = run_with("--steady-after=1m30s").map(|arguments| arguments.steady_after);
        assert_eq!(accepted, Ok(Duration::from_secs(90)));
    }
}
