//! Who waits for the channels of the service under test, and holds it to its word.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_blkback::service::{Doorbells, RingId};
use ringfence_core::EvtchnPort;
use ringfence_core::platform::{Channel, PlatformError};
use ringfence_sim::SimChannel;

/// A table as an epoll set is one: what is not taken out before its port is closed stays, while the number is used again
/// (CVE-2024-26687).
#[derive(Debug, Default)]
pub struct Bells {
    /// The ports that are waited for.
    pub open: BTreeMap<RingId, EvtchnPort>,
    /// Those of them that are not heard at the moment.
    pub masked: BTreeSet<RingId>,
    /// How many were added.
    pub added: u64,
}

impl Doorbells<SimChannel> for Bells {
    fn add(&mut self, id: RingId, channel: &SimChannel) -> Result<(), PlatformError> {
        let port = channel.port();
        let taken = self.open.iter().find(|(_, other)| **other == port);
        assert!(
            taken.is_none(),
            "{taken:?} was closed and is still waited for"
        );
        let before = self.open.insert(id, port);
        assert_eq!(before, None, "{id:?} is waited for twice");
        self.added += 1;
        Ok(())
    }

    fn mask(&mut self, id: RingId, channel: &SimChannel, masked: bool) {
        assert_eq!(self.open.get(&id), Some(&channel.port()), "{id:?}");
        match masked {
            true => self.masked.insert(id),
            false => self.masked.remove(&id),
        };
    }

    fn remove(&mut self, id: RingId, channel: &SimChannel) {
        assert_eq!(self.open.remove(&id), Some(channel.port()), "{id:?}");
        self.masked.remove(&id);
    }
}
