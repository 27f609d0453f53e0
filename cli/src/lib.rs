//! The `ringfence` command: what its subcommands do.

pub mod args;
pub mod backend;
pub mod block;
pub mod disk;
pub mod domains;
pub mod guest;
pub mod host;
pub mod image;
pub mod nbd;
pub mod quota;
mod rarely;
pub mod signals;
pub mod statistics;
pub mod top;
pub mod upgrade;
pub mod xen;
pub mod xenstore;
pub mod xenstored;

/// Prints one line of JSON for whoever started us. That nobody reads it any more is no reason to stop.
fn say(value: &serde_json::Value) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{value}");
}
