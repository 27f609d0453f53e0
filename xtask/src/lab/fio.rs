//! fio for a small ramdisk. Debian's is linked against the clients of every storage cluster it can talk to, a hundred
//! megabytes that reads and writes of a disk never call: empty libraries of their names take their place.

use super::elf;
use super::tree::Tree;
use crate::process::{found, run};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// These are real.
const KEPT: &[&str] = &[
    "libaio.so.1",
    "libc.so.6",
    "libm.so.6",
    "libnuma.so.1",
    "libz.so.1",
    "ld-linux-x86-64.so.2",
];

const FIO: &str = "usr/bin/fio";

/// Adds fio, its libraries, and what stands in for the rest, made in `work`.
pub(crate) fn add(tree: &mut Tree, root: &Path, work: &Path) -> Result<()> {
    if !found("gcc") {
        bail!("no gcc here: `apt-get install gcc`");
    }
    let fio = root.join(FIO);
    let needed = elf::needed(&fio)?;
    let (kept, replaced): (Vec<&String>, Vec<&String>) = needed
        .iter()
        .partition(|name| KEPT.contains(&name.as_str()));
    let without: Vec<&str> = replaced.iter().map(|name| name.as_str()).collect();
    let mut exported = BTreeSet::new();
    tree.copy(FIO, &fio)?;
    for library in elf::libraries(&[root], &fio, &without)? {
        if kept
            .iter()
            .any(|name| library.path.ends_with(name.as_str()))
        {
            exported.extend(elf::exports(&library.source)?);
        }
        tree.copy(&library.path, &library.source)?;
    }
    let imports = elf::imports(&fio)?;
    fs::create_dir_all(work)?;
    for (index, name) in replaced.iter().enumerate() {
        let mut assembly = String::from(".text\n");
        let mut script = String::new();
        let mut define = |symbol: &String| {
            let _ = writeln!(
                assembly,
                ".globl {symbol}\n.type {symbol}, @function\n{symbol}: ud2"
            );
        };
        for (version, symbols) in imports.get(*name).into_iter().flatten() {
            let _ = writeln!(script, "{version} {{ global:");
            for symbol in symbols {
                define(symbol);
                let _ = writeln!(script, "  {symbol};");
            }
            script.push_str("};\n");
        }
        // Whose the symbols without a version are, nobody says: the first has them all.
        let unversioned = imports.get("").filter(|_| index == 0);
        for symbol in unversioned.into_iter().flat_map(|v| v.values()).flatten() {
            if !exported.contains(symbol) {
                define(symbol);
            }
        }
        assembly.push_str(".section .note.GNU-stack,\"\",@progbits\n");
        let [source, map, library] = ["s", "map", "so"].map(|e| work.join(format!("{name}.{e}")));
        fs::write(&source, assembly)?;
        fs::write(&map, &script)?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-nostdlib", "-o"]).arg(&library);
        gcc.arg(&source).arg(format!("-Wl,-soname,{name}"));
        if !script.is_empty() {
            gcc.arg(format!("-Wl,--version-script={}", map.display()));
        }
        run(&mut gcc)?;
        tree.copy(&format!("usr/lib/x86_64-linux-gnu/{name}"), &library)?;
    }
    Ok(())
}
