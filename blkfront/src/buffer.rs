//! Pages for data, granted to the backend for as long as they live.

use core::fmt;

use heapless::Vec;
use ringfence_core::platform::{Access, GrantError, Granted, Platform};
use ringfence_core::wire::blkif::{MAX_SEGMENTS_PER_REQUEST, SECTORS_PER_PAGE, Segment};
use ringfence_core::{DomId, PAGE, Sector, SectorCount, SharedMem};

use crate::BufferError;

/// The most pages a buffer has: as many as a request has direct segments.
pub const MAX_PAGES: usize = MAX_SEGMENTS_PER_REQUEST;

const SECTOR: usize = Sector::BYTES as usize;

/// Data of one request: 1 to [`MAX_PAGES`] pages that hold nothing else, zeroed when allocated, and granted to the backend.
///
/// **The backend can read these pages at any time** (a grant is a whole page): what is written here is disclosed to it, also
/// before submitting. Nothing that was in memory before is (XSA-403), and what lies beyond the length of a write is zeroed when
/// it is submitted. The backend can also write to them at any time: look at what [`read_at`](Self::read_at) copied out.
///
/// Dropping a buffer ends the grants; pages that the backend still has mapped then go to the platform's quarantine (XSA-396).
pub struct Buffer<P: Platform> {
    pages: Vec<P::Granted, MAX_PAGES>,
    /// Bytes that take part, a multiple of 512.
    len: usize,
    /// Who can reach the pages; nobody once access ended.
    granted: Option<Grantee>,
    /// For whom new pages are being put in place, and how many are.
    renewed: Option<(Grantee, usize)>,
}

/// Whom pages are granted to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grantee {
    pub(crate) peer: DomId,
    /// Counts the lives of this guest: what was granted before it was saved, nobody can reach after it was restored.
    pub(crate) life: u32,
}

impl<P: Platform> Buffer<P> {
    pub(crate) fn alloc(platform: &P, to: Grantee, pages: usize) -> Result<Self, BufferError> {
        if pages == 0 || pages > MAX_PAGES {
            return Err(BufferError::Pages { pages });
        }
        let mut granted = Vec::new();
        for _ in 0..pages {
            let page = platform.alloc(to.peer, Access::ReadWrite)?;
            if granted.push(page).is_err() {
                return Err(BufferError::Pages { pages });
            }
        }
        let len = pages.saturating_mul(PAGE);
        Ok(Self {
            pages: granted,
            len,
            granted: Some(to),
            renewed: None,
        })
    }

    /// Puts new pages that `to` can reach in the place of all pages, with the first `keep` bytes of the data. The old ones are
    /// dropped one by one: those that somebody still has mapped are the platform's to keep (XSA-396), and what he writes to
    /// them reaches nobody.
    ///
    /// # Errors
    /// No page is left. The data is whole, and another call goes on where this one stopped.
    pub(crate) fn renew(
        &mut self,
        platform: &P,
        to: Grantee,
        keep: usize,
    ) -> Result<(), GrantError> {
        let done = match self.renewed {
            Some((grantee, done)) if grantee == to => done,
            _ => 0,
        };
        let mut left = keep.min(self.len);
        for (n, page) in self.pages.iter_mut().enumerate() {
            let bytes = left.min(PAGE);
            left = left.saturating_sub(bytes);
            if n < done {
                continue;
            }
            let fresh = platform.alloc(to.peer, Access::ReadWrite)?;
            copy(page, &fresh, bytes);
            *page = fresh;
            self.renewed = Some((to, n.saturating_add(1)));
        }
        self.granted = Some(to);
        self.renewed = None;
        Ok(())
    }

