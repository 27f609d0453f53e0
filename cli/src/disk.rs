//! Disks as `xl` and `xm` write them.
//!
//! `xl-disk-configuration(5)`: comma-separated fields; those without `=` are, in order, target, format, vdev and access; the keys
//! are `target`, `format`, `vdev`, `access`, `backend`, `backendtype`, `devtype`, `script`; `target=` takes the rest of the text.
//! `xm` (Xen 2 and 3): `phy:hda3,sda1,w` and `file:/img,sda1,w[,backend]`.

use ringfence_core::wire::vbd::{Vdev, VdevError};

/// A disk to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// Path of the image or block device, as the broker opens it.
    pub target: String,
    /// Whether `target` was named as a block device (`phy:`).
    pub physical: bool,
    /// The virtual disk's name as given, e.g. `xvda`.
    pub vdev_name: String,
    /// Its number.
    pub vdev: Vdev,
    /// What the guest may do.
    pub access: DiskAccess,
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
                Some((key, value)) => fields.set(fields.known(key)?, value)?,
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

const KEYS: [&str; 8] = [
    "target",
    "format",
    "vdev",
    "access",
    "backend",
    "backendtype",
    "devtype",
    "script",
];

struct Fields<'a> {
    spec: &'a str,
    values: [Option<&'a str>; KEYS.len()],
}

impl<'a> Fields<'a> {
    fn new(spec: &'a str) -> Self {
        Self {
            spec,
            values: [None; KEYS.len()],
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
                return Err(DiskSpecError::Twice {
                    spec: self.spec.into(),
                    field,
                });
            }
        }
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
        let target = self.need("target")?;
        let (physical, target) = match target.split_once(':') {
            Some(("phy", device)) if device.starts_with('/') => (true, device.to_owned()),
            Some(("phy", device)) => (true, format!("/dev/{device}")),
            Some(("file" | "raw", path)) => (false, path.to_owned()),
            Some(("tap", path)) if path.starts_with("aio:") => {
                (false, path["aio:".len()..].to_owned())
            }
            _ => (false, target.to_owned()),
        };
        match self.get("format") {
            None | Some("raw" | "") => {}
            Some(other) => return Err(self.bad("format", other, "only raw images are served")),
        }
        match self.get("backendtype") {
            None | Some("phy" | "") => {}
            Some(other) => return Err(self.bad("backendtype", other, "only phy is served")),
        }
        match self.get("devtype") {
            None | Some("disk" | "") => {}
            Some(other) => return Err(self.bad("devtype", other, "only disk is served")),
        }
        // Ours has nothing to do where no toolstack runs it.
        let script = self.get("script").filter(|script| {
            let name = script.rsplit('/').next();
            name != Some(ringfence_blkback::service::SCRIPT)
        });
        if let Some(script) = script {
            return Err(self.bad("script", script, "hotplug scripts are not run here"));
        }
        let vdev_text = self.need("vdev")?;
        let vdev_name = vdev_text.strip_suffix(":disk").unwrap_or(vdev_text);
        let vdev = vdev_name
            .parse()
            .map_err(|error: VdevError| self.bad("vdev", vdev_text, error.to_string()))?;
        let access = match self.get("access").unwrap_or("rw") {
            "r" | "ro" => DiskAccess::ReadOnly,
            "w" | "rw" => DiskAccess::ReadWrite,
            "w!" => return Err(self.bad("access", "w!", "sharing a writable image is not served")),
            other => return Err(self.bad("access", other, "expected r, ro, w or rw")),
        };
        Ok(DiskSpec {
            target,
            physical,
            vdev_name: vdev_name.to_owned(),
            vdev,
            access,
            backend: self
                .get("backend")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests;
