//! Domains as values in one process, with an adversary.
//!
//! A [`World`] holds domains; [`World::domain`] gives a [`Sim`], which implements
//! [`Platform`](ringfence_core::platform::Platform) as the other worlds do. Grant tables follow Xen's rules and every access
//! through a handle is checked: using memory of a dead process, of an ended grant, or writing to a read-only mapping panics
//! and says so. [`World::store`] is a connection to a real XenStore core. Everything happens in the caller's thread and the
//! same seed with the same calls gives the same [`World::trace`].
//!
//! ```
//! use ringfence_core::{DomId, SharedMem};
//! use ringfence_core::platform::{Access, Channel, Granted, Platform};
//! use ringfence_sim::World;
//!
//! let world = World::new();
//! let guest = world.domain(DomId::new(1));
//! let disks = world.domain(DomId::new(2));
//!
//! // The guest shares a page and opens a channel; the numbers travel through XenStore in real life.
//! let page = guest.alloc(disks.domid(), Access::ReadWrite)?;
//! let bell = guest.alloc_unbound(disks.domid())?;
//!
//! let theirs = disks.map(guest.domid(), &[page.grant_ref()], Access::ReadWrite)?;
//! let their_bell = disks.bind(guest.domid(), bell.port())?;
//! assert!(their_bell.take_pending()?); // once, without being rung (contract E2)
//! their_bell.unmask()?;
//!
//! page.store_u32(0, 42);
//! bell.notify()?;
//! assert!(their_bell.take_pending()?);
//! assert_eq!(theirs.load_u32(0), 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What tests do beyond the traits:
//!
//! * [`World::hostile`]: doorbells are delayed, reordered, duplicated and merged, never lost. A tick passes with every
//!   `take_pending`; [`World::advance`] jumps to the next arrival and returns `false` when nothing will ever happen.
//! * [`World::inject`]: the nth map, copy, allocation, bind or notification fails as ordered.
//! * [`World::veiled`]: nobody sees whether a page is mapped.
//! * [`World::kill`] and [`World::destroy`]: death of a process and of a domain. The next process is
//!   [`World::domain`] again; it takes over with [`Sim::adopt_granted`] and [`Sim::adopt_channel`].
//! * [`World::die_after`]: death at one given step. [`SimWords`] survive it.
//! * [`World::page`]: the bytes behind a grant for a peer who keeps no rule.
//! * [`World::counts`] and [`World::usage`]: what a domain did, and what it still has.
#![forbid(unsafe_code)]

mod adversary;
mod crash;
mod domain;
mod evtchn;
mod faults;
mod grants;
mod maptrack;
mod memory;
mod process;
mod store;
mod table;
mod world;

pub use adversary::Adversary;
pub use crash::{Crash, SimRecord, SimWords};
pub use domain::{Counts, Sim, Usage};
pub use evtchn::SimChannel;
pub use faults::Fault;
pub use grants::{SimGranted, SimMapping, SimPage};
pub use store::{SimStore, SimTransport, StoreClosed};
pub use world::{Limits, World};
