//! `cargo xtask lab shell`: dom0 on this terminal.

use super::layout::Layout;
use super::qemu::{self, Ports};
use super::scenario::Machine;
use crate::process::run;
use anyhow::Result;
use std::path::Path;

/// Runs until dom0 is off, or Ctrl-A X.
pub(crate) fn run_shell(layout: &Layout, initrd: &Path) -> Result<()> {
    println!("lab: dom0 comes up here; Ctrl-A X ends it, `poweroff -f` too");
    let machine = Machine {
        dom0: "lab=shell".to_owned(),
        ..Machine::default()
    };
    run(&mut qemu::command(
        layout,
        &machine,
        initrd,
        &Ports::Terminal,
    ))
}
