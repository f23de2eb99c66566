//! Pure types and rules: no clock, no database.

pub mod condition;
pub mod instance;
