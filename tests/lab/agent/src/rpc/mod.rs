//! What travels between a caller and an [`Agent`](crate::Agent), in postcard's encoding.

mod failure;
mod store;

pub use failure::Failure;
pub use store::{Event, StoreCall};

use alloc::string::String;
use alloc::vec::Vec;
use ringfence_core::platform::{Access, Capabilities};

use serde::{Deserialize, Serialize};

/// The agent's number for something it holds.
pub type Id = u32;

/// What an agent is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who is it, and what can it do? [`Answer::Hello`].
    Hello,
    /// `Platform::alloc`. [`Answer::Granted`].
    Alloc {
        /// For whom.
        peer: u16,
        /// For reading only.
        read_only: bool,
    },
    /// `Platform::map`. [`Answer::Mapping`].
    Map {
        /// Whose pages.
        peer: u16,
        /// Which ones.
        refs: Vec<u32>,
        /// For reading only.
        read_only: bool,
    },
    /// `Platform::copy`. [`Answer::Copied`].
    Copy {
        /// Whose pages.
        peer: u16,
        /// The elements.
        ops: Vec<CopyOp>,
    },
    /// `Platform::alloc_unbound`. [`Answer::Channel`].
    AllocUnbound {
        /// For whom.
        peer: u16,
    },
    /// `Platform::bind`. [`Answer::Channel`].
    Bind {
        /// Whose port.
        peer: u16,
        /// Its number.
        port: u32,
    },
    /// An operation on the memory of a granted or mapped page.
    Memory {
        /// The page or mapping.
        id: Id,
        /// What to do.
        call: MemoryCall,
    },
    /// `Granted::try_revoke`. [`Answer::Done`].
    Revoke {
        /// The page.
        id: Id,
    },
    /// `Channel::notify`. [`Answer::Done`].
    Notify {
        /// The channel.
        id: Id,
    },
    /// `Channel::take_pending`. [`Answer::Flag`].
    TakePending {
        /// The channel.
        id: Id,
    },
    /// `Channel::unmask`. [`Answer::Done`].
    Unmask {
        /// The channel.
        id: Id,
    },
    /// Take over a page of the process before. [`Answer::Granted`].
    AdoptGranted {
        /// For whom it was granted.
        peer: u16,
        /// The reference.
        gref: u32,
    },
    /// Take over a port of the process before. [`Answer::Channel`].
    AdoptChannel {
        /// Its number.
        port: u32,
    },
    /// Open a connection to XenStore. [`Answer::Store`].
    OpenStore,
    /// An operation on such a connection.
    Store {
        /// The connection.
        id: Id,
        /// What to do.
        call: StoreCall,
    },
    /// Let go of whatever has this number. [`Answer::Done`].
    Drop {
        /// Its number.
        id: Id,
    },
    /// How many things are held? [`Answer::Census`].
    Census,
    /// End the process at once, whatever it holds. Nothing is answered.
    Die,
}

/// `SharedMem`'s operations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemoryCall {
    /// [`Answer::Word`].
    Load {
        /// Where, in bytes.
        offset: u64,
    },
    /// [`Answer::Done`].
    Store {
        /// Where, in bytes.
        offset: u64,
        /// What.
        value: u32,
    },
    /// [`Answer::Bytes`].
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// [`Answer::Done`].
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// [`Answer::Done`].
    Fence,
}

/// One element of a batched copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyOp {
    /// The page.
    pub gref: u32,
    /// Where in it.
    pub offset: u16,
    /// What is copied there, or how many bytes from there.
    pub local: CopyLocal,
}

/// The private side of a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyLocal {
    /// These into the page.
    ToPeer(Vec<u8>),
    /// From the page over these: what is not copied stays as it was.
    FromPeer(Vec<u8>),
}

/// What became of one element of a batched copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyResult {
    /// `GNTST_*`.
    pub status: i16,
    /// The buffer afterwards, of a copy from the page.
    pub bytes: Vec<u8>,
}

/// What an agent says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// Who it is.
    Hello {
        /// Its domain.
        domid: u16,
        /// What its platform can do.
        capabilities: Abilities,
    },
    /// A page.
    Granted {
        /// Its number at the agent.
        id: Id,
        /// The reference to publish.
        gref: u32,
        /// Bytes.
        len: u64,
    },
    /// Pages of a peer.
    Mapping {
        /// Their number at the agent.
        id: Id,
        /// Bytes.
        len: u64,
    },
    /// A channel.
    Channel {
        /// Its number at the agent.
        id: Id,
        /// The local port.
        port: u32,
    },
    /// A connection to XenStore.
    Store {
        /// Its number at the agent.
        id: Id,
    },
    /// The elements of a copy, in their order.
    Copied(Vec<CopyResult>),
    /// A word.
    Word(u32),
    /// Bytes of memory or of a node.
    Bytes(Vec<u8>),
    /// Yes or no.
    Flag(bool),
    /// A transaction.
    Tx(u32),
    /// Permissions of a node, as on the wire of the store.
    Perms(Vec<String>),
    /// The next watch event, if one is there.
    Event(Option<Event>),
    /// What is held.
    Census(Census),
    /// It did not work.
    Failed(Failure),
}

/// [`Capabilities`] as they travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Abilities {
    grant_in_place: bool,
    revocable: bool,
    observes_mappings: bool,
    outlives_process: bool,
    keeps_mappings: bool,
}

impl From<Capabilities> for Abilities {
    fn from(capabilities: Capabilities) -> Self {
        // No `..`: a new capability must travel as well.
        let Capabilities {
            grant_in_place,
            revocable,
            observes_mappings,
            outlives_process,
            keeps_mappings,
        } = capabilities;
        Self {
            grant_in_place,
            revocable,
            observes_mappings,
            outlives_process,
            keeps_mappings,
        }
    }
}

impl From<Abilities> for Capabilities {
    fn from(abilities: Abilities) -> Self {
        Self {
            grant_in_place: abilities.grant_in_place,
            revocable: abilities.revocable,
            observes_mappings: abilities.observes_mappings,
            outlives_process: abilities.outlives_process,
            keeps_mappings: abilities.keeps_mappings,
        }
    }
}

/// How many things an agent holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Census {
    /// Pages that it granted.
    pub granted: u32,
    /// Mappings of others' pages.
    pub mappings: u32,
    /// Event channels.
    pub channels: u32,
    /// Connections to XenStore, its own not counted.
    pub stores: u32,
}

pub(crate) const fn access(read_only: bool) -> Access {
    if read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    }
}
