//! `embedded-sdmmc`: a disk for that crate's file systems, in blocks of 512 bytes.

use core::cell::RefCell;
use core::error::Error;

use embedded_sdmmc_types::{Block, BlockCount, BlockDevice, BlockIdx};
use ringfence_core::platform::Platform;
use ringfence_core::{PAGE, Sector};

use super::{Blocking, BlockingError, after};
use crate::{Frontend, MAX_PAGES, Op, SLOTS};

/// Blocks in a page.
const PER_PAGE: usize = PAGE / Block::LEN;

/// A disk whose sectors have 512 bytes.
pub struct Card<P: Platform, W, const DEPTH: usize = SLOTS, const PAGES: usize = MAX_PAGES> {
    disk: RefCell<Blocking<P, W, DEPTH, PAGES>>,
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> Card<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
{
    /// The whole disk. A disk with larger sectors answers what does not fit them with
    /// [`Reason::Misaligned`](crate::Reason::Misaligned).
    pub const fn new(disk: Blocking<P, W, DEPTH, PAGES>) -> Self {
        Self {
            disk: RefCell::new(disk),
        }
    }

    /// The disk back.
    pub fn into_disk(self) -> Blocking<P, W, DEPTH, PAGES> {
        self.disk.into_inner()
    }
}

impl<P, W, E, const DEPTH: usize, const PAGES: usize> BlockDevice for Card<P, W, DEPTH, PAGES>
where
    P: Platform,
    W: FnMut(&mut Frontend<P, DEPTH, PAGES>) -> Result<(), E>,
    E: Error + 'static,
{
    type Error = BlockingError<E>;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> Result<(), Self::Error> {
        let mut disk = self.disk.borrow_mut();
        let mut at = Sector::new(first.0.into());
        for part in blocks.chunks_mut(PAGES.saturating_mul(PER_PAGE)) {
            let bytes = part.len().saturating_mul(Block::LEN);
            let buffer = disk.buffer(bytes)?;
            if let Some(buffer) = disk.transfer(Op::Read, at, buffer)? {
                for (offset, block) in (0..bytes).step_by(Block::LEN).zip(part) {
                    buffer.read_at(offset, &mut block.contents)?;
                }
                disk.spare = Some(buffer);
            }
            at = after(at, bytes);
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> Result<(), Self::Error> {
        let mut disk = self.disk.borrow_mut();
        let mut at = Sector::new(first.0.into());
        for part in blocks.chunks(PAGES.saturating_mul(PER_PAGE)) {
            let bytes = part.len().saturating_mul(Block::LEN);
            let mut buffer = disk.buffer(bytes)?;
            for (offset, block) in (0..bytes).step_by(Block::LEN).zip(part) {
                buffer.write_at(offset, &block.contents)?;
            }
            disk.spare = disk.transfer(Op::Write, at, buffer)?;
            at = after(at, bytes);
        }
        Ok(())
    }

    /// The crate counts in 32 bits; what lies behind 2 TiB it cannot reach.
    fn num_blocks(&self) -> Result<BlockCount, Self::Error> {
        let sectors = self.disk.borrow().info()?.sectors.get();
        Ok(BlockCount(u32::try_from(sectors).unwrap_or(u32::MAX)))
    }
}
