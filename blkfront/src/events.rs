//! Events that come, with work behind them or without.

use core::time::Duration;

use ringfence_core::platform::{Channel, Platform};
use ringfence_core::weakened;

use crate::Queue;
use crate::error::Doorbell;

/// What became of an event.
#[must_use = "a delayed event channel must be unmasked later"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serviced {
    /// The next event may come.
    Unmasked,
    /// There was no work behind it, again: wait so long (1 ms to 1 s, doubling), then [`Queue::unmask`]. Answers that arrive
    /// meanwhile are found by [`Queue::reap`] all the same.
    Spurious(Duration),
}

/// Spurious events in a row that are forgiven: binding makes one, a lost race another.
const FORGIVEN: u32 = 2;
const DELAY_MAX: Duration = Duration::from_secs(1);

/// Event accounting of one frontend.
#[derive(Default)]
pub(crate) struct Events {
    /// Spurious events since the last useful one.
    row: u32,
    /// Answers taken when the last event was accounted for.
    seen: u64,
}

impl<P: Platform, const DEPTH: usize, const PAGES: usize> Queue<P, DEPTH, PAGES> {
    /// Takes a pending event. If there was one: reap, then say [`serviced`](Self::serviced).
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// let mut rig = Rig::connected();
    /// assert!(!rig.front.take_event()?);
    /// # rig.serve();
    /// assert!(rig.front.take_event()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_event(&mut self) -> Doorbell<bool> {
        let pending = match &self.connection {
            Some(connection) => connection.channel.take_pending()?,
            None => false,
        };
        if pending {
            self.counters.events = self.counters.events.saturating_add(1);
        }
        Ok(pending)
    }

    /// Ends the handling of an event, after reaping. Only an event behind which there was work is unmasked at once for ever: a
    /// backend that rings without cause waits longer and longer (XSA-391).
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Serviced;
    ///
    /// let mut rig = Rig::connected();
    /// rig.front.flush()?;
    /// rig.front.kick()?;
    /// # rig.serve();
    /// if rig.front.take_event()? {
    ///     while let Some(_done) = rig.front.reap()? {}
    ///     assert_eq!(rig.front.serviced()?, Serviced::Unmasked);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn serviced(&mut self) -> Doorbell<Serviced> {
        let worked = self.counters.responses != self.events.seen;
        self.events.seen = self.counters.responses;
        if worked {
            self.events.row = 0;
        } else {
            self.events.row = self.events.row.saturating_add(1);
            self.counters.spurious = self.counters.spurious.saturating_add(1);
        }
        if weakened!("xsa_391_blk_delay") || self.events.row <= FORGIVEN {
            self.unmask()?;
            return Ok(Serviced::Unmasked);
        }
        let doublings = self.events.row.saturating_sub(FORGIVEN).saturating_sub(1);
        let delay = Duration::from_millis(1u64.checked_shl(doublings).unwrap_or(u64::MAX));
        Ok(Serviced::Spurious(delay.min(DELAY_MAX)))
    }

    /// Lets the next event come, after the wait that [`Serviced::Spurious`] asked for.
    ///
    /// ```
    /// # mod rig { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/src/blkfront_rig.rs")); }
    /// # use rig::Rig;
    /// use ringfence_blkfront::Serviced;
    ///
    /// let mut rig = Rig::connected();
    /// # for _ in 0..3 { rig.serve(); assert!(rig.front.take_event()?); if rig.front.counters().events < 3 { let _ = rig.front.serviced()?; } }
    /// if let Serviced::Spurious(delay) = rig.front.serviced()? {
    ///     // ... wait for `delay` ...
    ///     assert_eq!(delay.as_millis(), 1);
    ///     rig.front.unmask()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unmask(&self) -> Doorbell<()> {
        match &self.connection {
            Some(connection) => connection.channel.unmask(),
            None => Ok(()),
        }
    }
}
