//! Statements to gates, as opaque bytes with a signature: only the gate judges them.

use crate::convert::field::{Parsed, Problem, WireError, at_most, checked_list, cut};
use crate::gate::{Certificate, GateNonce, Seal, Sealed};
use crate::wire::v1;

/// A ticket names a handful of clusters.
const LARGEST_BODY: usize = 16 * 1024;
const LARGEST_SIGNATURE: usize = 1024;
const LARGEST_CERTIFICATE: usize = 16 * 1024;
const LONGEST_CHAIN: usize = 4;

pub(super) fn gate_nonce(value: String, field: &str) -> Parsed<GateNonce> {
    GateNonce::parse(&value).ok_or_else(|| {
        Problem::Text { value: cut(&value), expected: "a nonce of 32 hexadecimal digits" }.at(field)
    })
}

impl From<Sealed> for v1::Sealed {
    fn from(sealed: Sealed) -> Self {
        let Sealed { nonce, body, seal } = sealed;
        v1::Sealed { nonce: nonce.into(), body, seal: seal.map(Into::into) }
    }
}

impl TryFrom<v1::Sealed> for Sealed {
    type Error = WireError;
    fn try_from(sealed: v1::Sealed) -> Parsed<Self> {
        at_most(sealed.body.len(), LARGEST_BODY, "body")?;
        Ok(Sealed {
            nonce: gate_nonce(sealed.nonce, "nonce")?,
            body: sealed.body,
            seal: sealed.seal.map(Seal::try_from).transpose()?,
        })
    }
}

impl From<Seal> for v1::Seal {
    fn from(seal: Seal) -> Self {
        let Seal { scheme, signature, chain } = seal;
        let chain = chain.into_iter().map(|certificate| certificate.0).collect();
        v1::Seal { scheme: u32::from(scheme), signature, chain }
    }
}

impl TryFrom<v1::Seal> for Seal {
    type Error = WireError;
    fn try_from(seal: v1::Seal) -> Parsed<Self> {
        at_most(seal.signature.len(), LARGEST_SIGNATURE, "seal.signature")?;
        let certificate = |bytes: Vec<u8>, field: &str| {
            at_most(bytes.len(), LARGEST_CERTIFICATE, field)?;
            Ok(Certificate(bytes))
        };
        let unknown =
            |_| Problem::Text { value: seal.scheme.to_string(), expected: "a signature scheme of TLS" };
        Ok(Seal {
            scheme: u16::try_from(seal.scheme).map_err(|error| unknown(error).at("seal.scheme"))?,
            signature: seal.signature,
            chain: checked_list(seal.chain, LONGEST_CHAIN, "seal.chain", certificate)?,
        })
    }
}
