//! Bad input gets a clear error: the field, what was wrong, and what would be right; nothing is half-done.

mod fields;
mod messages;
