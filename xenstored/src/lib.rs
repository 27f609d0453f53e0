//! The XenStore daemon, sans-IO.
