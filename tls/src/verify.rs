//! The two certificate checks of a handshake: the chain as webpki sees it, then the identity rule.
//!
//! Names in DNS play no part: an agent asks for "the hub" or for "cluster uid x", wherever that is reached.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error as ThisError;

use crate::identity::{Identity, IdentityError, TrustDomain};

#[derive(Debug, ThisError)]
enum Refused {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate belongs to {found}, expected {expected}")]
    Other { found: Identity, expected: &'static str },
    #[error("the certificate belongs to {found}, expected {expected}")]
    Another { found: Identity, expected: Identity },
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// Lets in whoever bears a cluster's certificate of our authority; a hub's is not a cluster's.
pub(crate) struct ClustersOnly {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl ClustersOnly {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        trust_domain: TrustDomain,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider).build()?;
        Ok(ClustersOnly { chain, trust_domain })
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Refused> {
        match Identity::of_certificate(certificate, &self.trust_domain)? {
            Identity::Cluster { uid: _ } => Ok(()),
            Identity::Hub => Err(Refused::Other { found: Identity::Hub, expected: "a cluster" }),
        }
    }
}

impl fmt::Debug for ClustersOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClustersOnly").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClustersOnly {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts one server: whoever bears exactly the expected identity, certified by our authority.
#[derive(Debug)]
pub(crate) struct OnlyThis {
    roots: Arc<RootCertStore>,
    trust_domain: TrustDomain,
    expected: Identity,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OnlyThis {
    pub(crate) fn new(roots: Arc<RootCertStore>, trust_domain: TrustDomain, expected: Identity) -> Self {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        OnlyThis { roots, trust_domain, expected, algorithms }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Refused> {
        let found = Identity::of_certificate(certificate, &self.trust_domain)?;
        if found == self.expected {
            Ok(())
        } else {
            Err(Refused::Another { found, expected: self.expected.clone() })
        }
    }
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
