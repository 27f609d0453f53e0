//! What dom0 and the guests find in their initial ramdisks.

use super::kernel::Kernel;
use super::packages::{Cache, QEMU, XEN};
use super::scenario::{Need, Scenario};
use super::tree::Tree;
use super::{fio, programs, qdisk};
use crate::process::{output_of, root};
use crate::{deb, image};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of dom0 and of the guests.
const MODULES: &[&str] = &[
    "xenfs",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-blkback",
    "xen-blkfront",
    "xen-netback",
    "xen-netfront",
    "bridge",
    "loop",
    "brd",
    "sd_mod",
    "scsi_debug",
    "ext4",
    "crc32c_generic",
    "crc32c-intel",
];

/// Xen's programs of dom0, in its own folder.
const XEN_PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xentop",
    "xenstore-control",
    "xen-diag",
    "lsevtchn",
];

const XEN_BIN: &str = "usr/lib/xen-4.17/bin";

/// The unpacked packages and what is common to every boot.
pub(crate) struct Layout {
    pub(crate) kernel: Kernel,
    pub(crate) qemu: PathBuf,
    cache: Cache,
    xen: PathBuf,
    work: PathBuf,
    base: Tree,
}

impl Layout {
    /// Fetches what is missing.
    pub(crate) fn open(cache: &Cache, work: &Path) -> Result<Self> {
        let xen = cache.unpacked(&XEN)?;
        let qemu = cache.unpacked(&QEMU)?;
        let kernel = {
            let _lock = cache.lock("packages.lock")?;
            Kernel::open(&xen)?
        };
        let mut layout = Self {
            kernel,
            qemu,
            cache: cache.clone(),
            xen,
            work: work.to_owned(),
            base: Tree::default(),
        };
        layout.base = layout.base_tree()?;
        Ok(layout)
    }

    /// The archives of dom0, one behind the other, for these scenarios.
    pub(crate) fn dom0(
        &self,
        scenarios: &[Scenario],
        bin: Option<&Path>,
        patience: u32,
    ) -> Result<Vec<u8>> {
        let has = |need| scenarios.iter().any(|s| s.needs.contains(&need));
        let mut guest = self.base.clone();
        guest.copy_all("lab", &root().join("tests/lab/guest"))?;
        guest.copy("init", &root().join("tests/lab/guest/init"))?;
        let mut dom0 = self.base.clone();
        for program in XEN_PROGRAMS {
            dom0.program(&[&self.xen], &format!("{XEN_BIN}/{program}"))?;
            dom0.link(
                &format!("usr/sbin/{program}"),
                &format!("/{XEN_BIN}/{program}"),
            );
        }
        let files = root().join("tests/lab/dom0");
        dom0.copy_all("lab", &files)?;
        dom0.copy("init", &files.join("init"))?;
        dom0.copy_all("etc/xen/scripts", &files.join("scripts"))?;
        dom0.copy("etc/xen/xl.conf", &files.join("xl.conf"))?;
        let store = root().join("tests/lab/store");
        if store.is_dir() {
            dom0.copy_all("lab/store", &store)?;
            guest.copy_all("lab/store", &store)?;
        }
        if has(Need::Ringfence) {
            let programs = programs::build(&self.work, bin)?;
            for tree in [&mut dom0, &mut guest] {
                for program in &programs {
                    let name = program.file_name().unwrap_or_default().to_string_lossy();
                    tree.copy(&format!("usr/bin/{name}"), program)?;
                }
            }
            // dom0 has what the package installs.
            if let Some(ringfence) = programs.iter().find(|path| path.ends_with("ringfence")) {
                for (to, from) in deb::unpacked(ringfence, &self.work.join("deb"))? {
                    dom0.copy(&to, &from)?;
                }
            }
        }
        if has(Need::GuestImage) {
            dom0.copy("lab/guest-image", &image::build("guest")?)?;
        }
        if has(Need::AgentImage) {
            dom0.copy("lab/agent-image", &image::build("conformance")?)?;
        }
        if has(Need::YourKernel) {
            dom0.copy("lab/your-kernel", &image::follow_page()?)?;
            dom0.copy("lab/your-kernel.md", &root().join("docs/your-kernel.md"))?;
        }
        if has(Need::Grub) {
            for (name, file) in [("pv", "x86_64-xen"), ("pvh", "i386-xen_pvh")] {
                let file = format!("usr/lib/grub-xen/grub-{file}.bin");
                dom0.copy(&format!("lab/grub-{name}"), &self.xen.join(file))?;
            }
            let image = format!("boot/vmlinuz-{}", self.kernel.version);
            dom0.copy("lab/vmlinuz", &self.xen.join(image))?;
        }
        if has(Need::Qdisk) {
            qdisk::add(&mut dom0, &self.cache, &self.xen, &self.qemu)?;
        }
        for scenario in scenarios {
            let path = format!("lab/scenarios/{}.sh", scenario.name);
            dom0.bytes(&path, 0o644, scenario.text.clone().into_bytes());
        }
        let patience = format!("patience={patience}\n");
        dom0.bytes("lab/patience", 0o644, patience.into_bytes());
        let order: String = scenarios
            .iter()
            .map(|s| format!("{} {}\n", s.name, s.limit.as_secs()))
            .collect();
        dom0.bytes("lab/order", 0o644, order.into_bytes());
        let mut archive = Vec::new();
        guest.write(&mut archive)?;
        dom0.bytes("lab/guest.cpio", 0o644, archive);
        dom0.copy("lab/vmlinux", &self.kernel.vmlinux)?;
        let mut archive = Vec::new();
        dom0.write(&mut archive)?;
        Ok(archive)
    }

