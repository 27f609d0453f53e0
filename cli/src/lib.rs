//! The `ringfence` command: what its subcommands do.

pub mod args;
pub mod backend;
pub mod block;
pub mod disk;
pub mod domains;
pub mod guest;
pub mod host;
pub mod nbd;
pub mod signals;
pub mod xenstore;
