//! The exported functions, by subject.

mod ecc;
mod events;
mod fields;
mod identity;
mod links;
mod memory;
mod processes;
mod sensors;
mod settings;
mod system;
