//! What is read from the store before a connection, and published for it.

use core::fmt::Write as _;

use ringfence_core::platform::{Channel, Platform};
use ringfence_core::store::{FieldError, Store, StoreError, StoreExt, StorePath, Tx, join};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Convention, PROTOCOL_NATIVE, SectorUnits, VDISK_READONLY};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{DomId, PAGE, Sector, SectorCount};

use crate::connection::{Connection, Limits};
use crate::error::field;
use crate::rings::{Rings, Wants};
use crate::sring::MAX_ORDER;
use crate::{Error, NegotiateError, Op, Reason, SLOTS};

/// The disk, as the backend described it and as it was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// Size (`sectors`).
    pub sectors: SectorCount,
    /// Logical sector in bytes (`sector-size`), a power of two from 512 to 4096: what starts and lengths are multiples of.
    pub sector_size: u32,
    /// In which units the backend counts sectors: see [`set_sectors`](crate::Queue::set_sectors). Everything here is in 512 bytes.
    pub units: SectorUnits,
    /// Physical sector in bytes (`physical-sector-size`), a power of two: a hint.
    pub physical_sector_size: u32,
    /// Whether writing is refused (`VDISK_READONLY` of `info`).
    pub read_only: bool,
    /// All of `info`: bits `VDISK_*`.
    pub flags: u32,
    /// Whether flushes are done (`feature-flush-cache`); turned off when the backend answers that it does none.
    pub flush: bool,
    /// Whether barriers are done (`feature-barrier`); turned off when the backend answers that it does none.
    pub barrier: bool,
    /// Whether sectors can be discarded (`feature-discard`); gone when the backend answers that they cannot.
    pub discard: Option<Discards>,
    /// How many pages go in one request (`feature-max-indirect-segments`): 11 or more, but no more than buffers have. A larger
    /// buffer is transferred in pieces.
    pub max_pages: u16,
    /// Whether both sides agreed on persistent grants: see [`set_persistent`](crate::Queue::set_persistent).
    pub persistent: bool,
}

/// How sectors are discarded: hints, which the backend does not hold us to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discards {
    /// What is worth discarding, in bytes (`discard-granularity`; without it a logical sector).
    pub granularity: u32,
    /// Where the first such unit begins, in bytes (`discard-alignment`).
    pub alignment: u32,
    /// Whether discarded sectors can be made unrecoverable (`discard-secure`).
    pub secure: bool,
}

impl Info {
    /// Whether the disk can do it: kind of operation, place and length.
    pub(crate) fn allows(&self, op: Op, sector: Sector, count: SectorCount) -> Result<(), Reason> {
        let supported = match op {
            Op::Read | Op::Write => true,
            Op::Barrier => self.barrier,
            Op::Flush => self.flush,
            Op::Discard => self.discard.is_some(),
            Op::SecureDiscard => self.discard.is_some_and(|discard| discard.secure),
        };
        if !supported {
            return Err(Reason::Unsupported);
        }
        if op == Op::Flush {
            return Ok(());
        }
        if op.changes() && self.read_only {
            return Err(Reason::ReadOnly);
        }
        if count.get() == 0 {
            return Err(Reason::Empty);
        }
        let sector_size = self.sector_size;
        let unit = u64::from(sector_size)
            .checked_div(Sector::BYTES)
            .unwrap_or(1);
        if !sector.get().is_multiple_of(unit) || !count.get().is_multiple_of(unit) {
            return Err(Reason::Misaligned {
                sector,
                count,
                sector_size,
            });
        }
        match sector.end(count) {
            Some(end) if end.get() <= self.sectors.get() => Ok(()),
            _ => Err(Reason::OutOfRange {
                sector,
                count,
                sectors: self.sectors,
            }),
        }
    }
}

impl Info {
    /// The backend said that it does not do this after all.
    pub(crate) fn withdraw(&mut self, op: Op) {
        match op {
            Op::Barrier => self.barrier = false,
            Op::Flush => self.flush = false,
            Op::Discard => self.discard = None,
            Op::SecureDiscard => {
                if let Some(discard) = &mut self.discard {
                    discard.secure = false;
                }
            }
            Op::Read | Op::Write => {}
        }
    }
}

