//! A frontend of a disk that does by hand what a driver does, and may do anything else.

use std::time::{Duration, Instant};

use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::store::{Store, StoreError, StoreExt, Tx};
use ringfence_core::wire::blkif::{RequestNative, Status};
use ringfence_core::xenbus::{Class, paths};
use ringfence_core::{DomId, PAGE, SharedMem};
use ringfence_ring::Front;
use ringfence_ring::blkif::BlkifNative;
use ringfence_tests::blkback_rig::{read, write};

/// How long a backend may take to answer or to change its state.
const PATIENCE: Duration = Duration::from_secs(30);

/// The side that is attacked, as dom0 sees it.
pub trait Host {
    /// dom0's connection to the store.
    type Store: Store;

    /// That connection.
    fn store(&mut self) -> &mut Self::Store;

    /// Lets the backend serve what it was rung for, where it does not run by itself.
    fn serve(&mut self);

    /// The same, and returns when a node of the backend's may have changed.
    fn wait(&mut self);
}

/// What answers say: the request's number and how it ended, in the order of the numbers.
pub type Answers = Vec<(u64, Status)>;

/// One disk of one domain.
pub struct Frontend<P: Platform> {
    /// The domain.
    pub platform: P,
    /// Its connection to the store.
    pub store: P::Store,
    /// The backend's domain.
    pub back: DomId,
    /// The frontend's directory.
    pub dir: String,
    /// The backend's directory.
    pub back_dir: String,
    /// The ring, while there is one.
    pub ring: Option<Front<P::Granted, BlkifNative>>,
    /// Its end of the event channel.
    pub channel: Option<P::Channel>,
    /// A page for data that the backend may write.
    pub page: P::Granted,
}

impl<P: Platform> std::fmt::Debug for Frontend<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Frontend<P> {
    /// The frontend of a disk whose nodes the toolstack has made. Does nothing yet.
    ///
    /// # Panics
    /// If there is no page for data.
    pub fn new(platform: P, store: P::Store, back: DomId, vdev: u32) -> Self {
        let page = platform.alloc(back, Access::ReadWrite).expect("a page");
        let front = platform.domid();
        Self {
            platform,
            store,
            back,
            dir: paths::frontend_dir(Class::Vbd, front, vdev).to_string(),
            back_dir: paths::backend_dir(Class::Vbd, back, front, vdev).to_string(),
            ring: None,
            channel: None,
            page,
        }
    }

    /// Writes one of its own nodes.
    pub fn set(&mut self, node: &str, value: &[u8]) {
        let path = format!("{}/{node}", self.dir);
        self.store
            .write(Tx::NONE, &path, value)
            .expect("its own node");
    }

