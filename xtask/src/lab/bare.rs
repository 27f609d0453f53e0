//! Machines without Xen, where all that a guest kernel can do is say so and switch off.

use super::boot::Verdict;
use super::packages::{Cache, QEMU};
use super::qemu;
use super::scenario::{Need, Scenario};
use crate::image;
use crate::process::watch;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Duration;

/// The word of `boot:` of scenarios in such a machine.
pub(crate) const BOOT: &str = "without-xen";

/// What a kernel has to say there.
const NO_XEN: &str = "ringfence: no Xen here";

/// Boots every kernel that the scenario needs.
pub(crate) fn try_all(scenario: &Scenario) -> Result<Verdict> {
    for need in &scenario.needs {
        let kernel = match need {
            Need::GuestImage => image::build("guest")?,
            Need::AgentImage => image::build("conformance")?,
            Need::YourKernel => image::follow_page()?,
            Need::Ringfence | Need::Qdisk | Need::Grub => bail!("{} needs Xen", scenario.name),
        };
        if let Err(error) = boot(&kernel) {
            return Ok(Verdict::Failed(format!("{error:#}")));
        }
    }
    Ok(Verdict::Passed)
}

/// What a kernel says on the first serial port, until it switches the machine off.
pub(crate) fn boot(kernel: &Path) -> Result<String> {
    let qemu = Cache::open()?.unpacked(&QEMU)?;
    let ended = watch(
        &mut qemu::without_xen(&qemu, kernel),
        Duration::from_secs(120),
    )?;
    let said = ended.output;
    match ended.status {
        Some(status) if !status.success() => bail!("QEMU failed: {status}: {said}"),
        Some(_) if said.contains(NO_XEN) => Ok(said),
        Some(_) => bail!("{} does not say `{NO_XEN}`: {said}", kernel.display()),
        None => bail!("{} does not switch off: {said}", kernel.display()),
    }
}
