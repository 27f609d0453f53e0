//! Numbers that are taken and given back: frames, places in the window, grant references.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// A range of numbers, each of which is free or taken.
#[derive(Debug)]
pub(crate) struct Pool {
    first: u32,
    /// One bit for each number: set where it is free.
    words: Vec<u64>,
    free: u32,
    /// Below this word nothing is free.
    hint: usize,
}

impl Pool {
    /// All of them free.
    pub(crate) fn new(numbers: Range<u32>) -> Self {
        let count = numbers.end.saturating_sub(numbers.start);
        let words = vec![0; (count as usize).div_ceil(64)];
        let mut pool = Self {
            first: numbers.start,
            words,
            free: 0,
            hint: 0,
        };
        pool.give(numbers.start, count);
        pool
    }

    /// How many are free.
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    /// One of them.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let at = (self.hint..self.words.len()).find(|at| self.words[*at] != 0);
        self.hint = at.unwrap_or(self.words.len());
        let word = &mut self.words[at?];
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.free -= 1;
        Some(self.first + u32::try_from(at? * 64).ok()? + bit)
    }

    /// The first of `count` that follow each other.
    pub(crate) fn take_run(&mut self, count: u32) -> Option<u32> {
        let last = u32::try_from(self.words.len() * 64).ok()?;
        let mut run = 0;
        for index in 0..last {
            run = if self.is_free(index) { run + 1 } else { 0 };
            if run == count {
                let start = index + 1 - count;
                for taken in start..=index {
                    self.words[taken as usize / 64] &= !(1 << (taken % 64));
                }
                self.free -= count;
                return Some(self.first + start);
            }
        }
        None
    }

    /// Takes back what was taken.
    pub(crate) fn give(&mut self, number: u32, count: u32) {
        for index in number - self.first..number - self.first + count {
            debug_assert!(!self.is_free(index), "{index} is given back twice");
            self.words[index as usize / 64] |= 1 << (index % 64);
            self.hint = self.hint.min(index as usize / 64);
        }
        self.free += count;
    }

    fn is_free(&self, index: u32) -> bool {
        self.words[index as usize / 64] & (1 << (index % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_given_out_once() {
        let mut pool = Pool::new(8..200);
        assert_eq!(pool.free(), 192);
        let taken: Vec<u32> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken, (8..200).collect::<Vec<u32>>());
        assert_eq!((pool.take(), pool.free()), (None, 0));
        pool.give(77, 1);
        pool.give(9, 1);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(9), Some(77), None)
        );
    }

    #[test]
    fn a_run_is_found_between_what_is_taken() {
        let mut pool = Pool::new(0..130);
        assert_eq!(pool.take(), Some(0));
        assert_eq!(pool.take_run(66), Some(1));
        assert_eq!(pool.take_run(63), Some(67));
        assert_eq!((pool.take_run(1), pool.free()), (None, 0));
        pool.give(60, 8);
        assert_eq!((pool.take_run(9), pool.take_run(8)), (None, Some(60)));
    }
}
