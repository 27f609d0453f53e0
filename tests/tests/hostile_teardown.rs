//! CVE-2023-1859 and its kind: a device is torn down by a watch and by its removal, at the same time and in any order. Once is
//! enough, and twice does no harm.

use ringfence_blkfront::Event;
use ringfence_core::store::{Store as _, StoreError, StoreExt as _, Tx};
use ringfence_core::wire::xenbus::XenbusState;
use ringfence_tests::blkback_rig::{Guest, Rig as BackRig};
use ringfence_tests::blkfront_rig::{BACK_DIR, FRONT, FRONT_DIR, Rig as FrontRig};

/// All orders of the numbers below `COUNT`.
fn orders<const COUNT: usize>() -> Vec<[usize; COUNT]> {
    let mut all = vec![core::array::from_fn(|at| at)];
    for first in 0..COUNT {
        for known in all.clone() {
            for other in first + 1..COUNT {
                let mut order = known;
                order.swap(first, other);
                all.push(order);
            }
        }
    }
    all
}

#[test]
fn every_order_is_among_them() {
    let mut all = orders::<5>();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), orders::<5>().len()), (120, 120));
}

/// What may happen to a connected disk, from the backend's side.
const BACK: [fn(&mut BackRig, &mut Guest); 5] = [
    |_, guest| state(guest, "5"),
    |_, guest| state(guest, "6"),
    |rig, guest| {
        // Only what is there is changed.
        if rig.state(guest) != "?" {
            rig.detach(guest);
        }
    },
    |rig, guest| remove(rig, &guest.back_dir.clone()),
    |rig, guest| remove(rig, &guest.dir.clone()),
];

fn state(guest: &mut Guest, state: &str) {
    // Its directory may be gone.
    let dir = guest.dir.clone();
    let _ = guest.store.write_str(Tx::NONE, &dir, "state", state);
}

fn remove(rig: &mut BackRig, dir: &str) {
    match rig.toolstack.rm(Tx::NONE, dir) {
        // The backend may have erased its own.
        Ok(()) | Err(StoreError::Missing) => {}
        Err(error) => panic!("{dir}: {error}"),
    }
}

#[test]
fn cve_2023_1859_a_backends_device_is_torn_down_once_in_any_order() {
    for (number, order) in orders::<5>().into_iter().enumerate() {
        // With a look after each, or one at the end.
        let looks = number % 2 == 0;
        let mut rig = BackRig::new();
        let mut bystander = rig.connected(8, "w");
        let mut guest = rig.connected(7, "w");
        guest.round_trip(&mut rig, 1);
        for which in order {
            BACK[which](&mut rig, &mut guest);
            if looks {
                rig.settle();
            }
        }
        // Its watches fire once more, for nothing.
        for _ in 0..2 {
            state(&mut guest, "6");
            rig.settle();
        }
        assert_eq!(rig.service.devices(), 1, "{order:?}: the bystander's");
        let usage = rig.usage();
        assert_eq!((usage.mapped, usage.ports), (1, 1), "{order:?}");
        drop(guest);
        let mut guest = rig.connected(7, "w");
        guest.round_trip(&mut rig, 2);
        bystander.round_trip(&mut rig, 3);
    }
}

/// What may happen to a connected disk, from the frontend's side.
const FRONT_SIDE: [fn(&mut FrontRig); 5] = [
    |rig| rig.front.close(),
    |rig| back_state(rig, XenbusState::Closing),
    |rig| {
        rig.peer = None;
        back_state(rig, XenbusState::Closed);
    },
    |rig| {
        // Who removes it has unmapped everything.
        rig.peer = None;
        rig.unset(BACK_DIR);
    },
    |rig| rig.unset(FRONT_DIR),
];

fn back_state(rig: &mut FrontRig, state: XenbusState) {
    // Its directory may be gone.
    let digit = state.digit();
    let _ = rig.back_store.write_str(Tx::NONE, BACK_DIR, "state", digit);
}

/// How often the frontend says that it is closed. It is asked so often and no more.
fn closings(rig: &mut FrontRig) -> usize {
    let events = (0..16).filter_map(|_| rig.step());
    events.filter(|event| *event == Event::Closed).count()
}

#[test]
fn cve_2023_1859_a_frontend_closes_once_in_any_order() {
    for (number, order) in orders::<5>().into_iter().enumerate() {
        let looks = number % 2 == 0;
        let mut rig = FrontRig::<32, 11>::connected();
        let mut closed = 0;
        for which in order {
            FRONT_SIDE[which](&mut rig);
            if looks {
                closed += closings(&mut rig);
            }
        }
        closed += closings(&mut rig);
        assert_eq!(closed, 1, "{order:?}, looks: {looks}");
        // And once more, from both sides.
        rig.front.close();
        back_state(&mut rig, XenbusState::Closed);
        assert_eq!(closings(&mut rig), 0, "{order:?}, looks: {looks}");
        let usage = rig.world.usage(FRONT);
        let held = (usage.granted, usage.quarantined, usage.ports);
        assert_eq!(held, (0, 0, 0), "{order:?}, looks: {looks}");
    }
}
