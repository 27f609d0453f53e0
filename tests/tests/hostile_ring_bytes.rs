//! Replays of the advisories on byte rings, for every direction of the console and XenStore pages.

use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_ring::bytes::{ByteReader, ByteWriter, Lane};
use ringfence_ring::{AttachError, PeerFault};
use ringfence_tests::mem::{CountingMem, FlipMem, HeapMem};

const LANES: [Lane; 4] = [
    Lane::CONSOLE_IN,
    Lane::CONSOLE_OUT,
    Lane::XENSTORE_REQ,
    Lane::XENSTORE_RSP,
];
const STARTS: [u32; 4] = [0, 1000, u32::MAX - 100, u32::MAX];

fn at(lane: Lane, cons: u32, prod: u32) -> HeapMem {
    let mem = HeapMem::new(1);
    mem.store_u32(lane.cons(), cons);
    mem.store_u32(lane.prod(), prod);
    mem
}

fn lies(lane: Lane) -> [u32; 5] {
    [
        lane.size() + 1,
        lane.size() + 2,
        1 << 31,
        u32::MAX - 5,
        u32::MAX,
    ]
}

#[test]
fn xsa_38_a_full_ring_is_served() {
    for lane in LANES {
        for start in STARTS {
            let mem = at(lane, start, start);
            let mut writer = ByteWriter::attach(mem.clone(), lane).unwrap();
            let mut reader = ByteReader::attach(mem.clone(), lane).unwrap();
            let sent: Vec<u8> = (0..lane.size() as usize + 7)
                .map(|n| (n % 251) as u8)
                .collect();
            assert_eq!(writer.write(&sent), Ok(lane.size() as usize));
            assert_eq!(writer.write(&sent), Ok(0));
            assert_eq!(reader.queued(), Ok(lane.size()));
            assert!(ByteReader::attach(mem, lane).is_ok());
            let mut got = vec![0; sent.len()];
            assert_eq!(reader.read(&mut got), Ok(lane.size() as usize));
            assert_eq!(got[..lane.size() as usize], sent[..lane.size() as usize]);
            assert_eq!(reader.read(&mut got), Ok(0));
        }
    }
}

#[test]
fn xsa_38_impossible_distance_stops_the_reader() {
    for lane in LANES {
        for start in STARTS {
            for lie in lies(lane) {
                let mem = CountingMem::new(at(lane, start, start));
                let mut reader = ByteReader::attach(mem.clone(), lane).unwrap();
                mem.store_u32(lane.prod(), start.wrapping_add(lie));
                mem.reset();
                let mut dst = [0x11; 2 * PAGE];
                let fault = reader.read(&mut dst).expect_err("a lie must be a fault");
                assert!(matches!(fault, PeerFault::ByteIndex { .. }), "{fault}");
                assert_eq!(dst, [0x11; 2 * PAGE]);
                mem.inner().store_u32(lane.prod(), start);
                assert_eq!(reader.read(&mut dst), Err(fault));
                assert_eq!((mem.max_writes(0..PAGE), mem.max_reads(0..PAGE)), (0, 1));
            }
        }
    }
}

#[test]
fn xsa_38_prod_changes_between_two_looks() {
    for lane in LANES {
        let mem = at(lane, 0, 4);
        let reader = ByteReader::attach(mem.clone(), lane).unwrap();
        drop(reader);
        // Attaching reads each index once, reading does so once more; the third look would see the lie.
        let flip = FlipMem::new(mem, lane.prod(), 2, &(1u32 << 31).to_ne_bytes());
        let mut reader = ByteReader::attach(flip.clone(), lane).unwrap();
        assert_eq!(reader.read(&mut [0; 64]), Ok(4));
        assert!(flip.flipped());
    }
}

#[test]
fn xsa_38_attach_refuses_impossible_indices() {
    for lane in LANES {
        for lie in lies(lane) {
            let mem = at(lane, 9, lie.wrapping_add(9));
            let refused = ByteReader::attach(mem.clone(), lane).err();
            assert!(matches!(refused, Some(AttachError::Bytes(_))));
            let refused = ByteWriter::attach(mem, lane).err();
            assert!(matches!(refused, Some(AttachError::Bytes(_))));
        }
    }
}

/// A consumer that claims to have read what was never written makes the room negative, or greater than the ring.
#[test]
fn xsa_86_impossible_room_stops_the_writer() {
    for lane in LANES {
        for start in STARTS {
            for lie in lies(lane) {
                let mem = CountingMem::new(at(lane, start, start));
                let mut writer = ByteWriter::attach(mem.clone(), lane).unwrap();
                mem.store_u32(lane.cons(), start.wrapping_sub(lie));
                mem.reset();
                let fault = writer
                    .write(&[7; 2 * PAGE])
                    .expect_err("a lie must be a fault");
                assert!(matches!(fault, PeerFault::ByteIndex { .. }), "{fault}");
                mem.inner().store_u32(lane.cons(), start);
                assert_eq!(writer.write(&[7]), Err(fault));
                assert_eq!((mem.max_writes(0..PAGE), mem.max_reads(0..PAGE)), (0, 1));
            }
        }
    }
}

/// Both indices are moved while the bytes are copied: neither ours nor the peer's is looked at again.
#[test]
fn xsa_86_indices_move_while_copying() {
    for lane in LANES {
        let mem = at(lane, 0, 0);
        let flip = FlipMem::new(mem.clone(), lane.cons(), 2, &77u32.to_ne_bytes());
        let mut writer = ByteWriter::attach(flip.clone(), lane).unwrap();
        mem.store_u32(lane.prod(), 3000);
        assert_eq!(writer.write(&[5; 10]), Ok(10));
        assert!(flip.flipped());
        assert_eq!(mem.load_u32(lane.prod()), 10);
    }
}
