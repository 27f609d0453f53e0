//! Disks as `xl` and `xm` write them.
//!
//! `xl-disk-configuration(5)`: comma-separated fields; those without `=` are, in order, target, format, vdev and access; the keys
//! are `target`, `format`, `vdev`, `access`, `backend`, `backendtype`, `devtype`, `script`; `target=` takes the rest of the text.
//! `cdrom`, `discard`, `no-discard` and `direct-io-safe` have no value. `vdev` may say `:cdrom` or `:disk` at its end, of old.
//! `xm` (Xen 2 and 3): `phy:hda3,sda1,w` and `file:/img,sda1,w[,backend]`.
//!
//! Ours besides: `format=nbd`, which a target like `nbd://host/name` says by itself; `access=w!`, of old; `backing=qcow2:/path` and
//! `backing=raw:/path`, once for each image below a qcow2 one, from the top; `cache=none`, `writeback` or `writethrough`; and the
//! layers of [`Layers`].

use std::path::PathBuf;

use ringfence_blkback::sink::{LayerError, Layers};
use ringfence_core::wire::vbd::{Vdev, VdevError};
use ringfence_hosted::{Backing, Cache, ImageFormat, ImageSpec};
use ringfence_process::nbd::Address;

/// A disk to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// Path of the image or block device, as the broker opens it; or a server's address.
    pub target: String,
    /// How to read it.
    pub format: ImageFormat,
    /// The images below it.
    pub backing: Vec<Backing>,
    /// The page cache's part.
    pub cache: Cache,
    /// What stands between the guest and the image.
    pub layers: Layers,
    /// Whether `target` was named as a block device (`phy:`).
    pub physical: bool,
    /// The virtual disk's name as given, e.g. `xvda`.
    pub vdev_name: String,
    /// Its number.
    pub vdev: Vdev,
    /// What the guest may do.
    pub access: DiskAccess,
    /// Whether it is a CD-ROM, which is only read.
    pub cdrom: bool,
    /// Whether the guest may discard what it does not need.
    pub discard: bool,
    /// The domain that serves it; `None` leaves the choice to the host.
    pub backend: Option<String>,
}

/// `access=` of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskAccess {
    /// `r`, `ro`.
    ReadOnly,
    /// `w`, `rw`.
    ReadWrite,
    /// `w!`: others write as well, who know of each other.
    Shared,
}

impl DiskAccess {
    /// As the `mode` node has it.
    pub const fn mode(self) -> &'static str {
        match self {
            Self::ReadOnly => "r",
            Self::ReadWrite => "w",
            Self::Shared => "w!",
        }
    }
}

impl DiskSpec {
    /// The image, at `target`, which is where the spec's own is seen from whoever opens it.
    pub fn image(&self, target: PathBuf) -> ImageSpec {
        ImageSpec {
            target,
            format: self.format,
            backing: self.backing.clone(),
            read_only: self.access == DiskAccess::ReadOnly,
            shared: self.access == DiskAccess::Shared,
            cache: self.cache,
            layers: self.layers.to_string(),
        }
    }
}

/// Why a disk's text was refused. Every message names the field and the value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskSpecError {
    /// A field that must be there is not.
    #[error("disk '{spec}': no {field}")]
    Missing {
        /// The whole text.
        spec: String,
        /// The field.
        field: &'static str,
    },
    /// A field is there twice.
    #[error("disk '{spec}': {field} is given twice")]
    Twice {
        /// The whole text.
        spec: String,
        /// The field.
        field: &'static str,
    },
    /// More positional fields than there are.
    #[error("disk '{spec}': '{value}' is one field too many")]
    Surplus {
        /// The whole text.
        spec: String,
        /// The field's text.
        value: String,
    },
    /// A key that `xl` does not know either.
    #[error("disk '{spec}': unknown key '{key}'")]
    UnknownKey {
        /// The whole text.
        spec: String,
        /// The key.
        key: String,
    },
    /// A value that makes no sense, or that is not served.
    #[error("disk '{spec}': {field} '{value}': {reason}")]
    Value {
        /// The whole text.
        spec: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer that makes no sense.
    #[error("disk '{spec}': {why}")]
    Layer {
        /// The whole text.
        spec: String,
        /// Why not.
        why: LayerError,
    },
}

impl std::str::FromStr for DiskSpec {
    type Err = DiskSpecError;

