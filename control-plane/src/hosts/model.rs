//! Pure rules of hosts.

pub(super) mod change;
pub(super) mod enrollment;
pub(super) mod inventory;
pub(super) mod network;
pub(super) mod state;
