//! The device with a kernel of the test's own, which counts what is mapped; and without one.

use super::*;
use crate::ioctl::model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::offset_of;
use std::rc::Rc;

use rustix::fs::MemfdFlags;

const PEER: DomId = DomId::new(1);

/// The entries of a device: how many grants each has, by its index.
#[derive(Default)]
struct Kernel {
    grants: BTreeMap<u64, u32>,
    /// The next index, which is where it can be mapped; if it is no multiple of the page, nothing can.
    next: u64,
}

impl Kernel {
    fn call(&mut self, request: u32, argument: *mut c_void) -> Result<u32, Errno> {
        let words = argument.cast::<u32>();
        // SAFETY: of both structs, the index is in words 0 and 1 or 2 and 3, and the count in word 0 or 2.
        unsafe {
            match request {
                MAP_GRANT_REF => {
                    let count = words.read();
                    self.grants.insert(self.next, count);
                    argument
                        .byte_add(8)
                        .cast::<u64>()
                        .write_unaligned(self.next);
                    self.next += u64::from(count) * PAGE as u64;
                    Ok(0)
                }
                UNMAP_GRANT_REF => {
                    let index = argument.cast::<u64>().read_unaligned();
                    let count = words.add(2).read();
                    assert_eq!(self.grants.remove(&index), Some(count), "at {index}");
                    assert!(!is_mapped(index), "taken out while it is mapped");
                    Ok(0)
                }
                _ => Err(Errno::NOTTY),
            }
        }
    }
}

thread_local! {
    /// The name of this test's file.
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Whether this process has the device's file mapped from there on.
fn is_mapped(index: u64) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let name = NAME.with_borrow(|name| format!("memfd:{name} "));
    maps.lines().any(|line| {
        let offset = line.split(' ').nth(2).unwrap_or_default();
        line.contains(&name) && u64::from_str_radix(offset, 16) == Ok(index)
    })
}

/// A file in the place of the device, of so many pages.
fn device(name: &str) -> (Gntdev, Rc<RefCell<Kernel>>) {
    NAME.set(name.to_owned());
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 64 * PAGE as u64).unwrap();
    let kernel = Rc::new(RefCell::new(Kernel::default()));
    let answers = Rc::clone(&kernel);
    model::install(Box::new(move |_, request, argument| {
        answers.borrow_mut().call(request, argument)
    }));
    (Gntdev::new(file), kernel)
}

fn refs(count: u32) -> Vec<(DomId, GrantRef)> {
    (8..8 + count)
        .map(|gref| (PEER, GrantRef::new(gref)))
        .collect()
}

#[test]
fn cve_2022_50257_what_could_not_be_mapped_is_taken_out_again() {
    let (gntdev, kernel) = device("part");
    let whole = gntdev.map(&refs(3), Access::ReadWrite).unwrap();
    kernel.borrow_mut().next = 4097;
    for access in [Access::ReadOnly, Access::ReadWrite] {
        gntdev.map(&refs(5), access).unwrap_err();
        let left: Vec<_> = kernel.borrow().grants.clone().into_iter().collect();
        assert_eq!(left, [(0, 3)], "only what is mapped");
    }
    drop(whole);
    assert!(kernel.borrow().grants.is_empty());
}

#[test]
fn cve_2022_50257_as_many_entries_as_grants_that_are_mapped() {
    let (gntdev, kernel) = device("whole");
    let mut held = Vec::new();
    for count in [1, 11, 4, 32] {
        held.push(gntdev.map(&refs(count), Access::ReadOnly).unwrap());
    }
    assert!(is_mapped(0));
    while !held.is_empty() {
        // Neither in the order of their coming nor in its reverse.
        held.swap_remove(held.len() / 2);
        let pages: usize = held.iter().map(|mapping| mapping.len() / PAGE).sum();
        let entries: u32 = kernel.borrow().grants.values().sum();
        assert_eq!(entries as usize, pages);
    }
    assert!(!is_mapped(0));
}

#[test]
fn numbers_and_layouts_are_those_of_the_header() {
    // As a C compiler has them from Linux's `xen/gntdev.h`.
    assert_eq!(MAP_GRANT_REF, 0x0018_4700);
    assert_eq!(UNMAP_GRANT_REF, 0x0010_4701);
    assert_eq!(SET_UNMAP_NOTIFY, 0x0010_4707);
    assert_eq!(offset_of!(UnmapGrantRef, count), 8);
    assert_eq!(offset_of!(UnmapNotify, event_channel_port), 12);
}

#[test]
fn what_is_no_gntdev_maps_nothing() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let gntdev = Gntdev::new(null.into());
    let (peer, gref) = (DomId::new(1), GrantRef::new(8));
    let error = gntdev.map(&[(peer, gref)], Access::ReadOnly).unwrap_err();
    assert_eq!(error, Errno::NOTTY);
    let error = gntdev.map_of(peer, &[gref], Access::ReadOnly);
    assert!(matches!(error, Err(GrantError::Platform(_))), "{error:?}");
}
