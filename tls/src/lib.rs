//! Identity and mutual TLS for both binaries: who is at the other end is what its certificate says, and nothing else.
//!
//! There is no switch that turns client authentication off, and no session resumption: every connection proves its
//! identity anew, against the files as they are then. A statement that is carried by others proves its author in the
//! same way, by a signature of the certificate's key.

pub mod identity;

pub mod statement;

#[cfg(feature = "connections")]
pub mod credentials;
#[cfg(feature = "connections")]
pub mod verify;

#[cfg(feature = "connections")]
pub mod accept;
#[cfg(feature = "connections")]
pub mod dial;

#[cfg(feature = "connections")]
pub mod pki;

#[cfg(feature = "connections")]
pub use accept::{Caller, Connection, HandshakeLimits, HandshakeRefused, accept_connections};
#[cfg(feature = "connections")]
pub use credentials::{Credentials, CredentialsError, Files};
#[cfg(feature = "connections")]
pub use dial::{ChannelSettings, DialError, channel};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use statement::{Authorities, Signature, StatementError};
