//! In which units the sectors of a disk are counted.
//!
//! Since Xen 4.20 `xen/io/blkif.h` counts everything in 512 bytes, and `sector-size` says only what starts and lengths are
//! multiples of. Before, it left room, and implementations filled it in different ways (the table is that of the change which
//! settled it, 221f2748e8 of xen.git):
//!
//! | convention | whose | `sectors` | `sector_number` | `first_sect`, `last_sect` |
//! |---|---|---|---|---|
//! | `linux` | Linux, and the header | 512 | 512 | 512 |
//! | `freebsd` | FreeBSD | `sector-size` | `sector-size` | 512 |
//! | `qemu` | QEMU's qdisk, Windows' frontend | `sector-size` | `sector-size` | `sector-size` |
//! | `mini-os` | Mini-OS | `sector-size` | 512 | 512 |
//!
//! `nr_sectors` of a discard counts what its `sector_number` does. With a `sector-size` of 512 all of them are the same.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use super::SECTORS_PER_PAGE;
use crate::ids::{Sector, SectorCount};

/// Whose way of counting sectors both ends follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Convention {
    /// Linux, and `xen/io/blkif.h` since Xen 4.20.
    #[default]
    Linux,
    /// FreeBSD's frontend and backend.
    FreeBsd,
    /// QEMU's backend, and the frontend of Windows.
    Qemu,
    /// Mini-OS's frontend.
    MiniOs,
}

/// No convention has this name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("expected linux, freebsd, qemu or mini-os")]
pub struct UnknownConvention;

impl Convention {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Linux, Self::FreeBsd, Self::Qemu, Self::MiniOs];

    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::FreeBsd => "freebsd",
            Self::Qemu => "qemu",
            Self::MiniOs => "mini-os",
        }
    }
}

impl FromStr for Convention {
    type Err = UnknownConvention;

    fn from_str(text: &str) -> Result<Self, UnknownConvention> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or(UnknownConvention)
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The units of one disk: a [`Convention`] and a `sector-size`. Each is kept as the logarithm of how many times 512 bytes it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SectorUnits {
    /// Of the `sectors` node.
    size: u32,
    /// Of `sector_number` and `nr_sectors`.
    position: u32,
    /// Of `first_sect` and `last_sect`.
    segment: u32,
}

impl SectorUnits {
    /// 512 bytes everywhere.
    pub const PLAIN: Self = Self {
        size: 0,
        position: 0,
        segment: 0,
    };

    /// Those of a disk with this `sector-size` in bytes. One that is no power of two above 512 counts as 512.
    #[must_use]
    pub const fn new(convention: Convention, sector_size: u32) -> Self {
        let own = match sector_size.is_power_of_two() {
            true => sector_size.trailing_zeros().saturating_sub(9),
            false => 0,
        };
        let (size, position, segment) = match convention {
            Convention::Linux => (0, 0, 0),
            Convention::FreeBsd => (own, own, 0),
            Convention::Qemu => (own, own, own),
            Convention::MiniOs => (own, 0, 0),
        };
        Self {
            size,
            position,
            segment,
        }
    }

    /// Whether all of them are 512 bytes.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.bits() == 0
    }

    /// A number that these units have and no others: 0 for [`PLAIN`](Self::PLAIN), and below 2^15.
    #[must_use]
    pub const fn bits(self) -> u32 {
        // No logarithm is above 31 - 9.
        self.size | self.position << 5 | self.segment << 10
    }

    /// The `sectors` node of a disk of this size; what does not fill a unit is left out.
    #[must_use]
    pub const fn sectors(self, size: SectorCount) -> u64 {
        size.get().wrapping_shr(self.size)
    }

    /// The size of a disk by its `sectors` node, or `None` past 2^64.
    #[must_use]
    pub const fn size(self, sectors: u64) -> Option<SectorCount> {
        match sectors.checked_mul(1 << self.size) {
            Some(size) => Some(SectorCount::new(size)),
            None => None,
        }
    }

    /// How many sectors of 512 bytes one of `sector_number` or `nr_sectors` is.
    #[must_use]
    pub const fn position_unit(self) -> u64 {
        1 << self.position
    }

    /// A `sector_number` or `nr_sectors` in sectors of 512 bytes, or `None` past 2^64.
    #[inline]
    #[must_use]
    pub const fn in_sectors(self, number: u64) -> Option<u64> {
        number.checked_mul(self.position_unit())
    }

    /// The `sector_number` of a place, or `None` if it lies within a unit.
    #[must_use]
    pub const fn sector_number(self, sector: Sector) -> Option<u64> {
        self.whole(sector.get())
    }

    /// The `nr_sectors` of a length, or `None` if it ends within a unit.
    #[must_use]
    pub const fn nr_sectors(self, count: SectorCount) -> Option<u64> {
        self.whole(count.get())
    }

    const fn whole(self, sectors: u64) -> Option<u64> {
        match sectors.is_multiple_of(self.position_unit()) {
            true => Some(sectors.wrapping_shr(self.position)),
            false => None,
        }
    }

