//! The device model that xl starts for `backendtype=qdisk`: Debian's QEMU for Xen. For a PV guest it is a disk backend and
//! nothing else (`-machine xenpv`), so it needs its libraries and no firmware.

use super::packages::{Cache, Set};
use super::tree::Tree;
use anyhow::Result;
use std::path::Path;

/// QEMU, and what it is linked against beside the libraries of Xen and of the lab's own QEMU.
const PACKAGES: Set = Set {
    name: "qdisk",
    packages: &[
        "qemu-system-xen",
        "libbz2-1.0",
        "libdw1",
        "libelf1",
        "libffi8",
        "libgcc-s1",
        "libglib2.0-0",
        "libgstreamer-plugins-base1.0-0",
        "libgstreamer1.0-0",
        "liblz4-1",
        "liblzma5",
        "libopus0",
        "liborc-0.4-0",
        "libpcre2-8-0",
        "libspice-server1",
        "libssl3",
        "libstdc++6",
        "libudev1",
        "libunwind8",
        "libusb-1.0-0",
        "zlib1g",
    ],
};

/// Where this libxl looks for it; the name says i386, but it serves every guest.
const DEVICE_MODEL: &str = "usr/libexec/xen-qemu-system-i386";

/// Read at start because xl passes `-vnc none`.
const KEYMAP: &str = "usr/share/qemu/keymaps/en-us";

/// Adds it to dom0; `xen` and `qemu` are the unpacked packages of those names.
pub(crate) fn add(tree: &mut Tree, cache: &Cache, xen: &Path, qemu: &Path) -> Result<()> {
    let own = cache.unpacked(&PACKAGES)?;
    tree.program(&[xen, &own, qemu], DEVICE_MODEL)?;
    tree.copy(KEYMAP, &qemu.join(KEYMAP))
}
