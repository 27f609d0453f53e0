//! The programs that the lab's scenarios run in dom0 and in guests on real Xen.
