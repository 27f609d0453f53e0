//! The conformance suite's world: three domains, each with an agent, and dom0.

use std::cell::RefCell;
use std::rc::Rc;

use ringfence_core::platform::Platform as _;
use ringfence_core::store::{Perm, Store, StoreError, Tx, domain_path};
use ringfence_core::{DomId, EvtchnPort, GrantRef};
use ringfence_tests::conformance::{Lives, Who, World};

use crate::remote::{Line, Remote, RemoteChannel, RemoteGranted, RemoteStore};

/// Three domains with agents, however they are reached and killed.
pub trait Fleet {
    /// The way to the agent's current process; waits until there is one.
    fn line(&mut self, who: Who) -> Rc<Line>;

    /// The way to an agent in dom0.
    fn dom0(&mut self) -> Rc<Line>;

    /// The agent's process dies.
    fn kill(&mut self, who: Who, line: &Line);

    /// The domain is destroyed; returns when nothing of it is left.
    fn destroy(&mut self, who: Who, domid: DomId);

    /// Returns when everything has taken effect.
    fn settle(&self) {}
}

/// What the suite runs in.
#[derive(Debug)]
pub struct RemoteWorld<F> {
    fleet: RefCell<F>,
    lines: [Rc<Line>; 3],
    dom0: Rc<Line>,
    home: String,
}

impl<F: Fleet> RemoteWorld<F> {
    /// A world in `fleet`, in which the suite has the directory `data/<home>` of every domain for itself.
    ///
    /// # Panics
    /// If an agent does not answer, or the store does not let dom0 make the directories.
    #[must_use]
    pub fn new(mut fleet: F, home: &str) -> Self {
        let lines = [Who::A, Who::B, Who::C].map(|who| fleet.line(who));
        let dom0 = fleet.dom0();
        let world = Self {
            fleet: RefCell::new(fleet),
            lines,
            dom0,
            home: home.to_owned(),
        };
        let mut store = world.dom0_store();
        for who in [Who::A, Who::B, Who::C] {
            let (home, owner) = (world.home(who), Perm::owner(world.remote(who).domid()));
            store.rm(Tx::NONE, &home).expect("dom0 may");
            store.mkdir(Tx::NONE, &home).expect("dom0 may");
            let set = store.set_perms(Tx::NONE, &home, &[owner]);
            set.expect("dom0 may");
        }
        drop(store);
        world
    }

    /// Removes the directories; the fleet is for the next world.
    ///
    /// # Panics
    /// If the store does not let dom0 remove them.
    pub fn end(self) -> F {
        let mut store = self.dom0_store();
        for who in [Who::A, Who::B, Who::C] {
            match store.rm(Tx::NONE, &self.home(who)) {
                // Nothing is left of a domain that was destroyed.
                Ok(()) | Err(StoreError::Missing) => {}
                Err(error) => panic!("{}: {error}", self.home(who)),
            }
        }
        drop(store);
        self.fleet.into_inner()
    }

    /// The ways to the agents of the three domains.
    pub const fn lines(&self) -> &[Rc<Line>; 3] {
        &self.lines
    }

    fn remote(&self, who: Who) -> Remote {
        let [a, b, c] = &self.lines;
        let line = match who {
            Who::A => a,
            Who::B => b,
            Who::C => c,
        };
        Remote::new(line.clone())
    }
}

impl<F: Fleet> World for RemoteWorld<F> {
    type Platform = Remote;

    fn domain(&self, who: Who) -> Remote {
        self.remote(who)
    }

    fn store(&self, who: Who) -> RemoteStore {
        let opened = self.remote(who).open_store();
        opened.expect("a connection to the store")
    }

    fn dom0_store(&self) -> RemoteStore {
        let opened = Remote::new(self.dom0.clone()).open_store();
        opened.expect("a connection to the store")
    }

    fn settle(&self) {
        self.fleet.borrow().settle();
    }

    fn home(&self, who: Who) -> String {
        let domain = domain_path(self.remote(who).domid());
        format!("{domain}/data/{}", self.home)
    }
}

impl<F: Fleet> Lives for RemoteWorld<F> {
    fn kill(&mut self, who: Who) {
        let fleet = self.fleet.get_mut();
        let line = &mut self.lines[who as usize];
        fleet.kill(who, line);
        line.hang_up();
        *line = fleet.line(who);
    }

    fn destroy(&mut self, who: Who) {
        let line = &self.lines[who as usize];
        line.hang_up();
        let domid = Remote::new(line.clone()).domid();
        self.fleet.get_mut().destroy(who, domid);
    }

    fn adopt_granted(&self, who: Who, peer: DomId, gref: GrantRef) -> RemoteGranted {
        let adopted = self.remote(who).adopt_granted(peer, gref);
        adopted.expect("a page of the process before")
    }

    fn adopt_channel(&self, who: Who, port: EvtchnPort) -> RemoteChannel {
        let adopted = self.remote(who).adopt_channel(port);
        adopted.expect("a port of the process before")
    }
}
