use super::super::MemoryBlocks;
use super::*;

const CLIENT: ClientId = ClientId::new(1);

fn export(seed: u64) -> Export<MemoryBlocks> {
    let geometry = Geometry {
        sectors: 64,
        block_bytes: 512,
        request_bytes: 1024,
        read_only: false,
        flush: true,
        offers: crate::nbd::Offers::NONE,
    };
    Export::new(MemoryBlocks::new(geometry, 4, seed).expect("an eventfd"))
}

fn span(offset: u64, data: &[u8]) -> Span {
    let mut span = Span::new(offset, data.len() as u32, 512);
    let range = span.range();
    span.blocks[range].copy_from_slice(data);
    span
}

/// All answers, in the order of their cookies.
fn finish(export: &mut Export<MemoryBlocks>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for _ in 0..10_000 {
        export.pump(&mut replies);
        if export.is_idle() {
            break;
        }
    }
    assert!(export.is_idle(), "a request hangs");
    replies.sort_by_key(|reply| reply.cookie);
    replies
}

#[test]
fn neighbours_in_one_block_do_not_undo_each_other() {
    for seed in 0..50 {
        let mut export = export(seed);
        // 100 writes of 77 bytes, none on a block's edge, all at once, and one of whole blocks in between.
        for i in 0..100_u64 {
            export.write(CLIENT, i, i * 77, span(i * 77, &[i as u8 + 1; 77]));
            if i == 50 {
                export.write(CLIENT, 1000, 8192, span(8192, &[0xee; 4096]));
            }
        }
        let replies = finish(&mut export);
        assert_eq!(replies.len(), 101);
        assert!(replies.iter().all(|reply| matches!(reply.result, Ok(None))));
        let blocks = export.into_blocks();
        for (at, byte) in blocks.bytes().iter().enumerate().take(7700) {
            assert_eq!(*byte, (at / 77) as u8 + 1, "byte {at}, seed {seed}");
        }
        assert!(blocks.bytes()[8192..12288].iter().all(|byte| *byte == 0xee));
        assert_eq!(blocks.counts().deepest, 4);
    }
}

#[test]
fn a_read_brings_its_bytes_and_no_others() {
    let mut export = export(1);
    let data: Vec<u8> = (0..4000).map(|i| (i % 251) as u8).collect();
    export.write(CLIENT, 1, 100, span(100, &data));
    finish(&mut export);
    export.read(CLIENT, 2, 101, 3998);
    let reply = finish(&mut export).pop().expect("an answer");
    let span = reply.result.expect("it succeeds").expect("with data");
    assert_eq!(span.blocks[span.range()], data[1..3999]);
    assert_eq!(reply.length, 3998);
}

#[test]
fn a_disk_that_vanishes_fails_everything_and_hangs_nobody() {
    let mut export = export(2);
    for i in 0..20 {
        export.write(CLIENT, i, i * 100, span(i * 100, &[1; 100]));
        export.read(CLIENT, 100 + i, i, 5000);
    }
    export.pump(&mut Vec::new());
    export.blocks_mut().vanish();
    export.flush(CLIENT, 1000);
    let replies = finish(&mut export);
    let failed = |cookie| {
        let reply = replies.iter().find(|reply| reply.cookie == cookie);
        matches!(reply.map(|reply| &reply.result), Some(Err(Errno::Shutdown)))
    };
    assert!(failed(19) && failed(119) && failed(1000), "{replies:?}");
}

#[test]
fn what_a_broken_connection_left_undone_is_done_again_and_nobody_hears_of_it() {
    for seed in 0..20 {
        let Export { blocks, .. } = export(seed);
        let mut export = Export::new(blocks.aborting(57));
        for i in 0..100_u64 {
            export.write(CLIENT, i, i * 77, span(i * 77, &[i as u8 + 1; 77]));
        }
        export.flush(CLIENT, 1000);
        let replies = finish(&mut export);
        assert_eq!(replies.len(), 101);
        assert!(replies.iter().all(|reply| matches!(reply.result, Ok(None))));
        export.read(CLIENT, 2000, 0, 7700);
        let replies = finish(&mut export);
        let span = replies[0].result.as_ref().expect("read");
        let span = span.as_ref().expect("data");
        for (at, byte) in span.blocks[span.range()].iter().enumerate() {
            assert_eq!(*byte, (at / 77) as u8 + 1, "byte {at}, seed {seed}");
        }
    }
}

#[test]
fn a_trim_takes_whole_blocks_and_no_others() {
    for seed in 0..20 {
        let geometry = Geometry {
            offers: crate::nbd::Offers {
                trim: true,
                ..crate::nbd::Offers::NONE
            },
            ..export(seed).geometry()
        };
        let disk = MemoryBlocks::new(geometry, 4, seed).expect("an eventfd");
        let mut export = Export::new(disk);
        export.write(CLIENT, 0, 0, span(0, &[7; 8192]));
        finish(&mut export);
        for (cookie, range) in [(1, 100..1500), (2, 2048..2049), (3, 4096..8192)] {
            export.trim(CLIENT, cookie, range, false);
        }
        let replies = finish(&mut export);
        assert!(replies.iter().all(|reply| matches!(reply.result, Ok(None))));
        assert_eq!(replies.len(), 3);
        let blocks = export.into_blocks();
        assert_eq!(blocks.counts().discards, 2, "one had no whole block");
        for (at, byte) in blocks.bytes()[..8192].iter().enumerate() {
            let gone = (512..1024).contains(&at) || at >= 4096;
            assert_eq!(*byte, if gone { 0 } else { 7 }, "byte {at}");
        }
    }
}

#[test]
fn an_answer_that_must_be_durable_comes_after_a_flush() {
    for seed in 0..20 {
        let mut export = export(seed);
        let durable = |offset, data: &[u8]| Span {
            durable: true,
            ..span(offset, data)
        };
        // Whole blocks, and blocks that are read first, with one that waits for them.
        export.write(CLIENT, 1, 512, durable(512, &[1; 1024]));
        export.write(CLIENT, 2, 3000, durable(3000, &[2; 700]));
        export.write(CLIENT, 3, 3700, span(3700, &[3; 10]));
        let replies = finish(&mut export);
        assert!(replies.iter().all(|reply| matches!(reply.result, Ok(None))));
        assert_eq!(replies.len(), 3);
        let blocks = export.into_blocks();
        assert_eq!(blocks.counts().flushes, 2);
        assert!(blocks.bytes()[3000..3700].iter().all(|byte| *byte == 2));
        assert!(blocks.bytes()[3700..3710].iter().all(|byte| *byte == 3));
    }
}

#[test]
fn a_write_that_failed_is_not_flushed() {
    let geometry = export(1).geometry();
    let disk = MemoryBlocks::new(geometry, 4, 1).expect("an eventfd");
    let mut export = Export::new(disk.failing(0..8));
    let span = Span {
        durable: true,
        ..span(0, &[1; 512])
    };
    export.write(CLIENT, 1, 0, span);
    let replies = finish(&mut export);
    assert!(matches!(
        replies[..],
        [Reply {
            result: Err(Errno::Io),
            ..
        }]
    ));
    assert_eq!(export.blocks().counts().flushes, 0);
}
