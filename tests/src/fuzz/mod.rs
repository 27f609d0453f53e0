//! Fuzz targets as plain functions: run over a corpus on stable, and by cargo-fuzz where there is a nightly.

pub mod blkback;
pub mod blkfront;
pub mod journal;
pub mod nbd;
pub mod ring;
pub mod store_client;
pub mod worlds;
pub mod xenstored;
