//! Identity and mutual TLS for both binaries: who is at the other end is what its certificate says, and nothing else.
//!
//! There is no switch that turns client authentication off, and no session resumption: every connection proves its
//! identity anew, against the files as they are then.

pub mod identity;

pub mod credentials;
pub mod verify;

pub mod accept;
pub mod dial;

pub mod pki;

pub use accept::{Caller, Connection, HandshakeLimits, HandshakeRefused, accept_connections};
pub use credentials::{Credentials, CredentialsError, Files};
pub use dial::{ChannelSettings, DialError, channel};
pub use identity::{Identity, IdentityError, TrustDomain};
