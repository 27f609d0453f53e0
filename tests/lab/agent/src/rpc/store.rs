//! The store's operations as they travel. Paths and values are those of `ringfence_core::store::Store`.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// One operation of a connection to XenStore. `tx` is a transaction's number, 0 for none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the operations and their arguments")]
pub enum StoreCall {
    Read {
        tx: u32,
        path: String,
        room: u64,
    },
    Write {
        tx: u32,
        path: String,
        value: Vec<u8>,
    },
    Mkdir {
        tx: u32,
        path: String,
    },
    Rm {
        tx: u32,
        path: String,
    },
    Directory {
        tx: u32,
        path: String,
        room: u64,
    },
    GetPerms {
        tx: u32,
        path: String,
    },
    SetPerms {
        tx: u32,
        path: String,
        perms: Vec<String>,
    },
    Watch {
        path: String,
        token: String,
    },
    Unwatch {
        path: String,
        token: String,
    },
    NextWatch,
    Wait {
        millis: u64,
    },
    TransactionStart,
    TransactionEnd {
        tx: u32,
        commit: bool,
    },
}

/// A watch event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A node changed.
    Changed {
        /// The node.
        path: String,
        /// The watch's token.
        token: String,
    },
    /// Events were lost.
    Rescan,
}
