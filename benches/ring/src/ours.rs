//! Our two ends. The loops are those of c/loops.c, step for step.

use crate::world::World;
use anyhow::{Context, Result};
use ringfence_ring::{Armed, Back, Field, Front, Protocol, RingMem};
use std::hint::spin_loop;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of 112 bytes and answers of 16, as blkif's.
struct Bench;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    words: [u64; 14],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Response {
    id: u64,
    operation: u8,
    pad: u8,
    status: i16,
    pad2: [u8; 4],
}

impl Protocol for Bench {
    type Request = Request;
    type Response = Response;
    const STRIDE: usize = 112;
    const RESPONSE_FIELDS: &'static [Field] =
        &[Field::new(0, 8), Field::new(8, 1), Field::new(10, 2)];
}

/// Sends the requests in batches and waits for the answers of each; returns what all answers add up to.
pub(crate) fn front<M: RingMem>(mem: M, world: &World) -> Result<u64> {
    let mut ring = Front::<_, Bench>::attach(mem)?;
    let mut request = Request {
        words: std::array::from_fn(|word| word as u64),
    };
    let (mut id, mut sum) = (0u64, 0u64);
    while id < world.count {
        let mut outstanding = world.batch;
        for _ in 0..world.batch {
            request.words[1] = id;
            id += 1;
            ring.push(&request)?;
        }
        if ring.publish().is_needed() && !world.spin {
            world.kick()?;
        }
        loop {
            let answers = ring.pass()?;
            for _ in 0..answers {
                let response = ring.take_response()?.context("announced")?;
                sum = sum
                    .wrapping_add(response.id)
                    .wrapping_add(response.operation.into())
                    .wrapping_add(response.status as u64);
            }
            outstanding -= answers;
            if outstanding == 0 {
                break;
            }
            if world.spin {
                spin_loop();
            } else if ring.arm() == Armed::Sleep {
                world.wait()?;
            }
        }
    }
    Ok(sum)
}

/// Answers as many requests as will be sent.
pub(crate) fn back<M: RingMem>(mem: M, world: &World) -> Result<()> {
    let mut ring = Back::<_, Bench>::attach(mem)?;
    world.kick()?;
    let mut done = 0;
    while done < world.count {
        let requests = ring.pass()?;
        if requests == 0 {
            if world.spin {
                spin_loop();
            } else if ring.arm() == Armed::Sleep {
                world.wait()?;
            }
            continue;
        }
        for _ in 0..requests {
            let taken = ring.take()?.context("announced")?;
            let words = &taken.request().words;
            let response = Response {
                id: words.iter().fold(0, |sum, word| sum.wrapping_add(*word)),
                operation: 1,
                pad: 0,
                status: -1,
                pad2: [0; 4],
            };
            ring.respond(taken, &response);
        }
        done += u64::from(requests);
        if ring.publish().is_needed() && !world.spin {
            world.kick()?;
        }
    }
    Ok(())
}
