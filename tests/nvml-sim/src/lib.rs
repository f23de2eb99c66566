//! A `libnvidia-ml.so.1` that simulates a host's GPUs.
//!
//! It exports NVML's C ABI, so `freehold-agent`, `nvidia-ml-py`, `gpustat` and anything else that loads NVML works on it unchanged. What
//! it answers comes from a TOML file, the *scenario* ([`scenario`] describes it): `$FREEHOLD_NVML_SCENARIO`, else
//! `/etc/freehold-sim/scenario.toml`. Every call looks whether the file was replaced or rewritten, so a GPU can fall off the bus, heat
//! up or make a call hang while a program runs. A scenario that cannot be read is refused on the first call (driver not loaded) and
//! ignored afterwards; standard error says why.
//!
//! What setters set outlives the process: it is kept in `state` beside the scenario ([`state`]). Where that directory cannot be
//! written, as inside an instance, setters answer "no permission", which is what a tenant gets from a driver too.
//!
//! The library exports the symbol `freehold_nvml_sim`, by which a program can tell it from the driver's.

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the names and contracts are NVML's"
)]

mod abi;
mod call;
mod host;
mod live;
mod model;
pub mod scenario;
mod state;

/// Present in the simulator only. Its value is the version of the scenario's format.
#[unsafe(no_mangle)]
pub static freehold_nvml_sim: u32 = 1;
