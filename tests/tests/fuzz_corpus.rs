//! The fuzz targets on stable: each over `corpus/NAME`, over inputs that break most parsers, and over both with some bytes
//! changed: the same ones every time, and for a moment others each time. Of those, one that fails is named by a number, and
//! `RINGFENCE_FUZZ_SEED=NUMBER` has the target run over it and no other.

use ringfence_tests::fuzz;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

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
/// How long a target runs over inputs that are others each time.
const EXPLORED: Duration = Duration::from_secs(3);
/// The number of the one input to run over instead.
const SEED: &str = "RINGFENCE_FUZZ_SEED";

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
    change(&mut bytes, &mut state);
    bytes
}

fn change(bytes: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..=next(state) % 8 {
        let at = next(state) % (bytes.len() + 1);
        let value = next(state) as u8;
        match next(state) % 3 {
            0 => bytes.insert(at, value),
            1 => bytes.truncate(at.max(1)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= value;
                }
            }
        }
    }
}

/// The input of a number: bytes that are anything, or the beginning of one of the corpus and the end of another, changed.
fn input(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    // Numbers in a row have nothing in common, and none is zero.
    let mut state = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let anything: Vec<u8> = (0..next(&mut state) % 256)
        .map(|_| (next(&mut state) >> 24) as u8)
        .collect();
    let mut part = || match next(&mut state) % (corpus.len() + 1) {
        0 => (anything.as_slice(), next(&mut state)),
        file => (corpus[file - 1].as_slice(), next(&mut state)),
    };
    let ((one, until), (other, from)) = (part(), part());
    let mut bytes = one[..until % (one.len() + 1)].to_vec();
    bytes.extend_from_slice(&other[from % (other.len() + 1)..]);
    change(&mut bytes, &mut state);
    bytes
}

/// Runs over inputs from this number on; at least over one. How many there were, or the number of the one that failed.
fn explore(target: fn(&[u8]), corpus: &[Vec<u8>], first: u64, time: Duration) -> Result<u64, u64> {
    let start = Instant::now();
    let mut count = 0;
    while count == 0 || start.elapsed() < time {
        let seed = first.wrapping_add(count);
        let bytes = input(corpus, seed);
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            return Err(seed);
        }
        count += 1;
    }
    Ok(count)
}

/// The number to begin with, and how long to go on.
fn seed() -> (u64, Duration) {
    if let Some(given) = std::env::var_os(SEED) {
        let given = given.to_str().and_then(|text| text.parse().ok());
        return (given.expect("a number in the environment"), Duration::ZERO);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    (now.expect("later than 1970").as_nanos() as u64, EXPLORED)
}

fn run(name: &str) {
    let (_, target) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("listed");
    let corpus: Vec<Vec<u8>> = files(&here("corpus").join(name))
        .iter()
        .map(|file| fs::read(file).expect("readable"))
        .collect();
    let (first, time) = seed();
    match explore(*target, &corpus, first, time) {
        Ok(count) => println!("{count} inputs from number {first} on"),
        Err(seed) => panic!("{SEED}={seed} is this one again"),
    }
    if time.is_zero() {
        return;
    }
    let mutants = match name {
        "journals" | "sim_worlds" => MUTANTS_OF_WORLDS,
        _ => MUTANTS,
    };
    for input in seeds().iter().chain(&corpus) {
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
    assert!(all.outages >= 8 && all.kernels >= 5, "{all:?}");
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
fn an_input_that_fails_is_there_again_under_its_number() {
    fn target(data: &[u8]) {
        assert!(!data.contains(&b'!'), "found");
    }
    let corpus = [b"abc".to_vec(), b"0123456789".to_vec()];
    let found = explore(target, &corpus, 5, Duration::MAX).expect_err("a byte of 256");
    assert!(found > 5, "not the first");
    let again = explore(target, &corpus, found, Duration::ZERO);
    assert_eq!(again, Err(found));
    assert_eq!(explore(target, &corpus, 5, Duration::ZERO), Ok(1));
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
