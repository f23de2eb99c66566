//! Ports for what has to be started again on the same one, or told its port before it starts.

use std::net::TcpListener;

/// A port on 127.0.0.1 that is free now, from below the range that the kernel gives to outgoing connections.
///
/// # Panics
/// When a thousand tries find none.
#[must_use]
pub fn free() -> u16 {
    (0..1000)
        .map(|_| rand::random_range(10_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port among a thousand")
}
