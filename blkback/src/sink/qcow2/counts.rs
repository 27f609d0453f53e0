//! How often an image's own tables are referred to, as far as it matters before anything is allocated.
//!
//! A new table is entered into the one above it at once, while its count stays in memory until tables are written: a process that
//! dies in between leaves a table that counts as free, and the next one would put a guest's data there. So whoever opens an image
//! for writing counts its tables first. A count that is too high is room lost, and left alone.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "offsets have 56 bits, lengths 25, and nobody divides by zero"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::vec::Vec;

use ringfence_core::PAGE;

use super::Head;
use crate::buffer::Buffer;

/// The most bytes of a table that is read whole, as QEMU has it.
const TABLE_MAX: u64 = 32 << 20;

/// Where an entry of a table refers to.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Counts every table that is in use and counts as free. Returns how many those were.
pub(super) fn mend(image: &OwnedFd, head: &Head) -> io::Result<usize> {
    if !(9..=21).contains(&head.cluster_bits) || head.refcount_order > 6 {
        // What the library says of that is clear enough.
        return Ok(0);
    }
    let cluster = 1u64 << head.cluster_bits;
    let (l1_at, blocks_at) = (head.l1_offset & OFFSET, head.refcount_offset & OFFSET);
    let l1_bytes = u64::from(head.l1_entries) * 8;
    let blocks_bytes = u64::from(head.refcount_clusters) << head.cluster_bits;
    let l1 = table(image, l1_at, l1_bytes)?;
    let blocks = table(image, blocks_at, blocks_bytes)?;
    let tables = l1.iter().chain(&blocks).copied().filter(|at| *at != 0);
    let above = [(0, 1), (l1_at, l1_bytes), (blocks_at, blocks_bytes)];
    let above = above
        .into_iter()
        .flat_map(|(at, bytes)| (0..bytes.div_ceil(cluster)).map(move |nth| at + nth * cluster));
    let mut used: Vec<u64> = tables.chain(above).map(|at| at / cluster).collect();
    used.sort_unstable();
    used.dedup();

    let in_block = (cluster * 8) >> head.refcount_order;
    let mut page = Page::new(image);
    let mut mended = 0;
    for number in used {
        let block = usize::try_from(number / in_block).ok();
        let Some(block) = block.and_then(|block| blocks.get(block)) else {
            continue;
        };
        if *block == 0 {
            continue;
        }
        let bit = (number % in_block) << head.refcount_order;
        if page.count(block + bit / 8, bit % 8, 1 << head.refcount_order)? {
            mended += 1;
        }
    }
    page.write()?;
    Ok(mended)
}

/// What the entries of a table refer to.
fn table(image: &OwnedFd, at: u64, bytes: u64) -> io::Result<Vec<u64>> {
    if bytes > TABLE_MAX {
        return Err(io::Error::other("a table is too large"));
    }
    let start = at - at % PAGE as u64;
    let skip = usize::try_from(at - start).unwrap_or(0);
    let len = skip + usize::try_from(bytes).unwrap_or(0);
    let mut buffer = Buffer::with_pages(len.div_ceil(PAGE));
    buffer.set_len(buffer.capacity());
    read(image, buffer.bytes_mut(), start)?;
    let entries = buffer.bytes().get(skip..len).unwrap_or_default();
    let entries = entries.as_chunks::<8>().0.iter();
    Ok(entries
        .map(|entry| u64::from_be_bytes(*entry) & OFFSET)
        .collect())
}

/// Reads as far as the file goes.
fn read(image: &OwnedFd, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(image, &mut *bytes, at))?;
        if count == 0 || !count.is_multiple_of(PAGE) {
            break;
        }
        bytes = bytes.get_mut(count..).unwrap_or_default();
        at = at.saturating_add(count as u64);
    }
    Ok(())
}

/// The page of counts that was looked at last.
struct Page<'a> {
    image: &'a OwnedFd,
    bytes: Buffer,
    at: Option<u64>,
    changed: bool,
}

impl<'a> Page<'a> {
    fn new(image: &'a OwnedFd) -> Self {
        let mut bytes = Buffer::with_pages(1);
        bytes.set_len(PAGE);
        Self {
            image,
            bytes,
            at: None,
            changed: false,
        }
    }

    /// The count of so many bits, `bit` bits into the byte at `at`: if it is 0 it becomes 1. Whether it did.
    fn count(&mut self, at: u64, bit: u64, bits: u32) -> io::Result<bool> {
        let start = at - at % PAGE as u64;
        if self.at != Some(start) {
            self.write()?;
            self.bytes.bytes_mut().fill(0);
            read(self.image, self.bytes.bytes_mut(), start)?;
            self.at = Some(start);
        }
        let place = usize::try_from(at - start).unwrap_or(0);
        let len = usize::try_from(bits.div_ceil(8)).unwrap_or(1);
        let Some(count) = self.bytes.bytes_mut().get_mut(place..place + len) else {
            return Ok(false);
        };
        // Smaller ones than a byte begin at its low end.
        let mask = if bits < 8 {
            ((1u8 << bits) - 1) << bit
        } else {
            0xFF
        };
        if count.iter().any(|byte| byte & mask != 0) {
            return Ok(false);
        }
        if let Some(last) = count.last_mut() {
            *last |= 1 << if bits < 8 { bit } else { 0 };
        }
        self.changed = true;
        Ok(true)
    }

    fn write(&mut self) -> io::Result<()> {
        if let Some(at) = self.at.filter(|_| core::mem::take(&mut self.changed)) {
            let written = rustix::io::retry_on_intr(|| {
                rustix::io::pwrite(self.image, self.bytes.bytes(), at)
            })?;
            if written < PAGE {
                return Err(io::Error::other("a page of counts was written in part"));
            }
        }
        Ok(())
    }
}
