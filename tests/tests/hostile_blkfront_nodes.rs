//! What toolstacks, guests and backends can do to a disk's frontend with nodes: rows of `docs/threats.md`.

use ringfence_blkfront::{Event, Fault, NegotiateError, Op, Reason};
use ringfence_core::wire::blkif::Status;
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_core::{Sector, SectorCount};
use ringfence_tests::blkfront_rig::{BACK, BACK_DIR, ERROR, FRONT, FRONT_DIR, Rig, echo, response};

/// A read, served.
fn reads<const D: usize, const P: usize>(rig: &mut Rig<D, P>, sector: u64) {
    let buffer = rig.front.buffer(1).expect("pages enough");
    let submitted = rig.front.submit(Op::Read, Sector::new(sector), buffer);
    submitted.expect("room");
    rig.front.kick().expect("a live world");
    rig.serve();
    let done = rig.front.reap().expect("honest").expect("answered");
    assert_eq!(done.result, Ok(()));
}

/// Refused before anything was granted, with the reason where the operator looks.
fn refused(rig: &mut Rig) -> NegotiateError {
    rig.state(XenbusState::InitWait);
    let events = rig.events();
    let [Event::Failed(Fault::Negotiate(error)), Event::Closed] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(rig.get(ERROR), format!("22 {error}"));
    assert_eq!(rig.front_state(), "6");
    assert_eq!(rig.world.usage(FRONT).granted, 0);
    error.clone()
}

#[test]
fn xsa_175_backend_path_outside_its_domain() {
    for path in [
        "/local/domain/3/backend/vbd/1/51712",
        "/local/domain/22/backend/vbd/1/51712",
        "/local/domain/2/data/x",
        "/local/domain/2",
        "/",
        "backend",
        "",
    ] {
        let mut rig = Rig::new();
        // Somewhere else, all nodes of a backend for this device may stand ready.
        for (name, value) in [
            ("frontend", FRONT_DIR),
            ("frontend-id", "1"),
            ("state", "2"),
        ] {
            if path.len() > 1 && path.starts_with('/') {
                rig.set(path, name, value);
            }
        }
        rig.set(FRONT_DIR, "backend", path);
        let error = refused(&mut rig);
        assert_eq!(error, NegotiateError::BackendPath { domid: BACK }, "{path}");
    }
}

#[test]
fn xsa_175_backend_id_of_another_domain() {
    let mut rig = Rig::new();
    rig.set(FRONT_DIR, "backend-id", "0");
    assert!(matches!(refused(&mut rig), NegotiateError::BackendPath { domid } if domid.get() == 0));
    for garbage in ["", "-2", "65536", "two", "2 "] {
        let mut rig = Rig::new();
        rig.set(FRONT_DIR, "backend-id", garbage);
        assert!(matches!(refused(&mut rig), NegotiateError::Field(_)));
    }
}

#[test]
fn xsa_175_points_back_to_another_device() {
    for frontend in [
        "/local/domain/1/device/vbd/51728",
        "/local/domain/3/device/vbd/51712",
        "",
    ] {
        let mut rig = Rig::new();
        rig.set(BACK_DIR, "frontend", frontend);
        let field = "frontend";
        assert_eq!(refused(&mut rig), NegotiateError::NotOurs { field });
    }
}

#[test]
fn xsa_175_frontend_id_of_another_domain() {
    let mut rig = Rig::new();
    rig.set(BACK_DIR, "frontend-id", "3");
    let field = "frontend-id";
    assert_eq!(refused(&mut rig), NegotiateError::NotOurs { field });
}

#[test]
fn xsa_175_missing_nodes_are_waited_for() {
    for path in [
        "/local/domain/1/device/vbd/51712/backend",
        "/local/domain/1/device/vbd/51712/backend-id",
        "/local/domain/2/backend/vbd/1/51712/frontend",
        "/local/domain/2/backend/vbd/1/51712/frontend-id",
        "/local/domain/2/backend/vbd/1/51712/state",
    ] {
        let mut rig = Rig::new();
        let value = rig.get(path);
        rig.unset(path);
        assert_eq!(rig.events(), [], "{path}");
        assert_eq!(rig.front_state(), "1");
        let (dir, name) = path.rsplit_once('/').expect("a path");
        rig.set(dir, name, &value);
        rig.connect();
    }
}

#[test]
fn xsa_175_rewritten_while_connected_changes_nothing() {
    let mut rig = Rig::connected();
    rig.set(FRONT_DIR, "backend", "/local/domain/0/backend/vbd/1/51712");
    rig.set(FRONT_DIR, "backend-id", "0");
    assert_eq!(rig.events(), []);
    reads(&mut rig, 0);
}

