//! `lab-peer agent`.

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use ringfence_lab_agent::Agent;
use ringfence_lab_agent::pages::GuestEnd;
use ringfence_lab_agent::rpc::Request;
use ringfence_linux::Linux;
use rustix::process::{Signal, getpid, kill_process};

use crate::native::{InLinux, answered, wait};

/// Starts the agent's process again whenever it is killed; ends with it when it ends by itself.
pub(crate) fn watch_over() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("which program is this?")?;
    loop {
        let mut agent = Command::new(&program)
            .args(["agent", "--once"])
            .spawn()
            .context("the agent cannot be started")?;
        let status = agent.wait().context("the agent is lost")?;
        if let Some(code) = status.code() {
            anyhow::bail!("the agent ended with code {code}");
        }
    }
}

/// Serves until it is killed, as with [`Request::Die`].
pub(crate) fn serve() -> anyhow::Result<ExitCode> {
    // They travel to the caller, who knows whether they were expected.
    std::panic::set_hook(Box::new(|_| {}));
    let native = InLinux(Linux::open()?);
    let domid = native.domid();
    let mut store = native.0.store().context("no connection to XenStore")?;
    let mut pages = GuestEnd::start(&native.0, &mut store)?;
    let mut agent = Agent::new(native);
    println!("lab-peer: agent of domain {domid} is ready");
    loop {
        let request = pages.next_request(&mut wait)?;
        if let Ok(Request::Die) = postcard::from_bytes(&request) {
            // No destructor runs: whatever is held, the kernel takes it back.
            kill_process(getpid(), Signal::KILL)?;
        }
        let answer = answered(&mut agent, &request);
        pages.answer(&answer)?;
    }
}
