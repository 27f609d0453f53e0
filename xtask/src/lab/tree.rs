//! What goes into an initial ramdisk, without a folder on the disk: paths, and where their contents are.

use super::cpio::Archive;
use super::elf;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Clone)]
enum Entry {
    Directory,
    Link(String),
    Copy(PathBuf, u32),
    Bytes(Vec<u8>, u32),
}

/// Paths are relative to the root, without a leading slash.
#[derive(Clone, Default)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    pub(crate) fn directory(&mut self, path: &str) {
        self.add(path, Entry::Directory);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    pub(crate) fn bytes(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, Entry::Bytes(content, mode));
    }

    /// A file of the machine that builds, with its mode.
    pub(crate) fn copy(&mut self, path: &str, source: &Path) -> Result<()> {
        let source = fs::canonicalize(source)
            .with_context(|| format!("there is no {}", source.display()))?;
        let mode = fs::metadata(&source)?.permissions().mode();
        self.add(path, Entry::Copy(source, mode));
        Ok(())
    }

    /// All files of a folder and of those in it.
    pub(crate) fn copy_all(&mut self, path: &str, source: &Path) -> Result<()> {
        for entry in
            fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?
        {
            let entry = entry?;
            let to = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                self.copy_all(&to, &entry.path())?;
            } else {
                self.copy(&to, &entry.path())?;
            }
        }
        Ok(())
    }

    /// A program, or a library that is opened by name, out of unpacked packages, with the libraries it is linked against.
    pub(crate) fn program(&mut self, roots: &[&Path], path: &str) -> Result<()> {
        let source = roots
            .iter()
            .map(|root| root.join(path))
            .find(|source| source.is_file())
            .with_context(|| format!("no package has {path}"))?;
        self.copy(path, &source)?;
        for library in elf::libraries(roots, &source, &[])? {
            self.copy(&library.path, &library.source)?;
        }
        Ok(())
    }

    /// Writes it as a cpio archive.
    pub(crate) fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = Archive::new(out);
        for (path, entry) in &self.0 {
            match entry {
                Entry::Directory => archive.directory(path)?,
                Entry::Link(target) => archive.link(path, target)?,
                Entry::Copy(source, mode) => archive.file(path, *mode, &fs::read(source)?)?,
                Entry::Bytes(content, mode) => archive.file(path, *mode, content)?,
            }
        }
        archive.finish()?;
        Ok(())
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            self.0
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory);
        }
        self.0.insert(path.to_owned(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.bytes("a/b/c", 0o644, b"x".to_vec());
        tree.link("a.b", "a");
        let paths: Vec<&str> = tree.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a.b", "a/b", "a/b/c"]);
        let mut out = Vec::new();
        tree.write(&mut out).expect("fits");
        assert!(out.starts_with(b"070701"));
    }
}
