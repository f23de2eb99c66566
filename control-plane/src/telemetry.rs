//! What the GPUs do: the newest sample, one-minute rollups and events.
//!
//! ```text
//! agents' batches ──► buffer (memory, bounded) ──► PostgreSQL, in batches ──► whoever asks, at any replica
//! ```
//! Raw samples are not kept: of each host the newest stays in memory and is written down every few seconds. What an agent sends twice is
//! written once.

mod buffer;
pub(crate) mod convert;
mod model;
pub(crate) mod reconcile;
pub mod rpc;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use buffer::Telemetry;