/// The backend that the toolstack named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Backend {
    pub(crate) dir: StorePath,
    pub(crate) domid: DomId,
}

/// What one look at the store gave.
pub(crate) enum Seen<T> {
    /// Not there yet.
    Nothing,
    Value(T),
    Bad(NegotiateError),
}

/// `?` for [`Seen`]: a missing node is no error here, nor is one that may not be read yet. A store answers the latter also for
/// what is missing where its parent may not be read.
macro_rules! seen {
    ($read:expr) => {
        match $read {
            Ok(value) => value,
            Err(FieldError::Missing { .. } | FieldError::Denied { .. }) => {
                return Ok(Seen::Nothing);
            }
            Err(error) => return Ok(Seen::Bad(field(error)?)),
        }
    };
}

/// Finds the backend that the toolstack named, and checks that its path lies in the home of the domain that `backend-id` names
/// (XSA-175).
pub(crate) fn locate<S: Store>(store: &mut S, dir: &str) -> Result<Seen<Backend>, Error> {
    let path: StorePath = seen!(store.read_field(Tx::NONE, dir, "backend"));
    let domid = DomId::new(seen!(store.read_field(Tx::NONE, dir, "backend-id")));
    let home = join(&ringfence_core::store::domain_path(domid), "backend/")?;
    let below = path.starts_with(home.as_str()) && path.bytes().all(is_path);
    if !(weakened!("xsa_175_backend_path") || below) {
        return Ok(Seen::Bad(NegotiateError::BackendPath { domid }));
    }
    Ok(Seen::Value(Backend { dir: path, domid }))
}

/// Checks that the backend at `path` is one for this device: its `frontend` and `frontend-id` point back (XSA-175).
pub(crate) fn points_back<S: Store>(
    store: &mut S,
    own: DomId,
    dir: &str,
    path: &str,
) -> Result<Seen<()>, Error> {
    let back: StorePath = seen!(store.read_field(Tx::NONE, path, "frontend"));
    if !(weakened!("xsa_175_points_back") || back == dir) {
        let field = "frontend";
        return Ok(Seen::Bad(NegotiateError::NotOurs { field }));
    }
    let back: u16 = seen!(store.read_field(Tx::NONE, path, "frontend-id"));
    if !(weakened!("xsa_175_frontend_id") || back == own.get()) {
        let field = "frontend-id";
        return Ok(Seen::Bad(NegotiateError::NotOurs { field }));
    }
    Ok(Seen::Value(()))
}

/// The characters of paths, `xs_wire.h`'s daemon refuses others.
const fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@')
}

/// Nodes that another frontend of this device (a boot loader), or an earlier connection, may have left, and that would make the
/// backend look for its ring elsewhere or keep our pages mapped.
const STALE: [&str; 7] = [
    "ring-ref",
    "event-channel",
    "ring-page-order",
    "num-ring-pages",
    "multi-queue-num-queues",
    "feature-persistent",
    "feature-large-sector-size",
];

/// Reads what rings the backend takes, and says which of them the frontend makes: the logarithm of the pages of each, and how
/// many. The outer error is the store's, the inner one the backend's.
pub(crate) fn offered<S: Store>(
    store: &mut S,
    dir: &str,
    wants: Wants,
) -> Result<Result<(u32, usize), NegotiateError>, Error> {
    match offered_order(store, dir).and_then(|order| Ok((order, offered_queues(store, dir)?))) {
        Ok((order, queues)) => {
            let pages = wants.depth.div_ceil(SLOTS).max(1);
            let needed = pages.next_power_of_two().trailing_zeros();
            let queues = usize::try_from(queues).unwrap_or(usize::MAX);
            let queues = wants.queues.min(queues).max(1);
            Ok(Ok((needed.min(order).min(MAX_ORDER), queues)))
        }
        Err(error) => Ok(Err(field(error)?)),
    }
}

