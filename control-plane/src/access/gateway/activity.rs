//! What the gateway counts for the metrics.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counts of one replica since its start. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    open: Gauge,
    admitted: Counter,
    refused: Counter,
    dropped: Counter,
}

/// A connection that is counted while this lives.
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Activity {
    /// Shows the counts among the metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "ssh_connections",
            "SSH connections that are open",
            self.open.clone(),
        );
        registry.register(
            "ssh_logins",
            "SSH logins that were let in",
            self.admitted.clone(),
        );
        registry.register(
            "ssh_logins_refused",
            "Keys and certificates that were not let in",
            self.refused.clone(),
        );
        registry.register(
            "ssh_connections_dropped",
            "SSH connections that were dropped because there were too many",
            self.dropped.clone(),
        );
    }

    pub(super) fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn count_admitted(&self) {
        self.admitted.inc();
    }

    pub(super) fn count_refused(&self) {
        self.refused.inc();
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.inc();
    }
}
