//! The agent's instances on a real container engine, with small scratches and OpenSSH's own client.
//!
//! They need root, Docker and the image `freehold/base` (`scripts/image-base`); without one of them they are skipped and say so.

mod host;
mod life;
