//! The pages of a ring, granted one by one, as one memory.

use heapless::Vec;
use ringfence_core::platform::{Access, GrantError, Granted, Platform};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};

/// Linux takes no larger rings (`XENBUS_MAX_RING_GRANT_ORDER`).
pub(crate) const MAX_ORDER: u32 = 4;
const MAX_PAGES: usize = 1 << MAX_ORDER;

/// 1, 2, 4, 8 or 16 pages.
pub(crate) struct RingPages<G> {
    pages: Vec<G, MAX_PAGES>,
}

impl<G: Granted> RingPages<G> {
    /// `2^order` pages, at most [`MAX_ORDER`], zeroed and granted to `peer`.
    pub(crate) fn alloc<P>(platform: &P, peer: DomId, order: u32) -> Result<Self, GrantError>
    where
        P: Platform<Granted = G>,
    {
        let mut pages = Vec::new();
        for _ in 0..1usize.checked_shl(order).unwrap_or(1) {
            // Beyond the table there is no order.
            let _ = pages.push(platform.alloc(peer, Access::ReadWrite)?);
        }
        Ok(Self { pages })
    }

    /// The references to publish, in order.
    pub(crate) fn refs(&self) -> impl ExactSizeIterator<Item = GrantRef> {
        self.pages.iter().map(G::grant_ref)
    }

    /// Ends the peer's access, as far as it has let go. The rest finds its way into the platform's quarantine (XSA-396).
    pub(crate) fn revoke(mut self) {
        for page in &mut self.pages {
            let _ = page.try_revoke();
        }
    }

    /// The page that holds the byte at `offset`, and where in it. The ring never asks beyond [`len`](SharedMem::len).
    #[inline]
    fn page(&self, offset: usize) -> Option<(&G, usize)> {
        let at = offset & PAGE.wrapping_sub(1);
        let page = self.pages.get(offset.wrapping_shr(PAGE.trailing_zeros()))?;
        Some((page, at))
    }
}

impl<G: Granted> SharedMem for RingPages<G> {
    fn len(&self) -> usize {
        self.pages.len().saturating_mul(PAGE)
    }

    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        // Beyond the end there is nothing to be believed.
        self.page(offset).map_or(0, |(page, at)| page.load_u32(at))
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        if let Some((page, at)) = self.page(offset) {
            page.store_u32(at, value);
        }
    }

    #[inline]
    fn read(&self, offset: usize, dst: &mut [u8]) {
        let (mut offset, mut rest) = (offset, dst);
        while let Some((page, at)) = self.page(offset).filter(|_| !rest.is_empty()) {
            let run = rest.len().min(PAGE.saturating_sub(at));
            let (now, later) = rest.split_at_mut(run);
            page.read(at, now);
            (offset, rest) = (offset.saturating_add(run), later);
        }
    }

    #[inline]
    fn write(&self, offset: usize, src: &[u8]) {
        let (mut offset, mut rest) = (offset, src);
        while let Some((page, at)) = self.page(offset).filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at(rest.len().min(PAGE.saturating_sub(at)));
            page.write(at, now);
            (offset, rest) = (offset.saturating_add(now.len()), later);
        }
    }

    fn fence(&self) {
        if let Some(first) = self.pages.first() {
            first.fence();
        }
    }
}
