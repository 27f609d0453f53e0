//! The public headers of Xen, one file each: layouts, constants, and nothing else.
