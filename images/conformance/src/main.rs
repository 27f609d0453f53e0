//! A guest kernel that executes platform operations for a caller in dom0, so that the conformance suite runs there and its
//! domains are here.
#![no_std]
#![no_main]

extern crate alloc;

use core::cell::RefCell;
use core::time::Duration;

use log::{error, info};
use ringfence_core::platform::{Channel as _, Platform as _, PlatformError};
use ringfence_core::store::Store as _;
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_guest::{Channel, Granted, Guest, GuestStore, Reason, shutdown};
use ringfence_lab_agent::pages::{GuestEnd, PagesError};
use ringfence_lab_agent::{Agent, Native, serve};

ringfence_guest::entry!(main);

/// `EBUSY`.
const BUSY: i32 = 16;

/// This guest, and its one connection to XenStore while nobody has it.
struct Bare {
    guest: Guest,
    store: RefCell<Option<GuestStore>>,
}

impl Native for Bare {
    type Platform = Guest;

    fn platform(&self) -> &Guest {
        &self.guest
    }

    fn open_store(&self) -> Result<GuestStore, PlatformError> {
        self.store.take().ok_or(PlatformError {
            op: "open a second connection to XenStore",
            errno: BUSY,
        })
    }

    fn close_store(&self, mut store: GuestStore) {
        // What was still to come is for nobody.
        while let Ok(Some(_)) = store.next_watch() {}
        self.store.replace(Some(store));
    }

    // The agent ends with its domain.
    fn adopt_granted(&self, _: DomId, _: GrantRef) -> Option<Granted> {
        None
    }

    fn adopt_channel(&self, _: EvtchnPort) -> Option<Channel> {
        None
    }
}

fn main(guest: Guest, store: GuestStore) {
    if let Err(error) = run(guest, store) {
        error!("{error}");
        shutdown(Reason::Crash);
    }
}

fn run(guest: Guest, mut store: GuestStore) -> Result<(), PagesError> {
    let mut pages = GuestEnd::start(&guest, &mut store)?;
    info!("agent of domain {} is ready", guest.domid());
    let mut agent = Agent::new(Bare {
        guest,
        store: RefCell::new(Some(store)),
    });
    serve(
        &mut agent,
        &mut pages,
        &mut |channel: &Channel, time: Duration| {
            // Whatever came of it, the pages are looked at again.
            let _ = guest.wait(&[channel.port()], Some(time));
        },
    )
}
