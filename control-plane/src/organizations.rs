//! Tenants and their cost centres, and the one place that decides which of them a call is about.

mod convert;
pub mod rpc;
pub mod scope;
mod service;
mod store;
