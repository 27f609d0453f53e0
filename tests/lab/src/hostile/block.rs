//! Attacks on a block backend by its rings, its grants and its frontend's nodes, from another domain.
//!
//! After each attack: another guest's disk goes on, and the attacker's device, reset, can be used again, by which its `error`
//! node is taken away.

use ringfence_core::platform::{Access, Channel, Granted, Platform};
use ringfence_core::wire::blkif::{Op, RequestNative, Status};
use ringfence_core::{DomId, PAGE, SharedMem};
use ringfence_ring::layout::{REQ_PROD, RSP_PROD};
use ringfence_tests::blkback_rig::{read, request, write};

use super::Attack;
use super::frontend::{Frontend, Host};

/// Two frontends of one backend.
pub struct Scene<P: Platform, H: Host> {
    /// Who attacks: connected at the beginning of each attack.
    pub attacker: Frontend<P>,
    /// Who only wants to work.
    pub bystander: Frontend<P>,
    /// dom0.
    pub host: H,
    /// Sectors of the attacker's disk.
    pub sectors: u64,
}

impl<P: Platform, H: Host> std::fmt::Debug for Scene<P, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            attacker,
            bystander,
            ..
        } = self;
        f.debug_struct("Scene")
            .field("attacker", attacker)
            .field("bystander", bystander)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, H: Host> Scene<P, H> {
    /// Connects both.
    pub fn connect(&mut self) {
        self.bystander.connect(&mut self.host);
        self.attacker.connect(&mut self.host);
        self.bystander.round_trip(&mut self.host, 1);
        self.attacker.round_trip(&mut self.host, 2);
    }

    /// What must hold after every attack.
    ///
    /// # Panics
    /// If it does not.
    pub fn recovers(&mut self) {
        let Self {
            attacker,
            bystander,
            host,
            ..
        } = self;
        bystander.round_trip(host, 77);
        attacker.reset(host);
        attacker.connect(host);
        attacker.round_trip(host, 33);
        assert_eq!(
            attacker.error(host),
            "",
            "a connection clears the error node"
        );
    }

    fn ask(&mut self, requests: &[RequestNative]) -> Vec<Status> {
        let answers = self.attacker.ask(&mut self.host, requests);
        answers.into_iter().map(|(_, status)| status).collect()
    }

    /// All of these get the same answer. They are numbered here.
    fn all_answer(&mut self, requests: Vec<RequestNative>, expected: Status) {
        for batch in requests.chunks(24) {
            let numbered: Vec<_> = batch
                .iter()
                .zip(0u64..)
                .map(|(request, id)| RequestNative { id, ..*request })
                .collect();
            for (status, request) in self.ask(&numbered).into_iter().zip(batch) {
                assert_eq!(status, expected, "{request:?}");
            }
        }
    }

    /// The backend has given the connection up, and says why.
    fn expect_retired(&mut self, told: &str) {
        self.attacker.expect(&mut self.host, 5);
        let error = self.attacker.error(&mut self.host);
        assert!(error.contains(told), "{told:?} is not in {error:?}");
    }

    /// A fresh connection with nodes as `tamper` leaves them, which the backend refuses with an error that names `told`.
    fn refused(&mut self, told: &str, tamper: impl FnOnce(&mut Frontend<P>)) {
        self.attacker.reset(&mut self.host);
        self.attacker.publish();
        tamper(&mut self.attacker);
        self.attacker.set("state", b"3");
        self.expect_retired(told);
    }
}

/// All attacks.
#[must_use]
pub fn attacks<P: Platform, H: Host>() -> Vec<Attack<Scene<P, H>>> {
    vec![
        ("indices that claim too much", wild_indices),
        ("an index that goes back", backwards),
        ("indices of the backend's", foreign_indices),
        ("segments that are none", segments),
        ("sectors that the disk does not have", sectors),
        ("operations that are none", operations),
        ("pages that are not granted", pages),
        ("a page that is given up while it is used", data_revoked),
        ("a ring that is given up while it is used", ring_revoked),
        ("a port that is closed while it is used", port_closed),
        ("a storm of events", storm),
        ("rings and ports of others", rings_and_ports_of_others),
        ("garbage in every node", garbage),
        ("states that are none", states),
        ("nodes of the backend's choosing", backend_nodes),
    ]
}

fn wild_indices<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for lie in [33, 1 << 31, u32::MAX] {
        let base = scene.attacker.shared().load_u32(REQ_PROD);
        let index = base.wrapping_add(lie);
        scene.attacker.shared().store_u32(REQ_PROD, index);
        scene.attacker.ring_bell();
        scene.expect_retired("22 req_prod");
        scene.recovers();
    }
}

