//! Free-running ring indices.

/// A ring index as it is shared: it counts messages from the start of the ring, modulo 2^32 (`RING_IDX` of `xen/io/ring.h`).
///
/// Wrap-around is normal, so indices have no order; there is only the distance from one to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingIndex(u32);

impl RingIndex {
    /// The index with this value.
    #[inline]
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The value as it stands on the shared page.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// How many messages lie between `earlier` and this index, modulo 2^32.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The index `messages` further on, modulo 2^32.
    #[inline]
    #[must_use]
    pub const fn plus(self, messages: u32) -> Self {
        Self(self.0.wrapping_add(messages))
    }
}

impl core::fmt::Display for RingIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::RingIndex;

    #[test]
    fn distance_wraps() {
        let old = RingIndex::new(u32::MAX);
        let new = old.plus(3);
        assert_eq!(new.get(), 2);
        assert_eq!(new.since(old), 3);
        assert_eq!(old.since(new), u32::MAX - 2);
    }
}
