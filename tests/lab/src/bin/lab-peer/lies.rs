//! `lab-peer lies`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_core::DomId;
use ringfence_core::store::Store as _;
use ringfence_lab::hostile::backend::Liar;
use ringfence_lab::hostile::lies::Lie;
use ringfence_linux::{Linux, open_store};

/// How often the rings are looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Prints of each disk its number, the lie, and what its frontend has to say; then serves them all.
pub(crate) fn tell(front: DomId) -> anyhow::Result<ExitCode> {
    let linux = Linux::open()?;
    let mut store = open_store().context("no connection to XenStore")?;
    let mut liars = Vec::new();
    for (lie, name, told) in Lie::ALL {
        liars.push(Liar::new(&linux, &mut store, front, lie));
        println!("{} {name} {told}", lie.vdev());
    }
    println!("ready");
    // Each of them, or some would stay as they were when the first one sees that the guest is gone.
    while liars
        .iter_mut()
        .filter_map(|liar| liar.step(&mut store).then_some(()))
        .count()
        > 0
    {
        store.wait(Some(PAUSE))?;
    }
    for liar in liars {
        liar.end(&mut store);
    }
    Ok(ExitCode::SUCCESS)
}
