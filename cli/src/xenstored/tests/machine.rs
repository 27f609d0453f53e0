//! A machine without a hypervisor: pages in memory, doorbells that are counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use ringfence_core::mem::SharedMem;
use ringfence_core::wire::xs_wire::{Op, RING_SIZE, SockMsg};
use ringfence_core::{DomId, EvtchnPort, PAGE};
use zerocopy::{FromBytes, IntoBytes};

use crate::xenstored::host::{Health, Host};

pub(super) const REQ_CONS: usize = 2048;
pub(super) const REQ_PROD: usize = 2052;
pub(super) const RSP_CONS: usize = 2056;
pub(super) const RSP_PROD: usize = 2060;
pub(super) const CONNECTION: usize = 2068;
pub(super) const ERROR: usize = 2072;

/// One domain's ring page, with the domain's own view of it.
#[derive(Clone)]
pub(super) struct Page(Rc<RefCell<Memory>>);

struct Memory {
    bytes: Vec<u8>,
    /// The domain sends this message for ever and reads every answer at once; how often it did.
    flood: Option<(Vec<u8>, usize)>,
}

impl Page {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(Memory {
            bytes: vec![0; PAGE],
            flood: None,
        })))
    }

    /// From now on the domain sends `message` as fast as the store takes it.
    pub(super) fn flood(&self, message: Vec<u8>) {
        self.0.borrow_mut().flood = Some((message, 0));
    }

    /// Messages that the flood put into the ring.
    pub(super) fn flooded(&self) -> usize {
        self.0.borrow().flood.as_ref().map_or(0, |flood| flood.1)
    }

    /// Whether nobody else has the page mapped.
    pub(super) fn is_unmapped(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    /// Puts a request into the ring.
    pub(super) fn ask(&self, op: Op, payload: &[u8]) {
        self.put(&message(op, payload));
    }

    pub(super) fn put(&self, bytes: &[u8]) {
        let (prod, cons) = (self.load_u32(REQ_PROD), self.load_u32(REQ_CONS));
        assert!(bytes.len() <= RING_SIZE - prod.wrapping_sub(cons) as usize);
        for (at, byte) in bytes.iter().enumerate() {
            self.write((prod as usize + at) % RING_SIZE, &[*byte]);
        }
        self.store_u32(REQ_PROD, prod.wrapping_add(bytes.len() as u32));
    }

    /// Takes all bytes out of the ring.
    pub(super) fn take(&self) -> Vec<u8> {
        let (prod, cons) = (self.load_u32(RSP_PROD), self.load_u32(RSP_CONS));
        let taken = (0..prod.wrapping_sub(cons) as usize)
            .map(|at| {
                let mut byte = [0];
                self.read(RING_SIZE + (cons as usize + at) % RING_SIZE, &mut byte);
                byte[0]
            })
            .collect();
        self.store_u32(RSP_CONS, prod);
        taken
    }

    /// Takes all messages out of the ring.
    pub(super) fn answers(&self) -> Vec<(Op, String)> {
        messages(&self.take())
    }
}

impl SharedMem for Page {
    fn len(&self) -> usize {
        PAGE
    }

    fn load_u32(&self, offset: usize) -> u32 {
        let mut memory = self.0.borrow_mut();
        let word =
            |memory: &Memory, at| u32::from_ne_bytes(memory.bytes[at..at + 4].try_into().unwrap());
        let Some((message, count)) = memory.flood.clone() else {
            return word(&memory, offset);
        };
        // Bounded, so that a store that never lets go fails a test instead of running for ever.
        if offset == REQ_PROD && count < 10_000 {
            let (mut prod, cons) = (word(&memory, REQ_PROD), word(&memory, REQ_CONS));
            while RING_SIZE - prod.wrapping_sub(cons) as usize >= message.len() {
                for byte in &message {
                    memory.bytes[prod as usize % RING_SIZE] = *byte;
                    prod = prod.wrapping_add(1);
                }
                memory.flood.as_mut().unwrap().1 += 1;
            }
            memory.bytes[REQ_PROD..REQ_PROD + 4].copy_from_slice(&prod.to_ne_bytes());
        }
        if offset == RSP_CONS {
            return word(&memory, RSP_PROD);
        }
        word(&memory, offset)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_ne_bytes());
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.0.borrow().bytes[offset..offset + dst.len()]);
    }

    fn write(&self, offset: usize, src: &[u8]) {
        self.0.borrow_mut().bytes[offset..offset + src.len()].copy_from_slice(src);
    }

    fn fence(&self) {}
}

