//! The `ringfence` command: what its subcommands do.

pub mod args;
pub mod disk;
pub mod guest;
pub mod nbd;
