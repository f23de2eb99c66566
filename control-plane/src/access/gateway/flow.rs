//! How much of what clients send waits for their instances.
//!
//! russh opens a channel's window again as soon as bytes arrive, whether or not anybody took them, and has the whole connection wait when a
//! channel's queue is full: one stalled command would then stop every other channel, and two full directions would wait for each other for ever.
//! Here queues never fill. Bytes that wait are counted, and a channel with too many of them gets a window of two bytes at a time, so that the
//! client is all but stopped while everything else goes on. Each of those two bytes is a moment late, or sending them would keep a processor busy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use russh::ChannelId;

/// Window of a channel that keeps up.
pub(super) const WINDOW: u32 = 2 * 1024 * 1024;
/// Window of one that does not: the smallest that russh ever opens again.
const TINY: u32 = 2;
/// How late the bytes of a tiny window are taken: 500 of them in a second, and everything else on the connection 2 ms later for each.
const PAUSE: Duration = Duration::from_millis(2);
/// A channel with more bytes waiting does not keep up.
const HIGH: usize = 1024 * 1024;
/// A connection with more bytes waiting opens no window at all. They can grow beyond [`HIGH`] because the window of the next packet is chosen before
/// it is known which channel it belongs to.
const FULL: usize = 32 * 1024 * 1024;
/// A client that sends more than its windows allow is cut off.
const LIMIT: usize = 64 * 1024 * 1024;
/// What keeping a message costs beside its bytes.
const OVERHEAD: usize = 128;

/// The bytes that wait, by channel. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Backlog {
    channels: Arc<Mutex<HashMap<ChannelId, usize>>>,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, usize>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a channel from now on.
    pub(super) fn open(&self, channel: ChannelId) {
        self.lock().entry(channel).or_default();
    }

    /// Channels that are counted.
    pub(super) fn channels(&self) -> usize {
        self.lock().len()
    }

    /// Bytes of a channel were queued. False: more wait than any client may have.
    #[must_use]
    pub(super) fn queued(&self, channel: ChannelId, bytes: usize) -> bool {
        let mut channels = self.lock();
        if let Some(waiting) = channels.get_mut(&channel) {
            *waiting += bytes + OVERHEAD;
        }
        channels.values().sum::<usize>() <= LIMIT
    }

    /// How long to wait before more of the connection is read, when `bytes` were sent through a tiny window.
    pub(super) fn pause(&self, channel: ChannelId, bytes: usize) -> Option<Duration> {
        let tiny = u32::try_from(bytes).is_ok_and(|bytes| bytes <= TINY);
        (tiny && self.next_window(channel) == TINY).then_some(PAUSE)
    }

    /// Bytes of a channel were taken.
    pub(super) fn taken(&self, channel: ChannelId, bytes: usize) {
        if let Some(waiting) = self.lock().get_mut(&channel) {
            *waiting = waiting.saturating_sub(bytes + OVERHEAD);
        }
    }

    /// The window to open with the next packet, after one for this channel was opened.
    pub(super) fn next_window(&self, channel: ChannelId) -> u32 {
        let channels = self.lock();
        let waiting = channels.get(&channel).copied().unwrap_or(0);
        if waiting > HIGH || channels.values().sum::<usize>() > FULL {
            TINY
        } else {
            WINDOW
        }
    }

    /// Forgets a channel.
    pub(super) fn close(&self, channel: ChannelId) {
        self.lock().remove(&channel);
    }
}

#[cfg(test)]
mod tests {
    use russh::keys::ssh_encoding::Decode as _;

    use super::*;

    fn channel(number: u8) -> ChannelId {
        ChannelId::decode(&mut [0, 0, 0, number].as_slice()).unwrap()
    }

    fn backlog() -> Backlog {
        let backlog = Backlog::default();
        backlog.open(channel(1));
        backlog.open(channel(2));
        backlog
    }

    #[test]
    fn a_channel_that_does_not_keep_up_is_slowed_and_the_others_are_not() {
        let backlog = backlog();
        assert!(backlog.queued(channel(1), HIGH + 1));
        assert_eq!(backlog.next_window(channel(1)), TINY);
        assert!(backlog.pause(channel(1), 2).is_some());
        assert_eq!(backlog.next_window(channel(2)), WINDOW);
        assert!(backlog.pause(channel(2), 2).is_none());
        backlog.taken(channel(1), HIGH + 1);
        assert_eq!(backlog.next_window(channel(1)), WINDOW);
    }

    #[test]
    fn a_connection_that_is_full_slows_every_channel() {
        let backlog = backlog();
        assert!(backlog.queued(channel(1), FULL + 1));
        assert_eq!(backlog.next_window(channel(2)), TINY);
        backlog.close(channel(1));
        assert_eq!(backlog.next_window(channel(2)), WINDOW);
    }

    #[test]
    fn more_than_any_window_allows_is_refused() {
        let backlog = backlog();
        assert!(!backlog.queued(channel(1), LIMIT + 1));
    }

    #[test]
    fn what_comes_for_a_channel_that_nobody_carries_is_not_counted() {
        let backlog = backlog();
        assert!(backlog.queued(channel(3), LIMIT + 1));
        assert_eq!(backlog.channels(), 2);
    }
}
