//! Domains as processes on any Linux.
