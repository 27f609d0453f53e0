//! What the platforms whose domains run Linux processes share: a [supervisor's view](child) of the process, [packets](packet)
//! with descriptors between the two, [images] with their [locks], [records] that outlive the process, and the [sandbox] with its
//! [restricted ring](RestrictedRing).
//!
//! The supervisor opens what the configuration names and maps no guest page; the process serves guests and opens nothing.

pub mod child;
mod fnv;
mod image;
pub mod images;
pub mod locks;
pub mod nbd;
mod open;
pub mod packet;
pub mod probe;
pub mod records;
pub mod restart;
pub mod sandbox;
mod uring;

pub use image::{Backing, Cache, ImageError, ImageFormat, ImageSpec};
pub use open::BACKING_MAX;
pub use uring::RestrictedRing;
