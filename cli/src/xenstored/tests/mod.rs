//! The daemon on a machine without a hypervisor.

mod logs;
mod machine;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ringfence_core::mem::SharedMem;
use ringfence_core::wire::xs_wire::{ERROR_NONE, ERROR_RINGIDX, Op, RECONNECT};
use ringfence_core::{DomId, EvtchnPort};

use super::host::Health;
use super::poller::{Poller, Token};
use super::server::Server;
use machine::{CONNECTION, ERROR, Fake, Page, REQ_PROD, RSP_CONS, message, messages};

struct World {
    machine: Fake,
    server: Server<Fake>,
    poller: Poller,
}

impl World {
    fn new() -> Self {
        let machine = Fake::default();
        let mut world = Self {
            server: Server::new(machine.clone(), Token::new(3)),
            machine,
            poller: Poller::new().unwrap(),
        };
        world.create(0);
        world.server.start().unwrap();
        world.settle();
        world
    }

    /// The hypervisor makes a domain.
    fn create(&self, domid: u16) -> Page {
        let page = Page::new();
        self.machine.1.lock().unwrap().insert(DomId::new(domid));
        let mut machine = self.machine.0.borrow_mut();
        machine.pages.insert(DomId::new(domid), page.clone());
        page
    }

    /// A toolstack makes a domain, with a home that it may read and a `data` that is its own.
    fn guest(&mut self, tool: &mut Tool, domid: u16) -> Page {
        let page = self.create(domid);
        for (op, text) in [
            (Op::WRITE, format!("/local/domain/{domid}/name\0guest")),
            (
                Op::SET_PERMS,
                format!("/local/domain/{domid}/name\0n0\0r{domid}\0"),
            ),
            (Op::WRITE, format!("/local/domain/{domid}/data\0")),
            (
                Op::SET_PERMS,
                format!("/local/domain/{domid}/data\0n{domid}\0"),
            ),
            (Op::INTRODUCE, format!("{domid}\x001\0{}\0", 10 + domid)),
        ] {
            assert_eq!(tool.ask(self, op, text.as_bytes()), (op, "OK|".to_owned()));
        }
        page
    }

    fn tool(&mut self) -> Tool {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.server.accept(&self.poller, ours.into()).unwrap();
        Tool(theirs)
    }

    fn rings(&mut self, domid: u16) {
        let port = self.machine.0.borrow().port(DomId::new(domid));
        self.machine.0.borrow_mut().masked.insert(port);
        self.server.rang(port);
    }

    /// What the sockets have to say, and one turn. Returns whether there is more to do.
    fn turn(&mut self) -> bool {
        let mut ready = Vec::new();
        self.server.arm(&self.poller).unwrap();
        self.poller
            .wait(Some(std::time::Duration::ZERO), &mut ready)
            .unwrap();
        for now in ready {
            self.server.client_ready(now);
        }
        self.server.turn()
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            if !self.turn() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn notified(&self, domid: u16) -> usize {
        let machine = self.machine.0.borrow();
        machine
            .notified
            .get(&DomId::new(domid))
            .copied()
            .unwrap_or(0)
    }

    fn set_health(&mut self, domid: u16, health: Health) {
        let mut machine = self.machine.0.borrow_mut();
        machine.health.insert(DomId::new(domid), health);
    }
}

/// A program of dom0.
struct Tool(UnixStream);

impl Tool {
    fn send(&mut self, op: Op, payload: &[u8]) {
        self.0.write_all(&message(op, payload)).unwrap();
    }

    fn hear(&mut self) -> Vec<(Op, String)> {
        let mut bytes = Vec::new();
        let error = self.0.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        messages(&bytes)
    }

