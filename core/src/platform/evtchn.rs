//! Event channels: one bit from one domain to another.

use super::error::PlatformError;
use crate::ids::EvtchnPort;

/// Our end of an event channel. Dropping it closes the port; the peer's end then goes back to unbound (contract E5).
pub trait Channel {
    /// Our local port, the number to publish in XenStore.
    fn port(&self) -> EvtchnPort;

    /// Rings the peer (`EVTCHNOP_send`). Ringing an end that nobody has bound does nothing.
    fn notify(&self) -> Result<(), PlatformError>;

    /// Takes what is pending: `true` if the peer rang since the last call, however often (contract E3). Where the system takes an
    /// event before we do (Linux), what came after it and before [`unmask`](Self::unmask) is one more.
    fn take_pending(&self) -> Result<bool, PlatformError>;

    /// Says that the work behind the last event is done and the next event may come. Called after the ring was served, never
    /// before, and later still if there was no work, so that a storm of events costs the one who sends it (XSA-332, XSA-391).
    fn unmask(&self) -> Result<(), PlatformError>;
}
