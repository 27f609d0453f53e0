//! What a configuration says of an image, in one text, and what was opened for it.

use std::os::fd::OwnedFd;
use std::path::Path;

use ringfence_blkback::service::{DiskError, Image, Source};
use ringfence_blkback::sink::Below;
use ringfence_hosted::{ImageFormat, ImageSpec};
use ringfence_process::nbd::Address;

use crate::disk::{DiskSpec, DiskSpecError};

/// What was opened for `spec`, for the service.
///
/// # Errors
/// What was opened is not what the configuration says.
pub fn opened(spec: &ImageSpec, file: OwnedFd, backing: Vec<OwnedFd>) -> Result<Image, DiskError> {
    let source = match spec.format {
        ImageFormat::Raw => Source::Raw(file),
        ImageFormat::Qcow2 => {
            let below = spec.backing.iter().zip(backing);
            let below = below.map(|(named, file)| match named.format {
                ImageFormat::Qcow2 => Below::Qcow2(file),
                _ => Below::Raw(file),
            });
            Source::Qcow2(file, below.collect())
        }
        ImageFormat::Nbd => {
            let address: Address = spec.target.to_string_lossy().parse()?;
            Source::Nbd(file, address.export)
        }
        ImageFormat::Empty => Source::Empty,
        other => return Err(format!("format {} is not served", other.name()).into()),
    };
    Ok(Image {
        source,
        read_only: spec.read_only,
        layers: spec.layers.parse()?,
    })
}

/// A name that no toolstack gives a disk; the text is about an image only.
const ANY_VDEV: &str = "xvda";

/// What a toolstack's node says of an image: a path, a server's address, a disk's text without `vdev`, such as
/// `format=qcow2,throttle.iops=100,target=/img`, or nothing, of an empty drive.
///
/// # Errors
/// As of a disk's text.
pub fn parse(words: &str, read_only: bool, shared: bool) -> Result<ImageSpec, DiskSpecError> {
    let is_plain = words.starts_with('/') || Address::is_meant(words);
    let mut spec = if words.is_empty() {
        ImageSpec::empty()
    } else if is_plain {
        let mut spec = ImageSpec::raw(words, false);
        if Address::is_meant(words) {
            spec.format = ImageFormat::Nbd;
        }
        spec
    } else {
        let disk: DiskSpec = format!("vdev={ANY_VDEV},{words}").parse()?;
        disk.image(disk.target.clone().into())
    };
    spec.read_only |= read_only;
    spec.shared |= shared;
    Ok(spec)
}

/// The same the other way round: the shortest text that [`parse`] reads as `disk`, whose image is at `target`.
pub fn words(disk: &DiskSpec, target: &Path) -> String {
    let target = target.display();
    let mut words = String::new();
    if disk.format == ImageFormat::Empty {
        return words;
    }
    if disk.format == ImageFormat::Qcow2 {
        words.push_str("format=qcow2,");
    }
    for below in &disk.backing {
        let (format, path) = (below.format.name(), below.target.display());
        words.push_str(&format!("backing={format}:{path},"));
    }
    if disk.cache != ringfence_hosted::Cache::Usual {
        words.push_str(&format!("cache={},", disk.cache.name()));
    }
    if !disk.layers.is_empty() {
        words.push_str(&format!("{},", disk.layers));
    }
    if words.is_empty() {
        return target.to_string();
    }
    format!("{words}target={target}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "",
            "/img",
            "nbd:unix:/run/a.sock",
            "format=qcow2,backing=raw:/base,target=/img",
            "cache=none,delay=5ms,target=/with,comma",
            "sectors=mini-os,target=/dev/sdb",
        ] {
            let spec = parse(text, false, false).expect(text);
            let disk: DiskSpec = match text {
                "" => "vdev=xvda,cdrom".to_owned(),
                _ if text.contains("target=") => format!("vdev=xvda,{text}"),
                _ => format!("vdev=xvda,target={text}"),
            }
            .parse()
            .expect(text);
            assert_eq!(words(&disk, &spec.target), text);
            assert_eq!(disk.image(spec.target.clone()), spec);
        }
    }

    #[test]
    fn who_may_write_is_said_elsewhere() {
        let spec = parse("format=qcow2,target=/img", true, false).expect("words");
        assert!(spec.read_only);
        assert!(parse("/img", false, true).expect("a path").shared);
        assert!(parse("colour=red,target=/img", false, false).is_err());
    }
}
