//! SQL of hosts. A method is a whole transaction, or takes part in the caller's.

pub(super) mod certificate;
pub(super) mod change;
pub(super) mod enrollment;
pub(super) mod finding;
pub(super) mod hello;
pub(crate) mod host;
pub(super) mod session;
