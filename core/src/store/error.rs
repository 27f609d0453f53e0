//! What can go wrong between us and the store.

use thiserror::Error;

use crate::wire::xs_wire::Errno;

/// Why an operation on the store failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// `ENOENT`: there is no such node (or watch, or transaction).
    #[error("no such node")]
    Missing,
    /// `EACCES`: the node's permissions forbid it.
    #[error("permission denied")]
    Denied,
    /// The store refused with any other error of `xs_wire.h`.
    #[error("the store answered {0}")]
    Refused(Errno),
    /// The store answered with an error that `xs_wire.h` does not know.
    #[error("the store answered with an unknown error")]
    UnknownErrno,
    /// The answer had the wrong type, or a payload that does not parse.
    #[error("malformed answer to request {req_id}")]
    Malformed {
        /// The request.
        req_id: u32,
    },
    /// The answer does not fit the caller's buffer.
    #[error("answer of {len} bytes does not fit a buffer of {room}")]
    TooLong {
        /// Bytes of the answer.
        len: usize,
        /// Bytes of the buffer.
        room: usize,
    },
    /// The request is longer than `XENSTORE_PAYLOAD_MAX`, or a path longer than its maximum, or holds a NUL. Nothing was sent.
    #[error("request of {len} bytes cannot be expressed")]
    Unsendable {
        /// Bytes of payload.
        len: usize,
    },
    /// A transaction met a conflict [`TRANSACTION_RETRIES`](super::TRANSACTION_RETRIES) times.
    #[error("transaction met a conflict {tries} times")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// The byte stream from the store makes no sense any more; the connection is of no further use.
    #[error("the store's byte stream lost its framing: length {len}")]
    Desynchronised {
        /// The impossible length.
        len: u32,
    },
    /// The transport failed; [`Connection::transport_error`](super::Connection::transport_error) has the cause.
    #[error("the transport to the store failed")]
    Transport,
}

impl From<Errno> for StoreError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NoEnt => Self::Missing,
            Errno::Acces => Self::Denied,
            other => Self::Refused(other),
        }
    }
}

impl StoreError {
    /// Whether the transaction only needs to be tried again.
    pub const fn is_conflict(self) -> bool {
        matches!(self, Self::Refused(Errno::Again))
    }
}

/// Why a typed read of `<dir>/<field>` failed. A missing node and a refused one are ordinary during the xenbus life, so they
/// have variants of their own.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The node is not there (yet).
    #[error("{field}: no such node")]
    Missing {
        /// The node's last path component(s).
        field: &'static str,
    },
    /// We may not read the node.
    #[error("{field}: permission denied")]
    Denied {
        /// The node's last path component(s).
        field: &'static str,
    },
    /// The node's text is not what the field needs.
    #[error("{field}: bad value {value:?}")]
    Garbage {
        /// The node's last path component(s).
        field: &'static str,
        /// The start of the text, with anything unprintable replaced by `?`.
        value: heapless::String<24>,
    },
    /// The store itself failed.
    #[error("{field}: {error}")]
    Store {
        /// The node's last path component(s).
        field: &'static str,
        /// How.
        error: StoreError,
    },
}

impl FieldError {
    /// Sorts a failure of the store that met `field`.
    pub const fn new(field: &'static str, error: StoreError) -> Self {
        match error {
            StoreError::Missing => Self::Missing { field },
            StoreError::Denied => Self::Denied { field },
            error => Self::Store { field, error },
        }
    }

    /// The text of `field` is no good; keeps its start for the message.
    pub fn garbage(field: &'static str, text: &[u8]) -> Self {
        let mut value = heapless::String::new();
        for &byte in text {
            let shown = if byte.is_ascii_graphic() || byte == b' ' {
                char::from(byte)
            } else {
                '?'
            };
            if value.push(shown).is_err() {
                break;
            }
        }
        Self::Garbage { field, value }
    }

    /// Whether the node is simply not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
