//! `xen-vbd-interface(7)`: the number of a virtual disk, as the toolstack, the store and guests agree on it.
//!
//! | name | number |
//! |---|---|
//! | `xvd`, disk and partition below 16 | `202 << 8 \| disk << 4 \| partition` |
//! | `xvd`, others | `1 << 28 \| disk << 8 \| partition` |
//! | `sd`, disk and partition below 16 | `8 << 8 \| disk << 4 \| partition` |
//! | `hd`, disks 0 and 1, partition below 64 | `3 << 8 \| disk << 6 \| partition` |
//! | `hd`, disks 2 and 3, partition below 64 | `22 << 8 \| (disk - 2) << 6 \| partition` |

use core::fmt::{self, Write};
use core::str::FromStr;

/// Bit 28 marks the extended numbering of `xvd` devices.
const EXTENDED: u32 = 1 << 28;
/// Disks of the extended numbering: 20 bits.
const MAX_DISK: u32 = (1 << 20) - 1;

/// The number of a virtual disk, the last component of its directories in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vdev(u32);

/// The name or number of a virtual disk makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VdevError {
    /// None of the forms of `xen-vbd-interface(7)`.
    #[error("virtual device `{0}` is none of xvdX[N], sdX[N], hdX[N], dNpN or a number")]
    Unknown(Quoted),
    /// The disk's letter or number is beyond what its kind can number.
    #[error("virtual device `{name}`: disk {disk} is beyond {max}")]
    Disk {
        /// What was given.
        name: Quoted,
        /// The disk it names, from 0.
        disk: u32,
        /// The last disk of this kind.
        max: u32,
    },
    /// The partition is beyond what its kind can number.
    #[error("virtual device `{name}`: partition {partition} is beyond {max}")]
    Partition {
        /// What was given.
        name: Quoted,
        /// The partition it names, from 1.
        partition: u32,
        /// The last partition of this kind.
        max: u32,
    },
    /// A number that the interface reserves.
    #[error("virtual device number {0} is reserved")]
    Reserved(u32),
}

/// The beginning of a text that was not understood, at most 32 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quoted(heapless::String<40>);

impl Quoted {
    fn new(text: &str) -> Self {
        let mut kept = heapless::String::new();
        for c in text.chars() {
            if kept.len() + c.len_utf8() > 32 {
                // Cannot fail: 32 bytes are taken of 40.
                let _ = kept.push('…');
                break;
            }
            let _ = kept.push(c);
        }
        Self(kept)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name from a configuration or from a guest must not reach a terminal raw.
        self.0.chars().try_for_each(|c| {
            if c.is_control() {
                write!(f, "{}", c.escape_default())
            } else {
                f.write_char(c)
            }
        })
    }
}

