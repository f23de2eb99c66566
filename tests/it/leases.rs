//! Leases as tenants know them.

mod life;
mod repeated;
mod several;
mod windows;
