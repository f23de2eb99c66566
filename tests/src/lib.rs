//! What the end-to-end tests stand on: simulated hosts that speak the real protocol, deployments of the real binaries that can be killed
//! and cut off, and clients: gRPC, the command line, OpenSSH.

pub mod client;
pub mod command;
pub mod deployment;
pub mod invariants;
pub mod ports;
pub mod sim_agent;
pub mod wait;
