//! The gateway, with OpenSSH in front of it and behind it.

mod entry;
mod forwarding;
mod sessions;
mod world;

use world::World;
