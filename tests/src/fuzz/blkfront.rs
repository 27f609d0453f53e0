//! A frontend whose backend, and whose nodes, the data dictates.

use ringfence_blkfront::Op;
use ringfence_core::wire::blkif::ResponseNative;
use ringfence_core::{Sector, SharedMem};
use zerocopy::FromBytes;

use crate::blkfront_rig::{BACK_DIR, FRONT, FRONT_DIR, Rig};

/// Bytes of a script for the ring: enough to wrap it.
const RESPONSES_MAX: usize = 512;
/// Bytes of a script for the nodes, each of which costs a walk through the store.
const NODES_MAX: usize = 32;

/// Lets the frontend submit and reap while the data scribbles on its ring.
///
/// A byte chooses: a request, a whole response of the next 16 bytes, an index or event of the next 4, or an honest backend.
///
/// # Panics
/// If the frontend hands back more than it was given, or leaves pages behind.
pub fn frontend_responses(data: &[u8]) {
    let data = data.get(..RESPONSES_MAX).unwrap_or(data);
    let mut rig = Rig::connected();
    let (mut given, mut back) = (0usize, 0usize);
    let mut rest = data;
    while let [choice, tail @ ..] = rest {
        rest = tail;
        match choice % 6 {
            0 | 1 => {
                let op = if *choice & 8 == 0 {
                    Op::Read
                } else {
                    Op::Write
                };
                let sector = Sector::new(u64::from(*choice) * 16);
                let buffer = rig.front.buffer(1).ok();
                given += usize::from(
                    buffer.is_some_and(|buffer| rig.front.submit(op, sector, buffer).is_ok()),
                );
                let _ = rig.front.kick();
            }
            2 => {
                if let Ok((response, tail)) = ResponseNative::read_from_prefix(rest) {
                    rest = tail;
                    rig.peer().answer(response);
                }
            }
            3 => {
                if let Some((word, tail)) = rest.split_first_chunk() {
                    rest = tail;
                    let at = usize::from(*choice / 6 % 4) * 4;
                    rig.peer().page.store_u32(at, u32::from_le_bytes(*word));
                }
            }
            4 if rig.front.fault().is_none() => {
                // Not beyond a ring: an honest backend would go round for ever after a scribbled index.
                for _ in 0..32 {
                    let Some(request) = rig.peer().take() else {
                        break;
                    };
                    let answer = crate::blkfront_rig::response(
                        request.id,
                        request.operation,
                        ringfence_core::wire::blkif::Status::OKAY,
                    );
                    rig.peer().answer(answer);
                }
            }
            _ => {
                let _ = rig.front.arm();
            }
        }
        // More than a ring can hold never comes out of one pass.
        for _ in 0..64 {
            match rig.front.reap() {
                Ok(Some(_)) => back += 1,
                Ok(None) | Err(_) => break,
            }
        }
        assert!(back <= given, "{back} handed back of {given}");
    }
    rig.front.close();
    rig.events();
    rig.close_back();
    rig.events();
    while let Ok(Some(_)) = rig.front.reap() {
        back += 1;
    }
    assert_eq!(back, given, "every buffer comes back once");
    assert_eq!(rig.world.usage(FRONT).granted, 0);
}

/// Nodes of both directories, in this order: which one, how many bytes, the bytes.
const NODES: [(&str, &str); 19] = [
    (BACK_DIR, "state"),
    (BACK_DIR, "sectors"),
    (BACK_DIR, "sector-size"),
    (BACK_DIR, "physical-sector-size"),
    (BACK_DIR, "info"),
    (BACK_DIR, "feature-flush-cache"),
    (BACK_DIR, "online"),
    (BACK_DIR, "frontend"),
    (BACK_DIR, "frontend-id"),
    (FRONT_DIR, "backend"),
    (FRONT_DIR, "backend-id"),
    (FRONT_DIR, "state"),
    (BACK_DIR, "feature-discard"),
    (BACK_DIR, "discard-granularity"),
    (BACK_DIR, "discard-secure"),
    (BACK_DIR, "feature-barrier"),
    (BACK_DIR, "feature-max-indirect-segments"),
    (BACK_DIR, "feature-persistent"),
    (BACK_DIR, "max-ring-page-order"),
];

/// Lets the frontend look at its nodes while the data rewrites them.
///
/// # Panics
/// If the frontend does.
pub fn xenbus_nodes(data: &[u8]) {
    let data = data.get(..NODES_MAX).unwrap_or(data);
    let mut rig = Rig::<64, 16>::with_limits();
    rig.front.set_persistent(true);
    rig.describe();
    let mut rest = data;
    while let [which, tail @ ..] = rest {
        rest = tail;
        let (dir, name) = NODES[usize::from(*which) % NODES.len()];
        let value = if *which < 128 {
            // One digit, so that plausible states are frequent.
            let digit = rest.first().copied().unwrap_or(0) % 8;
            rest = rest.get(1..).unwrap_or_default();
            digit.to_string()
        } else {
            let len = rest.first().map_or(0, |len| usize::from(*len) % 32);
            let bytes = rest.get(1..).unwrap_or_default();
            let (value, tail) = bytes.split_at(len.min(bytes.len()));
            rest = tail;
            String::from_utf8_lossy(value).into_owned()
        };
        rig.set(dir, name, &value);
        // A path that the store does not know is the store's error, and no panic.
        for _ in 0..2 {
            let _ = rig.front.step(&mut rig.store);
        }
        if let Ok(buffer) = rig.front.buffer(1) {
            let _ = rig.front.submit(Op::Read, Sector::new(0), buffer);
        }
    }
}
