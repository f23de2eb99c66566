//! Leases: the contract, its instances, and what brings them up and down.
//!
//! A request commits its rows; the reconciler then makes the hosts match. Every step is repeatable: after a crash the next pass goes on.

pub mod availability;
mod convert;
mod explain;
pub mod model;
pub mod offers;
pub mod reconcile;
pub mod reports;
pub mod rpc;
mod service;
pub mod store;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
