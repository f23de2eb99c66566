//! Three listeners: public (TLS always), agent (mutual TLS), admin (loopback). One accept loop serves the first two.

pub mod accept;
mod admin;
mod tls;

pub use accept::{Connection, Peer, PeerCertificate};
pub use admin::serve_admin;
pub use tls::{agent_tls, public_tls, renew_certificates};
