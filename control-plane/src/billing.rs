//! The meter, the ledger and the bills.
//!
//! Availability is the meter's only input. [`model::meter`] says what is owed for it, [`model::difference`] what has to be posted so that the
//! books say so, and the store posts it: usage records and a balanced ledger transaction, in one transaction of the database. A report sums
//! usage records and nothing else.

mod convert;
pub mod model;
pub mod reconcile;
pub mod rpc;
mod service;
pub mod store;
#[cfg(test)]
mod tests;
