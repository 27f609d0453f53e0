//! Pages for data, granted to the backend for as long as they live.

use core::fmt;

use heapless::Vec;
use ringfence_core::platform::{Access, GrantError, Granted, Platform};
use ringfence_core::wire::blkif::{
    MAX_SEGMENTS_PER_REQUEST, SECTORS_PER_PAGE, SEGMENTS_PER_INDIRECT_PAGE, SectorUnits, Segment,
};
use ringfence_core::{DomId, GrantRef, PAGE, Sector, SectorCount, SharedMem};
use zerocopy::IntoBytes;

use crate::BufferError;

/// The most pages a buffer has unless its type says otherwise: as many as a request has direct segments.
pub const MAX_PAGES: usize = MAX_SEGMENTS_PER_REQUEST;

const SECTOR: usize = Sector::BYTES as usize;

/// Data of one request: 1 to `PAGES` pages (at most 512) that hold nothing else, zeroed when allocated, and granted to the
/// backend. With more than 11 pages there is one more, for the list of them that an indirect request names.
///
/// **The backend can read these pages at any time** (a grant is a whole page): what is written here is disclosed to it, also
/// before submitting. Nothing that was in memory before is (XSA-403), and what lies beyond the length of a write is zeroed when
/// it is submitted. The backend can also write to them at any time: look at what [`read_at`](Self::read_at) copied out.
///
/// Dropping a buffer ends the grants; pages that the backend still has mapped then go to the platform's quarantine (XSA-396).
/// With [persistent grants](crate::Queue::set_persistent) the backend keeps what it saw once mapped until the connection ends:
/// then keep buffers and use them again.
///
/// Memory: `PAGES` times the platform's [`Granted`], and some 80 bytes; the pages themselves are the platform's.
pub struct Buffer<P: Platform, const PAGES: usize = MAX_PAGES> {
    pages: Vec<P::Granted, PAGES>,
    /// The segments of an indirect request, if there can be so many.
    table: Option<P::Granted>,
    /// Bytes that take part, a multiple of 512.
    len: usize,
    /// Who can reach all pages; nobody once access ended.
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

impl<P: Platform, const PAGES: usize> Buffer<P, PAGES> {
    pub(crate) fn alloc(platform: &P, to: Grantee, pages: usize) -> Result<Self, BufferError> {
        let refused = BufferError::Pages { pages, max: PAGES };
        if pages == 0 {
            return Err(refused);
        }
        let mut granted = Vec::new();
        for _ in 0..pages {
            if granted.is_full() {
                return Err(refused);
            }
            let page = platform.alloc(to.peer, Access::ReadWrite)?;
            let _ = granted.push(page);
        }
        let mut table = None;
        if pages > MAX_SEGMENTS_PER_REQUEST {
            // Writable as well: backends map everything so that is granted for good (blkif.h, note 8).
            table = Some(platform.alloc(to.peer, Access::ReadWrite)?);
        }
        let len = pages.saturating_mul(PAGE);
        Ok(Self {
            pages: granted,
            table,
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
            // From here on until the end nobody can reach all of them.
            self.granted = None;
            self.renewed = Some((to, n.saturating_add(1)));
        }
        if let Some(table) = &mut self.table {
            *table = platform.alloc(to.peer, Access::ReadWrite)?;
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

    /// The segments of `sectors` sectors of 512 bytes from `first` on, which begins a page, in units of the backend.
    fn segments(
        &self,
        first: u64,
        sectors: u64,
        units: SectorUnits,
    ) -> impl Iterator<Item = Segment> {
        let per_page = u64::from(SECTORS_PER_PAGE);
        let skip = first.checked_div(per_page).unwrap_or(0);
        let pages = self
            .pages
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX));
        pages.scan(sectors, move |left, page| {
            let run = (*left).min(per_page);
            let last_sect = units.last_sect(u8::try_from(run).ok()?)?;
            *left = left.saturating_sub(run);
            Some(Segment {
                gref: page.grant_ref().get(),
                first_sect: 0,
                last_sect,
                pad: [0; 2],
            })
        })
    }

    /// The segments in a request itself, and how many there are.
    pub(crate) fn direct(
        &self,
        first: u64,
        sectors: u64,
        units: SectorUnits,
    ) -> (u8, [Segment; MAX_SEGMENTS_PER_REQUEST]) {
        let mut seg = [Segment::default(); MAX_SEGMENTS_PER_REQUEST];
        let mut count = 0u8;
        for (place, segment) in seg.iter_mut().zip(self.segments(first, sectors, units)) {
            *place = segment;
            count = count.saturating_add(1);
        }
        (count, seg)
    }

    /// Writes the segments into the page for them: how many, and the page. `None` if there is no such page.
    pub(crate) fn indirect(
        &self,
        first: u64,
        sectors: u64,
        units: SectorUnits,
    ) -> Option<(u16, GrantRef)> {
        let table = self.table.as_ref()?;
        let mut count = 0u16;
        for segment in self
            .segments(first, sectors, units)
            .take(SEGMENTS_PER_INDIRECT_PAGE)
        {
            let at = usize::from(count).saturating_mul(size_of::<Segment>());
            table.write(at, segment.as_bytes());
            count = count.saturating_add(1);
        }
        Some((count, table.grant_ref()))
    }

    /// Ends the backend's access to every page. `false` while it has one of them mapped: then the buffer must not be given
    /// back, for the backend could still write to it.
    pub(crate) fn revoke(&mut self) -> bool {
        // Every page in turn, also behind one that is still mapped. Revoking again what is revoked changes nothing.
        let mut done = true;
        if self.granted.is_some() || self.renewed.is_some() {
            for page in self.pages.iter_mut().chain(&mut self.table) {
                done &= page.try_revoke().is_ok();
            }
        }
        if done {
            (self.granted, self.renewed) = (None, None);
        }
        done
    }
}

impl<P: Platform, const PAGES: usize> fmt::Debug for Buffer<P, PAGES> {
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
