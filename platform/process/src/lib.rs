//! What the platforms whose domains run Linux processes share.
