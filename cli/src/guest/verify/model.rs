//! What must be on the disk: a sum for every block, and the pattern that gives it.

use std::ops::Range;

/// The most bytes of a disk that are written and remembered: half of them at its start, half at its end.
const REGION_MAX: u64 = 256 << 20;

/// Words at the start of a block that say what it is.
const HEADER: usize = 3;

/// The blocks that take part, numbered from 0 without a gap, and the sum of what each must hold.
#[derive(Debug)]
pub(crate) struct Model {
    seed: u64,
    block_bytes: usize,
    /// Blocks of the whole disk.
    disk_blocks: u64,
    /// From this number on the blocks lie at the disk's end.
    middle: u64,
    /// `None` where it is not known, as after a failed write.
    sums: Vec<Option<u64>>,
}

impl Model {
    pub(crate) fn new(seed: u64, sectors: u64, block_bytes: u32) -> Self {
        let disk_blocks = sectors / u64::from(block_bytes / 512).max(1);
        let blocks = disk_blocks.min(REGION_MAX / u64::from(block_bytes).max(1));
        let middle = if blocks == disk_blocks {
            blocks
        } else {
            blocks / 2
        };
        Self {
            seed,
            block_bytes: block_bytes as usize,
            disk_blocks,
            middle,
            sums: vec![None; usize::try_from(blocks).unwrap_or(0)],
        }
    }

    /// How many blocks take part.
    pub(crate) fn blocks(&self) -> u64 {
        self.sums.len() as u64
    }

    /// How many blocks from `first` on, at most `count`, are neighbours on the disk.
    pub(crate) fn together(&self, first: u64, count: u64) -> u64 {
        let end = if first < self.middle {
            self.middle
        } else {
            self.blocks()
        };
        count.min(end.saturating_sub(first))
    }

    /// Where a block is, in units of 512 bytes.
    pub(crate) fn sector(&self, block: u64) -> u64 {
        let place = if block < self.middle {
            block
        } else {
            self.disk_blocks - self.blocks() + block
        };
        place * (self.block_bytes as u64 / 512)
    }

    /// The content that the write numbered `stamp` gives to these blocks.
    pub(crate) fn pattern(&self, blocks: Range<u64>, stamp: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((blocks.end - blocks.start) as usize * self.block_bytes);
        for block in blocks {
            let mut state = mix(self.seed ^ mix(block ^ mix(stamp)));
            for header in [self.magic(), block, stamp] {
                bytes.extend(header.to_le_bytes());
            }
            for _ in HEADER..self.block_bytes / 8 {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                bytes.extend(mix(state).to_le_bytes());
            }
        }
        bytes
    }

    fn magic(&self) -> u64 {
        mix(self.seed ^ 0x7269_6e67_6665_6e63)
    }

    /// From now on the disk must hold `bytes` from `first` on; `None`: nobody knows what.
    pub(crate) fn expect(&mut self, first: u64, count: u64, bytes: Option<&[u8]>) {
        let from = usize::try_from(first).unwrap_or(usize::MAX);
        let sums = self.sums.iter_mut().skip(from).take(count as usize);
        let mut blocks = bytes.map(|bytes| bytes.chunks(self.block_bytes));
        for place in sums {
            *place = blocks.as_mut().and_then(Iterator::next).map(sum);
        }
    }

    /// The blocks of `bytes`, which were read from `first` on, that are not as they must be.
    pub(crate) fn wrong<'a>(
        &'a self,
        first: u64,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (u64, Found)> + 'a {
        let blocks = bytes.chunks(self.block_bytes);
        (first..).zip(blocks).filter_map(|(block, content)| {
            let must = self.sums.get(usize::try_from(block).ok()?).copied()??;
            (sum(content) != must).then(|| (block, self.found(content)))
        })
    }

    fn found(&self, content: &[u8]) -> Found {
        let word = |at: usize| {
            let bytes = content.get(at * 8..at * 8 + 8)?;
            bytes.try_into().ok().map(u64::from_le_bytes)
        };
        match (word(0), word(1), word(2)) {
            (Some(magic), Some(block), Some(stamp)) if magic == self.magic() => {
                Found::Ours { block, stamp }
            }
            _ if content.iter().all(|byte| *byte == 0) => Found::Zeros,
            _ => Found::Strange,
        }
    }
}

/// What was there instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The start of what a write of ours wrote: another block's, another write's, or torn.
    Ours {
        /// The block that it was written to.
        block: u64,
        /// The number of the write.
        stamp: u64,
    },
    /// Nothing but zeros.
    Zeros,
    /// Nothing that we wrote.
    Strange,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours { block, stamp } => write!(f, "write {stamp} of block {block}"),
            Self::Zeros => f.write_str("zeros"),
            Self::Strange => f.write_str("nothing that was written"),
        }
    }
}

/// The finaliser of SplitMix64.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sum(block: &[u8]) -> u64 {
    let words = block.chunks(8).map(|word| {
        let mut bytes = [0; 8];
        bytes
            .iter_mut()
            .zip(word)
            .for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(bytes)
    });
    words.fold(block.len() as u64, |sum, word| mix(sum ^ word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_takes_part_at_both_ends() {
        let model = Model::new(1, 1 << 40, 4096);
        assert_eq!(model.blocks(), 65536);
        assert_eq!(model.sector(32767), 32767 * 8);
        assert_eq!(model.sector(65535), (1 << 40) - 8);
        assert_eq!(model.together(32766, 10), 2);
        assert_eq!(model.together(65530, 10), 6);
        let small = Model::new(1, 1000, 512);
        assert_eq!((small.blocks(), small.sector(999)), (1000, 999));
        assert_eq!(small.together(0, 2000), 1000);
    }

    #[test]
    fn one_bit_is_seen_and_an_older_write_is_named() {
        let mut model = Model::new(9, 64, 512);
        let old = model.pattern(0..4, 1);
        let new = model.pattern(0..4, 2);
        model.expect(0, 4, Some(&new));
        assert_eq!(model.wrong(0, &new).count(), 0);
        for at in [0, 511, 512, 2047] {
            let mut torn = new.clone();
            torn[at] ^= 1;
            let wrong: Vec<_> = model.wrong(0, &torn).map(|(block, _)| block).collect();
            assert_eq!(wrong, [at as u64 / 512]);
        }
        let wrong: Vec<_> = model.wrong(1, &old[512..1024]).collect();
        assert_eq!(wrong, [(1, Found::Ours { block: 1, stamp: 1 })]);
        // Swapped neighbours.
        let swapped = [&new[512..1024], &new[..512]].concat();
        assert_eq!(model.wrong(0, &swapped).count(), 2);
        model.expect(0, 4, None);
        assert_eq!(model.wrong(0, &old).count(), 0);
    }
}
