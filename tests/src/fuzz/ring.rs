//! Pages of a ring whose every byte the peer dictates.

use crate::mem::{Blk32, Blk64, HeapMem, Number};
use ringfence_core::mem::{PAGE, SharedMem};
use ringfence_ring::bytes::{ByteReader, ByteWriter, Lane};
use ringfence_ring::{Back, Front, Protocol, RingIndex, Slot};
use zerocopy::FromZeros;

/// Lets both ends of a ring, and of a byte ring, work on a page that `data` fills and goes on scribbling on.
///
/// The data is a byte that chooses what kind of ring, four bytes of index to start from, then actions: an odd one scribbles
/// four bytes of the data on one of the first 24 words, an even one lets an end do something.
///
/// # Panics
/// If an end takes more than the peer can have sent.
pub fn ring_pages(data: &[u8]) {
    let [kind, a, b, c, d, rest @ ..] = data else {
        return;
    };
    let start = RingIndex::new(u32::from_ne_bytes([*a, *b, *c, *d]));
    let mem = HeapMem::new(1);
    let half = rest.len().min(PAGE) / 2;
    let (page, script) = rest.split_at(half);
    mem.write(0, page);
    match kind % 7 {
        0 => front::<Blk64>(&mem, None, script),
        1 => front::<Blk32>(&mem, Some(start), script),
        2 => front::<Number<2016>>(&mem, Some(start), script),
        3 => back::<Blk64>(&mem, None, script),
        4 => back::<Blk32>(&mem, Some(start), script),
        5 => back::<Number<2016>>(&mem, Some(start), script),
        _ => bytes(&mem, *a, script),
    }
}

/// Runs `act` for every even byte of the script, scribbles at `first` and beyond for every odd one.
fn play(mem: &HeapMem, first: usize, script: &[u8], mut act: impl FnMut(u8)) {
    let mut rest = script;
    while let [step, tail @ ..] = rest {
        rest = tail;
        if step % 2 == 0 {
            act(step / 2);
        } else if let [a, b, c, d, tail @ ..] = rest {
            rest = tail;
            let word = first + usize::from(step / 2 % 24) * 4;
            mem.store_u32(word % PAGE, u32::from_ne_bytes([*a, *b, *c, *d]));
        }
    }
}

fn front<P: Protocol>(mem: &HeapMem, start: Option<RingIndex>, script: &[u8]) {
    let front = match start {
        Some(index) => Front::<_, P>::attach_at(mem.clone(), index),
        None => Front::attach(mem.clone()),
    };
    let Ok(mut front) = front else { return };
    play(mem, 0, script, |step| match step % 5 {
        0 => {
            let room = front.free() > 0;
            let pushed = front.push(&P::Request::new_zeroed());
            assert_eq!(pushed.is_ok(), room);
        }
        1 => {
            let _ = front.publish();
        }
        2 => {
            let open = front.open();
            let mut taken = 0;
            while let Ok(Some(_)) = front.take_response() {
                taken += 1;
            }
            assert!(taken <= open, "{taken} responses to {open} requests");
        }
        3 => {
            let _ = front.arm_at(step.into());
        }
        _ => assert!(front.pass().is_err() || front.fault().is_none()),
    });
}

fn back<P: Protocol>(mem: &HeapMem, start: Option<RingIndex>, script: &[u8]) {
    let back = match start {
        Some(index) => Back::<_, P>::attach_at(mem.clone(), index),
        None => Back::attach(mem.clone()),
    };
    let Ok(mut back) = back else { return };
    let mut open: Vec<Slot> = Vec::new();
    play(mem, 0, script, |step| {
        match step % 5 {
            0 => {
                while let Ok(Some(taken)) = back.take() {
                    open.push(taken.into());
                }
            }
            1 => {
                let _ = back.publish();
            }
            2 => {
                if !open.is_empty() {
                    let slot = open.swap_remove(usize::from(step) % open.len());
                    back.respond(slot, &P::Response::new_zeroed());
                }
            }
            3 => {
                let _ = back.arm_at(step.into());
            }
            _ => assert!(back.pass().is_err() || back.fault().is_none()),
        }
        assert!(open.len() <= back.size() as usize);
        assert_eq!(open.len(), back.open() as usize);
    });
}

fn bytes(mem: &HeapMem, which: u8, script: &[u8]) {
    let lanes = [
        Lane::CONSOLE_IN,
        Lane::CONSOLE_OUT,
        Lane::XENSTORE_REQ,
        Lane::XENSTORE_RSP,
    ];
    let lane = lanes[usize::from(which) % lanes.len()];
    let first = lane.cons().min(lane.prod());
    let mut buffer = [0; 2 * PAGE];
    if which < 0x80 {
        let Ok(mut reader) = ByteReader::attach(mem.clone(), lane) else {
            return;
        };
        play(mem, first, script, |step| {
            let want = usize::from(step) * 40;
            if let Ok(got) = reader.read(&mut buffer[..want]) {
                assert!(got <= want && got <= lane.size() as usize);
            }
        });
    } else {
        let Ok(mut writer) = ByteWriter::attach(mem.clone(), lane) else {
            return;
        };
        play(mem, first, script, |step| {
            let want = usize::from(step) * 40;
            if let Ok(put) = writer.write(&buffer[..want]) {
                assert!(put <= want && put <= lane.size() as usize);
            }
        });
    }
}
