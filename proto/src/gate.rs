//! What the gate in an application's pod asks, and what the hub and the targets answer it under their signatures.
//!
//! The gate believes nobody on its way: each answer names the nonce that the gate made, and the gate counts from the
//! instant at which it sent that one (protocol R1). Whatever is put in between can withhold an answer, and no more.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Generation};
use crate::names::{ClusterName, PlacementId, PlacementName};

/// On a pod: the name of the DRPlacement, in the pod's own namespace, whose lease it needs to run.
pub const ANNOTATION: &str = "understudy.dev/gate";
/// The init container that lets nothing start before there is a lease.
pub const WAITING_CONTAINER: &str = "understudy-gate-wait";
/// The sidecar that ends the application with the lease.
pub const GUARDING_CONTAINER: &str = "understudy-gate";

/// So many pods of one placement are answered; a bound on what a heartbeat carries.
pub const MOST_GATES: usize = 128;

/// What a signature is made over begins with one of these, so that no other signature of the same key can be taken for it.
pub const TICKET_DOMAIN: &[u8] = b"understudy.dev gate ticket v1\0";
pub const PROMISE_DOMAIN: &[u8] = b"understudy.dev gate promise v1\0";

const NONCE_DIGITS: usize = 32;

/// Sixteen random bytes, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GateNonce(String);

impl GateNonce {
    pub fn parse(value: &str) -> Option<GateNonce> {
        let fits = value.len() == NONCE_DIGITS
            && value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        fits.then(|| GateNonce(value.to_owned()))
    }

    pub fn of_bytes(bytes: [u8; NONCE_DIGITS / 2]) -> GateNonce {
        GateNonce(hex::encode(bytes))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GateNonce {
    type Error = String;
    fn try_from(value: String) -> Result<GateNonce, String> {
        GateNonce::parse(&value).ok_or_else(|| format!("{value:?} is not a nonce of {NONCE_DIGITS} digits"))
    }
}

impl From<GateNonce> for String {
    fn from(nonce: GateNonce) -> String {
        nonce.0
    }
}

impl fmt::Display for GateNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A gate asks its cluster's agent. Nothing in it is believed: it only says what to ask the hub for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub placement: PlacementName,
    /// The uid of the pod.
    pub pod: String,
    pub nonce: GateNonce,
    /// The newest generation that a ticket has brought to this gate; zero: none. The holder echoes no newer one (R6).
    pub lives_by: Generation,
    /// Its clocks have parted, and only an answer to this question lets it go on for longer than a call may take (R7).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
}

/// The hub's word to one gate: the application may run until the send instant of `nonce` plus `ttl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub cluster: ClusterName,
    pub placement: PlacementId,
    pub name: PlacementName,
    pub epoch: Epoch,
    pub generation: Generation,
    pub nonce: GateNonce,
    pub renew: Duration,
    pub rpc: Duration,
    pub ttl: Duration,
    pub grace: Duration,
    /// Within this after the deadline everything must have stopped.
    pub stop: Duration,
    /// All of them must promise, where the hub is silent.
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub cluster: ClusterName,
    /// The uid in its certificate.
    pub identity: String,
}

/// A target's word to one gate of the holder: it promotes nothing before the send instant of `nonce` plus `hold` and
/// `stop` have passed on every clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    pub target: ClusterName,
    pub holder: ClusterName,
    pub placement: PlacementId,
    pub epoch: Epoch,
    pub nonce: GateNonce,
    pub hold: Duration,
    pub stop: Duration,
}

/// What a statement says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    Ticket(Ticket),
    Promise(Promise),
}

impl Statement {
    pub fn nonce(&self) -> &GateNonce {
        match self {
            Statement::Ticket(ticket) => &ticket.nonce,
            Statement::Promise(promise) => &promise.nonce,
        }
    }

    pub fn domain(&self) -> &'static [u8] {
        match self {
            Statement::Ticket(_) => TICKET_DOMAIN,
            Statement::Promise(_) => PROMISE_DOMAIN,
        }
    }
}

/// A statement as it travels. The signature is over the very bytes, so nobody has to write them the same way twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    pub nonce: GateNonce,
    /// The statement, as JSON.
    #[serde(with = "hex")]
    pub body: Vec<u8>,
    /// None where a core has made it: whoever has the key puts it on before it leaves.
    pub seal: Option<Seal>,
}

/// A signature, and the certificates of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// As TLS numbers them.
    pub scheme: u16,
    #[serde(with = "hex")]
    pub signature: Vec<u8>,
    pub chain: Vec<Certificate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Certificate(#[serde(with = "hex")] pub Vec<u8>);

impl Sealed {
    /// To be sealed.
    pub fn of(statement: &Statement) -> Sealed {
        // A struct of names and numbers always has a JSON form.
        let body = serde_json::to_vec(statement).unwrap_or_default();
        Sealed { nonce: statement.nonce().clone(), body, seal: None }
    }

    /// What it says; nothing is proven by that.
    pub fn statement(&self) -> Result<Statement, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_thirty_two_digits_and_nothing_else() {
        let nonce = GateNonce::of_bytes([0xab; 16]);
        assert_eq!(GateNonce::parse(nonce.as_str()), Some(nonce));
        for bad in ["", "ab", &"A".repeat(32), &"g".repeat(32), &"a".repeat(33)] {
            assert_eq!(GateNonce::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_comes_through_a_line_of_json_as_it_was() {
        let promise = Promise {
            target: ClusterName::parse("west").expect("a name"),
            holder: ClusterName::parse("east").expect("a name"),
            placement: PlacementId::parse("p-1").expect("an id"),
            epoch: Epoch(3),
            nonce: GateNonce::of_bytes([1; 16]),
            hold: Duration::from_secs(2),
            stop: Duration::from_secs(4),
        };
        let statement = Statement::Promise(promise);
        let seal = Seal { scheme: 0x0403, signature: vec![1, 2], chain: vec![Certificate(vec![3])] };
        let sealed = Sealed { seal: Some(seal), ..Sealed::of(&statement) };
        let line = serde_json::to_string(&sealed).expect("a line");
        assert!(!line.contains('\n'));
        let read: Sealed = serde_json::from_str(&line).expect("the same");
        assert_eq!(read, sealed);
        assert_eq!(read.statement().expect("a statement"), statement);
    }
}
