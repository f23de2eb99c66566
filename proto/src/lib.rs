//! Freehold's gRPC contracts and the typed ids that every crate shares.
//!
//! Generated types stop at `rpc`, `link` and the command line; everything behind them uses types of its own.

pub mod id;
pub mod time;

/// `freehold.v1`, the public services, and `freehold.agent.v1`, the agents' link.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; the comments are in proto/"
)]
pub mod freehold {
    pub mod v1 {
        tonic::include_proto!("freehold.v1");
    }
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("freehold.agent.v1");
        }
    }
}

pub use freehold::{agent::v1 as agent_v1, v1};

/// The encoded `FileDescriptorSet` of both packages: for reflection, for JSON output and for the sweep test.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The link protocol version that this build speaks. Control plane N talks to agents N and N-1.
pub const LINK_PROTOCOL: i32 = 1;

/// The ALPN protocol of a connection that the agent dials and on which it is then the HTTP/2 server.
pub const REVERSE_ALPN: &[u8] = b"freehold-reverse/1";
