//! Linux on real Xen, from user space.
