//! What the other tests stand on.

mod harness;
