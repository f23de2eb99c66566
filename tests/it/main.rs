//! Freehold as a whole: real processes, real SSH, simulated hosts.

mod bad_input;
mod faults;
mod gate;
mod leases;
mod sim;