impl Vdev {
    /// A number as the store holds it.
    ///
    /// # Errors
    /// [`VdevError::Reserved`] from `2 << 28` on.
    pub const fn new(raw: u32) -> Result<Self, VdevError> {
        if raw >= 2 << 28 {
            return Err(VdevError::Reserved(raw));
        }
        Ok(Self(raw))
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Vdev {
    type Err = VdevError;

    /// Reads `xvda`, `xvda1`, `sdb2`, `hdc`, `d0p0` or a decimal or `0x` number.
    fn from_str(name: &str) -> Result<Self, VdevError> {
        let unknown = || VdevError::Unknown(Quoted::new(name));
        if let Some((disk, partition)) = disk_and_partition(name) {
            return xvd(name, disk, partition);
        }
        if let Some(rest) = name.strip_prefix("xvd") {
            let (disk, partition) = letters(rest).ok_or_else(unknown)?;
            return xvd(name, disk, partition);
        }
        if let Some(rest) = name.strip_prefix("sd") {
            let (disk, partition) = letters(rest).ok_or_else(unknown)?;
            check(name, disk, 15, partition, 15)?;
            return Ok(Self(8 << 8 | disk << 4 | partition));
        }
        if let Some(rest) = name.strip_prefix("hd") {
            let (disk, partition) = letters(rest).ok_or_else(unknown)?;
            check(name, disk, 3, partition, 63)?;
            return Ok(Self(if disk < 2 {
                3 << 8 | disk << 6 | partition
            } else {
                22 << 8 | (disk - 2) << 6 | partition
            }));
        }
        let number = match name.strip_prefix("0x") {
            Some(hex) if digits(hex, 16) => u32::from_str_radix(hex, 16),
            None if digits(name, 10) => name.parse(),
            _ => return Err(unknown()),
        };
        Self::new(number.map_err(|_| unknown())?)
    }
}

fn digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

fn xvd(name: &str, disk: u32, partition: u32) -> Result<Vdev, VdevError> {
    check(name, disk, MAX_DISK, partition, 255)?;
    Ok(Vdev(if disk < 16 && partition < 16 {
        202 << 8 | disk << 4 | partition
    } else {
        EXTENDED | disk << 8 | partition
    }))
}

fn check(
    name: &str,
    disk: u32,
    max_disk: u32,
    partition: u32,
    max_partition: u32,
) -> Result<(), VdevError> {
    let name = || Quoted::new(name);
    if disk > max_disk {
        let max = max_disk;
        return Err(VdevError::Disk {
            name: name(),
            disk,
            max,
        });
    }
    if partition > max_partition {
        let max = max_partition;
        return Err(VdevError::Partition {
            name: name(),
            partition,
            max,
        });
    }
    Ok(())
}

/// `dNpN`.
fn disk_and_partition(name: &str) -> Option<(u32, u32)> {
    let (disk, partition) = name.strip_prefix('d')?.split_once('p')?;
    if !digits(disk, 10) || !digits(partition, 10) {
        return None;
    }
    Some((disk.parse().ok()?, partition.parse().ok()?))
}

/// `a` is 0, `z` 25, `aa` 26; then a partition from 1, or nothing for the whole disk.
fn letters(rest: &str) -> Option<(u32, u32)> {
    let end = rest
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(rest.len());
    let (name, number) = rest.split_at_checked(end)?;
    let mut disk = 0u32;
    for letter in name.bytes() {
        disk = disk
            .checked_mul(26)?
            .checked_add(u32::from(letter - b'a') + 1)?;
    }
    let partition = match number {
        "" => 0,
        n if digits(n, 10) && !n.starts_with('0') => n.parse().ok()?,
        _ => return None,
    };
    Some((disk.checked_sub(1)?, partition))
}

impl fmt::Display for Vdev {
    /// The name a guest's kernel is likely to show, or the number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.0;
        let (kind, disk, partition) = if raw & EXTENDED != 0 {
            ("xvd", raw >> 8 & MAX_DISK, raw & 0xff)
        } else {
            match raw >> 8 {
                202 => ("xvd", raw >> 4 & 15, raw & 15),
                8 => ("sd", raw >> 4 & 15, raw & 15),
                3 if raw & 0x80 == 0 => ("hd", raw >> 6 & 1, raw & 63),
                22 if raw & 0x80 == 0 => ("hd", (raw >> 6 & 1) + 2, raw & 63),
                _ => return write!(f, "{raw}"),
            }
        };
        f.write_str(kind)?;
        // 2^20 disks need five letters.
        let mut name = heapless::Vec::<u8, 5>::new();
        let mut left = disk + 1;
        while left > 0
            && name
                .push(b'a' + u8::try_from((left - 1) % 26).unwrap_or(0))
                .is_ok()
        {
            left = (left - 1) / 26;
        }
        name.iter()
            .rev()
            .try_for_each(|letter| f.write_char(char::from(*letter)))?;
        if partition > 0 {
            write!(f, "{partition}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    const TABLE: &[(&str, u32)] = &[
        ("xvda", 51712),
        ("xvda1", 51713),
        ("xvdb", 51728),
        ("xvdp15", 51967),
        ("xvdq", EXTENDED | 16 << 8),
        ("xvda16", EXTENDED | 16),
        ("xvdz", EXTENDED | 25 << 8),
        ("xvdaa", EXTENDED | 26 << 8),
        ("xvdzz3", EXTENDED | 701 << 8 | 3),
        ("sda", 2048),
        ("sda1", 2049),
        ("sdp15", 2303),
        ("hda", 768),
        ("hda3", 771),
        ("hdb", 832),
        ("hdc", 5632),
        ("hdd63", 5759),
    ];

    #[test]
    fn names_and_numbers_of_the_manual_page() {
        for (name, number) in TABLE {
            assert_eq!(name.parse::<Vdev>().map(Vdev::get), Ok(*number), "{name}");
            assert_eq!(Vdev(*number).to_string(), *name);
            assert_eq!(number.to_string().parse(), Ok(Vdev(*number)));
        }
        assert_eq!("d0p0".parse(), Ok(Vdev(51712)));
        assert_eq!("d16p2".parse(), Ok(Vdev(EXTENDED | 16 << 8 | 2)));
        assert_eq!("0xca00".parse(), Ok(Vdev(51712)));
        assert_eq!("d1048575p255".parse(), Ok(Vdev(EXTENDED | 0xFFF_FFFF)));
        assert_eq!(Vdev(EXTENDED | MAX_DISK << 8).to_string(), "xvdbgqcv");
        assert_eq!("xvdbgqcv".parse(), Ok(Vdev(EXTENDED | MAX_DISK << 8)));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (name, message) in [
            (
                "xvd",
                "virtual device `xvd` is none of xvdX[N], sdX[N], hdX[N], dNpN or a number",
            ),
            (
                "xvda256",
                "virtual device `xvda256`: partition 256 is beyond 255",
            ),
            ("sdq", "virtual device `sdq`: disk 16 is beyond 15"),
            ("sda16", "virtual device `sda16`: partition 16 is beyond 15"),
            ("hde", "virtual device `hde`: disk 4 is beyond 3"),
            (
                "d1048576p0",
                "virtual device `d1048576p0`: disk 1048576 is beyond 1048575",
            ),
            ("536870912", "virtual device number 536870912 is reserved"),
        ] {
            assert_eq!(name.parse::<Vdev>().unwrap_err().to_string(), message);
        }
        for name in [
            "",
            "xvda0",
            "xvda01",
            "xvdA",
            "xvda1x",
            "d0",
            "dp",
            "d0p",
            "+5",
            "-1",
            "0x",
            "0x+1",
            "vda",
            "4294967296",
            "xvdzzzzzzzzzz",
            "xvda99999999999",
            "d0p+1",
        ] {
            assert!(
                matches!(name.parse::<Vdev>(), Err(VdevError::Unknown(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_name_from_outside_reaches_no_terminal_raw() {
        let shown = "xvd\x1b[2Jaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            .parse::<Vdev>()
            .unwrap_err()
            .to_string();
        assert!(
            shown.contains("\\u{1b}[2J") && shown.contains('…'),
            "{shown}"
        );
    }
}
