//! What a disk is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the bytes of an image are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ImageFormat {
    /// The disk's own bytes.
    Raw,
}

impl ImageFormat {
    /// As the `type` and `params` nodes and configurations have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
        }
    }
}

/// What the configuration says about a disk's image. Nothing is ever probed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageSpec {
    /// A regular file or a block device, absolute.
    pub target: PathBuf,
    /// How to read it.
    pub format: ImageFormat,
    /// Whether the guest must not write.
    pub read_only: bool,
}

/// Why an image cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ImageError {
    /// No such file.
    #[error("{}: no such file", target.display())]
    Missing {
        /// The image.
        target: PathBuf,
    },
    /// A directory.
    #[error("{}: is a directory", target.display())]
    Directory {
        /// The image.
        target: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("{}: neither a regular file nor a block device", target.display())]
    WrongKind {
        /// The image.
        target: PathBuf,
    },
    /// Not a whole number of sectors.
    #[error("{}: size of {bytes} bytes is no multiple of 512", target.display())]
    Misaligned {
        /// The image.
        target: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Somebody else uses it in a way that does not go with ours.
    #[error("{}: in use by {by}", target.display())]
    InUse {
        /// The image.
        target: PathBuf,
        /// Who, as far as it can be known.
        by: String,
    },
    /// The path is not absolute: a supervisor's working directory means nothing to who wrote it.
    #[error("{}: not an absolute path", target.display())]
    Relative {
        /// The image.
        target: PathBuf,
    },
    /// No disk of this domain has that backend directory.
    #[error("no disk at {backend_path}")]
    NoDisk {
        /// As it was asked for.
        backend_path: String,
    },
    /// The system refused.
    #[error("{}: {op}: {}", target.display(), std::io::Error::from_raw_os_error(*errno))]
    System {
        /// The image.
        target: PathBuf,
        /// The system call.
        op: String,
        /// Its error number.
        errno: i32,
    },
}
