//! The archive that a Linux kernel unpacks as its initial ramdisk: cpio "newc", see the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context, Result};
use std::io::Write;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Writes entries in the order they come in; everything belongs to root.
pub(crate) struct Archive<W> {
    out: W,
    written: usize,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            entries: 0,
        }
    }

    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, FILE | (mode & 0o7777), content)
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len())
            .with_context(|| format!("{path} is too large for an initial ramdisk"))?;
        let name = u32::try_from(path.len() + 1)?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Magic, inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name, checksum.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name:08x}{:08x}",
            self.entries, 0, 0, 0, 0, 0, 0, 0, 0
        );
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let short = self.written.wrapping_neg() % 4;
        self.put(&[0_u8; 3][..short])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_layout_of_newc() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("lab").expect("fits");
        archive.file("lab/a", 0o644, b"12345").expect("fits");
        archive.link("b", "lab/a").expect("fits");
        let bytes = archive.finish().expect("fits");
        assert_eq!(bytes.len() % 4, 0);
        // The directory: 110 bytes of header, the name with its end, padding to 116.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..116], b"lab\0\0\0");
        // The file begins at 116: its size, name and content.
        let file = &bytes[116..];
        assert_eq!(&file[14..22], b"000081a4");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[94..102], b"00000006");
        assert_eq!(&file[110..116], b"lab/a\0");
        assert_eq!(&file[116..124], b"12345\0\0\0");
        let link = &file[124..];
        assert_eq!(&link[14..22], b"0000a1ff");
        assert_eq!(&link[110..112], b"b\0");
        assert_eq!(&link[112..117], b"lab/a");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