#[test]
fn xsa_178_a_backend_rewrites_its_own_nodes() {
    let mut rig = Rig::connected();
    for (name, value) in [
        ("frontend", "/local/domain/3/device/vbd/51712"),
        ("frontend-id", "3"),
        ("params", "/etc/shadow"),
        ("online", "garbage"),
        ("sectors", "-1"),
        ("sector-size", "0"),
    ] {
        rig.node(name, value);
        assert_eq!(rig.events(), [], "{name}");
    }
    // The size is the one that was agreed on.
    assert_eq!(rig.front.info().map(|info| info.sectors.get()), Some(2048));
    reads(&mut rig, 2040);
}

/// Connects to a backend that describes its disk with one node changed.
fn described(name: &str, value: Option<&str>) -> Result<(), NegotiateError> {
    let mut rig = Rig::new();
    rig.published();
    rig.describe();
    match value {
        Some(value) => rig.node(name, value),
        None => rig.unset(&format!("{BACK_DIR}/{name}")),
    }
    rig.state(XenbusState::Connected);
    match &rig.events()[..] {
        [Event::Connected(info)] => {
            // What was let through must at least not break what is computed from it.
            let buffer = rig.front.buffer(1).expect("pages enough");
            let _ = rig.front.submit(Op::Read, Sector::new(u64::MAX), buffer);
            assert!(info.sector_size.is_power_of_two() && info.sector_size <= 4096);
            assert!(info.sectors.bytes().is_some());
            Ok(())
        }
        [Event::Failed(Fault::Negotiate(error))] => {
            assert_eq!(rig.get(ERROR), format!("22 {error}"));
            assert_eq!(rig.front_state(), "6");
            Err(error.clone())
        }
        events => panic!("{name} {value:?}: {events:?}"),
    }
}

#[test]
fn xsa_178_garbage_numbers() {
    let long = "9".repeat(2000);
    for name in [
        "sectors",
        "sector-size",
        "info",
        "physical-sector-size",
        "feature-flush-cache",
        "feature-barrier",
        "feature-discard",
        "discard-granularity",
        "discard-alignment",
        "discard-secure",
        "feature-max-indirect-segments",
        "feature-persistent",
    ] {
        for value in [
            "",
            "-1",
            "+512",
            "0x200",
            "512\n",
            "foo",
            "18446744073709551616",
            &long,
        ] {
            let result = described(name, Some(value));
            assert!(
                matches!(result, Err(NegotiateError::Field(_))),
                "{name} {value:.20}: {result:?}"
            );
        }
    }
}

#[test]
fn xsa_178_missing_descriptions() {
    for name in ["sectors", "sector-size", "info"] {
        assert!(
            matches!(described(name, None), Err(NegotiateError::Field(_))),
            "{name}"
        );
    }
    assert_eq!(described("feature-flush-cache", None), Ok(()));
}

#[test]
fn xsa_178_sector_size_that_cannot_be() {
    for size in [0, 1, 3, 256, 511, 513, 8192, 1 << 31, u32::MAX] {
        let error = NegotiateError::SectorSize(size);
        assert_eq!(
            described("sector-size", Some(&size.to_string())),
            Err(error)
        );
    }
    for size in ["512", "1024", "4096"] {
        assert_eq!(described("sector-size", Some(size)), Ok(()));
    }
    for physical in ["0", "3", "256"] {
        let result = described("physical-sector-size", Some(physical));
        assert!(matches!(
            result,
            Err(NegotiateError::PhysicalSectorSize { .. })
        ));
    }
}

#[test]
fn xsa_178_sectors_beyond_all_bytes() {
    for sectors in [1u64 << 55, 1 << 63, u64::MAX] {
        let result = described("sectors", Some(&sectors.to_string()));
        assert!(
            matches!(result, Err(NegotiateError::Sectors(_))),
            "{result:?}"
        );
    }
    assert_eq!(described("sectors", Some("0")), Ok(()));
}

/// What a backend says before it is shown a ring.
#[test]
fn xsa_178_garbage_ring_sizes() {
    let names = [
        "max-ring-page-order",
        "max-ring-pages",
        "multi-queue-max-queues",
    ];
    for name in names {
        for value in ["", "-1", "0x4", "four", "4 ", "4294967296"] {
            let mut rig = Rig::<512, 1>::with_limits();
            rig.node(name, value);
            rig.state(XenbusState::InitWait);
            let events = rig.events();
            let [Event::Failed(Fault::Negotiate(error)), Event::Closed] = &events[..] else {
                panic!("{name} {value:?}: {events:?}");
            };
            assert!(matches!(error, NegotiateError::Field(_)), "{error}");
            assert_eq!(rig.get(ERROR), format!("22 {error}"));
            assert_eq!(rig.world.usage(FRONT).granted, 0);
        }
    }
    // As large as we can use, and no larger.
    for name in ["max-ring-page-order", "max-ring-pages"] {
        for value in ["16", "31", "64", "4294967295"] {
            let mut rig = Rig::<512, 1>::with_limits();
            rig.node(name, value);
            rig.connect();
            let usage = rig.world.usage(FRONT);
            assert_eq!((usage.granted, rig.peer().slots()), (16, 512), "{value}");
            reads(&mut rig, 0);
        }
    }
}

