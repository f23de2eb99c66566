//! The control plane: catalogue, leases, access, billing. One binary; any number of replicas on one PostgreSQL.
//!
//! docs/ARCHITECTURE.md has the map. Inside a capability: rpc → service → model ← store, and reconcile in the background.

pub mod access;
pub mod app;
pub mod audit;
pub mod background;
pub mod billing;
mod bootstrap;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod database;
pub mod error;
pub mod gate;
pub mod hosts;
pub mod leases;
pub mod listeners;
mod metrics;
pub mod organizations;
pub mod page;
pub mod pki;
mod server;
mod services;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;

pub use server::Server;
