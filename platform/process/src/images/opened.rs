//! What is got by opening an image.

use std::fs::File;

use super::connections::Connections;
use crate::image::{ImageError, ImageFormat, ImageSpec};
use crate::locks::{Seat, Use};
use crate::nbd::Address;
use crate::open::{self, BACKING_MAX, Busy, Identity, Wish};

/// An open image with its locks.
#[derive(Debug)]
pub struct Opened {
    /// A description that nobody else has; or the connection to a server.
    pub file: File,
    /// The images below it, in the order of the configuration.
    pub backing: Vec<File>,
    /// Size of the file; nothing of a server's.
    pub bytes: u64,
    pub(super) identity: Identity,
}

/// What comes of trying to open an image.
#[derive(Debug)]
pub(super) enum Tried {
    Open(Opened),
    Busy(Busy),
    /// Its server has yet to let us in.
    Later,
}

impl Opened {
    /// Opens what is configured, for who has this seat.
    pub(super) fn by(
        spec: &ImageSpec,
        seat: Seat,
        connections: &mut Connections,
    ) -> Result<Tried, ImageError> {
        let format = || spec.format.name().to_owned();
        let target = || spec.target.clone();
        if spec.shared && spec.format == ImageFormat::Qcow2 {
            return Err(ImageError::Shared {
                target: target(),
                format: format(),
            });
        }
        let count = spec.backing.len();
        if count > BACKING_MAX || (count > 0 && spec.format != ImageFormat::Qcow2) {
            return Err(ImageError::Backing {
                target: target(),
                format: format(),
                count,
            });
        }
        match spec.format {
            ImageFormat::Nbd => return connect(spec, connections),
            ImageFormat::Empty => return nothing().map(Tried::Open),
            ImageFormat::Raw | ImageFormat::Qcow2 => {}
        }
        let wish = Wish {
            target: &spec.target,
            format: spec.format,
            what: match (spec.read_only, spec.shared) {
                (true, _) => Use::Read,
                (false, false) => Use::Write,
                (false, true) => Use::ShareWrites(seat),
            },
            cache: spec.cache,
        };
        let top = match open::open(&wish)? {
            Ok(top) => top,
            Err(busy) => return Ok(Tried::Busy(busy)),
        };
        let mut backing = Vec::with_capacity(count);
        for below in &spec.backing {
            let wish = Wish {
                target: &below.target,
                format: below.format,
                what: Use::Read,
                cache: spec.cache,
            };
            match open::open(&wish)? {
                Ok(one) => backing.push(one.file),
                Err(busy) => return Ok(Tried::Busy(busy)),
            }
        }
        Ok(Tried::Open(Opened {
            file: top.file,
            backing,
            bytes: top.bytes,
            identity: top.identity,
        }))
    }
}

/// For a drive without a medium: as for all disks, a descriptor.
fn nothing() -> Result<Opened, ImageError> {
    const NOTHING: &str = "/dev/null";
    let file = File::open(NOTHING).map_err(|error| ImageError::System {
        target: NOTHING.into(),
        op: "open".to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    })?;
    Ok(Opened {
        file,
        backing: Vec::new(),
        bytes: 0,
        identity: (0, 0),
    })
}

/// Where the server is.
pub(super) fn address(spec: &ImageSpec) -> Result<Address, ImageError> {
    let text = spec.target.to_string_lossy();
    text.parse().map_err(|why| ImageError::Address {
        target: spec.target.clone(),
        why,
    })
}

fn connect(spec: &ImageSpec, connections: &mut Connections) -> Result<Tried, ImageError> {
    let address = address(spec)?;
    let Some(made) = connections.to(&address) else {
        return Ok(Tried::Later);
    };
    let connection = made.map_err(|error| ImageError::System {
        target: spec.target.clone(),
        op: match error.raw_os_error() {
            Some(_) => "connect".to_owned(),
            None => format!("connect: {error}"),
        },
        errno: error.raw_os_error().unwrap_or(0),
    })?;
    Ok(Tried::Open(Opened {
        file: connection.into(),
        backing: Vec::new(),
        bytes: 0,
        identity: address.identity(),
    }))
}