    /// Length in bytes: what a request transfers. All of the pages, until [`set_len`](Self::set_len).
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let buffer = Rig::connected().front.buffer(1)?;
    /// assert_eq!(buffer.len(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut buffer = Rig::connected().front.buffer(1)?;
    /// buffer.set_len(0)?;
    /// assert!(buffer.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the pages hold.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut buffer = Rig::connected().front.buffer(1)?;
    /// buffer.set_len(512)?;
    /// assert_eq!(buffer.capacity(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.pages.len().saturating_mul(PAGE)
    }

    /// The length in sectors of 512 bytes.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let buffer = Rig::connected().front.buffer(1)?;
    /// assert_eq!(buffer.sectors().get(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sectors(&self) -> SectorCount {
        let count = self.len.checked_div(SECTOR).unwrap_or(0);
        SectorCount::new(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// Changes the length: a multiple of 512 bytes, at most what the pages hold.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut buffer = Rig::connected().front.buffer(1)?;
    /// buffer.set_len(1024)?;
    /// assert!(buffer.set_len(100).is_err());
    /// assert!(buffer.set_len(8192).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_len(&mut self, bytes: usize) -> Result<(), BufferError> {
        let capacity = self.capacity();
        if bytes > capacity || !bytes.is_multiple_of(SECTOR) {
            return Err(BufferError::Length { bytes, capacity });
        }
        self.len = bytes;
        Ok(())
    }

    /// Copies `src` in at `offset` bytes.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut buffer = Rig::connected().front.buffer(1)?;
    /// buffer.write_at(4092, b"last")?;
    /// assert!(buffer.write_at(4093, b"last").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_at(&mut self, offset: usize, src: &[u8]) -> Result<(), BufferError> {
        self.check(offset, src.len())?;
        let mut rest = src;
        self.runs(offset, src.len(), |page, at, bytes| {
            if let Some((now, later)) = rest.split_at_checked(bytes) {
                page.write(at, now);
                rest = later;
            }
        });
        Ok(())
    }

    /// Copies out from `offset` bytes on. The backend may change the pages meanwhile: every byte is read once.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut buffer = Rig::connected().front.buffer(1)?;
    /// buffer.write_at(7, b"some")?;
    /// let mut data = [0xFF; 6];
    /// buffer.read_at(6, &mut data)?;
    /// assert_eq!(&data, b"\0some\0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_at(&self, offset: usize, dst: &mut [u8]) -> Result<(), BufferError> {
        self.check(offset, dst.len())?;
        let bytes = dst.len();
        let mut done = 0usize;
        self.runs(offset, bytes, |page, at, run| {
            let end = done.saturating_add(run);
            if let Some(now) = dst.get_mut(done..end) {
                page.read(at, now);
            }
            done = end;
        });
        Ok(())
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<(), BufferError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(BufferError::OutOfRange {
                offset,
                bytes,
                len: self.len,
            }),
        }
    }

    /// Calls `body` with page, offset in it and length for each page that `bytes` from `offset` on touch.
    fn runs(&self, offset: usize, bytes: usize, mut body: impl FnMut(&P::Granted, usize, usize)) {
        let mut skip = offset;
        let mut left = bytes;
        for page in &self.pages {
            if skip >= PAGE {
                skip = skip.saturating_sub(PAGE);
                continue;
            }
            let run = left.min(PAGE.saturating_sub(skip));
            if run == 0 {
                return;
            }
            body(page, skip, run);
            left = left.saturating_sub(run);
            skip = 0;
        }
    }

    /// Zeroes what lies in the pages beyond the length, so that a write discloses nothing of what was there before.
    pub(crate) fn zero_tail(&self) {
        const ZEROES: [u8; SECTOR] = [0; SECTOR];
        let tail = self.capacity().saturating_sub(self.len);
        self.runs(self.len, tail, |page, at, run| {
            // Length and page are multiples of a sector, hence so is every run.
            for n in 0..run.checked_div(SECTOR).unwrap_or(0) {
                page.write(at.saturating_add(n.saturating_mul(SECTOR)), &ZEROES);
            }
        });
    }

    /// Whether `to` can reach the pages.
    pub(crate) fn is_granted_to(&self, to: Grantee) -> bool {
        self.granted == Some(to)
    }

    /// The segments of a request, and how many there are.
    pub(crate) fn segments(&self) -> (u8, [Segment; MAX_SEGMENTS_PER_REQUEST]) {
        let mut segments = [Segment::default(); MAX_SEGMENTS_PER_REQUEST];
        let mut left = self.len.checked_div(SECTOR).unwrap_or(0);
        let mut count = 0u8;
        for (segment, page) in segments.iter_mut().zip(&self.pages) {
            let run = left.min(SECTORS_PER_PAGE.into());
            let Some(last) = u8::try_from(run).unwrap_or(0).checked_sub(1) else {
                break;
            };
            *segment = Segment {
                gref: page.grant_ref().get(),
                first_sect: 0,
                last_sect: last,
                pad: [0; 2],
            };
            left = left.saturating_sub(run);
            count = count.saturating_add(1);
        }
        (count, segments)
    }

    /// Ends the backend's access to every page. `false` while it has one of them mapped: then the buffer must not be given
    /// back, for the backend could still write to it.
    pub(crate) fn revoke(&mut self) -> bool {
        // Every page in turn, also behind one that is still mapped. Revoking again what is revoked changes nothing.
        let mut done = true;
        if self.granted.is_some() || self.renewed.is_some() {
            for page in &mut self.pages {
                done &= page.try_revoke().is_ok();
            }
        }
        if done {
            (self.granted, self.renewed) = (None, None);
        }
        done
    }
}

impl<P: Platform> fmt::Debug for Buffer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the data.
        f.debug_struct("Buffer")
            .field("pages", &self.pages.len())
            .field("len", &self.len)
            .field("granted", &self.granted)
            .finish()
    }
}

/// Copies the first `bytes`, a multiple of a sector, of one page to another.
fn copy<M: SharedMem>(from: &M, to: &M, bytes: usize) {
    let mut sector = [0; SECTOR];
    for n in 0..bytes.checked_div(SECTOR).unwrap_or(0) {
        let at = n.saturating_mul(SECTOR);
        from.read(at, &mut sector);
        to.write(at, &sector);
    }
}
