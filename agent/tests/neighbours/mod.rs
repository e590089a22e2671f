//! An authority, and certificates of it for whoever a test needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::ClusterName;
use tempfile::TempDir;
use tls::pki::{Authority, Existing, Validity};
use tls::{Credentials, Files, Identity, TrustDomain};

/// Far longer than anything takes here, also on a slow machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a name")
}

pub struct Federation {
    folder: TempDir,
    authority: Authority,
}

impl Federation {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let trust_domain = TrustDomain::parse("dr.example").expect("a trust domain");
        Federation { folder, authority: Authority::create(&trust_domain).expect("an authority") }
    }

    pub fn agent(&self, name: &str) -> Arc<Credentials> {
        self.certified(&Identity::cluster(&format!("u-{name}")).expect("a uid"), Validity::days(1))
    }

    pub fn certified(&self, identity: &Identity, validity: Validity) -> Arc<Credentials> {
        let folder = self.folder_of(identity);
        let issued = self.authority.issue(identity, validity).expect("issued");
        issued.write(&folder, Existing::Replace).expect("written");
        let trust_domain = self.authority.trust_domain().clone();
        Arc::new(Credentials::load(Files::in_folder(&folder), trust_domain).expect("credentials"))
    }

    fn folder_of(&self, identity: &Identity) -> PathBuf {
        self.folder.path().join(identity.to_string().replace(' ', "-"))
    }
}
