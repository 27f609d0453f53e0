//! Who waits for the event channels.

use ringfence_core::platform::PlatformError;

use super::id::RingId;

/// Told of every channel that is to be waited for. A channel is removed before it is closed: its descriptor may have
/// duplicates that keep it in an epoll set.
pub trait Doorbells<C> {
    /// Begin to wait for this ring's channel.
    ///
    /// # Errors
    /// The ring is then not connected.
    fn add(&mut self, id: RingId, channel: &C) -> Result<(), PlatformError>;

    /// Stop waiting for it for a while (`masked`), or begin again.
    fn mask(&mut self, id: RingId, channel: &C, masked: bool);

    /// Stop waiting for it.
    fn remove(&mut self, id: RingId, channel: &C);
}

/// Nobody waits: the owner asks every channel in every turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Polled;

impl<C> Doorbells<C> for Polled {
    fn add(&mut self, _: RingId, _: &C) -> Result<(), PlatformError> {
        Ok(())
    }
    fn mask(&mut self, _: RingId, _: &C, _: bool) {}
    fn remove(&mut self, _: RingId, _: &C) {}
}
