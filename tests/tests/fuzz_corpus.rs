//! The fuzz targets on stable: each over `corpus/NAME`, over inputs that break most parsers, and over both with some bytes
//! changed, the same ones every time.

use ringfence_tests::fuzz;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("backend_requests", fuzz::blkback::backend_requests),
    ("frontend_responses", fuzz::blkfront::frontend_responses),
    ("journals", fuzz::journal::journals),
    ("nbd_client", fuzz::nbd::nbd_client),
    ("ring_pages", fuzz::ring::ring_pages),
    ("sim_worlds", fuzz::worlds::sim_worlds),
    ("store_client", fuzz::store_client::store_client),
    ("xenbus_nodes", fuzz::blkfront::xenbus_nodes),
    ("xenstored_requests", fuzz::xenstored::xenstored_requests),
];

/// Changed copies made of each input.
const MUTANTS: u64 = 40;
/// The same where an input is a whole world.
const MUTANTS_OF_WORLDS: u64 = 2;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Files of a folder that need not be there, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .map(|entries| {
            entries
                .map(|entry| entry.expect("readable").path())
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    files
}

/// Inputs that need no knowledge of what is parsed.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for byte in [0, 1, 0x7f, 0x80, 0xff, b'/', b'9'] {
        for len in [1, 15, 16, 17, 112, 4095, 4096, 4097, 8192] {
            seeds.push(vec![byte; len]);
        }
    }
    seeds.push((0..4096).map(|at| at as u8).collect());
    // Small numbers in every width: lengths, counts and indices that are nearly plausible.
    seeds.push((0..1024u32).flat_map(u32::to_le_bytes).collect());
    seeds.push((0..512u16).flat_map(u16::to_le_bytes).collect());
    seeds
}

/// Xorshift: random enough to change bytes, and the same on every machine.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

fn mutant(input: &[u8], number: u64) -> Vec<u8> {
    let mut state = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = input.to_vec();
    for _ in 0..=next(&mut state) % 8 {
        let at = next(&mut state) % (bytes.len() + 1);
        let value = next(&mut state) as u8;
        match next(&mut state) % 3 {
            0 => bytes.insert(at, value),
            1 => bytes.truncate(at.max(1)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= value;
                }
            }
        }
    }
    bytes
}

fn run(name: &str) {
    let (_, target) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("listed");
    let mut inputs = seeds();
    for file in files(&here("corpus").join(name)) {
        inputs.push(fs::read(file).expect("readable"));
    }
    let mutants = match name {
        "journals" | "sim_worlds" => MUTANTS_OF_WORLDS,
        _ => MUTANTS,
    };
    for input in &inputs {
        target(input);
        for number in 0..mutants {
            target(&mutant(input, number));
        }
    }
}

#[test]
fn backend_requests() {
    run("backend_requests");
}

#[test]
fn frontend_responses() {
    run("frontend_responses");
}

#[test]
fn journals() {
    run("journals");
}

#[test]
fn nbd_client() {
    run("nbd_client");
}

#[test]
fn ring_pages() {
    run("ring_pages");
}

#[test]
fn sim_worlds() {
    run("sim_worlds");
}

#[test]
fn the_worlds_of_the_corpus_are_eventful() {
    let mut all = fuzz::worlds::Tally::default();
    for file in files(&here("corpus/sim_worlds")) {
        all += fuzz::worlds::live(&fs::read(file).expect("readable"));
    }
    assert!(all.deaths >= 10 && all.restores >= 3, "{all:?}");
    assert!(all.answers >= 100 && all.repeated >= 3, "{all:?}");
}

#[test]
fn store_client() {
    run("store_client");
}

#[test]
fn xenbus_nodes() {
    run("xenbus_nodes");
}

#[test]
fn xenstored_requests() {
    run("xenstored_requests");
}

#[test]
fn every_target_runs_here_and_under_cargo_fuzz() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut written = BTreeSet::new();
    for file in files(&here("src/fuzz")) {
        for line in fs::read_to_string(file).expect("readable").lines() {
            let name = line
                .strip_prefix("pub fn ")
                .and_then(|rest| rest.split_once("(data: &[u8])"));
            written.extend(name.map(|(name, _)| name.to_owned()));
        }
    }
    assert_eq!(written, listed, "src/fuzz and the table here differ");
    let fuzzed: BTreeSet<String> = files(&here("../fuzz/fuzz_targets"))
        .iter()
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    assert_eq!(
        fuzzed, listed,
        "fuzz/fuzz_targets and the table here differ"
    );
    for dir in files(&here("corpus")) {
        let name = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        assert!(
            name.is_some_and(|name| listed.contains(&name)),
            "{} has no target",
            dir.display()
        );
    }
}
