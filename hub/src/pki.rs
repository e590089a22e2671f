//! `understudy-hub pki`: an authority in files for a first installation, and the certificates it issues.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use proto::ClusterName;
use tls::pki::{Authority, Existing, LEAF_VALIDITY_DAYS, Validity};
use tls::{Identity, TrustDomain};

#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a certificate authority, valid for 10 years; keep its ca.key where only administrators can read it
    Init(InitArgs),
    /// Issue the hub's certificate
    IssueHub(IssueHubArgs),
    /// Issue the certificate of one cluster's agent
    IssueCluster(IssueClusterArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder for ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// First part of every identity of this federation, such as dr.example.org; cannot be changed later
    #[arg(long, value_name = "NAME")]
    pub trust_domain: String,
    /// Replace an authority that stands there; whatever it has issued is then worthless
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Folder that `pki init` wrote
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// Folder for tls.crt, tls.key and ca.crt: the files of a Kubernetes TLS secret
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Days until the certificate expires; issue it anew before that, hub and agent pick it up without a restart
    #[arg(long, value_name = "N", default_value_t = LEAF_VALIDITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=825))]
    pub days: u32,
    /// Replace a certificate that stands there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct IssueHubArgs {
    #[command(flatten)]
    pub issue: IssueArgs,
}

#[derive(Debug, Args)]
pub struct IssueClusterArgs {
    #[command(flatten)]
    pub issue: IssueArgs,
    /// Name of the cluster's DRCluster, for the message that is printed; the certificate does not carry it
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The identity that the DRCluster names; never give one to two clusters
    #[arg(long, value_name = "UID")]
    pub uid: String,
}

/// Does what is asked, and prints in a sentence what was done.
pub fn run(command: PkiCommand) -> anyhow::Result<()> {
    println!("{}", done(&command)?);
    Ok(())
}

fn done(command: &PkiCommand) -> anyhow::Result<String> {
    match command {
        PkiCommand::Init(init) => make_authority(init),
        PkiCommand::IssueHub(hub) => issue(&hub.issue, &Identity::Hub, "the hub"),
        PkiCommand::IssueCluster(cluster) => {
            let name = ClusterName::parse(&cluster.name).context("--name")?;
            let identity = Identity::cluster(&cluster.uid).context("--uid")?;
            issue(&cluster.issue, &identity, &format!("cluster {name}"))
        }
    }
}

fn make_authority(args: &InitArgs) -> anyhow::Result<String> {
    let trust_domain = TrustDomain::parse(&args.trust_domain).context("--trust-domain")?;
    Authority::create(&trust_domain)?.write(&args.out, existing(args.force))?;
    Ok(format!(
        "made the authority of {trust_domain} in {}; next: `pki issue-hub --ca {0} --out DIR`",
        args.out.display()
    ))
}

fn issue(args: &IssueArgs, identity: &Identity, whose: &str) -> anyhow::Result<String> {
    let authority = Authority::read(&args.ca)?;
    authority.issue(identity, Validity::days(args.days))?.write(&args.out, existing(args.force))?;
    let uri = identity.uri(authority.trust_domain());
    Ok(format!("issued {uri} for {whose} in {}; it expires in {} days", args.out.display(), args.days))
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: PkiCommand,
    }

    fn pki(line: &[&str]) -> anyhow::Result<String> {
        let parsed = Line::try_parse_from([&["pki"], line].concat())?;
        done(&parsed.command)
    }

    fn path(folder: &Path, name: &str) -> String {
        folder.join(name).display().to_string()
    }

    #[test]
    fn what_pki_issues_is_what_hub_and_agents_start_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, hub, east) =
            (path(folder.path(), "ca"), path(folder.path(), "hub"), path(folder.path(), "east"));
        pki(&["init", "--out", &ca, "--trust-domain", "dr.example"]).expect("init");
        pki(&["issue-hub", "--ca", &ca, "--out", &hub]).expect("issue-hub");
        pki(&["issue-cluster", "--ca", &ca, "--out", &east, "--name", "east", "--uid", "u-1"])
            .expect("cluster");

        let load = |folder: &str| {
            let trust_domain = TrustDomain::parse("dr.example").expect("a trust domain");
            crate::identity::load(tls::Files::in_folder(Path::new(folder)), trust_domain)
        };
        assert_eq!(load(&hub).expect("the hub starts").identity(), &Identity::Hub);
        let refused = load(&east).expect_err("a cluster is not the hub").to_string();
        assert!(refused.contains("issue-hub") && refused.contains("u-1"), "{refused}");
    }

    #[test]
    fn a_key_is_for_its_owner_only_and_is_never_overwritten_unasked() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = path(folder.path(), "ca");
        let init = ["init", "--out", &ca, "--trust-domain", "dr.example"];
        pki(&init).expect("init");
        let key = folder.path().join("ca/ca.key");
        let mode = std::fs::metadata(&key).expect("the key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let before = std::fs::read(&key).expect("the key");
        let refused = pki(&init).expect_err("it stands there").to_string();
        assert!(refused.contains("--force") && refused.contains("ca.key"), "{refused}");
        assert_eq!(std::fs::read(&key).expect("the key"), before);

        pki(&[&init[..], &["--force"]].concat()).expect("with --force");
        assert_ne!(std::fs::read(&key).expect("the key"), before);
    }
}
