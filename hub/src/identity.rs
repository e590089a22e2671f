//! The hub's own identity, from files. Without it, or with another's, the hub does not start.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tls::{Credentials, CredentialsError, Files, Identity, IdentityError, TrustDomain};

#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// Folder with tls.crt, tls.key and ca.crt, as `understudy-hub pki issue-hub` writes it; read again when it changes
    #[arg(long, env = "UNDERSTUDY_TLS_FOLDER", value_name = "DIR")]
    pub tls_folder: PathBuf,
    /// First part of every identity of this federation, as given to `understudy-hub pki init`
    #[arg(long, env = "UNDERSTUDY_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: String,
}

#[derive(Debug, Error)]
pub enum HubIdentityError {
    #[error("--trust-domain")]
    TrustDomain(#[source] IdentityError),
    #[error("--tls-folder")]
    Credentials(#[source] CredentialsError),
    #[error(
        "--tls-folder {folder:?} holds the certificate of {found}: issue the hub's with `understudy-hub pki issue-hub`"
    )]
    NotTheHub { folder: PathBuf, found: Identity },
}

impl IdentityArgs {
    pub fn load(&self) -> Result<Arc<Credentials>, HubIdentityError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain).map_err(HubIdentityError::TrustDomain)?;
        let credentials = Credentials::load(Files::in_folder(&self.tls_folder), trust_domain)
            .map_err(HubIdentityError::Credentials)?;
        match credentials.identity() {
            Identity::Hub => Ok(Arc::new(credentials)),
            found @ Identity::Cluster { uid: _ } => {
                Err(HubIdentityError::NotTheHub { folder: self.tls_folder.clone(), found: found.clone() })
            }
        }
    }
}