    /// What dom0 and guests have in common.
    fn base_tree(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        for dir in [
            "dev",
            "etc",
            "lab",
            "lib64",
            "mnt",
            "proc",
            "root",
            "run",
            "sbin",
            "sys",
            "tmp",
            "usr/sbin",
            "var/lib/xen",
            "var/lib/xenstored",
            "var/log/xen/console",
        ] {
            tree.directory(dir);
        }
        tree.link("var/run", "../run");
        tree.link("var/lock", "../run/lock");
        let roots = [self.xen.as_path()];
        let busybox = self.xen.join("bin/busybox");
        tree.copy("bin/busybox", &busybox)?;
        for applet in output_of(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                tree.link(&format!("bin/{applet}"), "busybox");
            }
        }
        tree.link("sbin/modprobe", "../bin/busybox");
        let loader = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
        tree.copy("lib64/ld-linux-x86-64.so.2", &self.xen.join(loader))?;
        // Opened by name when a thread is cancelled, so no program says that it needs it.
        tree.program(&roots, "lib/x86_64-linux-gnu/libgcc_s.so.1")?;
        tree.program(&roots, "usr/bin/xenstore")?;
        for word in [
            "chmod", "exists", "list", "ls", "read", "rm", "watch", "write",
        ] {
            tree.link(&format!("usr/bin/xenstore-{word}"), "xenstore");
        }
        for program in ["sbin/mke2fs", "sbin/e2fsck", "sbin/resize2fs", "sbin/kexec"] {
            tree.program(&roots, program)?;
        }
        tree.link("sbin/mkfs.ext4", "mke2fs");
        tree.link("sbin/fsck.ext4", "e2fsck");
        tree.copy("etc/mke2fs.conf", &self.xen.join("etc/mke2fs.conf"))?;
        fio::add(&mut tree, &self.xen, &self.work.join("fio"))?;
        let folder = format!("lib/modules/{}", self.kernel.version);
        let files = self.kernel.modules(MODULES)?;
        for file in &files {
            tree.copy(&format!("{folder}/{file}"), &self.kernel.module(file))?;
        }
        for (name, text) in self.kernel.tables(&files)? {
            tree.bytes(&format!("{folder}/{name}"), 0o644, text.into_bytes());
        }
        Ok(tree)
    }

    /// The versions of the peers, for the reader of a result.
    pub(crate) fn peers(&self) -> Result<Vec<(&'static str, String)>> {
        let version = |root: &Path, start: &str| {
            std::fs::read_to_string(root.join(".done"))
                .ok()
                .and_then(|_| deb_version(root, start))
                .with_context(|| format!("no version of {start}"))
        };
        Ok(vec![
            ("linux", self.kernel.version.clone()),
            ("xen", version(&self.xen, "xen-hypervisor-4.17-amd64")?),
            ("qemu", version(&self.qemu, "qemu-system-x86")?),
        ])
    }
}

fn deb_version(root: &Path, package: &str) -> Option<String> {
    let debs = root.parent()?.join("debs");
    let start = format!("{package}_");
    std::fs::read_dir(debs).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix(&start)?.split('_').next()?;
        Some(version.replace("%3a", ":"))
    })
}