    fn from_str(spec: &str) -> Result<Self, DiskSpecError> {
        let mut fields = Fields::new(spec);
        let old_style = ["phy:", "file:", "tap:aio:"]
            .iter()
            .any(|prefix| spec.starts_with(prefix));
        let order: &[&'static str] = if old_style {
            &["target", "vdev", "access", "backend"]
        } else {
            &["target", "format", "vdev", "access"]
        };
        let mut rest = spec;
        let mut position = 0;
        while !rest.is_empty() {
            if let Some(target) = rest.trim_start().strip_prefix("target=") {
                fields.set("target", target)?;
                break;
            }
            let (field, after) = rest.split_once(',').unwrap_or((rest, ""));
            rest = after;
            let field = field.trim();
            match field.split_once('=') {
                Some((key, value)) if Layers::knows(key) => fields.layer(key, value)?,
                Some(("backing", value)) => fields.backing(value)?,
                Some((key, value)) => fields.set(fields.known(key)?, value)?,
                // What other tools call the absence of the page cache.
                None if field == "direct-io-safe" => fields.set("cache", "none")?,
                None if field == "cdrom" => fields.set("devtype", "cdrom")?,
                None if field == "discard" => fields.discard(true)?,
                None if field == "no-discard" => fields.discard(false)?,
                None => {
                    let name = order.get(position).ok_or_else(|| fields.surplus(field))?;
                    position += 1;
                    if !field.is_empty() {
                        fields.set(name, field)?;
                    }
                }
            }
        }
        fields.finish()
    }
}

const KEYS: [&str; 9] = [
    "target",
    "format",
    "vdev",
    "access",
    "backend",
    "backendtype",
    "devtype",
    "script",
    "cache",
];

struct Fields<'a> {
    spec: &'a str,
    values: [Option<&'a str>; KEYS.len()],
    discard: Option<bool>,
    backing: Vec<Backing>,
    layers: Layers,
}

impl<'a> Fields<'a> {
    fn new(spec: &'a str) -> Self {
        Self {
            spec,
            values: [None; KEYS.len()],
            discard: None,
            backing: Vec::new(),
            layers: Layers::default(),
        }
    }