/// One request.
pub(super) fn message(op: Op, payload: &[u8]) -> Vec<u8> {
    let header = SockMsg {
        op,
        req_id: 0,
        tx_id: 0,
        len: payload.len() as u32,
    };
    [header.as_bytes(), payload].concat()
}

/// What a whole number of messages says; NULs are shown as `|`.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<(Op, String)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = SockMsg::read_from_prefix(bytes).unwrap();
        let (payload, rest) = rest.split_at(header.len as usize);
        let text = String::from_utf8(payload.to_vec()).unwrap();
        all.push((header.op, text.replace('\0', "|")));
        bytes = rest;
    }
    all
}

/// What the hypervisor knows.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) pages: BTreeMap<DomId, Page>,
    pub(super) health: BTreeMap<DomId, Health>,
    /// Our ports, whose they are, and the port at the other end.
    pub(super) bound: BTreeMap<EvtchnPort, (DomId, u32)>,
    pub(super) notified: BTreeMap<DomId, usize>,
    /// Ports that rang and were not unmasked yet.
    pub(super) masked: BTreeSet<EvtchnPort>,
    next: u32,
}

impl Machine {
    /// Our end of the domain's port.
    pub(super) fn port(&self, domid: DomId) -> EvtchnPort {
        let mut ports = self.bound.iter().filter(|(_, bound)| bound.0 == domid);
        let (port, _) = ports.next().expect("a bound port");
        assert!(ports.next().is_none(), "one port for each domain");
        *port
    }
}

/// A handle on the machine: one for the server, one for the test.
#[derive(Clone, Default)]
pub(super) struct Fake(
    pub(super) Rc<RefCell<Machine>>,
    pub(super) Arc<Mutex<BTreeSet<DomId>>>,
);

impl Host for Fake {
    type Page = Page;

    fn own(&mut self) -> io::Result<(Page, EvtchnPort)> {
        let port = self.bind(DomId::DOM0, EvtchnPort::new(1))?;
        Ok((self.map(DomId::DOM0)?, port))
    }

    fn map(&mut self, domid: DomId) -> io::Result<Page> {
        let machine = self.0.borrow();
        let page = machine.pages.get(&domid).cloned();
        page.ok_or_else(|| io::Error::from_raw_os_error(3))
    }

    fn bind(&mut self, domid: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort> {
        let mut machine = self.0.borrow_mut();
        if remote.get() == 0 {
            return Err(io::Error::from_raw_os_error(22));
        }
        machine.next += 1;
        let port = EvtchnPort::new(100 + machine.next);
        machine.bound.insert(port, (domid, remote.get()));
        Ok(port)
    }

    fn unbind(&mut self, port: EvtchnPort) {
        self.0.borrow_mut().bound.remove(&port);
    }

    fn notify(&mut self, port: EvtchnPort) {
        let mut machine = self.0.borrow_mut();
        let (domid, _) = machine.bound[&port];
        *machine.notified.entry(domid).or_default() += 1;
    }

    fn unmask(&mut self, port: EvtchnPort) {
        self.0.borrow_mut().masked.remove(&port);
    }

    fn health(&mut self, domid: DomId) -> io::Result<Health> {
        let machine = self.0.borrow();
        let known = machine.pages.contains_key(&domid);
        let default = if known { Health::Alive } else { Health::Gone };
        Ok(machine.health.get(&domid).copied().unwrap_or(default))
    }

    fn witness(&self) -> Box<dyn Fn(DomId) -> bool + Send> {
        let there = Arc::clone(&self.1);
        Box::new(move |domid| there.lock().unwrap().contains(&domid))
    }
}
