//! Which hosts were heard since it was last written down.
//!
//! Ten thousand agents that beat every five seconds would be two thousand updates a second: what was heard is kept here and written once a
//! second, in one statement.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::HostId;

/// The hosts that were heard, and the database's clock as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Heard {
    hosts: Mutex<HashMap<HostId, Instant>>,
    /// The database's clock less this machine's, in microseconds.
    offset_us: AtomicI64,
}

impl Heard {
    /// Notes that a host was heard now.
    pub(super) fn note(&self, host: HostId) {
        self.lock().insert(host, Instant::now());
    }

    /// Takes what was noted, ordered by id.
    pub(super) fn take(&self) -> Vec<(HostId, Instant)> {
        let mut hosts: Vec<_> = self.lock().drain().collect();
        hosts.sort_unstable();
        hosts
    }

    /// Puts back what could not be written; what was heard since then stays.
    pub(super) fn put_back(&self, hosts: Vec<(HostId, Instant)>) {
        let mut noted = self.lock();
        for (host, at) in hosts {
            noted.entry(host).or_insert(at);
        }
    }

    /// Sets the clock.
    pub(super) fn set_clock(&self, database_now: DateTime<Utc>) {
        let offset = database_now - Utc::now();
        self.offset_us
            .store(offset.num_microseconds().unwrap_or(0), Ordering::Relaxed);
    }

    /// The database's time, as far as this replica knows it.
    pub(super) fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::microseconds(self.offset_us.load(Ordering::Relaxed))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HostId, Instant>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
