//! Our own certificate, key and authority, read from files and read again when those change.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, IdentityError, TrustDomain};
use crate::statement::{self, Signature};
use crate::verify::{ClustersOnly, OnlyThis};

const HTTP2: &[u8] = b"h2";

#[derive(Clone, Debug)]
pub struct Files {
    /// Our certificate, followed by intermediates if there are any.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities that both ends trust; two of them while one replaces the other.
    pub authority: PathBuf,
}

impl Files {
    /// The names that `understudy-hub pki` and Kubernetes' TLS secrets use.
    pub fn in_folder(folder: &Path) -> Self {
        Files {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            authority: folder.join("ca.crt"),
        }
    }
}

#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error(
        "reading the {what} {path:?}: make sure that the file exists and can be read; `understudy-hub pki` issues it"
    )]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {what} {path:?} is not PEM that can be understood: `understudy-hub pki` issues it")]
    Pem {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error(
        "the {what} {path:?} holds no certificate: without one nobody can be authenticated; `understudy-hub pki` issues it"
    )]
    Empty { what: &'static str, path: PathBuf },
    #[error("the {what} {path:?} cannot be used: `understudy-hub pki` issues it")]
    Unusable {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificate {path:?} does not fit the key {key:?}: replace both together")]
    Mismatch { path: PathBuf, key: PathBuf },
    #[error("the certificate {path:?} names nobody of this federation")]
    Identity {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
    #[error("the certificate {path:?} belongs to {found}, and this process is {expected}: give it its own")]
    SomebodyElse { path: PathBuf, found: Identity, expected: Identity },
    #[error(
        "client authentication cannot be set up from the authority {path:?}: it must hold a CA certificate"
    )]
    Verifier {
        path: PathBuf,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

/// What this process proves itself with, and whom it believes. A certificate renewed on disk is used from the next
/// handshake on; connections that are open stay open, because an expired certificate must never look like a lost site.
pub struct Credentials {
    files: Files,
    trust_domain: TrustDomain,
    identity: Identity,
    held: Mutex<Held>,
}

struct Held {
    seen: [Stamp; 3],
    material: Arc<Material>,
}

/// Everything derived from one reading of the files.
struct Material {
    identity: Identity,
    /// Seconds since the Unix epoch.
    not_after: i64,
    roots: Arc<RootCertStore>,
    own: Arc<SingleCertAndKey>,
    signing: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

/// Tells one state of a file from another, also where a mounted secret is replaced as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Credentials {
    pub fn load(files: Files, trust_domain: TrustDomain) -> Result<Self, CredentialsError> {
        let seen = stamps(&files)?;
        let material = Arc::new(Material::read(&files, &trust_domain)?);
        let identity = material.identity.clone();
        Ok(Credentials { files, trust_domain, identity, held: Mutex::new(Held { seen, material }) })
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When our own certificate expires, in seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        self.current().not_after
    }

    /// For a server: only clusters get in.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// For a client that wants to talk to `expected` and to nobody else.
    pub fn client(&self, expected: &Identity) -> Arc<ClientConfig> {
        let material = self.current();
        let verifier = OnlyThis::new(material.roots.clone(), self.trust_domain.clone(), expected.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(material.own.clone());
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // A resumed session would skip the verification of the certificate.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// Signs a statement that others carry; `domain` tells it from everything else that this key signs.
    pub fn sign(&self, domain: &[u8], body: &[u8]) -> Result<Signature, rustls::Error> {
        let signing = self.current().signing.clone();
        let offered: Vec<_> = statement::schemes().map(SignatureScheme::from).collect();
        let signer = signing.key.choose_scheme(&offered).ok_or_else(|| {
            rustls::Error::General("the key can be used with none of the schemes of statements".to_owned())
        })?;
        Ok(Signature {
            scheme: signer.scheme().into(),
            bytes: signer.sign(&statement::signed(domain, body))?,
            chain: signing.cert.iter().map(|certificate| certificate.to_vec()).collect(),
        })
    }

    /// The files as they are now, or as they were when they could last be used.
    fn current(&self) -> Arc<Material> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read_if_changed(held.seen) {
            Ok(None) => {}
            Ok(Some(fresh)) => {
                tracing::info!(identity = %self.identity, not_after = fresh.material.not_after, "certificate renewed");
                *held = fresh;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "changed certificate files cannot be used; the former ones stay in use"
                );
            }
        }
        held.material.clone()
    }

    fn read_if_changed(&self, seen: [Stamp; 3]) -> Result<Option<Held>, CredentialsError> {
        let now = stamps(&self.files)?;
        if now == seen {
            return Ok(None);
        }
        let material = Material::read(&self.files, &self.trust_domain)?;
        if material.identity != self.identity {
            return Err(CredentialsError::SomebodyElse {
                path: self.files.certificate.clone(),
                found: material.identity,
                expected: self.identity.clone(),
            });
        }
        Ok(Some(Held { seen: now, material: Arc::new(material) }))
    }
}

/// Shows whose credentials these are, and nothing of the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Material {
    fn read(files: &Files, trust_domain: &TrustDomain) -> Result<Self, CredentialsError> {
        let roots = Arc::new(read_authority(&files.authority)?);
        let chain = certificates("certificate", &files.certificate)?;
        let key = read_key(&files.key)?;
        let path = files.certificate.clone();
        let identity = Identity::of_certificate(&chain[0], trust_domain)
            .map_err(|source| CredentialsError::Identity { path: path.clone(), source })?;
        let not_after =
            expiry(&chain[0]).map_err(|source| CredentialsError::Identity { path: path.clone(), source })?;
        let own = CertifiedKey::from_der(chain, key, &provider()).map_err(|source| {
            let key = files.key.clone();
            if matches!(source, rustls::Error::InconsistentKeys(_)) {
                CredentialsError::Mismatch { path, key }
            } else {
                CredentialsError::Unusable { what: "key", path: key, source }
            }
        })?;
        let signing = Arc::new(own);
        let own = Arc::new(SingleCertAndKey::from(signing.clone()));
        let verifier = ClustersOnly::new(roots.clone(), trust_domain.clone())
            .map_err(|source| CredentialsError::Verifier { path: files.authority.clone(), source })?;
        let server = Arc::new(server_config(verifier, own.clone()));
        Ok(Material { identity, not_after, roots, own, signing, server })
    }
}

fn server_config(verifier: ClustersOnly, own: Arc<SingleCertAndKey>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would skip the verification of the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_authority(path: &Path) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path)? {
        roots.add(certificate).map_err(|source| CredentialsError::Unusable {
            what: "authority",
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = read(what, path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialsError::Pem { what, path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(CredentialsError::Empty { what, path: path.to_owned() });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    PrivateKeyDer::from_pem_slice(&read("key", path)?).map_err(|source| CredentialsError::Pem {
        what: "key",
        path: path.to_owned(),
        source,
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|source| CredentialsError::Read { what, path: path.to_owned(), source })
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, IdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
    Ok(parsed.validity().not_after.timestamp())
}

fn stamps(files: &Files) -> Result<[Stamp; 3], CredentialsError> {
    Ok([
        stamp("certificate", &files.certificate)?,
        stamp("key", &files.key)?,
        stamp("authority", &files.authority)?,
    ])
}

fn stamp(what: &'static str, path: &Path) -> Result<Stamp, CredentialsError> {
    let of = |found: Metadata| Stamp {
        inode: found.ino(),
        size: found.size(),
        seconds: found.mtime(),
        nanoseconds: found.mtime_nsec(),
    };
    std::fs::metadata(path).map(of).map_err(|source| CredentialsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}
