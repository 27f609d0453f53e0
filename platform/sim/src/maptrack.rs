//! What a domain has mapped: Xen's maptrack.

use std::sync::Arc;

use ringfence_core::platform::GrantStatus;
use ringfence_core::weakened;

use crate::table::Grant;

#[derive(Debug)]
pub(crate) struct MapTrack {
    slots: Vec<Option<Arc<Grant>>>,
    free: Vec<u32>,
    limit: u32,
}

impl MapTrack {
    pub(crate) const fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limit,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Enters a mapping and returns its handle.
    pub(crate) fn enter(&mut self, grant: Arc<Grant>) -> Result<u32, GrantStatus> {
        let full = self.len() >= self.limit as usize;
        if full && !weakened!("grant_table_sim_maps") {
            return Err(GrantStatus::NO_SPACE);
        }
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None => {
                let handle = u32::try_from(self.slots.len()).map_err(|_| GrantStatus::NO_SPACE)?;
                self.slots.push(None);
                handle
            }
        };
        self.slots[handle as usize] = Some(grant);
        Ok(handle)
    }

    pub(crate) fn remove(&mut self, handle: u32) -> Option<Arc<Grant>> {
        let grant = self.slots.get_mut(handle as usize)?.take()?;
        self.free.push(handle);
        Some(grant)
    }

    /// Everything, in the order of the handles.
    pub(crate) fn drain(&mut self) -> Vec<Arc<Grant>> {
        self.free.clear();
        self.slots.drain(..).flatten().collect()
    }
}
