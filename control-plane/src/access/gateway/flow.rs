//! How much of what clients send waits for their instances.
//!
//! russh opens a channel's window again as soon as bytes arrive, whether or not anybody took them, and has the whole connection wait when a
//! channel's queue is full: one stalled command would then stop every other channel, and two full directions would wait for each other for ever.
//! Here queues never fill. Bytes that wait are counted, and a channel with too many of them gets a window of two bytes at a time, so that the
//! client is all but stopped while everything else goes on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use russh::ChannelId;

/// Window of a channel that keeps up.
pub(super) const WINDOW: u32 = 2 * 1024 * 1024;
/// Window of one that does not: the smallest that russh ever opens again.
const TINY: u32 = 2;
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
