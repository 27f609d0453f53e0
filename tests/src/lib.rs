//! Cross-crate suites.

pub mod mem;
