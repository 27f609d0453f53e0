//! Xen, the kernel and its modules out of the unpacked packages.

use crate::process::output_of;
use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel that dom0 and the guests boot, and the hypervisor.
pub(crate) struct Kernel {
    /// As in /lib/modules.
    pub(crate) version: String,
    /// The hypervisor, as QEMU loads it: not compressed.
    pub(crate) xen: PathBuf,
    /// The kernel as an ELF file: nobody has to decompress it under emulation.
    pub(crate) vmlinux: PathBuf,
    /// lib/modules/VERSION of the packages.
    modules: PathBuf,
    /// Each module's file, and the files it needs.
    dependencies: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// Out of the packages in `root`; what has to be unpacked is kept in `root/out`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let version = only_entry(&root.join("lib/modules"), "", "")?;
        let out = root.join("out");
        fs::create_dir_all(&out)?;
        let busybox = root.join("bin/busybox");
        let xen = out.join("xen");
        if !xen.is_file() {
            let packed = only_entry(&root.join("boot"), "xen-4.", ".gz")?;
            let packed = fs::read(root.join("boot").join(packed))?;
            keep(&xen, &filter(&busybox, "gunzip", packed)?)?;
        }
        let vmlinux = out.join("vmlinux");
        if !vmlinux.is_file() {
            let image = fs::read(root.join("boot").join(format!("vmlinuz-{version}")))?;
            let payload = payload(&image).context("the kernel is no bzImage")?;
            if !payload.starts_with(b"\xfd7zXZ\0") {
                bail!("the kernel {version} is not compressed with xz, which is all the lab knows");
            }
            keep(&vmlinux, &unxz(payload)?)?;
        }
        let modules = root.join("lib/modules").join(&version);
        if !modules.join("modules.dep").is_file() {
            output_of(
                Command::new(&busybox)
                    .arg("depmod")
                    .arg("-b")
                    .arg(root)
                    .arg(&version),
            )?;
        }
        let dependencies = dependencies(&fs::read_to_string(modules.join("modules.dep"))?);
        Ok(Self {
            version,
            xen,
            vmlinux,
            modules,
            dependencies,
        })
    }

    /// The files of these modules and of those they need, relative to lib/modules/VERSION.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<BTreeSet<&str>> {
        let mut files = BTreeSet::new();
        let mut todo = Vec::new();
        for name in names {
            let file = self.dependencies.keys().find(|file| is_module(file, name));
            todo.push(file.with_context(|| format!("the kernel has no module {name}"))?);
        }
        while let Some(file) = todo.pop() {
            if files.insert(file.as_str()) {
                todo.extend(self.dependencies.get(file).into_iter().flatten());
            }
        }
        Ok(files)
    }

    /// Where a file of `modules` is on this machine.
    pub(crate) fn module(&self, file: &str) -> PathBuf {
        self.modules.join(file)
    }

    /// modules.dep and modules.alias for these files only: modprobe reads all of both.
    pub(crate) fn tables(&self, files: &BTreeSet<&str>) -> Result<[(&'static str, String); 2]> {
        let mut dep = String::new();
        for file in files {
            let needs = self.dependencies.get(*file).map(|needs| needs.join(" "));
            dep.push_str(&format!("{file}: {}\n", needs.unwrap_or_default()));
        }
        let aliases = fs::read_to_string(self.modules.join("modules.alias"))?;
        let wanted = |line: &&str| {
            line.rsplit_once(' ')
                .is_some_and(|(_, name)| files.iter().any(|file| is_module(file, name)))
        };
        let mut alias: String = aliases
            .lines()
            .filter(wanted)
            .collect::<Vec<_>>()
            .join("\n");
        alias.push('\n');
        Ok([("modules.dep", dep), ("modules.alias", alias)])
    }
}

fn dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (file.to_owned(), needs)
        })
        .collect()
}

fn is_module(file: &str, name: &str) -> bool {
    let stem = file.rsplit('/').next().and_then(|f| f.strip_suffix(".ko"));
    stem.is_some_and(|stem| stem.replace('-', "_") == name.replace('-', "_"))
}

/// The compressed kernel in a bzImage, without the length behind it: Linux's Documentation/x86/boot.rst.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        let bytes = image.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let sectors = usize::from(*image.get(0x1f1)?);
    let start = ((sectors + 1) * 512).checked_add(number(0x248)?)?;
    let end = start.checked_add(number(0x24c)?)?.checked_sub(4)?;
    image.get(start..end)
}

fn only_entry(dir: &Path, start: &str, end: &str) -> Result<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(start) && name.ends_with(end))
        .collect();
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        (Some(_), false) => bail!("{} has several {start}*", dir.display()),
        (None, _) => bail!("{} has no {start}*", dir.display()),
    }
}

/// Busybox cannot: kernels are packed with a filter for x86 code.
fn unxz(packed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    XzReader::new(packed, false)
        .read_to_end(&mut plain)
        .context("cannot unpack the kernel")?;
    if !plain.starts_with(b"\x7fELF") {
        bail!("the kernel is no ELF file");
    }
    Ok(plain)
}

/// What `busybox APPLET -c` makes of `input`.
fn filter(busybox: &Path, applet: &str, input: Vec<u8>) -> Result<Vec<u8>> {
    let mut child = Command::new(busybox)
        .args([applet, "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", busybox.display()))?;
    let mut pipe = child.stdin.take().context("no pipe")?;
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output()?;
    let written = writer.join();
    if !output.status.success() || !matches!(written, Ok(Ok(()))) {
        bail!("{applet} failed: {}", output.status);
    }
    Ok(output.stdout)
}

/// Whole or not at all.
fn keep(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content)?;
    fs::rename(partial, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_those_it_needs() {
        let kernel = Kernel {
            version: "6".into(),
            xen: PathBuf::new(),
            vmlinux: PathBuf::new(),
            modules: PathBuf::new(),
            dependencies: dependencies(
                "fs/ext4/ext4.ko: fs/jbd2.ko\nfs/jbd2.ko: lib/crc_16.ko\nlib/crc_16.ko:\nx/y.ko:\n",
            ),
        };
        let files = kernel.modules(&["ext4"]).expect("is there");
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            ["fs/ext4/ext4.ko", "fs/jbd2.ko", "lib/crc_16.ko"]
        );
        assert!(kernel.modules(&["crc-16"]).is_ok());
        assert!(kernel.modules(&["ext"]).is_err());
    }

    #[test]
    fn the_payload_is_found_and_bounded() {
        let mut image = vec![0_u8; 2048];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12_u32.to_le_bytes());
        image[1040..1048].copy_from_slice(b"PAYLOAD!");
        assert_eq!(payload(&image), Some(&b"PAYLOAD!"[..]));
        image[0x24c..0x250].copy_from_slice(&4096_u32.to_le_bytes());
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"short"), None);
    }
}
