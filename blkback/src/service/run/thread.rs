//! One thread: a service with its share of the devices, and the loop that drives it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ringfence_core::platform::Platform;
use ringfence_core::store::{Connection, Transport};
use rustix::event::Timespec;

use super::super::crew::Worker;
use super::super::disks::Disks;
use super::super::{Service, Turn, clock};
use super::poller::{Poller, Source};
use super::tick::Tick;
use super::{RunError, Shared};

/// Serves what is this thread's, until it is time to stop or another thread failed. `watching` is called when the store is
/// watched.
pub(super) fn serve<P, T, D>(
    platform: &P,
    worker: Worker<P::Store, impl FnOnce() -> D>,
    shared: &Shared<'_>,
    index: u16,
    watching: impl FnOnce(),
) -> Result<(), RunError>
where
    P: Platform<Store = Connection<T>>,
    P::Channel: AsFd,
    T: Transport + AsFd,
    D: Disks,
{
    let Worker { store, disks } = worker;
    let disks = disks();
    let poller = Poller::new()?;
    poller.watch(store.transport().as_fd(), Source::Store)?;
    poller.watch(shared.stop, Source::Stop)?;
    poller.watch(shared.end.as_fd(), Source::End)?;
    if let Some(fd) = disks.wake() {
        poller.watch(fd, Source::Disks)?;
    }
    let toolstack = shared.options.toolstack;
    let mut service = Service::with_toolstack(platform, store, disks, poller.clone(), toolstack)?;
    service.join(&shared.crew, index);
    service.wait_by(shared.options.waiting);
    service.count_in(Arc::clone(&shared.statistics));
    let tick = Tick::new(REFRESH)?;
    poller.watch(tick.as_fd(), Source::Tick)?;
    watching();
    Loop {
        service,
        poller,
        shared,
        now: clock::now(),
        tick,
        asking: None,
        looks: 0,
        found: Vec::new(),
    }
    .run()
}

/// Looks at the rings between two looks at the descriptors, while spinning.
const LOOKS: u32 = 64;

/// Looks at the rings between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 8;

/// Looks at the rings that have more to do between two looks at the descriptors, while not spinning.
const ROUNDS: u32 = 8;

/// Between two looks at the sizes of the disks, while any is connected.
const REFRESH: Duration = Duration::from_secs(1);

/// Until disks that are not to be had yet are asked for again, at least; there is no event to wait for.
const ASK_SOON: Duration = Duration::from_millis(1);

/// At most.
const ASK_LATE: Duration = Duration::from_millis(50);

/// In between such a part of the time that it has taken so far: so much longer than it must a guest waits in the end.
const ASK_PART: u32 = 8;

struct Loop<'p, P: Platform, D> {
    service: Service<'p, P, D, Poller>,
    poller: Poller,
    shared: &'p Shared<'p>,
    /// When the thread last woke, or later while it does not sleep.
    now: Duration,
    /// Says when to look at the disks' sizes. It runs while there may be a frontend to tell of them: who serves nobody sleeps until
    /// called.
    tick: Tick,
    /// Since when disks are asked for, and when again.
    asking: Option<(Duration, Duration)>,
    /// Looks since the last one at the descriptors.
    looks: u32,
    /// Room for what such a look finds.
    found: Vec<Source>,
}

