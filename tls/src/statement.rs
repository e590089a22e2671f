//! Statements that others carry: who signed one is what the certificate beside it says, as on a connection.

use std::time::Duration;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::ring::{
    ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519, RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::identity::{Identity, IdentityError, TrustDomain};

/// A signature over a domain and a body, and the certificates of whoever made it, its own first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// As TLS numbers them.
    pub scheme: u16,
    pub bytes: Vec<u8>,
    pub chain: Vec<Vec<u8>>,
}

#[derive(Debug, Error)]
pub enum StatementError {
    #[error("the authorities are not PEM that can be understood")]
    Pem(#[source] pem::Error),
    #[error("there is no certificate of an authority: without one nobody can be believed")]
    NoAuthority,
    #[error("the certificate of an authority cannot be used")]
    Authority(#[source] webpki::Error),
    #[error("the statement comes without a certificate")]
    NoCertificate,
    #[error("the certificate of the signer is not one of our authority, or not at this time")]
    Chain(#[source] webpki::Error),
    #[error("the certificate of the signer")]
    Identity(#[source] IdentityError),
    #[error("the statement was signed by {found}, expected {expected}")]
    Another { found: Identity, expected: Identity },
    #[error("the statement was signed with scheme {0:#06x}, which is not one of ours")]
    Scheme(u16),
    #[error("the signature is not of this statement")]
    Signature(#[source] webpki::Error),
}

/// The schemes that are used and accepted, in the order in which a key that can do several uses them.
const SCHEMES: [(u16, &dyn SignatureVerificationAlgorithm); 5] = [
    (0x0403, ECDSA_P256_SHA256),
    (0x0503, ECDSA_P384_SHA384),
    (0x0807, ED25519),
    (0x0804, RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
    (0x0805, RSA_PSS_2048_8192_SHA384_LEGACY_KEY),
];

#[cfg(feature = "connections")]
pub(crate) fn schemes() -> impl Iterator<Item = u16> {
    SCHEMES.iter().map(|(scheme, _)| *scheme)
}

/// What is signed: a key that signs several kinds of things must not have one taken for another.
pub(crate) fn signed(domain: &[u8], body: &[u8]) -> Vec<u8> {
    [domain, body].concat()
}

/// Whom we believe: the authorities of one federation.
#[derive(Debug)]
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    trust_domain: TrustDomain,
}

impl Authorities {
    pub fn parse(text: &str, trust_domain: TrustDomain) -> Result<Authorities, StatementError> {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(StatementError::Pem)?;
        let anchors = certificates
            .iter()
            .map(|certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StatementError::Authority)?;
        if anchors.is_empty() {
            return Err(StatementError::NoAuthority);
        }
        Ok(Authorities { anchors, trust_domain })
    }

    /// Whether `expected` has signed this, with a certificate that is valid at this wall time.
    pub fn verify(
        &self,
        expected: &Identity,
        domain: &[u8],
        body: &[u8],
        signature: &Signature,
        since_unix_epoch: Duration,
    ) -> Result<(), StatementError> {
        let chain: Vec<_> =
            signature.chain.iter().map(|bytes| CertificateDer::from(bytes.as_slice())).collect();
        let (own, intermediates) = chain.split_first().ok_or(StatementError::NoCertificate)?;
        let certificate = EndEntityCert::try_from(own).map_err(StatementError::Chain)?;
        let algorithms = SCHEMES.map(|(_, algorithm)| algorithm);
        certificate
            .verify_for_usage(
                &algorithms,
                &self.anchors,
                intermediates,
                UnixTime::since_unix_epoch(since_unix_epoch),
                // The hub and the agents serve others with these certificates.
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(StatementError::Chain)?;
        let found = Identity::of_certificate(own, &self.trust_domain).map_err(StatementError::Identity)?;
        if found != *expected {
            return Err(StatementError::Another { found, expected: expected.clone() });
        }
        let algorithm = SCHEMES.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let (_, algorithm) = algorithm.ok_or(StatementError::Scheme(signature.scheme))?;
        certificate
            .verify_signature(*algorithm, &signed(domain, body), &signature.bytes)
            .map_err(StatementError::Signature)
    }
}
