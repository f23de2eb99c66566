//! The daemon on each GPU host. It dials out to every control plane replica, runs what it is told to run within the local policy,
//! and never stops a tenant's container for a reason of its own.

pub mod clock;
mod command;
pub mod config;
pub mod daemon;
pub mod enroll;
pub mod facts;
pub mod gpu;
pub mod identity;
pub mod instances;
pub mod journal;
pub mod link;
pub mod model;
mod network;
pub mod policy;
pub mod probe;
mod runtime;
mod scratch;
mod scrub;
pub mod tunnel;