fn offered_order<S: Store>(store: &mut S, dir: &str) -> Result<u32, FieldError> {
    if let Some(order) = store.read_opt(Tx::NONE, dir, "max-ring-page-order")? {
        return Ok(order);
    }
    // What it was called before.
    let pages: Option<u32> = store.read_opt(Tx::NONE, dir, "max-ring-pages")?;
    Ok(pages.and_then(u32::checked_ilog2).unwrap_or(0))
}

fn offered_queues<S: Store>(store: &mut S, dir: &str) -> Result<u32, FieldError> {
    let queues = store.read_opt(Tx::NONE, dir, "multi-queue-max-queues")?;
    Ok(queues.unwrap_or(1))
}

/// Shows rings and ports to the backend, with state 3, all at once.
pub(crate) fn publish<P: Platform, R: Rings<P>>(
    store: &mut P::Store,
    dir: &str,
    rings: &R,
) -> Result<(), StoreError> {
    let connections = rings.offered();
    let pages = connections.first().map_or(1, |c| c.ring.mem().refs().len());
    store.transaction(|store, tx| {
        for name in STALE {
            match store.rm(tx, &join(dir, name)?) {
                Ok(()) | Err(StoreError::Missing) => {}
                Err(error) => return Err(error),
            }
        }
        if pages > 1 {
            // By both of its names (blkif.h, note 3).
            store.write_u32(tx, dir, "ring-page-order", pages.trailing_zeros())?;
            store.write_u64(tx, dir, "num-ring-pages", u64::try_from(pages).unwrap_or(1))?;
        }
        if rings.wants().persistent {
            store.write_u32(tx, dir, "feature-persistent", 1)?;
        }
        if rings.wants().sectors == Convention::Qemu {
            // That everything is counted in `sector-size`; QEMU refuses other disks than those of 512 bytes without it.
            store.write_u32(tx, dir, "feature-large-sector-size", 1)?;
        }
        if let [only] = connections {
            publish_ring(store, tx, dir, only)?;
        } else {
            let count = u64::try_from(connections.len()).unwrap_or(1);
            store.write_u64(tx, dir, "multi-queue-num-queues", count)?;
            for (n, connection) in connections.iter().enumerate() {
                let mut name = heapless::String::<16>::new();
                // 6 bytes and at most two digits: it always fits.
                let _ = write!(name, "queue-{n}");
                publish_ring(store, tx, &join(dir, &name)?, connection)?;
            }
        }
        store.write_str(tx, dir, "protocol", PROTOCOL_NATIVE)?;
        store.write_str(tx, dir, "state", XenbusState::Initialised.digit())
    })
}

fn publish_ring<S: Store, P: Platform>(
    store: &mut S,
    tx: Tx,
    dir: &str,
    connection: &Connection<P>,
) -> Result<(), StoreError> {
    let refs = connection.ring.mem().refs();
    let count = refs.len();
    for (n, gref) in refs.enumerate() {
        let mut name = heapless::String::<16>::new();
        // 8 bytes and at most two digits: it always fits.
        let _ = name.push_str("ring-ref");
        if count > 1 {
            let _ = write!(name, "{n}");
        }
        store.write_u32(tx, dir, &name, gref.get())?;
    }
    store.write_u32(tx, dir, "event-channel", connection.channel.port().get())
}

/// Reads and checks the disk's description. The outer error is the store's, the inner one the backend's.
pub(crate) fn read_info<S: Store>(
    store: &mut S,
    dir: &str,
    wants: Wants,
) -> Result<Result<Info, NegotiateError>, Error> {
    match fields(store, dir) {
        Ok(fields) => Ok(fields.check(wants)),
        Err(error) => Ok(Err(field(error)?)),
    }
}

struct Fields {
    sectors: u64,
    sector_size: u32,
    physical: Option<u32>,
    flags: u32,
    flush: Option<u32>,
    barrier: Option<u32>,
    discard: Option<Discards>,
    indirect: Option<u32>,
    persistent: Option<u32>,
}

