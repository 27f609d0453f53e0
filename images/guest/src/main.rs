//! A guest kernel: says on its console, one line for each, whether console, XenStore and disks work. A disk with an ext4 is
//! read as one; any other is written and read back, as often as `rounds=` on the command line says. A disk that fails is one
//! line more: the others are tried all the same. `patience=` is how many seconds a backend may take for an answer.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use ext4_view::Ext4;
use log::{error, info};
use ringfence_core::platform::Platform as _;
use ringfence_core::store::{Store as _, StoreExt as _, Tx};
use ringfence_guest::{Guest, GuestStore, Reason, shutdown, toolstack};
use ringfence_image_disk::{Disk, PATIENCE, Reader, Result};

ringfence_guest::entry!(main);

/// Bytes that are written to a disk without a file system, if it has so many.
const SCRATCH: u64 = 8 << 20;

fn main(guest: Guest, store: GuestStore) {
    info!(
        "domain {}, {} pages free",
        guest.domid(),
        guest.free_pages()
    );
    info!("PASS console");
    match run(guest, Box::new(store)) {
        Ok(0) => info!("PASS all, {} pages free", guest.free_pages()),
        Ok(failed) => error!("FAIL {failed} disks, {} pages free", guest.free_pages()),
        Err(error) => {
            error!("FAIL {error}");
            shutdown(Reason::Crash);
        }
    }
}

/// Returns how many disks failed.
fn run(guest: Guest, mut store: Box<GuestStore>) -> Result<usize> {
    nodes(&mut store)?;
    toolstack::listen(&mut *store)?;
    info!("PASS xenstore");
    let mut room = [0; 4096];
    let rounds = number(guest, "rounds=")?.unwrap_or(1);
    let patience = number(guest, "patience=")?.map_or(PATIENCE, Duration::from_secs);
    let names = store.directory(Tx::NONE, "device/vbd", &mut room)?;
    let names: Vec<String> = names.map(str::to_string).collect();
    let mut failed = 0;
    for name in &names {
        let disk = Disk::new(guest, store, &format!("device/vbd/{name}"), patience)?;
        let disk = Rc::new(RefCell::new(disk));
        match try_disk(guest, &disk, name, rounds) {
            Ok(done) => info!("PASS disk {name}: {done}"),
            Err(error) => {
                error!("FAIL disk {name}: {error}");
                failed += 1;
            }
        }
        let counters = disk.borrow().counters();
        info!("disk {name}: {counters:?}");
        let disk = Rc::into_inner(disk).ok_or("somebody still reads the disk")?;
        store = disk.into_inner().close()?;
    }
    Ok(failed)
}

/// The number after this word of the command line.
fn number(guest: Guest, word: &str) -> Result<Option<u64>> {
    let mut words = guest.command_line().split(' ');
    let found = words.find_map(|each| each.strip_prefix(word));
    Ok(found.map(str::parse).transpose()?)
}

fn try_disk(guest: Guest, disk: &Rc<RefCell<Disk>>, name: &str, rounds: u64) -> Result<String> {
    disk.borrow_mut().connect()?;
    let has_ext4 = disk.borrow_mut().has_ext4()?;
    let ran = guest.run_time()?.as_nanos();
    info!("disk {name}: the first sector was read after {ran} ns on the processor");
    if has_ext4 {
        let (files, bytes) = read_files(disk)?;
        return Ok(format!("read {files} files of {bytes} bytes from its ext4"));
    }
    let mut bytes = 0;
    for round in 0..rounds {
        bytes += disk.borrow_mut().write_and_verify(SCRATCH, round)?;
        info!("disk {name}: round {round}");
    }
    Ok(format!("wrote and verified {bytes} bytes"))
}

/// What a guest may write, and a watch on it.
fn nodes(store: &mut GuestStore) -> Result<()> {
    let path = "data/ringfence";
    store.watch(path, "ringfence")?;
    store.transaction(|store, tx| store.write_str(tx, "data", "ringfence", "here"))?;
    let mut room = [0; 64];
    if store.read(Tx::NONE, path, &mut room)? != b"here" {
        return Err("node data/ringfence is not as it was written".into());
    }
    while store.next_watch()?.is_none() {
        store.wait(None)?;
    }
    store.unwatch(path, "ringfence")?;
    Ok(store.rm(Tx::NONE, path)?)
}

/// Reads every file in the root of the file system; one named `sum` has the sum of the bytes of all the others.
fn read_files(disk: &Rc<RefCell<Disk>>) -> Result<(usize, usize)> {
    let ext4 = Ext4::load(Box::new(Reader(disk.clone())))?;
    let (mut files, mut bytes, mut sum) = (0, 0, 0u64);
    let mut wanted = None;
    for entry in ext4.read_dir("/")? {
        let entry = entry?;
        if !entry.file_type()?.is_regular_file() {
            continue;
        }
        let data = ext4.read(&entry.path())?;
        if entry.file_name().as_ref() == b"sum" {
            wanted = core::str::from_utf8(&data)?.trim().parse().ok();
            continue;
        }
        sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        (files, bytes) = (files + 1, bytes + data.len());
    }
    if wanted != Some(sum) {
        return Err(format!("the files' bytes make {sum}, file sum says {wanted:?}").into());
    }
    Ok((files, bytes))
}
