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
