//! Journals of which every word may be anything.

use ringfence_blkback::journal::{Found, Header, Plan};
use ringfence_core::Words;
use ringfence_core::platform::Granted;
use ringfence_ring::RingIndex;
use ringfence_sim::SimWords;

use crate::blkback_rig::{Rig, write};

/// Words of the journal of one short ring: a page for the header, and 32 entries of 16.
const WORDS: usize = 1024;
/// Where the first queue's head and the first entry begin.
const HEAD: usize = 32;
const ENTRIES: usize = 512;
/// Changes to one journal.
const CHANGES: usize = 48;

/// Lets a process of the driver domain die with requests in flight, changes words of its journal as the data says, and lets
/// the next process go on with what it finds. Each 9 bytes are a place and what to do with its word.
///
/// # Panics
/// If the next process does, if it goes on with what cannot be, or if another device notices anything.
pub fn journals(data: &[u8]) {
    let mut rig = Rig::new();
    rig.disks.keep_journals();
    let mut guests = [7, 8].map(|front| rig.connected(front, "w"));
    for guest in &mut guests {
        let disk = rig.disks.of(&guest.back_dir);
        disk.borrow_mut().hold = true;
        let gref = guest.page.grant_ref();
        (0..4).for_each(|id| guest.push(&write(id, id * 8, gref)));
        guest.kick();
        rig.settle();
        disk.borrow_mut().hold = false;
    }
    let [attacked, mut bystander] = guests;
    let kept = rig.disks.journal_of(&attacked.back_dir);
    for change in data.as_chunks::<9>().0.iter().take(CHANGES) {
        scribble(&kept, change);
    }
    sound(&kept);
    let mut rig = rig.restarted();
    rig.settle();
    let state = rig.state(&attacked);
    match state.as_str() {
        "4" => assert_eq!(rig.error(&attacked), "", "goes on with a reason not to"),
        "5" => assert_ne!(rig.error(&attacked), "", "closes for no reason"),
        _ => panic!("state {state}"),
    }
    assert_eq!(rig.state(&bystander), "4");
    assert_eq!(bystander.answers().len(), 4, "each of the other's answered");
    bystander.round_trip(&mut rig, 9);
    let usage = rig.usage();
    assert!(usage.mapped <= 2 && usage.ports <= 2, "{usage:?}");
}

/// One change: mostly of words that count, and mostly to what is nearly plausible.
fn scribble(kept: &SimWords, change: &[u8; 9]) {
    let [how, place, value @ ..] = *change;
    let place = usize::from(place);
    let at = match how % 4 {
        0 => place % 16,
        1 => HEAD + place % 16,
        2 => ENTRIES + place % 256,
        _ => place * 4 % WORDS,
    };
    let [a, b, c, d, e, f, g] = value;
    let word = u64::from_le_bytes([a, b, c, d, e, f, g, how]);
    let old = kept.load(at);
    let new = match how / 4 % 6 {
        0 => word,
        1 => old ^ word,
        2 => old.wrapping_add(u64::from(a)),
        3 => old.wrapping_sub(u64::from(a)),
        4 => kept.load(ENTRIES + usize::from(a)),
        // Used, with a small number: an entry, or an answer.
        _ => 1 << 32 | u64::from(a % 64) | u64::from(b) << 48,
    };
    kept.store(at, new);
}

/// Reading is total, and whatever plan it leads to names each entry once and exactly what is open.
fn sound(kept: &SimWords) {
    let _ = Header::read(kept);
    let req_cons = RingIndex::new(kept.load(HEAD + 9) as u32);
    for back in 0..40u32 {
        let rsp_prod = req_cons.plus(back.wrapping_neg());
        let Ok(plan) = Found::read(kept, 0, 32).plan(rsp_prod) else {
            continue;
        };
        let Plan {
            stale,
            republish,
            replay,
        } = plan;
        assert_eq!(republish.len() + replay.len(), back as usize);
        let entries = republish.iter().chain(&replay);
        let mut numbers: Vec<u16> = entries.map(|entry| entry.number).chain(stale).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
    }
}
