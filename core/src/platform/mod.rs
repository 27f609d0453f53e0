//! What a world must provide.