    fn ask(&mut self, world: &mut World, op: Op, payload: &[u8]) -> (Op, String) {
        self.send(op, payload);
        world.settle();
        let mut heard = self.hear();
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard.remove(0)
    }
}

fn is(op: Op, text: &str) -> (Op, String) {
    (op, text.to_owned())
}

#[test]
fn a_guest_is_introduced_and_served() {
    let mut world = World::new();
    let mut tool = world.tool();
    assert_eq!(
        tool.ask(&mut world, Op::DIRECTORY, b"/\0"),
        is(Op::DIRECTORY, "tool|")
    );
    let guest = world.guest(&mut tool, 1);
    assert_eq!(world.notified(1), 1, "it is told that the store is there");
    guest.ask(Op::READ, b"name\0");
    guest.ask(Op::WRITE, b"data/x\0value");
    guest.ask(Op::WRITE, b"/local/domain/1/name\0mine");
    world.rings(1);
    world.settle();
    let answers = [
        is(Op::READ, "guest"),
        is(Op::WRITE, "OK|"),
        is(Op::ERROR, "EACCES|"),
    ];
    assert_eq!(guest.answers(), answers);
    assert!(world.notified(1) > 1);
    assert!(
        world.machine.0.borrow().masked.is_empty(),
        "it can ring again"
    );
    assert_eq!(
        tool.ask(&mut world, Op::READ, b"/local/domain/1/data/x\0"),
        is(Op::READ, "value")
    );
}

#[test]
fn dom0s_kernel_is_served_on_its_own_page() {
    let mut world = World::new();
    let kernel = world.machine.0.borrow().pages[&DomId::DOM0].clone();
    kernel.ask(Op::WRITE, b"/local/domain/0/name\0Domain-0");
    world.rings(0);
    world.settle();
    assert_eq!(kernel.answers(), [is(Op::WRITE, "OK|")]);
    // The kernel introduces as well as the tools do, for those that work through it.
    world.create(7);
    kernel.ask(Op::INTRODUCE, b"7\x001\x003\0");
    kernel.ask(Op::IS_DOMAIN_INTRODUCED, b"7\0");
    world.rings(0);
    world.settle();
    assert_eq!(
        kernel.answers(),
        [is(Op::INTRODUCE, "OK|"), is(Op::IS_DOMAIN_INTRODUCED, "T|")]
    );
    let mut tool = world.tool();
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"0\x001\x001\0"),
        is(Op::ERROR, "EINVAL|")
    );
}

#[test]
fn what_cannot_be_reached_is_not_introduced() {
    let mut world = World::new();
    let mut tool = world.tool();
    tool.send(Op::WATCH, b"@introduceDomain\0t\0");
    world.settle();
    assert_eq!(
        tool.hear().len(),
        2,
        "the answer, and the event of every new watch"
    );
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"9\x001\x003\0"),
        is(Op::ERROR, "EINVAL|")
    );
    let page = world.create(9);
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"9\x001\x000\0"),
        is(Op::ERROR, "EINVAL|")
    );
    assert_eq!(
        tool.ask(&mut world, Op::IS_DOMAIN_INTRODUCED, b"9\0").1,
        "F|"
    );
    world.machine.0.borrow_mut().pages.remove(&DomId::new(9));
    assert!(page.is_unmapped());
    assert_eq!(tool.hear().len(), 0, "nobody was introduced");
}

#[test]
fn who_shuts_down_is_announced_and_who_dies_is_released() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    world.guest(&mut tool, 2);
    tool.send(Op::WATCH, b"@releaseDomain\0t\0");
    world.settle();
    let fired = is(Op::WATCH_EVENT, "@releaseDomain|t|");
    assert_eq!(tool.hear(), [is(Op::WATCH, "OK|"), fired.clone()]);

    world.set_health(1, Health::ShutDown);
    for heard in [vec![fired.clone()], vec![]] {
        world.server.domains_changed();
        world.settle();
        assert_eq!(tool.hear(), heard, "once for each time that it shuts down");
    }
    // It is still served, and after a resume it can shut down again.
    assert_eq!(
        tool.ask(&mut world, Op::RESUME, b"1\0"),
        is(Op::RESUME, "OK|")
    );
    world.server.domains_changed();
    world.settle();
    assert_eq!(tool.hear(), std::slice::from_ref(&fired));
    guest.ask(Op::READ, b"name\0");
    world.rings(1);
    world.settle();
    assert_eq!(guest.answers(), [is(Op::READ, "guest")]);

    world.set_health(1, Health::Gone);
    world.machine.0.borrow_mut().pages.remove(&DomId::new(1));
    world.server.domains_changed();
    world.settle();
    assert_eq!(tool.hear(), [fired]);
    assert!(
        guest.is_unmapped(),
        "a page that stays mapped keeps the domain from going"
    );
    assert!(
        world
            .machine
            .0
            .borrow()
            .bound
            .values()
            .all(|bound| bound.0 != DomId::new(1))
    );
    for (op, text) in [(Op::IS_DOMAIN_INTRODUCED, "F|"), (Op::RESUME, "ENOENT|")] {
        assert_eq!(tool.ask(&mut world, op, b"1\0").1, text);
    }
    assert_eq!(
        tool.ask(&mut world, Op::IS_DOMAIN_INTRODUCED, b"2\0").1,
        "T|"
    );
}

