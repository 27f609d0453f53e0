//! Going on where an earlier process died, with requests taken and not answered.

use super::{Back, Slot};
use crate::fault::AttachError;
use crate::layout::{MARK, REQ_PROD, RSP_PROD};
use crate::{Protocol, RingIndex, RingMem};

impl<M: RingMem, P: Protocol> Back<M, P> {
    /// Attaches to a ring of which an earlier process took requests up to `req_cons`, which the ring itself does not say. Those
    /// between `rsp_prod`, read once, and `req_cons` are open, and [`reopen`](Self::reopen) gives their slots. Never writes.
    ///
    /// # Errors
    /// [`AttachError::Resumed`] when the three indices cannot belong together: the frontend took back what was taken, or claims
    /// more than the ring holds.
    pub fn resume(mem: M, req_cons: RingIndex) -> Result<Self, AttachError> {
        let rsp_prod = RingIndex::new(mem.load_u32(RSP_PROD));
        let req_prod = RingIndex::new(mem.load_u32(REQ_PROD));
        let mut ring = Self::attach_at(mem, rsp_prod)?;
        let (open, size) = (req_cons.since(rsp_prod), ring.size());
        let claimed = req_prod.since(rsp_prod);
        if open > claimed || claimed > size {
            return Err(AttachError::Resumed {
                req_prod,
                req_cons,
                rsp_prod,
                size,
            });
        }
        ring.req_cons = req_cons;
        ring.req_seen = req_cons;
        ring.unclaimed = open;
        Ok(ring)
    }

    /// Leaves a word on the ring by which a later process knows it again: among the bytes that nobody reads and whoever makes
    /// a ring sets to zero, so that no ring that is made later in the same place has it.
    pub fn mark(&self, word: u64) {
        self.mem().write(MARK, &word.to_le_bytes());
    }

    /// The right to answer one of the requests that an earlier process took, found at `index` then. `None` once there are as
    /// many as it left open. The caller asks once for each of them.
    pub fn reopen(&mut self, index: RingIndex) -> Option<Slot> {
        self.unclaimed = self.unclaimed.checked_sub(1)?;
        Some(Slot { index })
    }
}

/// The word that [`Back::mark`] left on the ring in these pages; 0 where a ring was made and none was left.
pub fn mark_of<M: RingMem>(mem: &M) -> u64 {
    let mut word = [0; 8];
    mem.read(MARK, &mut word);
    u64::from_le_bytes(word)
}
