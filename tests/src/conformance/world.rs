//! What a platform tells the suite about itself.

use ringfence_core::platform::{Channel, Platform};
use ringfence_core::store::{Store, WatchEvent, domain_path, join};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use std::time::{Duration, Instant};

/// One of the three domains that a world has for the suite. None of them is dom0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The one who grants and allocates, most of the time.
    A,
    /// Its peer.
    B,
    /// Who has no business with either.
    C,
}

/// A fresh world with three domains, each a handle in this process.
pub trait World {
    /// The platform.
    type Platform: Platform;

    /// The current process of a domain.
    fn domain(&self, who: Who) -> Self::Platform;

    /// A store connection of that domain. The suite asks for at most one per domain at a time.
    fn store(&self, who: Who) -> <Self::Platform as Platform>::Store;

    /// A store connection of dom0.
    fn dom0_store(&self) -> <Self::Platform as Platform>::Store;

    /// Returns when everything that was dropped or closed before has taken effect for the other domains.
    fn settle(&self) {}

    /// A directory in the store where the domain, and no other but dom0, reads and writes.
    fn home(&self, who: Who) -> String {
        let home = domain_path(self.domain(who).domid());
        join(&home, "data")
            .expect("a short path")
            .as_str()
            .to_owned()
    }

    /// Takes what is pending, waiting for what is under way, and unmasks.
    fn rung(&self, channel: &<Self::Platform as Platform>::Channel) -> bool {
        self.settle();
        let rung = channel.take_pending().expect("the platform works");
        channel.unmask().expect("the platform works");
        rung
    }
}

/// A world whose processes and domains die on demand while the suite goes on in the same one.
pub trait Lives: World {
    /// The domain's process dies, whatever it holds. [`domain`](World::domain) and [`store`](World::store) are the next
    /// process from now on.
    fn kill(&mut self, who: Who);

    /// The domain is destroyed.
    fn destroy(&mut self, who: Who);

    /// The next process takes over a page that the one before granted to `peer`.
    fn adopt_granted(
        &self,
        who: Who,
        peer: DomId,
        gref: GrantRef,
    ) -> <Self::Platform as Platform>::Granted;

    /// The next process takes over a port that the one before allocated.
    fn adopt_channel(&self, who: Who, port: EvtchnPort) -> <Self::Platform as Platform>::Channel;
}

/// Waits for the next watch event, two seconds at most.
pub(super) fn next_event<S: Store>(store: &mut S) -> Option<WatchEvent> {
    for _ in 0..20 {
        if let Some(event) = store.next_watch().expect("the store works") {
            return Some(event);
        }
        store
            .wait(Some(Duration::from_millis(100)))
            .expect("the store works");
    }
    None
}

/// Whether the platform sees its peers' mappings, so that a page can be revoked.
pub(super) fn observes<W: World>(world: &W) -> bool {
    world.domain(Who::A).capabilities().observes_mappings
}

/// Waits for what a system does in its own time, ten seconds at most.
pub(super) fn until<W: World>(world: &W, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        world.settle();
        if holds() {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
    }
}

/// Whether a channel that is certain to ring does, in ten seconds at most: how long a bell is under way is a system's own business.
pub(super) fn heard<W: World>(world: &W, channel: &<W::Platform as Platform>::Channel) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if world.rung(channel) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

/// The suite's three domains and a page or a port between two of them say little without their numbers.
pub(super) fn domids<W: World>(world: &W) -> [DomId; 3] {
    [Who::A, Who::B, Who::C].map(|who| world.domain(who).domid())
}
