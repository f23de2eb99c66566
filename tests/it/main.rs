//! Freehold as a whole: real processes, real SSH, simulated hosts.

mod sim;