    /// Removes one of its own nodes, if it is there.
    pub fn remove(&mut self, node: &str) {
        let path = format!("{}/{node}", self.dir);
        match self.store.rm(Tx::NONE, &path) {
            Ok(()) | Err(StoreError::Missing) => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Makes a fresh ring and port and writes their numbers, but no state.
    pub fn publish(&mut self) {
        let ring = self
            .platform
            .alloc(self.back, Access::ReadWrite)
            .expect("a page");
        let channel = self.platform.alloc_unbound(self.back).expect("a port");
        self.set("ring-ref", ring.grant_ref().to_string().as_bytes());
        self.set("event-channel", channel.port().to_string().as_bytes());
        self.set("protocol", b"x86_64-abi");
        self.ring = Some(Front::init(ring).expect("a ring"));
        self.channel = Some(channel);
    }

    /// The backend's state, once it is `wanted`.
    ///
    /// # Panics
    /// If it does not become that.
    pub fn expect<H: Host>(&self, host: &mut H, wanted: u32) {
        let end = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < end {
            last = self.state(host);
            if last == Some(wanted) {
                return;
            }
            host.wait();
        }
        panic!(
            "{}: state {last:?}, not {wanted}: {}",
            self.back_dir,
            self.error(host)
        );
    }

    /// The backend's state.
    pub fn state<H: Host>(&self, host: &mut H) -> Option<u32> {
        host.store().read_state(Tx::NONE, &self.back_dir).ok()
    }

    /// The text of the device's `error` node, empty if there is none.
    pub fn error<H: Host>(&self, host: &mut H) -> String {
        let path = paths::error_path(&self.back_dir).expect("a short path");
        let mut room = [0; 1024];
        match host.store().read(Tx::NONE, &path, &mut room) {
            Ok(text) => String::from_utf8_lossy(text).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// The handshake, from the backend's 2 to 4 and 4.
    pub fn connect<H: Host>(&mut self, host: &mut H) {
        self.expect(host, 2);
        self.publish();
        self.set("state", b"3");
        self.expect(host, 4);
        self.set("state", b"4");
        host.serve();
    }

    /// Back to 1, by way of 5 and 6, whatever happened before; the backend comes along to 2.
    pub fn reset<H: Host>(&mut self, host: &mut H) {
        self.set("state", b"5");
        host.serve();
        self.set("state", b"6");
        self.expect(host, 6);
        self.ring = None;
        self.channel = None;
        for node in ["ring-page-order", "multi-queue-num-queues", "ring-ref0"] {
            self.remove(node);
        }
        self.set("state", b"1");
        self.expect(host, 2);
    }

    /// Closes for good.
    pub fn close<H: Host>(&mut self, host: &mut H) {
        for state in ["5", "6"] {
            self.set("state", state.as_bytes());
            host.serve();
        }
        self.expect(host, 6);
        self.ring = None;
        self.channel = None;
    }

    /// The ring's page.
    pub fn shared(&self) -> &P::Granted {
        self.ring.as_ref().expect("a ring").mem()
    }

    /// Rings.
    pub fn ring_bell(&self) {
        let channel = self.channel.as_ref().expect("a port");
        channel.notify().expect("a bell");
    }

    /// Puts requests on the ring, shows them, and rings whether the backend asked for that or not.
    pub fn push(&mut self, requests: &[RequestNative]) {
        let ring = self.ring.as_mut().expect("a ring");
        for request in requests {
            ring.push(request).expect("room");
        }
        let _ = ring.publish();
        self.ring_bell();
    }

    /// So many answers.
    ///
    /// # Panics
    /// If they do not come, or more do.
    pub fn answers<H: Host>(&mut self, host: &mut H, count: usize) -> Answers {
        let end = Instant::now() + PATIENCE;
        let mut answers = Answers::new();
        while answers.len() < count {
            assert!(
                Instant::now() < end,
                "{}: {} of {count} answers, {}",
                self.back_dir,
                answers.len(),
                self.error(host)
            );
            host.serve();
            let ring = self.ring.as_mut().expect("a ring");
            while let Some(response) = ring.take_response().expect("an honest backend") {
                answers.push((response.id, response.status));
            }
        }
        assert_eq!(answers.len(), count);
        answers.sort_by_key(|(id, _)| *id);
        answers
    }

    /// Sends requests and returns their answers.
    pub fn ask<H: Host>(&mut self, host: &mut H, requests: &[RequestNative]) -> Answers {
        self.push(requests);
        self.answers(host, requests.len())
    }

    /// Writes a page that is made from `seed` to the disk, at sector 40, and reads it back.
    ///
    /// # Panics
    /// If that does not work.
    pub fn round_trip<H: Host>(&mut self, host: &mut H, seed: u8) {
        let gref = self.page.grant_ref();
        self.page.write(0, &[seed; PAGE]);
        assert_eq!(self.ask(host, &[write(1, 40, gref)]), [(1, Status::OKAY)]);
        self.page.write(0, &[!seed; PAGE]);
        assert_eq!(self.ask(host, &[read(2, 40, gref)]), [(2, Status::OKAY)]);
        let mut back = [0; PAGE];
        self.page.read(0, &mut back);
        assert_eq!(back, [seed; PAGE]);
    }
}
