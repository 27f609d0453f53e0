//! Our own nodes.

use ringfence_core::store::{Store, StoreError, StoreExt, Tx};
use ringfence_core::wire::blkif::{MAX_RING_PAGE_ORDER, SectorUnits, VDISK_CDROM, VDISK_READONLY};

use super::{MAX_INDIRECT, MAX_QUEUES, Offer};
use crate::sink::Geometry;

/// Writes what the frontend must know before it makes its rings; must be there before state 2.
///
/// # Errors
/// The store's.
pub fn write_offer<S: Store>(store: &mut S, dir: &str, offer: &Offer) -> Result<(), StoreError> {
    store.transaction(|store, tx| {
        store.write_u32(tx, dir, "feature-persistent", u32::from(offer.persistent))?;
        let order = offer.ring_page_order.min(MAX_RING_PAGE_ORDER);
        if order > 0 {
            store.write_u32(tx, dir, "max-ring-page-order", order)?;
            let pages = 1u32.checked_shl(order).unwrap_or(1);
            store.write_u32(tx, dir, "max-ring-pages", pages)?;
        }
        let queues = offer.queues.min(MAX_QUEUES);
        if queues > 1 {
            store.write_u32(tx, dir, "multi-queue-max-queues", queues.into())?;
        }
        let segments = offer.indirect_segments.min(MAX_INDIRECT);
        if segments > 0 {
            let node = "feature-max-indirect-segments";
            store.write_u32(tx, dir, node, segments.into())?;
        }
        Ok(())
    })
}

/// Writes which operations the disk does; must be there before state 4.
///
/// # Errors
/// The store's.
pub fn write_features<S: Store>(
    store: &mut S,
    dir: &str,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    store.transaction(|store, tx| {
        store.write_u32(tx, dir, "feature-flush-cache", u32::from(geometry.flush))?;
        let barrier = geometry.flush && !geometry.read_only;
        store.write_u32(tx, dir, "feature-barrier", u32::from(barrier))?;
        write_discard(store, tx, dir, geometry)
    })
}

/// Granularity and alignment go together; what was written before the disk was known may not hold any more.
fn write_discard<S: Store>(
    store: &mut S,
    tx: Tx,
    dir: &str,
    geometry: &Geometry,
) -> Result<(), StoreError> {
    let discard = geometry.discard.filter(|_| !geometry.read_only);
    store.write_u32(tx, dir, "feature-discard", u32::from(discard.is_some()))?;
    if let Some(discard) = discard {
        store.write_u32(tx, dir, "discard-granularity", discard.granularity)?;
        store.write_u32(tx, dir, "discard-alignment", discard.alignment)?;
        store.write_u32(tx, dir, "discard-secure", u32::from(discard.secure))?;
    }
    Ok(())
}

/// Writes what the disk is like, its size in the units of the frontend; must be there before state 4.
///
/// # Errors
/// The store's.
pub fn write_geometry<S: Store>(
    store: &mut S,
    dir: &str,
    geometry: &Geometry,
    units: SectorUnits,
    cdrom: bool,
) -> Result<(), StoreError> {
    let mut info = 0;
    if geometry.read_only {
        info |= VDISK_READONLY;
    }
    if cdrom {
        info |= VDISK_CDROM;
    }
    store.transaction(|store, tx| {
        store.write_u64(tx, dir, "sectors", units.sectors(geometry.sectors))?;
        store.write_u32(tx, dir, "info", info)?;
        store.write_u32(tx, dir, "sector-size", geometry.logical)?;
        store.write_u32(tx, dir, "physical-sector-size", geometry.physical)
    })
}
