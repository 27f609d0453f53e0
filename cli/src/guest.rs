//! What a guest's process does.

pub mod copy;
