//! The daemon on each GPU host. It dials out to every control plane replica, runs what it is told to run within the local policy,
//! and never stops a tenant's container for a reason of its own.

pub mod clock;
pub mod config;
pub mod enroll;
pub mod facts;
pub mod gpu;
pub mod identity;
pub mod journal;
pub mod link;
pub mod model;
pub mod policy;
pub mod probe;
pub mod tunnel;
