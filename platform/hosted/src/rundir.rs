//! Where the broker's sockets are.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no place for the sockets.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// Not root, and nothing says where to go.
    #[error("no run directory: give --run-dir, or set XDG_RUNTIME_DIR")]
    Nowhere,
    /// It cannot be made or looked at.
    #[error("run directory {}: {error}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Somebody else could put or replace sockets in it.
    #[error("run directory {} belongs to user {owner}, or others may enter it (mode {mode:o})", dir.display())]
    NotPrivate {
        /// The directory.
        dir: PathBuf,
        /// User id.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
}

/// The directory of one broker, mode 0700.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// `given`, else `/run/ringfence` for root, else `$XDG_RUNTIME_DIR/ringfence`. Makes nothing.
    ///
    /// # Errors
    /// [`RunDirError::Nowhere`].
    pub fn resolve(given: Option<&Path>) -> Result<Self, RunDirError> {
        if let Some(dir) = given {
            return Ok(Self(dir.to_owned()));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self("/run/ringfence".into()));
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Ok(Self(Path::new(&dir).join("ringfence"))),
            None => Err(RunDirError::Nowhere),
        }
    }

    /// Makes the directory if it is missing, and checks that it is private.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn create(&self) -> Result<(), RunDirError> {
        let io = |error| RunDirError::Io {
            dir: self.0.clone(),
            error,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(io)?;
        let meta = std::fs::symlink_metadata(&self.0).map_err(io)?;
        let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
        if !meta.is_dir() || owner != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(RunDirError::NotPrivate {
                dir: self.0.clone(),
                owner,
                mode,
            });
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the `ringfence` command speaks to the broker.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Where the `xenstore-*` tools find the store (`XENSTORED_PATH`).
    pub fn xenstored(&self) -> PathBuf {
        self.0.join("xenstored.sock")
    }
}
