//! Block frontend.
