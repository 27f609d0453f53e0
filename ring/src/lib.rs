//! The lock-free shared request/response ring and the byte ring.
