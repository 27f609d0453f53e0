//! Debian's packages of Xen, Linux, QEMU and the tools: downloaded once, unpacked beside the repository, never installed.

use crate::process::{found, output_of, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages that are unpacked into one folder.
pub(crate) struct Set {
    /// The folder.
    pub(crate) name: &'static str,
    pub(crate) packages: &'static [&'static str],
}

/// Stands for the kernel that this package depends on at the time.
const KERNEL: &str = "linux-image-amd64";

/// Goes into the initial ramdisks of dom0 and of the guests.
pub(crate) const XEN: Set = Set {
    name: "xen",
    packages: &[
        KERNEL,
        "xen-hypervisor-4.17-amd64",
        "xen-utils-4.17",
        "xen-utils-common",
        "xenstore-utils",
        "libxencall1",
        "libxendevicemodel1",
        "libxenevtchn1",
        "libxenforeignmemory1",
        "libxengnttab1",
        "libxenhypfs1",
        "libxenmisc4.17",
        "libxenstore4",
        "libxentoolcore1",
        "libxentoollog1",
        "busybox-static",
        "e2fsprogs",
        "fio",
        "grub-xen-host",
        "kexec-tools",
        "libaio1",
        "libblkid1",
        "libbz2-1.0",
        "libc6",
        "libcom-err2",
        "libext2fs2",
        "libgcc-s1",
        "liblzma5",
        "liblzo2-2",
        "libncurses6",
        "libnl-3-200",
        "libnl-route-3-200",
        "libnuma1",
        "libss2",
        "libtinfo6",
        "libuuid1",
        "libyajl2",
        "libzstd1",
        "zlib1g",
    ],
};

/// The emulator that the lab runs in, with what it is linked against.
pub(crate) const QEMU: Set = Set {
    name: "qemu",
    packages: &[
        "qemu-system-x86",
        "qemu-system-common",
        "qemu-system-data",
        "seabios",
        "ipxe-qemu",
        "libaio1",
        "libblkid1",
        "libbpf1",
        "libcapstone4",
        "libdaxctl1",
        "libelf1",
        "libfdt1",
        "libffi8",
        "libfuse3-3",
        "libglib2.0-0",
        "libgmp10",
        "libgnutls30",
        "libhogweed6",
        "libibverbs1",
        "libidn2-0",
        "libjpeg62-turbo",
        "libkmod2",
        "liblzma5",
        "libmount1",
        "libndctl6",
        "libnettle8",
        "libnl-3-200",
        "libnl-route-3-200",
        "libnuma1",
        "libp11-kit0",
        "libpcre2-8-0",
        "libpixman-1-0",
        "libpmem1",
        "libpng16-16",
        "librdmacm1",
        "libsasl2-2",
        "libseccomp2",
        "libselinux1",
        "libslirp0",
        "libssl3",
        "libtasn1-6",
        "libudev1",
        "libunistring2",
        "liburing2",
        "libuuid1",
        "libvdeplug2",
        "libzstd1",
        "zlib1g",
    ],
};

/// As many are downloaded at a time; an interruption loses no more than that.
const AT_A_TIME: usize = 8;

