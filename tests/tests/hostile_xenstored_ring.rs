//! Attacks on the ring page of XenStore, from either side: THREATS A (XSA-38), G and H.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::mem::SharedMem;
use ringfence_core::store::{Connection, Interest, Store as _, StoreError, Transport, Tx};
use ringfence_core::wire::xs_wire::{
    ERROR_NONE, ERROR_PROTO, ERROR_RINGIDX, Op, RECONNECT, RING_SIZE,
};
use ringfence_tests::mem::HeapMem;
use ringfence_tests::xenstore::{World, message, messages};
use ringfence_xenstored::ring::{
    Doorbell, RingError, RingServer, RingTransport, RingTransportError,
};

const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;

struct Guest {
    world: World,
    page: HeapMem,
    server: RingServer<HeapMem>,
}

impl Guest {
    fn at(start: u32) -> Self {
        let mut world = World::new();
        world.guest(1);
        let page = HeapMem::new(1);
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            page.store_u32(index, start);
        }
        let server = RingServer::new(&mut world.store, DomId::new(1), page.clone());
        Self {
            world,
            page,
            server,
        }
    }

    /// Puts as much of `bytes` into the ring as fits; returns how much.
    fn put(&self, bytes: &[u8]) -> usize {
        let (prod, cons) = (self.page.load_u32(REQ_PROD), self.page.load_u32(REQ_CONS));
        let len = bytes
            .len()
            .min(RING_SIZE - prod.wrapping_sub(cons) as usize);
        for (n, byte) in bytes[..len].iter().enumerate() {
            self.page
                .write(prod.wrapping_add(n as u32) as usize % RING_SIZE, &[*byte]);
        }
        self.page.store_u32(REQ_PROD, prod.wrapping_add(len as u32));
        len
    }

    fn take(&self) -> Vec<u8> {
        let (prod, cons) = (self.page.load_u32(RSP_PROD), self.page.load_u32(RSP_CONS));
        let byte = |n: u32| {
            let mut byte = [0];
            self.page.read(
                RING_SIZE + cons.wrapping_add(n) as usize % RING_SIZE,
                &mut byte,
            );
            byte[0]
        };
        let bytes = (0..prod.wrapping_sub(cons)).map(byte).collect();
        self.page.store_u32(RSP_CONS, prod);
        bytes
    }

    fn service(&mut self) -> Result<bool, RingError> {
        self.server.service(&mut self.world.store)
    }
}

#[test]
fn xsa_38_an_exactly_full_ring_is_served() {
    for start in [0, 1000, u32::MAX - 500] {
        let mut guest = Guest::at(start);
        let value = vec![b'v'; RING_SIZE - 16 - "data/x\0".len()];
        let request = message(Op::WRITE, 5, 0, &[b"data/x\0".as_slice(), &value].concat());
        assert_eq!(guest.put(&request), RING_SIZE);
        assert_eq!(guest.service(), Ok(true));
        assert_eq!(messages(&guest.take())[0].1, b"OK\0");
        let stored = guest
            .world
            .read(guest.world.dom0, 0, "/local/domain/1/data/x")
            .unwrap();
        assert_eq!(stored, value);
    }
}

#[test]
fn xsa_38_indices_out_of_the_ring_stop_the_connection() {
    for (index, step) in [
        (REQ_PROD, 1025),
        (REQ_PROD, u32::MAX - 99),
        (RSP_CONS, 1),
        (RSP_CONS, 1 << 31),
    ] {
        let mut guest = Guest::at(7);
        guest.put(&message(Op::READ, 1, 0, b"name\0"));
        guest
            .page
            .store_u32(index, guest.page.load_u32(index).wrapping_add(step));
        assert!(
            matches!(guest.service(), Err(RingError::Index(_))),
            "{index} by {step}"
        );
        assert_eq!(guest.page.load_u32(ERROR), ERROR_RINGIDX);
        // Repairing the index does not bring the connection back; the others never noticed.
        guest
            .page
            .store_u32(index, guest.page.load_u32(index).wrapping_sub(step));
        assert!(guest.service().is_err());
        guest.world.alive();
        // Asking for a reset does.
        guest.page.store_u32(CONNECTION, RECONNECT);
        assert_eq!(guest.service(), Ok(true));
        assert_eq!(
            (guest.page.load_u32(ERROR), guest.page.load_u32(CONNECTION)),
            (ERROR_NONE, 0)
        );
        guest.put(&message(Op::READ, 2, 0, b"name\0"));
        guest.service().unwrap();
        assert_eq!(messages(&guest.take())[0].1, b"guest");
    }
}

#[test]
fn xsa_38_impossible_indices_at_the_start() {
    let mut world = World::new();
    world.guest(1);
    let page = HeapMem::new(1);
    page.store_u32(REQ_PROD, 4096);
    let mut server = RingServer::new(&mut world.store, DomId::new(1), page.clone());
    assert!(matches!(
        server.service(&mut world.store),
        Err(RingError::Attach(_))
    ));
    assert_eq!(page.load_u32(ERROR), ERROR_RINGIDX);
    world.alive();
}