fn backwards<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for _ in 0..5 {
        scene.attacker.round_trip(&mut scene.host, 3);
    }
    scene.attacker.shared().store_u32(REQ_PROD, 2);
    scene.attacker.ring_bell();
    scene.expect_retired("22 req_prod");
}

/// `rsp_prod` is the backend's own: what the frontend makes of it changes nothing for the backend.
fn foreign_indices<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    let good = scene.attacker.shared().load_u32(RSP_PROD);
    for lie in [good.wrapping_add(7), good.wrapping_sub(1), u32::MAX] {
        scene.attacker.shared().store_u32(RSP_PROD, lie);
        scene.attacker.ring_bell();
        scene.bystander.round_trip(&mut scene.host, 4);
    }
    scene.attacker.shared().store_u32(RSP_PROD, good);
    assert_eq!(scene.ask(&[read(1, 0, gref)]), [Status::OKAY]);
}

fn segments<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    let mut bad = Vec::new();
    for op in [Op::READ, Op::WRITE] {
        for count in [0, 12, 128, 255] {
            let mut request = request(0, op, 0, &[(gref, 0, 7); 11]);
            request.nr_segments = count;
            bad.push(request);
        }
        for (first, last) in [
            (5, 4),
            (0, 8),
            (8, 8),
            (7, 0),
            (0, 255),
            (255, 255),
            (255, 0),
        ] {
            bad.push(request(0, op, 0, &[(gref, 0, 0), (gref, first, last)]));
        }
    }
    scene.all_answer(bad, Status::ERROR);
}

fn sectors<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    let end = scene.sectors;
    let places = [
        end,
        end - 1,
        end - 7,
        1 << 55,
        1 << 63,
        u64::MAX - 7,
        u64::MAX,
    ];
    let bad = [Op::READ, Op::WRITE]
        .into_iter()
        .flat_map(|op| places.map(|sector| request(0, op, sector, &[(gref, 0, 7)])));
    scene.all_answer(bad.collect(), Status::ERROR);
    assert_eq!(scene.ask(&[read(1, end - 8, gref)]), [Status::OKAY]);
}

fn operations<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    let offered = [
        Op::WRITE_BARRIER,
        Op::FLUSH_DISKCACHE,
        Op::DISCARD,
        Op::INDIRECT,
    ];
    let numbers = (2u8..16).chain([127, 128, 254, 255]);
    let bad = numbers.filter(|number| !offered.contains(&Op(*number)));
    let bad = bad.map(|number| request(0, Op(number), 0, &[(gref, 0, 7)]));
    scene.all_answer(bad.collect(), Status::EOPNOTSUPP);
}

fn pages<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    let (platform, back) = (&scene.attacker.platform, scene.attacker.back);
    let third = scene.bystander.platform.domid();
    let for_third = platform.alloc(third, Access::ReadWrite).expect("a page");
    let read_only = platform.alloc(back, Access::ReadOnly).expect("a page");
    let sealed = read_only.grant_ref();
    let wild = |number| ringfence_core::GrantRef::new(number);
    for bad in [
        for_third.grant_ref(),
        wild(0x7FFF_FFFF),
        wild(u32::MAX),
        wild(5),
    ] {
        for op in [Op::READ, Op::WRITE] {
            for places in [&[0][..], &[5], &[10], &[0, 3, 7, 10]] {
                let mut segments = [(gref, 0, 7); 11];
                for place in places {
                    segments[*place].0 = bad;
                }
                // One bad page fails its own request and no other.
                let three = [
                    request(1, op, 0, &[(gref, 0, 7)]),
                    request(2, op, 128, &segments),
                    request(3, op, 8, &[(gref, 0, 7)]),
                ];
                let expected = [Status::OKAY, Status::ERROR, Status::OKAY];
                assert_eq!(scene.ask(&three), expected, "{op} with grant {bad}");
            }
        }
    }
    let okay = scene.ask(&[write(1, 0, sealed)]);
    assert_eq!(okay, [Status::OKAY], "from a page that may be read");
    let error = scene.ask(&[read(1, 0, sealed)]);
    assert_eq!(error, [Status::ERROR], "into a page that may be read only");
}

/// Whether the request was done before the page was gone is chance; that it is answered, and nothing else happens, is not.
fn data_revoked<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for round in 0..16u64 {
        let (platform, back) = (&scene.attacker.platform, scene.attacker.back);
        let page = platform.alloc(back, Access::ReadWrite).expect("a page");
        let segments = [(page.grant_ref(), 0, 7); 11];
        let requests: Vec<_> = (0..8)
            .map(|id| request(id, Op::READ, round * 8, &segments))
            .collect();
        scene.attacker.push(&requests);
        drop(page);
        scene.attacker.answers(&mut scene.host, requests.len());
    }
}

