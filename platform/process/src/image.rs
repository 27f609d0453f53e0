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
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
    /// What a server of the NBD protocol has; the target is its address, see [`crate::nbd`].
    Nbd,
    /// Nothing at all: a drive without a medium.
    Empty,
}

impl ImageFormat {
    /// As the `type` and `params` nodes and configurations have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Nbd => "nbd",
            Self::Empty => "empty",
        }
    }
}

/// The page cache's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Cache {
    /// Between us and files; whoever opens for a domain that may die says otherwise.
    #[default]
    Usual,
    /// Takes none: `O_DIRECT`, where the file system takes single sectors.
    Direct,
    /// Between us and the storage; a flush writes out.
    Back,
    /// The same, and every write is written out before it is answered: `O_DSYNC`.
    Through,
}

impl Cache {
    /// As configurations have it, in QEMU's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usual => "default",
            Self::Direct => "none",
            Self::Back => "writeback",
            Self::Through => "writethrough",
        }
    }
}

/// An image below another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backing {
    /// A regular file or a block device, absolute.
    pub target: PathBuf,
    /// How to read it.
    pub format: ImageFormat,
}

/// What the configuration says about a disk's image. Nothing is ever probed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageSpec {
    /// A regular file or a block device, absolute; or the address of a server.
    pub target: PathBuf,
    /// How to read it.
    pub format: ImageFormat,
    /// The images below it, from the one right below to the last. What an image's own header names is never opened.
    pub backing: Vec<Backing>,
    /// Whether the guest must not write.
    pub read_only: bool,
    /// Whether others may write at the same time, who then say the same (`w!`).
    pub shared: bool,
    /// The page cache's part.
    pub cache: Cache,
    /// What stands between the guest and the image, in the words of the backend.
    pub layers: String,
}

impl ImageSpec {
    /// A raw image, and nothing special.
    pub fn raw(target: impl Into<PathBuf>, read_only: bool) -> Self {
        Self {
            target: target.into(),
            format: ImageFormat::Raw,
            backing: Vec::new(),
            read_only,
            shared: false,
            cache: Cache::Usual,
            layers: String::new(),
        }
    }

    /// A drive without a medium.
    pub fn empty() -> Self {
        Self {
            format: ImageFormat::Empty,
            ..Self::raw("", true)
        }
    }
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
    /// Others cannot write to an image of this format at the same time.
    #[error("{}: a {format} image cannot be shared for writing", target.display())]
    Shared {
        /// The image.
        target: PathBuf,
        /// Its format.
        format: String,
    },
    /// Images below one that has no place for any, or too many of them.
    #[error("{}: a {format} image with {count} images below it", target.display())]
    Backing {
        /// The image.
        target: PathBuf,
        /// Its format.
        format: String,
        /// How many were named.
        count: usize,
    },
    /// No address of a server.
    #[error("{}: {why}", target.display())]
    Address {
        /// As it was written.
        target: PathBuf,
        /// What is wrong.
        why: crate::nbd::AddressError,
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

impl ImageError {
    /// Whether it may be otherwise in a moment, with the same configuration: a server that is being started again, a table that is
    /// full, storage that is away.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::System { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::AddressError;

    #[test]
    fn only_what_the_configuration_does_not_say_may_pass() {
        let target = PathBuf::from("/img");
        let system = |op: &str| ImageError::System {
            target: target.clone(),
            op: op.to_owned(),
            errno: 0,
        };
        let missing = ImageError::Missing {
            target: target.clone(),
        };
        for error in [missing, system("open"), system("connect")] {
            assert!(error.may_pass(), "{error}");
        }
        for error in [
            ImageError::Directory {
                target: target.clone(),
            },
            ImageError::WrongKind {
                target: target.clone(),
            },
            ImageError::Misaligned {
                target: target.clone(),
                bytes: 513,
            },
            ImageError::InUse {
                target: target.clone(),
                by: "another".to_owned(),
            },
            ImageError::Shared {
                target: target.clone(),
                format: "qcow2".to_owned(),
            },
            ImageError::Backing {
                target: target.clone(),
                format: "raw".to_owned(),
                count: 1,
            },
            ImageError::Address {
                target: target.clone(),
                why: AddressError::Form,
            },
            ImageError::Relative { target },
            ImageError::NoDisk {
                backend_path: "/local/domain/3/backend/vbd/7/51712".to_owned(),
            },
        ] {
            assert!(!error.may_pass(), "{error}");
        }
    }
}
