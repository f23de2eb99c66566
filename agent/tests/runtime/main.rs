//! The agent's instances on a real container engine, with small scratches and OpenSSH's own client.
//!
//! They need root, Docker and the image `freehold/base` (`scripts/image-base`); without one of them they are skipped and say so.

mod faults;
mod host;
mod isolation;
mod life;
mod scrub;
