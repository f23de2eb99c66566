//! Who may call what, and see whose things.

mod calls;
pub(crate) mod raw;
mod sweep;
mod tenants;
