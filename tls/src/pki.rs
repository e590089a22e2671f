//! A certificate authority in two files, for a first installation: it certifies the hub and each cluster.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;

use crate::identity::{Identity, IdentityError, TrustDomain, only_uri};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// For certificates that people renew by hand.
pub const LEAF_VALIDITY_DAYS: u32 = 90;
/// The clocks of two machines may differ a little when a fresh certificate is first shown.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Error)]
pub enum PkiError {
    #[error("{path:?} exists already: give another folder, or --force to replace it")]
    Exists { path: PathBuf },
    #[error("writing {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("reading {path:?}: is this the folder that `understudy-hub pki init` wrote?")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is not a certificate in PEM")]
    Pem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("the authority {path:?} does not name its trust domain: make one with `understudy-hub pki init`")]
    NoTrustDomain {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
    #[error("making a certificate for {subject}")]
    Certificate {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
}

/// What to do where a file stands already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Keep,
    Replace,
}

#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    pub fn from_now(span: Duration) -> Self {
        let now = SystemTime::now();
        Validity { not_before: now - BACKDATED, not_after: now + span }
    }

    pub fn days(days: u32) -> Self {
        Validity::from_now(DAY * days)
    }
}

/// The authority of one federation. Its certificate names the trust domain, so that it can issue for no other by accident.
pub struct Authority {
    trust_domain: TrustDomain,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Issued {
    pub certificate: String,
    key: String,
    authority: String,
}

/// Shows the certificate, which is public, and nothing of the key.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    pub fn create(trust_domain: &TrustDomain) -> Result<Self, PkiError> {
        let failed =
            |source| PkiError::Certificate { subject: format!("the authority of {trust_domain}"), source };
        let key = KeyPair::generate().map_err(failed)?;
        let params = authority_params(trust_domain).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Authority { trust_domain: trust_domain.clone(), certificate, issuer: Issuer::new(params, key) })
    }

    pub fn read(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join("ca.crt");
        let certificate = read(&path)?;
        let trust_domain = trust_domain_of(&certificate, &path)?;
        let failed = |source| PkiError::Certificate { subject: "the authority".into(), source };
        let key = KeyPair::from_pem(&read(&folder.join("ca.key"))?).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(failed)?;
        Ok(Authority { trust_domain, certificate, issuer })
    }

    /// `ca.crt` and `ca.key`.
    pub fn write(&self, folder: &Path, existing: Existing) -> Result<(), PkiError> {
        let key = self.issuer.key().serialize_pem();
        write_all(folder, existing, &[("ca.key", &key, 0o600), ("ca.crt", &self.certificate, 0o644)])
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, PkiError> {
        let failed = |source| PkiError::Certificate { subject: identity.to_string(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let params = leaf_params(identity, &self.trust_domain, validity).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem(), authority: self.certificate.clone() })
    }
}

impl Issued {
    /// `tls.crt`, `tls.key` and `ca.crt`: the names of a Kubernetes TLS secret.
    pub fn write(&self, folder: &Path, existing: Existing) -> Result<(), PkiError> {
        let files = [
            ("tls.key", &self.key, 0o600),
            ("ca.crt", &self.authority, 0o644),
            ("tls.crt", &self.certificate, 0o644),
        ];
        write_all(folder, existing, &files)
    }
}

fn authority_params(trust_domain: &TrustDomain) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let validity = Validity::from_now(AUTHORITY_VALIDITY);
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.distinguished_name = named(&format!("Understudy authority of {trust_domain}"));
    params.subject_alt_names = vec![SanType::URI(authority_uri(trust_domain).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Built from the identity alone; the common name is for people who look at certificates.
fn leaf_params(
    identity: &Identity,
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.distinguished_name = named(&identity.to_string());
    params.subject_alt_names = vec![SanType::URI(identity.uri(trust_domain).try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match identity {
        // Nobody is dialled by the hub, so its certificate is of no use to a client.
        Identity::Hub => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Identity::Cluster { uid: _ } => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn authority_uri(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

fn trust_domain_of(certificate: &str, path: &Path) -> Result<TrustDomain, PkiError> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|source| PkiError::Pem { path: path.to_owned(), source })?;
    let unnamed = |source| PkiError::NoTrustDomain { path: path.to_owned(), source };
    let uri = only_uri(&certificate).map_err(unnamed)?;
    TrustDomain::parse(uri.strip_prefix("spiffe://").unwrap_or(&uri)).map_err(unnamed)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

/// All of them or, if one stands already, none.
fn write_all(folder: &Path, existing: Existing, files: &[(&str, &String, u32)]) -> Result<(), PkiError> {
    let failed = |path: PathBuf| move |source| PkiError::Write { path, source };
    fs::create_dir_all(folder).map_err(failed(folder.to_owned()))?;
    let standing = files.iter().map(|(name, _, _)| folder.join(name)).find(|path| path.exists());
    if let (Existing::Keep, Some(path)) = (existing, standing) {
        return Err(PkiError::Exists { path });
    }
    for (name, content, mode) in files {
        let path = folder.join(name);
        write_whole(&path, content, *mode).map_err(failed(path.clone()))?;
    }
    Ok(())
}

/// Written beside and renamed, so that no reader sees half of it and a key is never readable by others.
fn write_whole(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
