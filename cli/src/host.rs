//! `ringfence host`: the broker in the foreground.

use anyhow::{Context, Result};
use clap::Args;
use ringfence_hosted::RunDir;
use ringfence_hosted::broker::Broker;

use crate::quota::{self, Quota};
use crate::signals::Stop;

/// `host`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// What a domain may use of the store, instead of Xen's defaults, e.g. watches=2000; may be given several times
    #[arg(long, value_name = "WHAT=NUMBER")]
    pub quota: Vec<Quota>,
}

/// Runs until SIGTERM, SIGINT or `ringfence shutdown`.
///
/// # Errors
/// The run directory cannot be used, or the system refuses to go on.
pub fn run(run_dir: &RunDir, options: &Options) -> Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let mut broker = Broker::new(run_dir.clone())?;
    broker.set_quotas(quota::limits(&options.quota));
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
