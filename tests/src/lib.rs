//! Cross-crate suites.

pub mod mem;
pub mod xenstore;
