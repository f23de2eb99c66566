//! Pure types and rules: no clock, no database.

pub mod condition;
pub mod decision;
pub mod instance;
pub mod lease;
pub mod placement;
pub mod request;
pub mod slots;
pub mod span;
