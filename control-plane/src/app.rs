//! What every service is given.

use std::sync::Arc;

use freehold_proto::id::ReplicaId;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    access::gateway, config::Config, database::Bus, hosts::links::Links, pki::Pki,
    telemetry::Telemetry,
};

/// The parts that capabilities share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// Settings of this replica.
    pub config: Config,
    /// This replica's id, minted at start.
    pub replica_id: ReplicaId,
    /// The cluster's epoch when this replica started.
    pub epoch: i64,
    /// Connections to PostgreSQL.
    pub pool: PgPool,
    /// Signals between replicas and tasks.
    pub bus: Bus,
    /// Connected agents.
    pub links: Links,
    /// What the GPUs do, on its way to the database.
    pub telemetry: Telemetry,
    /// Keys and certificate authorities.
    pub pki: Pki,
    /// What the SSH gateway counts.
    pub ssh: gateway::Activity,
    /// Cancelled when this replica stops: calls without an end of their own end then.
    pub shutdown: CancellationToken,
}

impl App {
    /// Bundles the parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