#[test]
fn who_dies_before_it_is_introduced_is_forgotten() {
    let mut world = World::new();
    let mut tool = world.tool();
    world.create(5);
    for (op, payload, said) in [
        (Op::WRITE, &b"/a\x001"[..], "OK|"),
        (Op::SET_PERMS, b"/a\0n6\0", "ENOENT|"),
        (Op::SET_PERMS, b"/a\0n5\0", "OK|"),
    ] {
        assert_eq!(tool.ask(&mut world, op, payload).1, said);
    }
    world.server.domains_changed();
    assert_eq!(tool.ask(&mut world, Op::READ, b"/a\0").1, "1");
    world.set_health(5, Health::Gone);
    world.server.domains_changed();
    assert_eq!(tool.ask(&mut world, Op::READ, b"/a\0").1, "ENOENT|");
}

#[test]
fn a_release_takes_page_and_port() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    assert_eq!(
        tool.ask(&mut world, Op::RELEASE, b"1\0"),
        is(Op::RELEASE, "OK|")
    );
    world.machine.0.borrow_mut().pages.remove(&DomId::new(1));
    assert!(guest.is_unmapped());
    assert_eq!(world.machine.0.borrow().bound.len(), 1, "dom0's");
}

#[test]
fn a_second_introduction_brings_a_new_port_and_an_empty_ring() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    let old = world.machine.0.borrow().port(DomId::new(1));
    guest.ask(Op::WATCH, b"data\0t\0");
    world.rings(1);
    world.settle();
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"1\x001\x0077\0"),
        is(Op::INTRODUCE, "OK|")
    );
    let new = world.machine.0.borrow().port(DomId::new(1));
    assert_ne!(old, new);
    assert_eq!(world.machine.0.borrow().bound[&new], (DomId::new(1), 77));
    assert_eq!(guest.load_u32(REQ_PROD), 0);
    // The watch went with what the domain was before.
    guest.ask(Op::WRITE, b"data/x\x001");
    world.rings(1);
    world.settle();
    assert_eq!(guest.answers(), [is(Op::WRITE, "OK|")]);
    // A port that cannot be bound leaves the domain without one, and the next introduction brings one.
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"1\x001\x000\0"),
        is(Op::ERROR, "EINVAL|")
    );
    world.server.rang(new);
    world.settle();
    assert_eq!(
        tool.ask(&mut world, Op::INTRODUCE, b"1\x001\x005\0"),
        is(Op::INTRODUCE, "OK|")
    );
    guest.ask(Op::READ, b"name\0");
    world.rings(1);
    world.settle();
    assert_eq!(guest.answers(), [is(Op::READ, "guest")]);
}

#[test]
fn a_flood_leaves_the_others_their_turn() {
    let mut world = World::new();
    let mut tool = world.tool();
    let flooder = world.guest(&mut tool, 1);
    let other = world.guest(&mut tool, 2);
    flooder.flood(message(Op::READ, b"name\0"));
    world.rings(1);
    for turn in 1..20 {
        assert!(world.turn(), "the flood goes on");
        assert!(
            flooder.flooded() < turn * 500,
            "{} in turn {turn}",
            flooder.flooded()
        );
        let masked = world.machine.0.borrow().masked.len();
        assert_eq!(masked, 1, "its doorbell is not heard while it has work");
        other.ask(Op::READ, b"name\0");
        world.rings(2);
        world.turn();
        assert_eq!(other.answers(), [is(Op::READ, "guest")]);
        tool.send(Op::READ, b"/local/domain/2/name\0");
        world.turn();
        assert_eq!(tool.hear(), [is(Op::READ, "guest")]);
    }
}

