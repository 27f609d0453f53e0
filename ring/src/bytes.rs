//! The byte rings of `xen/io/console.h` and `xen/io/xs_wire.h`: two indices and a power-of-two run of bytes per direction.
//!
//! There is no event index: whoever moves an index rings the doorbell. An exactly full ring is valid and must be served; a
//! distance greater than the ring is a fault (XSA-38, XSA-86). The peer's index is read once per call, ours never.

use crate::{AttachError, PeerFault, RingIndex, RingMem};
use ringfence_core::weakened;

/// One direction of a byte ring: where its bytes and indices lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    data: usize,
    size: u32,
    cons: usize,
    prod: usize,
}

impl Lane {
    /// `xencons_interface.in`: from the backend to the guest.
    pub const CONSOLE_IN: Self = Self::new(0, 1024, 3072, 3076);
    /// `xencons_interface.out`: from the guest to the backend.
    pub const CONSOLE_OUT: Self = Self::new(1024, 2048, 3080, 3084);
    /// `xenstore_domain_interface.req`: from the guest to the store.
    pub const XENSTORE_REQ: Self = Self::new(0, 1024, 2048, 2052);
    /// `xenstore_domain_interface.rsp`: from the store to the guest.
    pub const XENSTORE_RSP: Self = Self::new(1024, 1024, 2056, 2060);

    const fn new(data: usize, size: u32, cons: usize, prod: usize) -> Self {
        assert!(size.is_power_of_two());
        Self {
            data,
            size,
            cons,
            prod,
        }
    }

    /// Bytes that fit.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Offset of the consumer's index.
    #[must_use]
    pub const fn cons(&self) -> usize {
        self.cons
    }

    /// Offset of the producer's index.
    #[must_use]
    pub const fn prod(&self) -> usize {
        self.prod
    }

    fn load<M: RingMem>(&self, mem: &M, offset: usize) -> RingIndex {
        RingIndex::new(mem.load_u32(offset))
    }

    /// Bytes queued between the two indices.
    fn queued(&self, prod: RingIndex, cons: RingIndex) -> Result<u32, PeerFault> {
        let queued = prod.since(cons);
        let most = if weakened!("xsa_38_full") {
            self.size.wrapping_sub(1)
        } else {
            self.size
        };
        if queued <= most {
            return Ok(queued);
        }
        Err(PeerFault::ByteIndex {
            prod,
            cons,
            size: self.size,
        })
    }

    fn attach<M: RingMem>(&self, mem: &M) -> Result<(RingIndex, RingIndex), AttachError> {
        let end = self.prod.max(self.cons).saturating_add(4);
        if mem.len() < end {
            return Err(AttachError::Memory {
                bytes: mem.len(),
                stride: 1,
            });
        }
        let prod = self.load(mem, self.prod);
        let cons = self.load(mem, self.cons);
        let queued = self.queued(prod, cons);
        if !weakened!("xsa_38_attach") {
            queued?;
        }
        Ok((prod, cons))
    }

    /// Offset of the byte that `index` falls on, and how many follow it without wrapping.
    fn run(&self, index: RingIndex) -> (usize, usize) {
        let at = index.get() & self.size.wrapping_sub(1);
        let room = self.size.wrapping_sub(at);
        (self.data.wrapping_add(at as usize), room as usize)
    }
}

/// The reading end of one direction.
pub struct ByteReader<M> {
    mem: M,
    lane: Lane,
    cons: RingIndex,
    fault: Option<PeerFault>,
}

impl<M: RingMem> ByteReader<M> {
    /// Attaches where the ring stands; each index is read once.
    ///
    /// # Errors
    /// [`AttachError::Bytes`] when the indices are further apart than the ring is long, [`AttachError::Memory`] when the
    /// memory is too short.
    pub fn attach(mem: M, lane: Lane) -> Result<Self, AttachError> {
        let (_, cons) = lane.attach(&mem)?;
        Ok(Self {
            mem,
            lane,
            cons,
            fault: None,
        })
    }

    /// The shared page.
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// How many bytes can be read now. Reads the peer's index once.
    pub fn queued(&mut self) -> Result<u32, PeerFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let prod = self.lane.load(&self.mem, self.lane.prod);
        let queued = self.lane.queued(prod, self.cons);
        if weakened!("xsa_38_reader") {
            return Ok(prod.since(self.cons));
        }
        queued.inspect_err(|fault| self.fault = Some(*fault))
    }

    /// Reads up to `dst.len()` bytes and says how many; ring the doorbell if more than 0, the writer may wait for room.
    pub fn read(&mut self, dst: &mut [u8]) -> Result<usize, PeerFault> {
        let queued = self.queued()? as usize;
        let queued = if weakened!("xsa_38_double_read") {
            self.queued()? as usize
        } else {
            queued
        };
        let mut done = 0usize;
        let mut rest = dst;
        while done < queued && !rest.is_empty() {
            let (offset, room) = self.lane.run(self.cons);
            let len = room.min(queued.wrapping_sub(done)).min(rest.len());
            let (chunk, tail) = rest.split_at_mut(len);
            self.mem.read(offset, chunk);
            self.cons = self.cons.plus(len as u32);
            done = done.wrapping_add(len);
            rest = tail;
        }
        if done > 0 {
            self.mem.store_u32(self.lane.cons, self.cons.get());
        }
        Ok(done)
    }
}

/// The writing end of one direction.
pub struct ByteWriter<M> {
    mem: M,
    lane: Lane,
    prod: RingIndex,
    fault: Option<PeerFault>,
}

impl<M: RingMem> ByteWriter<M> {
    /// Attaches where the ring stands; each index is read once.
    ///
    /// # Errors
    /// [`AttachError::Bytes`] when the indices are further apart than the ring is long, [`AttachError::Memory`] when the
    /// memory is too short.
    pub fn attach(mem: M, lane: Lane) -> Result<Self, AttachError> {
        let (prod, _) = lane.attach(&mem)?;
        Ok(Self {
            mem,
            lane,
            prod,
            fault: None,
        })
    }

    /// The shared page.
    pub const fn mem(&self) -> &M {
        &self.mem
    }

    /// How many bytes can be written now. Reads the peer's index once.
    pub fn free(&mut self) -> Result<u32, PeerFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let cons = self.lane.load(&self.mem, self.lane.cons);
        if weakened!("xsa_86_own_index") {
            self.prod = self.lane.load(&self.mem, self.lane.prod);
        }
        if weakened!("xsa_86_writer") {
            return Ok(self.lane.size.wrapping_sub(self.prod.since(cons)));
        }
        match self.lane.queued(self.prod, cons) {
            Ok(queued) => Ok(self.lane.size.wrapping_sub(queued)),
            Err(fault) => Err(*self.fault.insert(fault)),
        }
    }

    /// Writes as much of `src` as there is room for and says how much; ring the doorbell if more than 0.
    pub fn write(&mut self, src: &[u8]) -> Result<usize, PeerFault> {
        let free = self.free()? as usize;
        let mut done = 0usize;
        let mut rest = src;
        while done < free && !rest.is_empty() {
            let (offset, room) = self.lane.run(self.prod);
            let len = room.min(free.wrapping_sub(done)).min(rest.len());
            let (chunk, tail) = rest.split_at(len);
            self.mem.write(offset, chunk);
            self.prod = self.prod.plus(len as u32);
            done = done.wrapping_add(len);
            rest = tail;
        }
        if done > 0 {
            self.mem.store_u32(self.lane.prod, self.prod.get());
        }
        Ok(done)
    }
}
