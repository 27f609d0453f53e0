//! The frontend's nodes. Whatever they hold, the result is a value or a reason that names the node.

use alloc::vec::Vec;

use ringfence_core::ids::{EvtchnPort, GrantRef};
use ringfence_core::store::{Store, StoreExt, Tx, join};
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{Abi, MAX_RING_PAGE_ORDER};

use super::{MAX_QUEUES, NegotiateError, Offer, QueueError};

/// The pages of a ring of several.
const RING_REFS: [&str; 1 << MAX_RING_PAGE_ORDER] = [
    "ring-ref0",
    "ring-ref1",
    "ring-ref2",
    "ring-ref3",
    "ring-ref4",
    "ring-ref5",
    "ring-ref6",
    "ring-ref7",
    "ring-ref8",
    "ring-ref9",
    "ring-ref10",
    "ring-ref11",
    "ring-ref12",
    "ring-ref13",
    "ring-ref14",
    "ring-ref15",
];

/// The pages of a ring, in order.
pub type RingRefs = heapless::Vec<GrantRef, { RING_REFS.len() }>;

/// Where one of the frontend's rings is and how to ring it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingNodes {
    /// The ring's pages: 1, 2, 4, 8 or 16.
    pub refs: RingRefs,
    /// The frontend's port.
    pub port: EvtchnPort,
}

/// What the frontend has made of our offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// The layout of its requests.
    pub abi: Abi,
    /// Whether its grants are persistent where we offered that.
    pub persistent: bool,
    /// One element for each queue; at least one.
    pub queues: Vec<RingNodes>,
}

/// Reads the frontend's nodes.
///
/// # Errors
/// Which node is wrong, and what it holds.
pub fn read_frontend<S: Store>(
    store: &mut S,
    dir: &str,
    offer: &Offer,
) -> Result<Frontend, NegotiateError> {
    let abi = read_abi(store, dir)?;
    let names = read_names(store, dir, offer)?;
    let queues = read_count(store, dir, offer)?;
    let mut rings = Vec::with_capacity(usize::from(queues));
    if queues == 1 {
        rings.push(read_ring(store, dir, names)?);
    } else {
        for queue in 0..queues {
            let mut name = heapless::String::<16>::new();
            // A word and at most five digits.
            let _ = core::fmt::write(&mut name, format_args!("queue-{queue}"));
            let ring = match join(dir, &name) {
                Ok(dir) => read_ring(store, &dir, names),
                Err(error) => Err(QueueError::Field(
                    ringfence_core::store::FieldError::Store {
                        field: "ring-ref",
                        error,
                    },
                )),
            };
            rings.push(ring.map_err(|why| NegotiateError::Queue { queue, why })?);
        }
    }
    let persistent = store.read_opt::<bool>(Tx::NONE, dir, "feature-persistent")?;
    Ok(Frontend {
        abi,
        persistent: persistent.unwrap_or(false),
        queues: rings,
    })
}

fn read_abi<S: Store>(store: &mut S, dir: &str) -> Result<Abi, NegotiateError> {
    let protocol = store.read_opt::<heapless::String<32>>(Tx::NONE, dir, "protocol")?;
    match (Abi::of_protocol(protocol.as_deref()), protocol) {
        (Some(abi), _) => Ok(abi),
        (None, Some(protocol)) if !weakened!("blk_protocol") => {
            Err(NegotiateError::Protocol(protocol))
        }
        (None, _) => Ok(Abi::Native),
    }
}

/// The names of the nodes of a ring's pages.
fn read_names<S: Store>(
    store: &mut S,
    dir: &str,
    offer: &Offer,
) -> Result<&'static [&'static str], NegotiateError> {
    let max = offer.ring_page_order.min(MAX_RING_PAGE_ORDER);
    let pages = 1u32.checked_shl(max).unwrap_or(1);
    // That the node is there, even as 0, selects the names of the others (Linux, QEMU).
    let order = match store.read_opt::<u32>(Tx::NONE, dir, "ring-page-order")? {
        Some(order) if order > max && weakened!("blk_ring_page_order") => 0,
        Some(order) if order > max => return Err(NegotiateError::RingPageOrder { order, max }),
        Some(order) => order,
        // Its older name, which counts pages; with one page the node was plain (FreeBSD).
        None => match store.read_opt::<u32>(Tx::NONE, dir, "num-ring-pages")? {
            None | Some(1) => return Ok(&["ring-ref"]),
            Some(count) if count > pages || !count.is_power_of_two() => {
                return Err(NegotiateError::RingPages {
                    pages: count,
                    max: pages,
                });
            }
            Some(count) => count.trailing_zeros(),
        },
    };
    let count = 1usize.checked_shl(order).unwrap_or(1);
    Ok(RING_REFS.get(..count).unwrap_or(&RING_REFS))
}

fn read_count<S: Store>(store: &mut S, dir: &str, offer: &Offer) -> Result<u16, NegotiateError> {
    let max = offer.queues.clamp(1, MAX_QUEUES);
    let queues = store
        .read_opt::<u32>(Tx::NONE, dir, "multi-queue-num-queues")?
        .unwrap_or(1);
    match u16::try_from(queues) {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ if weakened!("blk_num_queues") => Ok(1),
        _ => Err(NegotiateError::Queues { queues, max }),
    }
}

fn read_ring<S: Store>(
    store: &mut S,
    dir: &str,
    names: &[&'static str],
) -> Result<RingNodes, QueueError> {
    let mut refs = RingRefs::new();
    for name in names {
        let gref = GrantRef::new(store.read_u32(Tx::NONE, dir, name)?);
        // There are as many places as names.
        let _ = refs.push(gref);
    }
    let port = store.read_u32(Tx::NONE, dir, "event-channel")?;
    if port == 0 {
        return Err(QueueError::NoPort);
    }
    Ok(RingNodes {
        refs,
        port: EvtchnPort::new(port),
    })
}
