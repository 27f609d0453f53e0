//! Cross-crate suites.

pub mod blkback_rig;
pub mod conformance;
pub mod disk_conformance;
pub mod fuzz;
pub mod hosted;
pub mod mem;
pub mod xenstore;
