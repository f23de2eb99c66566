//! The catalogue: what is sold, at which price, and what could be leased.

pub(crate) mod convert;
pub mod model;
pub mod rpc;
mod service;
mod store;
#[cfg(test)]
mod tests;
