//! `ringfence xenstore`: the store as the control domain sees it.

use std::io::Write;

use anyhow::{Context, Result};
use ringfence_core::store::{Connection, Store, StoreError, Tx};
use ringfence_core::wire::xs_wire::PAYLOAD_MAX;
use ringfence_hosted::{RunDir, StoreSocket};

use crate::args::Xenstore;

/// Runs one command against the broker's store.
///
/// # Errors
/// No broker, or what the store said, with the path.
pub fn run(run_dir: &RunDir, command: &Xenstore) -> Result<()> {
    let path = run_dir.xenstored();
    let socket = StoreSocket::connect(&path)
        .with_context(|| format!("no broker at {}: start `ringfence host`", path.display()))?;
    let mut store: Connection<StoreSocket> = Connection::new(socket);
    let mut out = std::io::stdout().lock();
    match command {
        Xenstore::Ls { path } => list_below(&mut store, path, 0, &mut out),
        Xenstore::Read { path } => {
            let value = read(&mut store, path)?;
            out.write_all(&value)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(Into::into)
        }
        Xenstore::Write { path, value } => store
            .write(Tx::NONE, path, value.as_bytes())
            .context(path.clone()),
        Xenstore::Rm { path } => store.rm(Tx::NONE, path).context(path.clone()),
        Xenstore::List { path } => {
            for name in names(&mut store, path)? {
                writeln!(out, "{name}")?;
            }
            Ok(())
        }
    }
}

fn read<S: Store>(store: &mut S, path: &str) -> Result<Vec<u8>> {
    let mut buf = vec![0; PAYLOAD_MAX];
    store
        .read(Tx::NONE, path, &mut buf)
        .map(<[u8]>::to_vec)
        .with_context(|| path.to_owned())
}

fn names<S: Store>(store: &mut S, path: &str) -> Result<Vec<String>> {
    let mut room = PAYLOAD_MAX;
    loop {
        let mut buf = vec![0; room];
        match store.directory(Tx::NONE, path, &mut buf) {
            Ok(names) => return Ok(names.map(str::to_owned).collect()),
            // A directory may be longer than one message.
            Err(StoreError::TooLong { .. }) if room < PAYLOAD_MAX << 12 => room *= 4,
            Err(error) => return Err(error).with_context(|| path.to_owned()),
        }
    }
}

fn list_below<S: Store>(
    store: &mut S,
    path: &str,
    depth: usize,
    out: &mut dyn Write,
) -> Result<()> {
    for name in names(store, path)? {
        let child = if path.ends_with('/') {
            format!("{path}{name}")
        } else {
            format!("{path}/{name}")
        };
        let value = read(store, &child)?;
        let value = value.escape_ascii();
        writeln!(out, "{:indent$}{name} = \"{value}\"", "", indent = depth)?;
        list_below(store, &child, depth + 1, out)?;
    }
    Ok(())
}