/// The backend has the ring mapped: it goes on with a page that only it can see, until the device is closed.
fn ring_revoked<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    scene.attacker.push(&[read(1, 0, gref), write(2, 8, gref)]);
    scene.attacker.ring = None;
    scene.attacker.ring_bell();
    scene.bystander.round_trip(&mut scene.host, 5);
    let (platform, back) = (&scene.attacker.platform, scene.attacker.back);
    let others: Vec<_> = (0..48)
        .map(|_| platform.alloc(back, Access::ReadWrite).expect("a page"))
        .collect();
    for other in &others {
        let mut bytes = [1; PAGE];
        other.read(0, &mut bytes);
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "the ring's page was used again"
        );
    }
}

fn port_closed<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let gref = scene.attacker.page.grant_ref();
    scene.attacker.push(&[read(1, 0, gref)]);
    scene.attacker.channel = None;
    // Whatever the backend answers, it rings nobody.
    scene.attacker.answers(&mut scene.host, 1);
    scene.bystander.round_trip(&mut scene.host, 6);
}

fn storm<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for round in 0..10 {
        for _ in 0..50 {
            scene.attacker.ring_bell();
        }
        scene.bystander.round_trip(&mut scene.host, round);
    }
}

fn rings_and_ports_of_others<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let (platform, back) = (&scene.attacker.platform, scene.attacker.back);
    let third = scene.bystander.platform.domid();
    let for_third = platform.alloc(third, Access::ReadWrite).expect("a page");
    let read_only = platform.alloc(back, Access::ReadOnly).expect("a page");
    let port_for_third = platform.alloc_unbound(third).expect("a port");
    for gref in [
        for_third.grant_ref().get(),
        read_only.grant_ref().get(),
        5,
        0x7FFF_FFFF,
        u32::MAX,
    ] {
        let text = gref.to_string();
        scene.refused("ring-ref", |attacker| {
            attacker.set("ring-ref", text.as_bytes())
        });
    }
    for port in [port_for_third.port().get(), 0, 3999, 4095, u32::MAX] {
        let text = port.to_string();
        scene.refused("event-channel", |attacker| {
            attacker.set("event-channel", text.as_bytes())
        });
    }
}

const GARBAGE: &[&[u8]] = &[
    b"",
    b"-1",
    b" 1",
    b"0x10",
    b"4294967296",
    b"18446744073709551616",
    b"1\x002",
    b"foo",
    &[b'9'; 1900],
    b"\xff\xfe",
];

fn garbage<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for node in [
        "ring-ref",
        "event-channel",
        "ring-page-order",
        "multi-queue-num-queues",
        "protocol",
    ] {
        for value in GARBAGE
            .iter()
            .filter(|value| node != "protocol" || !value.is_empty())
        {
            scene.refused(node, |attacker| attacker.set(node, value));
        }
    }
    for node in ["ring-ref", "event-channel"] {
        scene.refused(node, |attacker| attacker.remove(node));
    }
    for protocol in ["arm-abi2", "sparc-abi", "x86_64", "native"] {
        scene.refused("protocol", |attacker| {
            attacker.set("protocol", protocol.as_bytes())
        });
    }
}

fn states<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    for state in ["0", "9", "-1", "foo", "", "7", "8", "2", "99999999999"] {
        scene.attacker.set("state", state.as_bytes());
        scene.bystander.round_trip(&mut scene.host, 9);
        let own = scene.attacker.state(&mut scene.host);
        assert!(
            matches!(own, Some(2 | 4 | 5 | 6)),
            "{state:?} led to {own:?}"
        );
        scene.recovers();
    }
    // Without waiting for the backend.
    for round in 0..20 {
        scene.attacker.publish();
        for state in ["3", "6", "1", "5", "4"].iter().skip(round % 3) {
            scene.attacker.set("state", state.as_bytes());
        }
    }
}

/// The backend believes its own directory only.
fn backend_nodes<P: Platform, H: Host>(scene: &mut Scene<P, H>) {
    let elsewhere = scene.bystander.back_dir.clone();
    let before = ["backend", "backend-id"].map(|node| {
        use ringfence_core::store::{Store as _, Tx};
        let path = format!("{}/{node}", scene.attacker.dir);
        let mut room = [0; 256];
        let value = scene.attacker.store.read(Tx::NONE, &path, &mut room);
        (node, value.expect("its own node").to_vec())
    });
    scene.attacker.set("backend", elsewhere.as_bytes());
    scene
        .attacker
        .set("backend-id", DomId::new(7).to_string().as_bytes());
    for node in [
        "params",
        "physical-device",
        "physical-device-path",
        "mode",
        "type",
        "target",
    ] {
        scene.attacker.set(node, b"/etc/passwd");
    }
    scene.attacker.round_trip(&mut scene.host, 8);
    scene.recovers();
    for (node, value) in before {
        scene.attacker.set(node, &value);
    }
    scene.attacker.round_trip(&mut scene.host, 8);
}
