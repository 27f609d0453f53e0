//! One thread: a service with its share of the devices, and the loop that drives it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_core::platform::Platform;
use ringfence_core::store::{Connection, Transport};
use rustix::event::Timespec;

use super::super::crew::Worker;
use super::super::disks::Disks;
use super::super::{Service, Turn};
use super::poller::{Poller, Source};
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
    watching();
    let now = Instant::now();
    Loop {
        service,
        poller,
        shared,
        start: now,
        last_refresh: now,
        connected: false,
        asking: None,
        looks: 0,
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
    start: Instant,
    /// When the disks' sizes were last looked at.
    last_refresh: Instant,
    /// Whether there may be a frontend to tell of them: who serves nobody sleeps until called.
    connected: bool,
    /// Since when disks are asked for, and when again.
    asking: Option<(Instant, Instant)>,
    /// Looks since the last one at the descriptors.
    looks: u32,
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
        let mut now = self.start;
        loop {
            if self.looks.is_multiple_of(LOOKS_PER_CLOCK) {
                now = Instant::now();
            }
            let time = now.saturating_duration_since(self.start);
            let mut turn = self.service.serve(budget, time);
            if turn.control || control {
                control = self.service.control()?;
                // Maybe; the next look at the sizes says.
                self.connected = !stopping;
                // A connection just made has its first look at the ring to come.
                turn.again = true;
            }
            if self.ask_again(now) {
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
            if self.connected && now.saturating_duration_since(self.last_refresh) >= REFRESH {
                self.last_refresh = now;
                let refreshed = self.service.refresh()?;
                self.connected = refreshed.connected;
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
            if woken.stop && !stopping {
                stopping = true;
                // Readable for ever: it would keep us from sleeping while the disks finish.
                self.poller.forget(self.shared.stop)?;
                self.service.stop();
                self.connected = false;
            }
        }
    }

    /// Whether there are disks to ask for again, now.
    fn ask_again(&mut self, now: Instant) -> bool {
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
        let unmask = turn.until.map(|at| at.saturating_sub(self.start.elapsed()));
        let ask = self.asking;
        let ask = ask.map(|(_, at)| at.saturating_duration_since(Instant::now()));
        let refresh = (self.connected).then(|| REFRESH.saturating_sub(self.last_refresh.elapsed()));
        let until = [unmask, ask, refresh].into_iter().flatten().min()?;
        Some(Timespec::try_from(until).unwrap_or(none))
    }

    /// Waits, and serves who rang.
    fn wait(&mut self, timeout: Option<&Timespec>, budget: u32) -> Result<Woken, RunError> {
        self.service.statistics().waited();
        let found = self.poller.wait(timeout)?;
        let mut woken = Woken::default();
        let now = Instant::now();
        for source in found {
            match source {
                Source::Store => woken.control = true,
                // Their turn is `serve`.
                Source::Disks => {}
                Source::Stop => woken.stop = true,
                Source::End => woken.end = true,
                Source::Ring(ring) => {
                    let time = now.saturating_duration_since(self.start);
                    let turn = self.service.rung(ring, budget, time);
                    woken.control |= turn.control;
                }
            }
        }
        Ok(woken)
    }
}

/// When disks are asked for that were so first at `since`, and now.
fn next_ask(since: Instant, now: Instant) -> Instant {
    let waited = now.saturating_duration_since(since);
    let part = waited.checked_div(ASK_PART).unwrap_or_default();
    now.checked_add(part.clamp(ASK_SOON, ASK_LATE))
        .unwrap_or(now)
}

/// Why a wait ended, beside doorbells.
#[derive(Clone, Copy, Default)]
struct Woken {
    /// XenStore, or a device that drained or failed.
    control: bool,
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
        let since = Instant::now();
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