impl<P, D> Loop<'_, P, D>
where
    P: Platform,
    P::Channel: AsFd,
    D: Disks,
{
    fn run(mut self) -> Result<(), RunError> {
        let budget = self.shared.options.budget.max(1);
        let mut stopping = false;
        let mut flushed = false;
        let mut control = true;
        let mut refresh = false;
        loop {
            // The first comes just after having woken.
            if self.looks > 0 && self.looks.is_multiple_of(LOOKS_PER_CLOCK) {
                self.now = clock::now();
            }
            let mut turn = self.service.serve(budget, self.now);
            if turn.control || control {
                control = self.service.control()?;
                // Maybe; the next look at the sizes says.
                self.tick.run(!stopping)?;
                // A connection just made has its first look at the ring to come.
                turn.again = true;
            }
            if self.ask_again() {
                control = true;
                turn.again = true;
            }
            if stopping && self.service.is_idle() {
                if std::mem::replace(&mut flushed, true) {
                    self.service.leave();
                    return Ok(());
                }
                self.service.flush();
                turn.again = true;
            }
            // Whoever waits for a disk to grow may send no request meanwhile.
            if std::mem::take(&mut refresh) && !stopping {
                let refreshed = self.service.refresh()?;
                self.tick.run(refreshed.connected)?;
                control |= refreshed.told;
                turn.again |= refreshed.told;
            }
            // Whoever keeps us busy costs no system call, for a while.
            let looks = match turn.spins {
                true => LOOKS,
                false if turn.again => ROUNDS,
                false => 0,
            };
            if self.looks < looks {
                self.looks = self.looks.saturating_add(1);
                if !turn.worked {
                    std::hint::spin_loop();
                }
                continue;
            }
            self.looks = 0;
            let timeout = self.timeout(&turn);
            let woken = self.wait(timeout.as_ref(), budget)?;
            if woken.end {
                return Ok(());
            }
            control |= woken.control;
            refresh |= woken.tick;
            if woken.stop && !stopping {
                stopping = true;
                // Readable for ever: it would keep us from sleeping while the disks finish.
                self.poller.forget(self.shared.stop)?;
                self.service.stop();
                self.tick.run(false)?;
            }
        }
    }

    /// Whether there are disks to ask for again, now.
    fn ask_again(&mut self) -> bool {
        let now = self.now;
        if !self.service.awaits_disks() {
            self.asking = None;
            return false;
        }
        match &mut self.asking {
            Some((_, at)) if now < *at => false,
            Some((since, at)) => {
                *at = next_ask(*since, now);
                self.service.ask_again();
                true
            }
            None => {
                self.asking = Some((now, next_ask(now, now)));
                false
            }
        }
    }

    fn timeout(&self, turn: &Turn) -> Option<Timespec> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // After spinning, one more look with the doorbells armed comes before any sleep.
        if turn.again || turn.spins {
            return Some(none);
        }
        let ask = self.asking.map(|(_, at)| at);
        let until = [turn.until, ask].into_iter().flatten().min()?;
        let until = until.saturating_sub(self.now);
        Some(Timespec::try_from(until).unwrap_or(none))
    }

    /// Waits, and serves who rang.
    fn wait(&mut self, timeout: Option<&Timespec>, budget: u32) -> Result<Woken, RunError> {
        self.service.statistics().waited();
        let mut found = std::mem::take(&mut self.found);
        self.poller.wait(timeout, &mut found)?;
        let mut woken = Woken::default();
        self.now = clock::now();
        let mut spins = false;
        for source in found.drain(..) {
            match source {
                Source::Store => woken.control = true,
                // Their turn is `serve`.
                Source::Disks => {}
                Source::Stop => woken.stop = true,
                Source::End => woken.end = true,
                Source::Tick => {
                    self.tick.take();
                    woken.tick = true;
                }
                Source::Ring(ring) => {
                    let turn = self.service.woken(ring, budget, self.now);
                    woken.control |= turn.control;
                    spins |= turn.spins;
                }
            }
        }
        self.found = found;
        if spins {
            // From the end of the work on.
            self.now = clock::now();
        }
        Ok(woken)
    }
}

/// When disks are asked for that were so first at `since`, and now.
fn next_ask(since: Duration, now: Duration) -> Duration {
    let waited = now.saturating_sub(since);
    let part = waited.checked_div(ASK_PART).unwrap_or_default();
    now.saturating_add(part.clamp(ASK_SOON, ASK_LATE))
}

/// Why a wait ended, beside doorbells.
#[derive(Clone, Copy, Default)]
struct Woken {
    /// XenStore, or a device that drained or failed.
    control: bool,
    /// It is time to look at the sizes of the disks.
    tick: bool,
    /// It is time to stop.
    stop: bool,
    /// Another thread failed.
    end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_much_later_than_an_answer_may_be_had() {
        let since = Duration::from_secs(7);
        let mut asked = Vec::new();
        let mut now = since;
        while now < since + Duration::from_secs(1) {
            let next = next_ask(since, now);
            let (waited, pause) = (now - since, next - now);
            assert!(pause >= ASK_SOON && pause <= ASK_LATE);
            assert!(
                pause == ASK_SOON || pause * 8 <= waited,
                "{pause:?} after {waited:?}"
            );
            asked.push(next);
            now = next;
        }
        assert!(
            (40..60).contains(&asked.len()),
            "{} times in a second",
            asked.len()
        );
    }
}
