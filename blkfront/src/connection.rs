//! One connection: a ring and a port.

use ringfence_core::platform::{Access, Channel, Platform};
use ringfence_core::wire::blkif::{
    DISCARD_SECURE, MAX_SEGMENTS_PER_REQUEST, RequestDiscardNative, RequestNative, Segment,
};
use ringfence_core::{DomId, Handle};
use ringfence_ring::Front;
use ringfence_ring::blkif::BlkifNative;

use crate::error::Doorbell;
use crate::inflight::Entry;
use crate::negotiate::Info;
use crate::{Buffer, Error, Op};

/// One connection: its ring and its port.
pub(crate) struct Connection<P: Platform> {
    pub(crate) ring: Front<P::Granted, BlkifNative>,
    pub(crate) channel: P::Channel,
    pub(crate) peer: DomId,
    /// A doorbell that could not be rung.
    pub(crate) bell_owed: bool,
    /// Set while the states are 4 and 4, or closing.
    pub(crate) info: Option<Info>,
    /// Whether requests are taken: not once we are closing.
    pub(crate) accepting: bool,
}

impl<P: Platform> Connection<P> {
    pub(crate) fn new(platform: &P, peer: DomId) -> Result<Self, Error> {
        let page = platform.alloc(peer, Access::ReadWrite)?;
        Ok(Self {
            ring: Front::init(page)?,
            channel: platform.alloc_unbound(peer)?,
            peer,
            bell_owed: false,
            info: None,
            accepting: false,
        })
    }

    /// Writes the request. There is room: the caller looked.
    pub(crate) fn push(&mut self, handle: Handle, entry: &Entry<P>) {
        let pushed = self.ring.push(&match entry.op {
            Op::Discard | Op::SecureDiscard => RequestDiscardNative {
                operation: entry.op.wire(),
                flag: if entry.op == Op::SecureDiscard {
                    DISCARD_SECURE
                } else {
                    0
                },
                handle: handle.get(),
                pad: [0; 4],
                id: entry.id,
                sector_number: entry.sector.get(),
                nr_sectors: entry.count.get(),
            }
            .into(),
            Op::Read | Op::Write | Op::Barrier | Op::Flush => {
                let none = (0, [Segment::default(); MAX_SEGMENTS_PER_REQUEST]);
                let (nr_segments, seg) = entry.buffer.as_ref().map_or(none, Buffer::segments);
                RequestNative {
                    operation: entry.op.wire(),
                    nr_segments,
                    handle: handle.get(),
                    pad: [0; 4],
                    id: entry.id,
                    sector_number: entry.sector.get(),
                    seg,
                }
            }
        });
        debug_assert_eq!(pushed, Ok(()));
    }

    /// Shows what was pushed to the backend, and rings if it asked for that. Returns whether it rang.
    pub(crate) fn publish(&mut self) -> Doorbell<bool> {
        self.bell_owed |= self.ring.publish().is_needed();
        if self.bell_owed {
            self.channel.notify()?;
        }
        Ok(core::mem::take(&mut self.bell_owed))
    }
}
