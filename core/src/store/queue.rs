//! Watch events that wait to be looked at: bounded, each pending event once (XSA-349).

/// Bytes of path that a queued event holds; an event with a longer one becomes [`WatchEvent::Rescan`].
pub const EVENT_PATH_MAX: usize = 256;
/// Bytes of token that a queued event holds; an event with a longer one becomes [`WatchEvent::Rescan`].
pub const EVENT_TOKEN_MAX: usize = 64;

/// A node that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The node, absolute or relative as the watch was.
    pub path: heapless::String<EVENT_PATH_MAX>,
    /// The watch's token.
    pub token: heapless::String<EVENT_TOKEN_MAX>,
}

/// What the store has to tell about our watches.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "no allocator to box with, and almost every event is the large one"
)]
pub enum WatchEvent {
    /// A watched node, or one below it, changed since the last time this was reported.
    Changed(Changed),
    /// More changed than could be kept: look at everything that is watched.
    Rescan,
}

/// A bounded queue of distinct events.
#[derive(Debug)]
pub(super) struct EventQueue<const N: usize> {
    events: heapless::Deque<Changed, N>,
    overflowed: bool,
    /// Events that were equal to one pending.
    pub(super) coalesced: u64,
}

impl<const N: usize> EventQueue<N> {
    pub(super) const fn new() -> Self {
        Self {
            events: heapless::Deque::new(),
            overflowed: false,
            coalesced: 0,
        }
    }

    pub(super) fn push(&mut self, path: &str, token: &str) {
        // A rescan that is still to come covers whatever happens before it.
        if self.overflowed
            || self
                .events
                .iter()
                .any(|e| e.path == path && e.token == token)
        {
            self.coalesced = self.coalesced.saturating_add(1);
            return;
        }
        let changed = heapless::String::try_from(path).and_then(|path| {
            Ok(Changed {
                path,
                token: token.try_into()?,
            })
        });
        let kept = changed
            .ok()
            .is_some_and(|changed| self.events.push_back(changed).is_ok());
        if !kept {
            self.overflowed = true;
            self.events.clear();
        }
    }

    pub(super) fn pop(&mut self) -> Option<WatchEvent> {
        if core::mem::take(&mut self.overflowed) {
            return Some(WatchEvent::Rescan);
        }
        self.events.pop_front().map(WatchEvent::Changed)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.overflowed && self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str, token: &str) -> Option<WatchEvent> {
        Some(WatchEvent::Changed(Changed {
            path: path.try_into().unwrap(),
            token: token.try_into().unwrap(),
        }))
    }

    #[test]
    fn equal_pending_events_are_one() {
        let mut queue = EventQueue::<2>::new();
        for _ in 0..1000 {
            queue.push("a", "t");
            queue.push("b", "t");
        }
        assert_eq!(queue.coalesced, 1998);
        assert_eq!(queue.pop(), changed("a", "t"));
        queue.push("a", "t");
        assert_eq!(queue.pop(), changed("b", "t"));
        assert_eq!(queue.pop(), changed("a", "t"));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn losing_an_event_is_said() {
        let mut queue = EventQueue::<2>::new();
        for path in ["a", "b", "c", "d"] {
            queue.push(path, "t");
        }
        assert!(!queue.is_empty());
        assert_eq!(queue.pop(), Some(WatchEvent::Rescan));
        assert_eq!(queue.pop(), None);
        queue.push("e", "t");
        assert_eq!(queue.pop(), changed("e", "t"));
        let long = [b'x'; EVENT_PATH_MAX + 1];
        queue.push(core::str::from_utf8(&long).unwrap(), "t");
        assert_eq!(queue.pop(), Some(WatchEvent::Rescan));
    }
}
