//! Domains as values in one process, with an adversary.