    fn known(&self, key: &str) -> Result<&'static str, DiskSpecError> {
        KEYS.into_iter()
            .find(|known| *known == key)
            .ok_or_else(|| DiskSpecError::UnknownKey {
                spec: self.spec.into(),
                key: key.into(),
            })
    }

    fn set(&mut self, field: &'static str, value: &'a str) -> Result<(), DiskSpecError> {
        for (key, slot) in KEYS.iter().zip(&mut self.values) {
            if *key == field && slot.replace(value).is_some() {
                return Err(self.twice(field));
            }
        }
        Ok(())
    }

    fn discard(&mut self, discard: bool) -> Result<(), DiskSpecError> {
        match self.discard.replace(discard) {
            Some(_) => Err(self.twice("discard")),
            None => Ok(()),
        }
    }

    fn twice(&self, field: &'static str) -> DiskSpecError {
        DiskSpecError::Twice {
            spec: self.spec.into(),
            field,
        }
    }

    fn layer(&mut self, key: &str, value: &str) -> Result<(), DiskSpecError> {
        let set = self.layers.set(key, value);
        set.map_err(|why| self.bad_layer(why))
    }

    fn bad_layer(&self, why: LayerError) -> DiskSpecError {
        DiskSpecError::Layer {
            spec: self.spec.into(),
            why,
        }
    }

    fn backing(&mut self, value: &str) -> Result<(), DiskSpecError> {
        let (format, target) = match value.split_once(':') {
            Some(("raw", path)) if path.starts_with('/') => (ImageFormat::Raw, path),
            Some(("qcow2", path)) if path.starts_with('/') => (ImageFormat::Qcow2, path),
            _ => return Err(self.bad("backing", value, "expected raw:/path or qcow2:/path")),
        };
        self.backing.push(Backing {
            target: target.into(),
            format,
        });
        Ok(())
    }

    fn get(&self, field: &str) -> Option<&'a str> {
        KEYS.iter()
            .zip(self.values)
            .find(|(key, _)| **key == field)
            .and_then(|(_, value)| value)
    }

    fn need(&self, field: &'static str) -> Result<&'a str, DiskSpecError> {
        self.get(field)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| DiskSpecError::Missing {
                spec: self.spec.into(),
                field,
            })
    }

    fn surplus(&self, value: &str) -> DiskSpecError {
        DiskSpecError::Surplus {
            spec: self.spec.into(),
            value: value.into(),
        }
    }

    fn bad(&self, field: &'static str, value: &str, reason: impl Into<String>) -> DiskSpecError {
        DiskSpecError::Value {
            spec: self.spec.into(),
            field,
            value: value.into(),
            reason: reason.into(),
        }
    }

    fn finish(self) -> Result<DiskSpec, DiskSpecError> {
        let given = self.need("vdev");
        let vdev_text = given.as_ref().copied().unwrap_or_default();
        let (vdev_name, suffix) = match vdev_text.rsplit_once(':') {
            Some((name, suffix @ ("disk" | "cdrom"))) => (name, Some(suffix)),
            _ => (vdev_text, None),
        };
        let cdrom = match self.get("devtype").or(suffix) {
            None | Some("disk" | "") => false,
            Some("cdrom") => true,
            Some(other) => return Err(self.bad("devtype", other, "expected disk or cdrom")),
        };
        let target = match self.get("target") {
            None | Some("") if cdrom => "",
            _ => self.need("target")?,
        };
        given?;
        let (physical, target) = match target.split_once(':') {
            Some(("phy", device)) if device.starts_with('/') => (true, device.to_owned()),
            Some(("phy", device)) => (true, format!("/dev/{device}")),
            Some(("file" | "raw", path)) => (false, path.to_owned()),
            Some(("tap", path)) if path.starts_with("aio:") => {
                (false, path["aio:".len()..].to_owned())
            }
            _ => (false, target.to_owned()),
        };
        let served = Address::is_meant(&target);
        let format = match self.get("format") {
            None | Some("" | "raw" | "qcow2" | "nbd") if cdrom && target.is_empty() => {
                ImageFormat::Empty
            }
            None | Some("") if served => ImageFormat::Nbd,
            None | Some("raw" | "") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some("nbd") => ImageFormat::Nbd,
            Some(other) => {
                return Err(self.bad("format", other, "only raw, qcow2 and nbd are served"));
            }
        };
        // A path is a file, whatever its name looks like; an address is none.
        if served != (format == ImageFormat::Nbd) {
            let name = format.name();
            return Err(self.bad("target", &target, format!("does not go with format {name}")));
        }
        if served && let Err(why) = target.parse::<Address>() {
            return Err(self.bad("target", &target, why.to_string()));
        }
        if !self.backing.is_empty() && format != ImageFormat::Qcow2 {
            return Err(self.bad("format", format.name(), "only a qcow2 image has backing="));
        }
        let cache = match self.get("cache") {
            None | Some("" | "default") => Cache::Usual,
            Some("none") => Cache::Direct,
            Some("writeback") => Cache::Back,
            Some("writethrough") => Cache::Through,
            Some(other) => {
                let expected = "expected default, none, writeback or writethrough";
                return Err(self.bad("cache", other, expected));
            }
        };
        self.layers.check().map_err(|why| self.bad_layer(why))?;
        match self.get("backendtype") {
            None | Some("phy" | "") => {}
            Some("qdisk") if format == ImageFormat::Qcow2 => {}
            Some(other) => return Err(self.bad("backendtype", other, "only phy is served")),
        }
        // Ours has nothing to do where no toolstack runs it.
        let script = self.get("script").filter(|script| {
            let name = script.rsplit('/').next();
            name != Some(ringfence_blkback::service::SCRIPT)
        });
        if let Some(script) = script {
            return Err(self.bad("script", script, "hotplug scripts are not run here"));
        }
        let vdev = vdev_name
            .parse()
            .map_err(|error: VdevError| self.bad("vdev", vdev_text, error.to_string()))?;
        let access = match self.get("access").unwrap_or("rw") {
            "r" | "ro" => DiskAccess::ReadOnly,
            "w" | "rw" => DiskAccess::ReadWrite,
            "w!" if format == ImageFormat::Qcow2 => {
                return Err(self.bad("access", "w!", "a qcow2 image cannot be shared for writing"));
            }
            "w!" => DiskAccess::Shared,
            other => return Err(self.bad("access", other, "expected r, ro, w, rw or w!")),
        };
        let access = if cdrom { DiskAccess::ReadOnly } else { access };
        Ok(DiskSpec {
            target,
            format,
            cache,
            physical,
            vdev_name: vdev_name.to_owned(),
            vdev,
            access,
            cdrom,
            discard: self.discard.unwrap_or(access != DiskAccess::ReadOnly),
            backend: self
                .get("backend")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            backing: self.backing,
            layers: self.layers,
        })
    }
}

#[cfg(test)]
mod tests;