/// The lab's own folder, outside the repository.
#[derive(Clone)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// `$RINGFENCE_LAB`, else a folder of the user's cache.
    pub(crate) fn open() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dir = if let Some(dir) = set("RINGFENCE_LAB") {
            PathBuf::from(dir)
        } else if let Some(dir) = set("XDG_CACHE_HOME") {
            PathBuf::from(dir).join("ringfence-lab")
        } else if let Some(home) = set("HOME") {
            PathBuf::from(home).join(".cache/ringfence-lab")
        } else {
            PathBuf::from("/var/cache/ringfence-lab")
        };
        fs::create_dir_all(dir.join("debs")).with_context(|| {
            format!(
                "cannot write {}: set RINGFENCE_LAB to a folder",
                dir.display()
            )
        })?;
        Ok(Self(fs::canonicalize(dir)?))
    }

    /// A path in it.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Waits for whoever else is at the same thing; held until it is dropped. `flock FILE cargo xtask lab` holds it
    /// for several runs: nothing is taken then.
    pub(crate) fn lock(&self, name: &str) -> Result<Option<File>> {
        let file = File::create(self.join(name))?;
        if file.try_lock().is_ok() {
            return Ok(Some(file));
        }
        if inherited(&file)? {
            return Ok(None);
        }
        println!("lab: waiting for another run to let go of {name}");
        file.lock()?;
        Ok(Some(file))
    }

    /// The folder with the set's packages, downloaded and unpacked if they were not.
    pub(crate) fn unpacked(&self, set: &Set) -> Result<PathBuf> {
        let root = self.join(set.name);
        let done = root.join(".done");
        let wanted = set.packages.join(" ");
        if fs::read_to_string(&done).is_ok_and(|text| text.trim() == wanted) {
            return Ok(root);
        }
        let _lock = self.lock("packages.lock")?;
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            if !found(tool) {
                bail!("no {tool} here: the lab takes Xen and Linux from Debian 12's packages");
            }
        }
        let packages: Vec<String> = set
            .packages
            .iter()
            .map(|package| match *package {
                KERNEL => kernel(),
                package => Ok(package.to_owned()),
            })
            .collect::<Result<_>>()?;
        let debs = self.download(set.name, &packages)?;
        let fresh = self.join(&format!("{}.partial", set.name));
        remove(&root)?;
        remove(&fresh)?;
        for deb in debs {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(deb)
                .arg(&fresh))?;
        }
        fs::write(fresh.join(".done"), wanted)?;
        fs::rename(&fresh, &root)?;
        Ok(root)
    }

    fn download(&self, set: &str, packages: &[String]) -> Result<Vec<PathBuf>> {
        let debs = self.join("debs");
        let missing: Vec<&String> = packages
            .iter()
            .filter(|package| deb_of(&debs, package).is_none())
            .collect();
        if !missing.is_empty() {
            println!(
                "lab: downloading {} packages for {set} to {}",
                missing.len(),
                debs.display()
            );
        }
        for chunk in missing.chunks(AT_A_TIME) {
            // Only whole files ever have their final names.
            let partial = debs.join("partial");
            remove(&partial)?;
            fs::create_dir(&partial)?;
            let output = Command::new("apt-get")
                .args(["download", "-qq", "-o", "APT::Sandbox::User=root"])
                .args(chunk)
                .current_dir(&partial)
                .output()?;
            if !output.status.success() {
                bail!(
                    "apt-get download failed; `apt-get update` and a network that reaches Debian 12's archive are needed:\n{}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            for entry in fs::read_dir(&partial)? {
                let entry = entry?;
                fs::rename(entry.path(), debs.join(entry.file_name()))?;
            }
        }
        packages
            .iter()
            .map(|package| {
                deb_of(&debs, package).with_context(|| format!("apt-get gave no {package}"))
            })
            .collect()
    }
}

/// The kernel that is current in the package lists.
fn kernel() -> Result<String> {
    output_of(Command::new("apt-cache").args(["depends", KERNEL]))
        .ok()
        .and_then(|text| {
            let name = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("Depends: "))?;
            Some(name.to_owned())
        })
        .context("the package lists name no linux-image-amd64: `apt-get update` first")
}

fn deb_of(debs: &Path, package: &str) -> Option<PathBuf> {
    let start = format!("{package}_");
    fs::read_dir(debs)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .map(|entry| entry.path())
}

/// Whether somebody opened this file for us before we began, as flock(1) does.
fn inherited(file: &File) -> Result<bool> {
    let ours = file.metadata()?;
    let mut same = 0;
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        if let Ok(other) = fs::metadata(entry.path()) {
            same += usize::from((other.dev(), other.ino()) == (ours.dev(), ours.ino()));
        }
    }
    // One of them is `file` itself.
    Ok(same > 1)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
