//! The agent's own identity, from files. Without it, or with the hub's, the agent does not start.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tls::{Credentials, CredentialsError, Files, Identity, TrustDomain};

#[derive(Debug, Error)]
pub enum AgentIdentityError {
    #[error("loading the agent's identity")]
    Credentials(#[source] CredentialsError),
    #[error(
        "{certificate:?} belongs to the hub: issue this cluster's certificate with `understudy-hub pki issue-cluster`"
    )]
    TheHub { certificate: PathBuf },
}

pub fn load(files: Files, trust_domain: TrustDomain) -> Result<Arc<Credentials>, AgentIdentityError> {
    let certificate = files.certificate.clone();
    let credentials = Credentials::load(files, trust_domain).map_err(AgentIdentityError::Credentials)?;
    match credentials.identity() {
        Identity::Cluster { uid: _ } => Ok(Arc::new(credentials)),
        Identity::Hub => Err(AgentIdentityError::TheHub { certificate }),
    }
}
