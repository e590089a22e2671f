//! The hub's signature on what it tells the gates.

use std::error::Error;

use proto::gate::{Certificate, Seal, TICKET_DOMAIN};
use proto::{FromHub, Sealed};
use tls::Credentials;

/// Signs every ticket of a reply. One that cannot be signed leaves without a seal, and no gate believes it.
pub fn seal(credentials: &Credentials, message: &mut FromHub) {
    let FromHub::Reply(reply) = message else { return };
    for ticket in reply.grants.iter_mut().flat_map(|grant| &mut grant.tickets) {
        sign(credentials, ticket);
    }
}

fn sign(credentials: &Credentials, ticket: &mut Sealed) {
    match credentials.sign(TICKET_DOMAIN, &ticket.body) {
        Ok(signature) => {
            ticket.seal = Some(Seal {
                scheme: signature.scheme,
                signature: signature.bytes,
                chain: signature.chain.into_iter().map(Certificate).collect(),
            });
        }
        Err(error) => tracing::error!(error = &error as &dyn Error, "a ticket cannot be signed"),
    }
}
