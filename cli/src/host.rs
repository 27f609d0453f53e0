//! `ringfence host`: the broker in the foreground.

use anyhow::{Context, Result};
use ringfence_hosted::RunDir;
use ringfence_hosted::broker::Broker;

use crate::signals::Stop;

/// Runs until SIGTERM, SIGINT or `ringfence shutdown`.
///
/// # Errors
/// The run directory cannot be used, or the system refuses to go on.
pub fn run(run_dir: &RunDir) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let mut broker = Broker::new(run_dir.clone())?;
    let handle = broker.stop_handle();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if stop.wait().is_ok() {
                handle.stop();
            }
        })?;
    crate::say(
        &serde_json::json!({ "ready": { "pid": std::process::id(), "run_dir": run_dir.path() } }),
    );
    broker.run().context("the broker cannot go on")
}
