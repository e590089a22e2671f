//! Who is believed: the hub for its tickets, and of promises exactly the target that the hub has named.

use std::time::Duration;

use proto::gate::{Certificate, Seal, Sealed, Statement};
use proto::{Moment, WallTime};
use thiserror::Error;
use tls::{Authorities, Identity, IdentityError, Signature, StatementError};

use crate::lease::{Gate, Refused};

/// Why an answer is not believed, or counts for nothing.
#[derive(Debug, Error)]
pub enum Unbelievable {
    #[error("an answer without a signature")]
    Unsealed,
    #[error("an answer that cannot be understood: the agent, the hub and the gate must be of one version")]
    Unreadable(#[source] serde_json::Error),
    #[error("a target whose identity the hub does not name")]
    Identity(#[source] IdentityError),
    #[error("an answer that is not proven")]
    Unproven(#[source] StatementError),
    #[error("an answer that counts for nothing: {0}")]
    Refused(Refused),
}

/// Takes an answer in, if it is proven; whatever is not leaves the lease as it was.
pub fn hear(
    gate: &mut Gate,
    authorities: &Authorities,
    now: Moment,
    wall: WallTime,
    sealed: &Sealed,
) -> Result<(), Unbelievable> {
    let Seal { scheme, signature, chain } = sealed.seal.clone().ok_or(Unbelievable::Unsealed)?;
    let statement = sealed.statement().map_err(Unbelievable::Unreadable)?;
    let author = author(gate, &statement)?;
    let chain = chain.into_iter().map(|Certificate(bytes)| bytes).collect();
    let signature = Signature { scheme, bytes: signature, chain };
    let since_unix_epoch = Duration::from_millis(u64::try_from(wall.0).unwrap_or(0));
    authorities
        .verify(&author, statement.domain(), &sealed.body, &signature, since_unix_epoch)
        .map_err(Unbelievable::Unproven)?;
    gate.hear(now, statement).map_err(Unbelievable::Refused)
}

fn author(gate: &Gate, statement: &Statement) -> Result<Identity, Unbelievable> {
    match statement {
        Statement::Ticket(_) => Ok(Identity::Hub),
        Statement::Promise(promise) => {
            let unknown = || Unbelievable::Refused(Refused::Target(promise.target.clone()));
            let uid = gate.identity_of(&promise.target).ok_or_else(unknown)?;
            Identity::cluster(uid).map_err(Unbelievable::Identity)
        }
    }
}
