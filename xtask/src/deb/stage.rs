//! The tree that becomes the package.

use super::binary::Binary;
use crate::process::root;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Files of the repository: where they are, where they go, their mode.
const FILES: &[(&str, &str, u32)] = &[
    (
        "packaging/xen/block-ringfence",
        "etc/xen/scripts/block-ringfence",
        0o755,
    ),
    (
        "packaging/modprobe/ringfence.conf",
        "etc/modprobe.d/ringfence.conf",
        0o644,
    ),
    (
        "packaging/systemd/ringfence-driver-domain.service",
        "lib/systemd/system/ringfence-driver-domain.service",
        0o644,
    ),
    (
        "packaging/systemd/ringfence-xenstored.service",
        "lib/systemd/system/ringfence-xenstored.service",
        0o644,
    ),
    ("README.md", "usr/share/doc/ringfence/README.md", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
];

/// Writes the tree.
pub(super) fn write(tree: &Path, binary: &Binary) -> Result<()> {
    put(tree, "usr/bin/ringfence", &binary.bytes, 0o755)?;
    for (from, to, mode) in FILES {
        put(tree, to, &source(from)?, *mode)?;
    }
    let doc = "usr/share/doc/ringfence";
    let copyright = copyright()?;
    put(
        tree,
        &format!("{doc}/copyright"),
        copyright.as_bytes(),
        0o644,
    )?;
    let changelog = gzip(&root().join("CHANGELOG.md"))?;
    put(tree, &format!("{doc}/changelog.gz"), &changelog, 0o644)?;
    // An administrator's changes to what is below /etc are kept.
    let conffiles: String = FILES
        .iter()
        .filter(|(_, to, _)| to.starts_with("etc/"))
        .map(|(_, to, _)| format!("/{to}\n"))
        .collect();
    put(tree, "DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
    let control = control(binary, installed_size(tree)?)?;
    put(tree, "DEBIAN/control", control.as_bytes(), 0o644)
}

fn source(path: &str) -> Result<Vec<u8>> {
    fs::read(root().join(path)).with_context(|| path.to_owned())
}

fn text(path: &str) -> Result<String> {
    Ok(String::from_utf8(source(path)?)?)
}

/// Writes a file with a mode of its own, whatever the umask is; directories are for everybody to read.
fn put(tree: &Path, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut dir = tree.to_path_buf();
    let mut parts = to.split('/').peekable();
    while let Some(part) = parts.next() {
        if !dir.exists() {
            fs::create_dir_all(&dir)?;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        dir.push(part);
        if parts.peek().is_none() {
            fs::write(&dir, bytes)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn control(binary: &Binary, installed_size: u64) -> Result<String> {
    let depends = if binary.dynamic {
        "kmod, libc6"
    } else {
        "kmod"
    };
    let filled = text("packaging/debian/control.in")?
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@ARCHITECTURE@", binary.architecture)
        .replace("@INSTALLED_SIZE@", &installed_size.to_string())
        .replace("@DEPENDS@", depends);
    if let Some((_, rest)) = filled.split_once('@')
        && rest.starts_with(|c: char| c.is_ascii_uppercase())
    {
        bail!("packaging/debian/control.in: @{rest} is not known");
    }
    Ok(filled)
}

/// `debian/copyright` with the text of the licence indented as the format wants it.
fn copyright() -> Result<String> {
    let mit: Vec<String> = text("LICENSE-MIT")?
        .trim_end()
        .lines()
        .map(|line| match line.trim_end() {
            "" => " .".to_owned(),
            line => format!(" {line}"),
        })
        .collect();
    Ok(text("packaging/debian/copyright")?.replace("@LICENSE-MIT@", &mit.join("\n")))
}

/// Without the time and the name of the file in it.
fn gzip(path: &Path) -> Result<Vec<u8>> {
    let output = Command::new("gzip").args(["-9nc"]).arg(path).output()?;
    if !output.status.success() {
        bail!("gzip {}: {}", path.display(), output.status);
    }
    Ok(output.stdout)
}

/// KiB, each file rounded up, as dpkg counts; the package's own files are not installed.
fn installed_size(tree: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            sum += entry.metadata()?.len().div_ceil(1024);
        } else if entry.file_name() != "DEBIAN" {
            sum += 1 + installed_size(&entry.path())?;
        }
    }
    Ok(sum)
}