#[test]
fn xsa_420_an_impossible_length_is_a_protocol_error() {
    for len in [4097u32, 1 << 31, u32::MAX] {
        let mut guest = Guest::at(0);
        let mut header = message(Op::WRITE, 1, 0, b"");
        header[12..16].copy_from_slice(&len.to_ne_bytes());
        guest.put(&[header.as_slice(), &[b'x'; 900]].concat());
        assert_eq!(guest.service(), Err(RingError::Protocol(ERROR_PROTO)));
        assert_eq!(guest.page.load_u32(ERROR), ERROR_PROTO);
        assert_eq!(guest.service(), Err(RingError::Protocol(ERROR_PROTO)));
        guest.world.alive();
    }
}

#[test]
fn xsa_326_a_guest_that_reads_nothing_is_read_no_more() {
    let mut guest = Guest::at(u32::MAX - 3000);
    let request = message(Op::GET_PERMS, 1, 0, b"data\0");
    let stream: Vec<_> = std::iter::repeat_n(request.clone(), 2000)
        .flatten()
        .collect();
    let mut put = 0;
    loop {
        let now = guest.put(&stream[put..]);
        put += now;
        guest.service().unwrap();
        if now == 0 {
            break;
        }
    }
    // Two rings full, what the store read ahead, and the answers it keeps.
    assert!(put < 4 * RING_SIZE, "{put} bytes were taken");
    assert!(guest.world.store.backlog(guest.server.conn()) <= 20);
    guest.world.alive();
    // As soon as the guest reads, all its requests are done.
    let mut answers = Vec::new();
    while put < stream.len() || guest.page.load_u32(RSP_PROD) != guest.page.load_u32(RSP_CONS) {
        answers.extend(guest.take());
        put += guest.put(&stream[put..]);
        guest.service().unwrap();
    }
    assert_eq!(messages(&answers).len(), 2000);
}

#[test]
fn xsa_325_a_released_domain_is_told() {
    let mut guest = Guest::at(0);
    guest.world.store.release(DomId::new(1));
    assert_eq!(guest.service(), Err(RingError::Released));
    guest.page.store_u32(CONNECTION, RECONNECT);
    assert_eq!(guest.service(), Err(RingError::Released));
    guest.world.alive();
}

/// Serves the page whenever the client rings or waits, as the other end of an event channel does.
#[derive(Clone)]
struct Bell(Rc<RefCell<Guest>>);

impl Doorbell for Bell {
    fn ring(&mut self) {
        let _ = self.0.borrow_mut().service();
    }

    fn wait(&mut self, _: Option<Duration>) -> bool {
        self.0.borrow_mut().service() == Ok(true)
    }
}

fn client(start: u32) -> (Rc<RefCell<Guest>>, Connection<RingTransport<HeapMem, Bell>>) {
    let guest = Rc::new(RefCell::new(Guest::at(start)));
    let page = guest.borrow().page.clone();
    let transport = RingTransport::new(page, Bell(Rc::clone(&guest))).unwrap();
    (guest, Connection::new(transport))
}

#[test]
fn the_client_works_over_the_ring_and_its_wrap() {
    let (_, mut client) = client(u32::MAX - 700);
    let value = [b'v'; 1900];
    for n in 0..20 {
        let path = format!("data/{n}");
        client.write(Tx::NONE, &path, &value).unwrap();
        assert_eq!(client.read(Tx::NONE, &path, &mut [0; 2048]).unwrap(), value);
    }
    let sum = client.transaction(|client, tx| {
        client.rm(tx, "data/3")?;
        Ok::<_, StoreError>(client.directory(tx, "data", &mut [0; 512])?.count())
    });
    assert_eq!(sum, Ok(19));
}

#[test]
fn cve_2025_37949_a_lying_store_does_no_harm_to_its_client() {
    for (index, step) in [
        (RSP_PROD, 1025u32),
        (RSP_PROD, u32::MAX),
        (REQ_CONS, 1),
        (REQ_CONS, 1 << 30),
    ] {
        let guest = Guest::at(9);
        let mut transport = RingTransport::new(guest.page.clone(), Silent).unwrap();
        guest
            .page
            .store_u32(index, guest.page.load_u32(index).wrapping_add(step));
        let both = (transport.recv(&mut [0; 64]), transport.send(b"x"));
        let fault = both.0.err().or(both.1.err());
        assert!(
            matches!(fault, Some(RingTransportError::Index(_))),
            "{index} by {step}"
        );
    }
}

struct Silent;

impl Doorbell for Silent {
    fn ring(&mut self) {}
    fn wait(&mut self, _: Option<Duration>) -> bool {
        false
    }
}

#[test]
fn a_store_that_gave_up_is_noticed() {
    let guest = Guest::at(0);
    let mut transport = RingTransport::new(guest.page.clone(), Silent).unwrap();
    let recv = Interest {
        send: false,
        recv: true,
    };
    assert_eq!(transport.wait(recv, None), Err(RingTransportError::Gone));
    guest.page.store_u32(ERROR, ERROR_PROTO);
    assert_eq!(
        transport.wait(recv, None),
        Err(RingTransportError::Stopped(ERROR_PROTO))
    );
    let mut client = Connection::<_>::new(transport);
    assert_eq!(
        client.read(Tx::NONE, "x", &mut []),
        Err(StoreError::Transport)
    );
    assert_eq!(
        client.transport_error(),
        Some(&RingTransportError::Stopped(ERROR_PROTO))
    );
}