fn fields<S: Store>(store: &mut S, dir: &str) -> Result<Fields, FieldError> {
    let sector_size = store.read_field(Tx::NONE, dir, "sector-size")?;
    Ok(Fields {
        sectors: store.read_field(Tx::NONE, dir, "sectors")?,
        sector_size,
        physical: store.read_opt(Tx::NONE, dir, "physical-sector-size")?,
        flags: store.read_field(Tx::NONE, dir, "info")?,
        flush: store.read_opt(Tx::NONE, dir, "feature-flush-cache")?,
        barrier: store.read_opt(Tx::NONE, dir, "feature-barrier")?,
        discard: discards(store, dir, sector_size)?,
        indirect: store.read_opt(Tx::NONE, dir, "feature-max-indirect-segments")?,
        persistent: store.read_opt(Tx::NONE, dir, "feature-persistent")?,
    })
}

fn discards<S: Store>(
    store: &mut S,
    dir: &str,
    sector_size: u32,
) -> Result<Option<Discards>, FieldError> {
    if store
        .read_opt::<u32>(Tx::NONE, dir, "feature-discard")?
        .unwrap_or(0)
        == 0
    {
        return Ok(None);
    }
    let granularity: Option<u32> = store.read_opt(Tx::NONE, dir, "discard-granularity")?;
    let alignment: Option<u32> = store.read_opt(Tx::NONE, dir, "discard-alignment")?;
    let secure: Option<u32> = store.read_opt(Tx::NONE, dir, "discard-secure")?;
    Ok(Some(Discards {
        granularity: granularity
            .filter(|bytes| *bytes > 0)
            .unwrap_or(sector_size),
        alignment: alignment.unwrap_or(0),
        secure: secure.unwrap_or(0) != 0,
    }))
}

/// The size of the disk now, if the backend says one that can be. What cannot be changes nothing.
pub(crate) fn read_sectors<S: Store>(
    store: &mut S,
    dir: &str,
    units: SectorUnits,
) -> Result<Option<SectorCount>, Error> {
    match store.read_field(Tx::NONE, dir, "sectors") {
        Ok(sectors) => Ok(units.size(sectors).filter(|size| {
            let usable = size.bytes().is_some();
            weakened!("front_resize") || usable
        })),
        Err(error) => field(error).map(|_| None),
    }
}

impl Fields {
    /// As many as buffers have, if the backend takes so many, and never fewer than there are in a request itself.
    fn max_pages(&self, pages: usize) -> u16 {
        let pages = u16::try_from(pages).unwrap_or(u16::MAX);
        let offered = u16::try_from(self.indirect.unwrap_or(0)).unwrap_or(u16::MAX);
        pages.min(offered.max(Limits::DIRECT.segments))
    }

    fn check(&self, wants: Wants) -> Result<Info, NegotiateError> {
        let logical = self.sector_size;
        let bounds = u32::try_from(Sector::BYTES).unwrap_or(0)..=u32::try_from(PAGE).unwrap_or(0);
        let usable = logical.is_power_of_two() && bounds.contains(&logical);
        if !(weakened!("front_sector_size") || usable) {
            return Err(NegotiateError::SectorSize(logical));
        }
        let units = SectorUnits::new(wants.sectors, logical);
        let told = SectorCount::new(self.sectors);
        let sectors = units
            .size(self.sectors)
            .ok_or(NegotiateError::Sectors(told))?;
        if !(weakened!("front_sectors") || sectors.bytes().is_some()) {
            return Err(NegotiateError::Sectors(told));
        }
        let physical = self.physical.unwrap_or(logical);
        if !physical.is_power_of_two() || physical < logical {
            return Err(NegotiateError::PhysicalSectorSize { physical, logical });
        }
        Ok(Info {
            sectors,
            sector_size: logical,
            units,
            physical_sector_size: physical,
            read_only: self.flags & VDISK_READONLY != 0,
            flags: self.flags,
            flush: self.flush.unwrap_or(0) != 0,
            barrier: self.barrier.unwrap_or(0) != 0,
            discard: self.discard,
            max_pages: self.max_pages(wants.pages),
            persistent: wants.persistent && self.persistent.unwrap_or(0) != 0,
        })
    }
}
