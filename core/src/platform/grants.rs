//! Grants: pages shared with one named peer.

use super::error::GrantStatus;
use crate::ids::GrantRef;
use crate::mem::SharedMem;

/// What the peer may do with a granted page, or what we want to do with a mapped one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// `GTF_readonly` / `GNTMAP_readonly`.
    ReadOnly,
    /// Both ways.
    ReadWrite,
}

/// What a world can do beyond the contracts that all of them keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// A page that the caller already has can be granted where it is; otherwise only [`alloc`](super::Platform::alloc).
    pub grant_in_place: bool,
    /// After a successful [`Granted::try_revoke`] even a peer that ignores the rules can reach the page no more. Where this is
    /// false (an arena that the peer has mapped as a whole) revoking binds honest peers only.
    pub revocable: bool,
    /// Whether the peer has a page mapped can be seen, so that [`Granted::try_revoke`] succeeds once it has not (contracts G6, G7).
    /// Where this is false (Linux's gntalloc, which tells nobody) `try_revoke` fails always: the only way to end the access is to
    /// drop the page, and whatever keeps it for the peer's sake is below the platform.
    pub observes_mappings: bool,
    /// Pages granted and ports allocated outlive the process that made them, for the domain's next process to take over (contract
    /// D2). Where this is false (the devices of Linux, which clean up after each process) the peer sees them end with the process.
    pub outlives_process: bool,
    /// Pages of a peer may stay mapped by the thousand and for as long as the peer grants them (persistent grants), and dropping
    /// such a mapping waits for nobody.
    pub keeps_mappings: bool,
}

/// A page of ours that a peer may reach. Dropping it ends the access; if the peer still has it mapped then, the page and its
/// reference go to quarantine in the platform and not back to the allocator (XSA-396; contract G8).
pub trait Granted: SharedMem {
    /// The reference to publish.
    fn grant_ref(&self) -> GrantRef;

    /// Ends the peer's access in one atomic step. Fails, and changes nothing, while the peer has the page mapped
    /// (`GTF_reading` or `GTF_writing` set): asking first and revoking then was XSA-396.
    fn try_revoke(&mut self) -> Result<(), GrantStatus>;
}

/// Which way a [`GrantCopy`] goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Our buffer to the peer's page.
    ToPeer,
    /// The peer's page to our buffer.
    FromPeer,
}

/// The private side of a copy.
#[derive(Debug)]
pub enum Local<'a> {
    /// Bytes to write into the peer's page.
    ToPeer(&'a [u8]),
    /// Where to put bytes of the peer's page.
    FromPeer(&'a mut [u8]),
}

/// One element of a batched copy, `struct gnttab_copy` of `xen/grant_table.h` with one side ours.
#[derive(Debug)]
pub struct GrantCopy<'a> {
    /// The peer's page.
    pub gref: GrantRef,
    /// Where in that page, in bytes; offset and length together must stay within [`PAGE`](crate::PAGE).
    pub offset: u16,
    /// Our buffer, which also says the length and the direction.
    pub local: Local<'a>,
    /// What became of it: written by [`Platform::copy`](super::Platform::copy) for every element (XSA-361).
    pub status: GrantStatus,
}

impl<'a> GrantCopy<'a> {
    /// A copy into the peer's page.
    pub fn to_peer(gref: GrantRef, offset: u16, bytes: &'a [u8]) -> Self {
        Self {
            gref,
            offset,
            local: Local::ToPeer(bytes),
            status: GrantStatus::GENERAL_ERROR,
        }
    }

    /// A copy out of the peer's page.
    pub fn from_peer(gref: GrantRef, offset: u16, bytes: &'a mut [u8]) -> Self {
        Self {
            gref,
            offset,
            local: Local::FromPeer(bytes),
            status: GrantStatus::GENERAL_ERROR,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        match &self.local {
            Local::ToPeer(bytes) => bytes.len(),
            Local::FromPeer(bytes) => bytes.len(),
        }
    }

    /// Whether nothing is to be copied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
