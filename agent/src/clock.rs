//! Time as the agent tells it: the machine's monotonic clock inside, the control plane's clock on records.
//!
//! Hosts' wall clocks are wrong often enough that nothing which is billed may depend on them. The control plane's clock arrives with
//! each hello and heartbeat; the agent keeps its offset to `CLOCK_BOOTTIME` and falls back on the system's clock until the first one.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use rustix::time::{ClockId, clock_gettime};

const UNSET: i64 = i64::MIN;

/// A shared clock; clones tell the same time.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Control plane's microseconds since the epoch less monotonic microseconds.
    offset_micros: Arc<AtomicI64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            offset_micros: Arc::new(AtomicI64::new(UNSET)),
        }
    }
}

impl Clock {
    /// Microseconds since the machine booted, sleep included. Never goes back.
    #[must_use]
    pub fn monotonic_micros(&self) -> i64 {
        micros_of(ClockId::Boottime)
    }

    /// Milliseconds since the machine booted.
    #[must_use]
    pub fn monotonic_ms(&self) -> i64 {
        self.monotonic_micros() / 1000
    }

    /// Microseconds since the Unix epoch by the control plane's clock; by the system's before the first hello.
    #[must_use]
    pub fn now_micros(&self) -> i64 {
        self.instant_micros(self.monotonic_micros())
    }

    /// The instant at which the monotonic clock showed `monotonic_micros`.
    #[must_use]
    pub fn instant_micros(&self, monotonic_micros: i64) -> i64 {
        let offset = match self.offset_micros.load(Ordering::Relaxed) {
            UNSET => micros_of(ClockId::Realtime).saturating_sub(self.monotonic_micros()),
            offset => offset,
        };
        monotonic_micros.saturating_add(offset)
    }

    /// Whether the control plane's clock was heard since the agent started.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.offset_micros.load(Ordering::Relaxed) != UNSET
    }

    /// Takes over the control plane's clock: it showed `control_micros` when the monotonic clock showed `monotonic_micros`.
    pub fn set(&self, control_micros: i64, monotonic_micros: i64) {
        let offset = control_micros.saturating_sub(monotonic_micros);
        self.offset_micros.store(offset, Ordering::Relaxed);
    }
}

fn micros_of(id: ClockId) -> i64 {
    let now = clock_gettime(id);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_planes_clock_wins_over_the_systems() {
        let clock = Clock::default();
        assert!(!clock.is_set());
        assert!(clock.now_micros() > 1_600_000_000_000_000);
        let monotonic = clock.monotonic_micros();
        clock.set(5_000_000_000, monotonic);
        let now = clock.now_micros();
        assert!((5_000_000_000..5_060_000_000).contains(&now), "{now}");
        assert_eq!(clock.instant_micros(monotonic), 5_000_000_000);
    }
}