    /// What `first_sect` and `last_sect` are below: 8 for units of 512 bytes, 0 if a unit is larger than a page.
    #[inline]
    #[must_use]
    pub const fn per_page(self) -> u8 {
        match SECTORS_PER_PAGE.checked_shr(self.segment) {
            Some(units) => units,
            None => 0,
        }
    }

    /// How many sectors of 512 bytes one of `first_sect` or `last_sect` is; 0 if it is none of a page.
    #[inline]
    #[must_use]
    pub const fn segment_unit(self) -> u16 {
        match 1u16.checked_shl(self.segment) {
            Some(sectors) => sectors,
            None => 0,
        }
    }

    /// The `last_sect` of so many sectors of 512 bytes from the start of a page on, or `None` if they are none, not whole units,
    /// or more than a page.
    #[must_use]
    pub fn last_sect(self, sectors: u8) -> Option<u8> {
        let units = sectors.checked_shr(self.segment)?;
        let whole = units.checked_shl(self.segment) == Some(sectors);
        if !whole || sectors > SECTORS_PER_PAGE {
            return None;
        }
        units.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convention_has_one_name() {
        for convention in Convention::ALL {
            assert_eq!(convention.name().parse(), Ok(convention));
        }
        for text in ["", "Linux", "windows", "qemu "] {
            assert_eq!(text.parse::<Convention>(), Err(UnknownConvention));
        }
    }

    #[test]
    fn all_conventions_count_sectors_of_512_bytes_alike() {
        for convention in Convention::ALL {
            for size in [512, 0, 1, 256, 4095, 4097, u32::MAX] {
                assert_eq!(SectorUnits::new(convention, size), SectorUnits::PLAIN);
            }
        }
        let plain = SectorUnits::PLAIN;
        assert!(plain.is_plain());
        assert_eq!(plain.in_sectors(u64::MAX), Some(u64::MAX));
        assert_eq!((plain.per_page(), plain.segment_unit()), (8, 1));
        assert_eq!(
            [0, 1, 8, 9].map(|n| plain.last_sect(n)),
            [None, Some(0), Some(7), None]
        );
    }

    /// `sectors` of a disk of 800, number of sector 80, units in a page.
    fn told(convention: Convention) -> (u64, Option<u64>, u8) {
        let units = SectorUnits::new(convention, 4096);
        let sectors = units.sectors(SectorCount::new(800));
        assert_eq!(units.size(sectors), Some(SectorCount::new(800)));
        let number = units.sector_number(Sector::new(80));
        assert_eq!(number.and_then(|number| units.in_sectors(number)), Some(80));
        assert_eq!(units.nr_sectors(SectorCount::new(80)), number);
        (sectors, number, units.per_page())
    }

    #[test]
    fn each_convention_has_its_units() {
        assert_eq!(told(Convention::Linux), (800, Some(80), 8));
        assert_eq!(told(Convention::FreeBsd), (100, Some(10), 8));
        assert_eq!(told(Convention::Qemu), (100, Some(10), 1));
        assert_eq!(told(Convention::MiniOs), (100, Some(80), 8));
    }

    #[test]
    fn what_is_no_whole_unit_or_past_all_bytes_has_no_number() {
        let units = SectorUnits::new(Convention::Qemu, 4096);
        assert_eq!(units.sector_number(Sector::new(9)), None);
        assert_eq!(units.nr_sectors(SectorCount::new(7)), None);
        assert_eq!(units.sectors(SectorCount::new(15)), 1);
        for number in [1 << 61, (1 << 61) + 1, 1 << 63, u64::MAX] {
            assert_eq!((units.in_sectors(number), units.size(number)), (None, None));
        }
        assert_eq!(units.in_sectors((1 << 61) - 1), Some(u64::MAX - 7));
        assert_eq!(
            [0, 4, 8, 16].map(|n| units.last_sect(n)),
            [None, None, Some(0), None]
        );
        // Half a page, and more than one.
        let units = SectorUnits::new(Convention::Qemu, 2048);
        assert_eq!(
            [4, 8, 6].map(|n| units.last_sect(n)),
            [Some(0), Some(1), None]
        );
        for size in [8192, 1 << 31] {
            let units = SectorUnits::new(Convention::Qemu, size);
            assert_eq!((units.per_page(), units.last_sect(8)), (0, None));
        }
    }

    #[test]
    fn a_number_for_all_units_tells_them_apart() {
        let mut seen = heapless::Vec::<(u32, SectorUnits), 128>::new();
        for convention in Convention::ALL {
            for shift in 9..32 {
                let units = SectorUnits::new(convention, 1 << shift);
                assert!(units.bits() < 1 << 15);
                assert_eq!(units.is_plain(), units == SectorUnits::PLAIN);
                let mut others = seen.iter();
                assert!(others.all(|(bits, other)| (*bits == units.bits()) == (*other == units)));
                seen.push((units.bits(), units)).expect("92 of them");
            }
        }
    }
}
