//! Bare metal on real Xen: a guest kernel that is nothing but a Rust program.
//!
//! [`entry!`] names the function of an image that runs when everything is up; it gets a [`Guest`], which is the
//! [`Platform`](ringfence_core::platform::Platform) that drivers run on, and a [`GuestStore`]. When it returns the domain powers
//! off; when it panics, the console says why and the domain has crashed.
//!
//! ```text
//! #![no_std]
//! #![no_main]
//! ringfence_guest::entry!(main);
//! fn main(guest: ringfence_guest::Guest, store: ringfence_guest::GuestStore) {
//!     log::info!("domain {}", guest.domid());
//! }
//! ```
//!
//! An image is linked with `image.ld` of this crate, for a stock host target: its code uses the red zone below the stack, which
//! an upcall of Xen's would overwrite. So there are none: events are looked at ([`Guest::wait`]), on one processor.
#![cfg_attr(not(test), no_std)]
// What only `entry` uses, which is no part of a test program: there the first instruction is somebody else's.
#![cfg_attr(test, allow(dead_code))]

extern crate alloc;

mod boot;
mod console;
#[cfg(not(test))]
mod entry;
mod evtchn;
mod grants;
mod heap;
mod hypercall;
mod mapping;
mod memory;
mod platform;
mod pool;
mod power;
mod quarantine;
mod shared;
mod store;
mod suspend;
mod table;
pub mod toolstack;

pub use boot::StartError;
pub use console::write_text;
pub use evtchn::Channel;
pub use grants::Granted;
pub use heap::Heap;
pub use hypercall::{Errno, HypercallError};
pub use mapping::Mapping;
pub use platform::Guest;
pub use power::{Reason, shutdown};
pub use store::{GuestStore, StoreRing, StoreRingError};
pub use suspend::{Resumed, SuspendError};

/// Makes `$main`, a `fn(Guest, GuestStore)`, what an image runs, with everything that a program without a standard library
/// lacks: an allocator, and what happens on a panic.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[global_allocator]
        static HEAP: $crate::Heap = $crate::Heap;

        #[unsafe(no_mangle)]
        extern "Rust" fn ringfence_guest_main(guest: $crate::Guest, store: $crate::GuestStore) {
            let main: fn($crate::Guest, $crate::GuestStore) = $main;
            main(guest, store);
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::write_text(format_args!("{info}\n"));
            $crate::shutdown($crate::Reason::Crash)
        }
    };
}
