//! What a certificate says about its bearer: exactly one URI name, compared as a whole. The common name means nothing.

use std::fmt;

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The first part of every identity of one federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(String);

impl TrustDomain {
    pub fn parse(value: &str) -> Result<Self, IdentityError> {
        let fits = (1..=253).contains(&value.len())
            && value.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
            });
        if fits {
            Ok(TrustDomain(value.to_owned()))
        } else {
            Err(IdentityError::TrustDomain(value.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    Hub,
    /// An agent, by the uid of its cluster.
    Cluster {
        uid: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    #[error(
        "trust domain {0:?} is not one: use 1 to 253 lower-case letters, digits, '.', '-' and '_', such as dr.example.org"
    )]
    TrustDomain(String),
    #[error("cluster uid {0:?} is not one: use 1 to 63 letters, digits and '-'")]
    Uid(String),
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error(
        "the certificate has {0} subject alternative names: it must have exactly one, a URI; issue it with `understudy-hub pki`"
    )]
    Names(usize),
    #[error(
        "the certificate's only subject alternative name is not a URI; issue it with `understudy-hub pki`"
    )]
    NotAUri,
    #[error(
        "the certificate's URI {found:?} is neither the hub nor a cluster of trust domain {trust_domain}; issue it with `understudy-hub pki`"
    )]
    Stranger { found: String, trust_domain: TrustDomain },
}

impl Identity {
    pub fn cluster(uid: &str) -> Result<Self, IdentityError> {
        let fits = (1..=63).contains(&uid.len())
            && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if fits {
            Ok(Identity::Cluster { uid: uid.to_owned() })
        } else {
            Err(IdentityError::Uid(uid.to_owned()))
        }
    }

    pub fn uri(&self, trust_domain: &TrustDomain) -> String {
        match self {
            Identity::Hub => format!("spiffe://{trust_domain}/dr/hub"),
            Identity::Cluster { uid } => format!("spiffe://{trust_domain}/dr/cluster/{uid}"),
        }
    }

    fn parse(uri: &str, trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let stranger =
            || IdentityError::Stranger { found: uri.to_owned(), trust_domain: trust_domain.clone() };
        if uri == Identity::Hub.uri(trust_domain) {
            return Ok(Identity::Hub);
        }
        let prefix = format!("spiffe://{trust_domain}/dr/cluster/");
        let uid = uri.strip_prefix(&prefix).ok_or_else(stranger)?;
        Identity::cluster(uid).map_err(|_| stranger())
    }

    pub fn of_certificate(
        certificate: &CertificateDer<'_>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, IdentityError> {
        Identity::parse(&only_uri(certificate)?, trust_domain)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Hub => f.write_str("the hub"),
            Identity::Cluster { uid } => write!(f, "cluster uid {uid}"),
        }
    }
}

/// The one subject alternative name of a certificate. A second one of any kind is refused: whoever reads another of
/// them than we do would see another bearer.
pub(crate) fn only_uri(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
    if !rest.is_empty() {
        return Err(IdentityError::Unreadable);
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| IdentityError::Unreadable)?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        [_] => Err(IdentityError::NotAUri),
        several => Err(IdentityError::Names(several.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("dr.example").expect("a trust domain")
    }

    #[test]
    fn an_identity_is_read_back_from_its_uri() {
        for identity in [Identity::Hub, Identity::cluster("7c9e6679-7425").expect("a uid")] {
            assert_eq!(Identity::parse(&identity.uri(&domain()), &domain()), Ok(identity));
        }
    }

    #[test]
    fn a_uri_that_is_not_exactly_an_identity_of_this_trust_domain_is_refused() {
        for uri in [
            "",
            "spiffe://dr.example/dr/hub/",
            "spiffe://dr.example/dr/hub1",
            "spiffe://dr.example.org/dr/hub",
            "spiffe://other/dr/cluster/east",
            "spiffe://dr.example/dr/cluster/",
            "spiffe://dr.example/dr/cluster/east/x",
            "spiffe://dr.example/dr/cluster/east?x",
            "spiffe://dr.example/dr/cluster/../hub",
            "SPIFFE://dr.example/dr/hub",
            "https://dr.example/dr/hub",
        ] {
            assert!(
                matches!(Identity::parse(uri, &domain()), Err(IdentityError::Stranger { .. })),
                "{uri:?} was accepted"
            );
        }
    }

    #[test]
    fn a_trust_domain_or_uid_that_could_forge_another_identity_is_refused() {
        for bad in ["", "a/b", "A", "a b", "a:1"] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "a.b", "east\n"] {
            assert!(Identity::cluster(bad).is_err(), "{bad:?}");
        }
    }
}
