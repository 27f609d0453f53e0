//! Cross-crate suites.

pub mod conformance;
pub mod disk_conformance;
pub mod fuzz;
pub mod mem;
pub mod xenstore;