/// More segments in a request than a buffer of ours has.
#[test]
fn xsa_178_segments_without_end() {
    for value in ["0", "1", "12", "65536", "4294967295"] {
        let mut rig = Rig::<32, 16>::with_limits();
        rig.published();
        rig.describe();
        rig.node("feature-max-indirect-segments", value);
        rig.state(XenbusState::Connected);
        rig.events();
        let pages = rig.front.info().map(|info| info.max_pages);
        assert!(matches!(pages, Some(11..=16)), "{value}: {pages:?}");
        let buffer = rig.front.buffer(16).expect("pages enough");
        let submitted = rig.front.submit(Op::Read, Sector::new(0), buffer);
        submitted.expect("room");
        rig.front.kick().expect("a live world");
        let mut sectors = 0;
        while rig.front.in_flight() > 0 {
            let request = rig.take_all();
            let segments = rig.segments(&request);
            sectors += segments.len() * 8;
            assert!(segments.len() <= 16);
            rig.peer()
                .answer(response(request.id, echo(&request), Status::OKAY));
            while rig.front.reap().expect("honest").is_some() {}
        }
        assert_eq!(sectors, 128);
    }
}

/// A live resize to what cannot be changes nothing; to what can be, it is checked like the first size.
#[test]
fn xsa_178_resized_beyond_all_bytes() {
    let mut rig = Rig::connected();
    for garbage in [
        "36028797018963968",
        "18446744073709551615",
        "-1",
        "",
        "lots",
    ] {
        rig.node("sectors", garbage);
        rig.state(XenbusState::Connected);
        assert_eq!(rig.events(), [], "{garbage}");
        reads(&mut rig, 2040);
    }
    rig.unset(&format!("{BACK_DIR}/sectors"));
    assert_eq!(rig.events(), []);
    reads(&mut rig, 2040);
}

/// A disk that shrinks between check and use: the check is that of the moment, and what is on the ring is the backend's.
#[test]
fn lba_of_a_disk_that_shrank() {
    let mut rig = Rig::connected();
    rig.node("sectors", "1024");
    rig.state(XenbusState::Connected);
    let events = rig.events();
    assert!(matches!(events[..], [Event::Resized(info)] if info.sectors.get() == 1024));
    reads(&mut rig, 1016);
    let buffer = rig.front.buffer(1).expect("pages enough");
    let rejected = rig.front.submit(Op::Read, Sector::new(1017), buffer);
    let reason = rejected.map_err(|rejected| rejected.reason);
    assert!(
        matches!(reason, Err(Reason::OutOfRange { .. })),
        "{reason:?}"
    );
    let refused = rig
        .front
        .discard(Sector::new(1023), SectorCount::new(2), false);
    assert!(
        matches!(refused, Err(Reason::OutOfRange { .. })),
        "{refused:?}"
    );
    let refused = rig
        .front
        .discard(Sector::new(1), SectorCount::new(u64::MAX), false);
    assert!(
        matches!(refused, Err(Reason::OutOfRange { .. })),
        "{refused:?}"
    );
}

#[test]
fn xsa_178_garbage_state_at_every_stage() {
    for value in [
        "",
        "-1",
        "9",
        "foo",
        "4 ",
        "4294967300",
        "44444444444444444444",
    ] {
        for stage in 1..=3 {
            let mut rig = Rig::new();
            match stage {
                1 => {}
                2 => rig.published(),
                _ => rig.connect(),
            }
            rig.node("state", value);
            let events = rig.events();
            let failed = Event::Failed(Fault::Negotiate(NegotiateError::State));
            assert_eq!(events.first(), Some(&failed), "{value:?} at {stage}");
            assert_eq!(rig.front_state(), "6");
            assert!(rig.get(ERROR).starts_with("22 "));
        }
    }
}

/// The backend flaps between all states, and garbage; nothing is left behind when it ends.
#[test]
fn xsa_178_a_backend_that_flaps() {
    let mut rig = Rig::new();
    let mut number = 7u32;
    for _ in 0..500 {
        number = number.wrapping_mul(1_103_515_245).wrapping_add(12345);
        rig.node("state", &((number >> 16) % 7).to_string());
        rig.describe();
        rig.events();
        if let Ok(buffer) = rig.front.buffer(1) {
            let _ = rig.front.submit(Op::Read, Sector::new(0), buffer);
            rig.front.kick().expect("a live world");
        }
        while rig.front.reap().expect("nothing is on the ring").is_some() {}
    }
    rig.front.close();
    rig.events();
    rig.state(XenbusState::Closed);
    rig.events();
    while rig.front.reap().expect("nothing is on the ring").is_some() {}
    assert_eq!(rig.front_state(), "6");
    let usage = rig.world.usage(FRONT);
    assert_eq!((usage.granted, usage.quarantined, usage.ports), (0, 0, 0));
}
