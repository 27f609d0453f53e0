//! Memory shared with a domain that is not trusted.
