//! `lab-peer scribble`: a backend that lies, beside one that serves. It maps the ring that the frontend of a disk granted to
//! this domain, and writes to it what no backend may.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use ringfence_core::platform::{Access, Platform as _};
use ringfence_core::store::{Store as _, StoreExt as _, Tx};
use ringfence_core::xenbus::{Class, paths};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_linux::{Linux, Mapping};
use ringfence_ring::layout::RSP_PROD;

/// Where the slots begin, and how long each is.
const SLOTS: usize = 64;
const SLOT: usize = 112;
const ENTRIES: usize = 32;

/// What to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Way {
    /// More answers than there are requests
    Ahead,
    /// Fewer answers than before
    Back,
    /// Answers to nothing, one more than there should be
    Answers,
    /// Anything, anywhere, for two seconds
    Noise,
    /// A state that does not exist, and a size that is no number
    Nodes,
}

/// Does it once to the disk of this domain.
pub(crate) fn run(front: DomId, vdev: u32, way: Way) -> anyhow::Result<()> {
    let linux = Linux::open()?;
    let mut store = linux.store()?;
    let back = paths::backend_dir(Class::Vbd, linux.domid(), front, vdev).to_string();
    if way == Way::Nodes {
        store.write(Tx::NONE, &format!("{back}/sectors"), b"many")?;
        store.write(Tx::NONE, &format!("{back}/state"), b"99")?;
        return Ok(());
    }
    let dir = paths::frontend_dir(Class::Vbd, front, vdev).to_string();
    let gref = ["ring-ref", "ring-ref0"]
        .into_iter()
        .find_map(|node| store.read_u32(Tx::NONE, &dir, node).ok())
        .with_context(|| format!("{dir} names no ring"))?;
    let ring = linux.map(front, &[GrantRef::new(gref)], Access::ReadWrite)?;
    let now = ring.load_u32(RSP_PROD);
    match way {
        Way::Ahead => ring.store_u32(RSP_PROD, now.wrapping_add(1 << 20)),
        Way::Back => ring.store_u32(RSP_PROD, now.wrapping_sub(5)),
        Way::Answers => answers(&ring),
        Way::Noise => noise(&ring),
        Way::Nodes => bail!("nodes are in no ring"),
    }
    Ok(())
}

/// Every slot becomes the answer to a request that nobody made, and one more of them is there.
fn answers(ring: &Mapping) {
    for nth in 0..ENTRIES {
        let at = SLOTS + nth * SLOT;
        ring.write(at, &[0xEE; 8]);
        ring.write(at + 8, &[0x5A, 0, 0, 0]);
    }
    let now = ring.load_u32(RSP_PROD);
    ring.store_u32(RSP_PROD, now.wrapping_add(1));
}

/// Words that look random (xorshift), all over the page.
fn noise(ring: &Mapping) {
    let end = Instant::now() + Duration::from_secs(2);
    let mut word = 0x2545_F491u32;
    while Instant::now() < end {
        for _ in 0..1000 {
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            let at = word as usize % (PAGE / 4) * 4;
            ring.store_u32(at, word);
        }
    }
}
