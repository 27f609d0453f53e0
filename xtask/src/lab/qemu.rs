//! The machine: QEMU without hardware virtualisation, which can do all that Xen asks for.

use super::layout::Layout;
use super::scenario::Machine;
use crate::process::found;
use std::path::Path;
use std::process::Command;

/// What QEMU 7.2 emulates wrongly is off, see tests/lab/README.md.
const CPU: &str = "EPYC,-smap,-monitor,-rdtscp,-avx,-avx2,-f16c,-xsave,-xsaveopt,-fsgsbase";

/// Xen's arguments: the console is the first serial port, the second one is left to dom0.
const XEN: &str = "dom0_mem=1536M,max:1536M dom0_max_vcpus=2 com1=115200,8n1 console=com1 \
                   loglvl=warning guest_loglvl=warning sched=credit2 conring_size=512k";

const DOM0: &str = "console=hvc0 quiet loglevel=4 panic=1";

/// Where the two serial ports go.
pub(crate) enum Ports {
    /// The console to standard error, dom0's reports to standard output.
    Split,
    /// The console to the terminal.
    Terminal,
}

/// QEMU of the packages unpacked at `root`, which finds its own files.
fn program(root: &Path) -> Command {
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    let program = root.join("usr/bin/qemu-system-x86_64");
    // Whatever ends us, nobody has to look for a machine that was left running.
    let mut qemu = if found("setpriv") {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "KILL"]).arg(program);
        setpriv
    } else {
        Command::new(program)
    };
    qemu.env(
        "LD_LIBRARY_PATH",
        format!(
            "{}:{}",
            lib.display(),
            root.join("lib/x86_64-linux-gnu").display()
        ),
    );
    qemu.env("QEMU_MODULE_DIR", lib.join("qemu"));
    for dir in ["usr/share/seabios", "usr/share/qemu", "usr/lib/ipxe/qemu"] {
        qemu.arg("-L").arg(root.join(dir));
    }
    qemu
}

/// A machine without Xen that boots `kernel`; its first serial port is standard output.
pub(crate) fn without_xen(root: &Path, kernel: &Path) -> Command {
    let mut qemu = program(root);
    qemu.args("-machine q35 -cpu qemu64 -accel tcg -m 64M -nodefaults -no-user-config".split(' '));
    qemu.args("-display none -no-reboot -monitor none -serial stdio".split(' '));
    qemu.arg("-kernel").arg(kernel);
    qemu
}

/// QEMU, ready to run.
pub(crate) fn command(layout: &Layout, machine: &Machine, initrd: &Path, ports: &Ports) -> Command {
    let mut qemu = program(&layout.qemu);
    let thread = machine.thread.as_deref().unwrap_or("multi");
    let cpus = machine.cpus.unwrap_or(2);
    qemu.args(["-machine", "q35", "-cpu", CPU, "-m", "4G"]);
    qemu.arg("-accel").arg(format!("tcg,thread={thread}"));
    qemu.arg("-smp").arg(cpus.to_string());
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    match ports {
        Ports::Split => qemu.args([
            "-monitor",
            "none",
            "-serial",
            "file:/dev/stderr",
            "-serial",
            "stdio",
        ]),
        Ports::Terminal => qemu.args(["-serial", "mon:stdio", "-serial", "null"]),
    };
    qemu.arg("-kernel").arg(&layout.kernel.xen);
    qemu.arg("-append").arg(format!("{XEN} {}", machine.xen));
    qemu.arg("-initrd").arg(format!(
        "{} {DOM0} {},{}",
        layout.kernel.vmlinux.display(),
        machine.dom0,
        initrd.display()
    ));
    qemu.args(machine.qemu.split_whitespace());
    qemu
}
