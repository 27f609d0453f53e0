//! The public headers of Xen, one file each: layouts, constants, and nothing else.
pub mod xs_wire;
