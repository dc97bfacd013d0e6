//! TLS, certificates, the enrolment client and the agent's websocket: how Towline's parts reach each other.
//!
//! Owns keys and certificates (making, reading, issuing), the TLS settings of every listener and client, the serving
//! loop with its limits, and the byte side of a session. Must not know what a message means: that is `protocol`'s,
//! `agent`'s and `control-plane`'s. Driven by every program that opens or accepts a connection.

pub mod authority;
pub mod backoff;
pub mod blob_grant;
pub mod certificate;
pub mod client;
pub mod enrol;
pub mod keys;
pub mod member;
pub mod name;
pub mod plain;
pub mod server;
pub mod websocket;

mod tls;

pub use tls::{TlsError, TlsIdentity, install_crypto_provider};