#[test]
fn a_guest_that_does_not_read_is_waited_for_in_silence() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    guest.ask(Op::WATCH, b"data\0t\0");
    world.rings(1);
    world.settle();
    assert_eq!(guest.answers().len(), 2);
    for n in 0..100 {
        let write = format!("/local/domain/1/data/{n:03}\0");
        assert_eq!(tool.ask(&mut world, Op::WRITE, write.as_bytes()).1, "OK|");
    }
    assert!(!world.turn(), "nothing to do until it rings");
    let mut heard = Vec::new();
    while let Some(some) = Some(guest.take()).filter(|some| !some.is_empty()) {
        heard.extend(some);
        world.rings(1);
        world.settle();
    }
    assert_eq!(messages(&heard).len(), 100);
}

#[test]
fn a_tool_that_does_not_read_holds_up_nobody() {
    let mut world = World::new();
    let mut stuck = world.tool();
    let mut tool = world.tool();
    let long = [b"/long\0".as_slice(), &[b'x'; 4000]].concat();
    assert_eq!(tool.ask(&mut world, Op::WRITE, &long).1, "OK|");
    let request = message(Op::READ, b"/long\0");
    let mut sent = 0;
    // Until the store takes no more from it, and its socket neither.
    while let Ok(len) = stuck.0.write(&request[sent % request.len()..]) {
        sent += len;
        world.turn();
    }
    assert!(!world.turn());
    for _ in 0..10 {
        assert_eq!(tool.ask(&mut world, Op::READ, b"/long\0").1.len(), 4000);
    }
    // When it reads at last, every answer is there.
    let mut heard = Vec::new();
    while heard.len() < sent / request.len() * (16 + 4000) {
        let mut bytes = [0; 65536];
        let len = stuck.0.read(&mut bytes).unwrap();
        heard.extend_from_slice(&bytes[..len]);
        world.settle();
        world.settle();
    }
    assert_eq!(messages(&heard).len(), sent / request.len());
}

#[test]
fn an_impossible_index_stops_one_domain_until_it_reconnects() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    let before = world.notified(1);
    guest.store_u32(RSP_CONS, 5000);
    for _ in 0..3 {
        world.rings(1);
        world.settle();
    }
    assert_eq!(guest.load_u32(ERROR), ERROR_RINGIDX);
    assert_eq!(world.notified(1), before + 1, "told once");
    assert_eq!(
        tool.ask(&mut world, Op::READ, b"/local/domain/1/name\0").1,
        "guest"
    );
    guest.store_u32(CONNECTION, RECONNECT);
    world.rings(1);
    world.settle();
    assert_eq!(guest.load_u32(ERROR), ERROR_NONE);
    guest.ask(Op::READ, b"name\0");
    world.rings(1);
    world.settle();
    assert_eq!(guest.answers(), [is(Op::READ, "guest")]);
}

#[test]
fn a_tool_that_leaves_takes_its_watches_along() {
    let mut world = World::new();
    let mut tool = world.tool();
    let mut leaver = world.tool();
    assert_eq!(leaver.ask(&mut world, Op::DIRECTORY, b"/\0").1, "tool|");
    leaver.send(Op::WATCH, b"/x\0t\0");
    world.settle();
    drop(leaver);
    world.settle();
    assert_eq!(tool.ask(&mut world, Op::WRITE, b"/x\x001").1, "OK|");
    let usage = tool.ask(&mut world, Op::CONTROL, b"quota\x000\0").1;
    assert!(usage.contains("watches 0\n"), "{usage}");
}

#[test]
fn a_doorbell_of_nobody_is_silenced() {
    let mut world = World::new();
    let port = EvtchnPort::new(999);
    world.machine.0.borrow_mut().masked.insert(port);
    world.server.rang(port);
    assert!(world.machine.0.borrow().masked.is_empty());
}
