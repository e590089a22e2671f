//! The hub's own identity, from files. Without it, or with another's, the hub does not start.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tls::{Credentials, CredentialsError, Files, Identity, TrustDomain};

#[derive(Debug, Error)]
pub enum HubIdentityError {
    #[error("loading the hub's identity")]
    Credentials(#[source] CredentialsError),
    #[error(
        "{certificate:?} belongs to {found}: issue the hub's certificate with `understudy-hub pki issue-hub`"
    )]
    NotTheHub { certificate: PathBuf, found: Identity },
}

pub fn load(files: Files, trust_domain: TrustDomain) -> Result<Arc<Credentials>, HubIdentityError> {
    let certificate = files.certificate.clone();
    let credentials = Credentials::load(files, trust_domain).map_err(HubIdentityError::Credentials)?;
    match credentials.identity() {
        Identity::Hub => Ok(Arc::new(credentials)),
        found @ Identity::Cluster { uid: _ } => {
            Err(HubIdentityError::NotTheHub { certificate, found: found.clone() })
        }
    }
}
