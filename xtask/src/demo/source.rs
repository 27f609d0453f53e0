//! The disk that is copied.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{output_of, root};

/// Size of the image that is made when none is given.
const MIB: u64 = 256;

/// The image that the user named. What is wrong with it the broker says when it opens it.
pub(crate) fn given(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("--disk {}", path.display()))
}

/// An ext4 image with the files of this project, and one file of noise, in it.
pub(crate) fn make(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    println!("making an ext4 image of {MIB} MiB");
    let files = output_of(
        std::process::Command::new("find")
            .current_dir(root())
            .args([
                ".",
                "-type",
                "f",
                "-not",
                "-path",
                "./target/*",
                "-not",
                "-path",
                "./.git/*",
                "-not",
                "-path",
                "*/target/*",
            ]),
    )?;
    for file in files.lines() {
        let to = tree.join(file);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(root().join(file), &to).with_context(|| format!("cannot copy {file}"))?;
    }
    let mut noise = File::create(tree.join("noise"))?;
    std::io::copy(
        &mut std::io::Read::take(File::open("/dev/urandom")?, MIB / 2 * 1024 * 1024),
        &mut noise,
    )?;
    let image = dir.join("source.img");
    File::create(&image)?.set_len(MIB * 1024 * 1024)?;
    let status = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .arg(&tree)
        .arg(&image)
        .stdin(Stdio::null())
        .status()
        .context("cannot run mkfs.ext4")?;
    if !status.success() {
        bail!("mkfs.ext4 failed: {status}");
    }
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// Length in bytes, of a file or a block device.
pub(crate) fn length(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata()?.is_dir() {
        bail!("{} is a directory, not a disk image", path.display());
    }
    Ok(std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?)
}

/// Whether the superblock says ext2, 3 or 4.
pub(crate) fn is_ext4(path: &Path) -> Result<bool> {
    let mut magic = [0; 2];
    let read = File::open(path)?.read_at(&mut magic, 1024 + 56)?;
    Ok(read == 2 && u16::from_le_bytes(magic) == 0xEF53)
}
