//! Cross-crate suites.

pub mod fuzz;
pub mod mem;
pub mod xenstore;
