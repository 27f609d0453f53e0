//! Cross-crate suites.

pub mod blkback_rig;
/// A frontend in a simulated world, and a backend that does exactly as it is told.
pub mod blkfront_rig;
pub mod conformance;
pub mod crash_rig;
pub mod disk_conformance;
pub mod fuzz;
pub mod hosted;
pub mod mem;
pub mod xenstore;
