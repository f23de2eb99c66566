//! Access: API keys, the SSH certificate authority, and the SSH gateway.

pub mod ca;
mod convert;
pub mod gateway;
mod model;
pub mod rpc;
mod service;
mod store;
#[cfg(test)]
mod tests;
