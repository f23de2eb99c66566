//! The machines: enrolment, the link to their agents, what they have, and whether they may be leased.

mod convert;
mod heard;
mod link;
pub mod links;
pub(crate) mod metrics;
mod model;
pub mod quarantine;
mod reconcile;
mod rpc;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use link::LinkRpc;
pub(crate) use link::serve_reversed;
pub(crate) use reconcile::spawn_reconcilers;
pub use rpc::{EnrollmentRpc, HostRpc};
pub(crate) use store::host::find as find_host;
