//! Leases: the contract, its instances, and what brings them up and down.
//!
//! A request commits its rows; the reconciler then makes the hosts match. Every step is repeatable: after a crash the next pass goes on.

pub mod availability;
pub mod model;
pub mod reconcile;
pub mod reports;
