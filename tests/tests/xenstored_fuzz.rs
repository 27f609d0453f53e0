//! The fuzz targets of the store and its client, over seeded streams that are mostly well-formed.

use ringfence_core::wire::xs_wire::Op;
use ringfence_tests::fuzz::store_client::store_client;
use ringfence_tests::fuzz::xenstored::xenstored_requests;
use ringfence_tests::xenstore::message;

/// xorshift64*: the same numbers on every machine.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.next(from.len())]
    }
}

const PAYLOADS: [&[u8]; 20] = [
    b"a\0v",
    b"a/b/c\0value",
    b"a\0",
    b"a/b\0",
    b"/\0",
    b"/local/domain/1/a\0",
    b"/local/domain/2/x\0y",
    b"a\0t\0",
    b"@releaseDomain\0t\0",
    b"T\0",
    b"F\0",
    b"\0",
    b"a\0n1\0r2\0",
    b"a\0n2\0",
    b"1\0",
    b"2\x001\0",
    b"1\x005\x006\0",
    b"a\x000\0",
    b"",
    b"check\0",
];

#[test]
fn random_requests_leave_the_store_sound() {
    for seed in 1..=200u64 {
        let mut seeded = Seeded(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut data = Vec::new();
        for _ in 0..150 {
            let payload = seeded.pick(&PAYLOADS);
            let flags = match seeded.next(40) {
                0 => 0x80,
                1 => 0x40,
                2 => 0x20,
                _ => 0,
            };
            let frame = [
                flags | seeded.next(3),
                seeded.next(24),
                seeded.next(4),
                payload.len(),
            ];
            data.extend(frame.map(|byte| byte as u8));
            data.extend_from_slice(payload);
        }
        xenstored_requests(&data);
    }
}

#[test]
fn random_answers_do_the_client_no_harm() {
    for seed in 1..=300u64 {
        let mut seeded = Seeded(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut data = Vec::new();
        for _ in 0..20 {
            let payload = seeded.pick(&PAYLOADS);
            let mut bytes = message(
                Op::new(seeded.next(24) as u32),
                seeded.next(6) as u32,
                0,
                payload,
            );
            if seeded.next(10) == 0 {
                let at = seeded.next(bytes.len());
                bytes[at] ^= 1 << seeded.next(8);
            }
            data.extend(bytes);
        }
        store_client(&data);
    }
}
