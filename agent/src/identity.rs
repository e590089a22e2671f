//! The agent's own identity, from files. Without it the agent does not start.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tls::{Credentials, CredentialsError, Files, Identity, IdentityError, TrustDomain};

#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// Folder with tls.crt, tls.key and ca.crt, as `understudy-hub pki issue-cluster` writes it; read again when it changes
    #[arg(long, env = "UNDERSTUDY_TLS_FOLDER", value_name = "DIR")]
    pub tls_folder: PathBuf,
    /// First part of every identity of this federation, as given to `understudy-hub pki init`
    #[arg(long, env = "UNDERSTUDY_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: String,
}

#[derive(Debug, Error)]
pub enum AgentIdentityError {
    #[error("--trust-domain")]
    TrustDomain(#[source] IdentityError),
    #[error("--tls-folder")]
    Credentials(#[source] CredentialsError),
    #[error(
        "--tls-folder {folder:?} holds the hub's certificate: issue this cluster's with `understudy-hub pki issue-cluster`"
    )]
    TheHub { folder: PathBuf },
}

impl IdentityArgs {
    pub fn load(&self) -> Result<Arc<Credentials>, AgentIdentityError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain).map_err(AgentIdentityError::TrustDomain)?;
        let credentials = Credentials::load(Files::in_folder(&self.tls_folder), trust_domain)
            .map_err(AgentIdentityError::Credentials)?;
        match credentials.identity() {
            Identity::Cluster { uid: _ } => Ok(Arc::new(credentials)),
            Identity::Hub => Err(AgentIdentityError::TheHub { folder: self.tls_folder.clone() }),
        }
    }
}
