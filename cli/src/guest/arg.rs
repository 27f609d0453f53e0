//! `--disk` of a guest.

use std::str::FromStr;

use ringfence_core::wire::vbd::Vdev;

use crate::disk::{DiskSpec, DiskSpecError};

/// A disk to attach, or only the name of one that somebody else attaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskArg {
    /// As xl writes it.
    Attach(DiskSpec),
    /// Its name alone, e.g. `xvda`.
    Await(String, Vdev),
}

impl FromStr for DiskArg {
    type Err = DiskSpecError;

    fn from_str(text: &str) -> Result<Self, DiskSpecError> {
        match text.parse() {
            Ok(vdev) => Ok(Self::Await(text.to_owned(), vdev)),
            Err(_) => text.parse().map(Self::Attach),
        }
    }
}

impl DiskArg {
    /// The disk to attach.
    ///
    /// # Errors
    /// There is nothing but a name.
    pub fn attach(&self) -> Result<&DiskSpec, DiskSpecError> {
        match self {
            Self::Attach(disk) => Ok(disk),
            Self::Await(name, _) => Err(DiskSpecError::Missing {
                spec: name.clone(),
                field: "target",
            }),
        }
    }

    /// Name and number of the virtual disk.
    pub fn named(&self) -> (String, u32) {
        match self {
            Self::Attach(disk) => (disk.vdev_name.clone(), disk.vdev.get()),
            Self::Await(name, vdev) => (name.clone(), vdev.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_awaited_and_anything_else_attached() {
        let awaited: DiskArg = "xvda".parse().expect("a name");
        assert_eq!(awaited.named(), ("xvda".to_owned(), 51712));
        let error = awaited.attach().expect_err("no target");
        assert_eq!(error.to_string(), "disk 'xvda': no target");
        let attached: DiskArg = "format=raw,vdev=xvdb,access=rw,target=/img"
            .parse()
            .expect("a disk");
        assert_eq!(attached.named(), ("xvdb".to_owned(), 51728));
        assert_eq!(attached.attach().expect("it is one").target, "/img");
        assert!("format=raw".parse::<DiskArg>().is_err());
    }
}
