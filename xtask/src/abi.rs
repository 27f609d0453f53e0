//! `cargo xtask abi`: our wire structs and constants against a C compiler's reading of `/usr/include/xen`.

mod constants;
mod probe;
mod structs;

use crate::process::found;
use anyhow::{Result, bail};
use std::path::Path;

/// Where Debian's `libxen-dev` puts the public headers.
const HEADERS: &str = "/usr/include/xen";

/// Names of ours that the headers of 4.17 do not have. Anything else that is missing there is a mistake of ours.
const NEWER: &[&str] = &[
    "XENSTORE_SERVER_FEATURE_WATCHDEPTH",
    "XENSTORE_SERVER_FEATURE_DOMID_ANY",
    "XS_GET_FEATURE",
    "XS_SET_FEATURE",
    "XS_GET_QUOTA",
    "XS_SET_QUOTA",
    "evtchn_port",
];

/// How the probe includes `blkif.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    /// As the compiler lays it out.
    Native,
    /// As backends see a 32-bit x86 frontend: `u64` aligned to 4 bytes.
    X86_32,
}

/// A value that both sides know.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) layout: Layout,
    /// The expression in C.
    pub(crate) c: String,
    /// Whether the expression is a string.
    pub(crate) is_text: bool,
    /// Our value.
    pub(crate) ours: String,
}

impl Fact {
    pub(crate) fn number(layout: Layout, c: String, ours: i128) -> Self {
        Self {
            layout,
            c,
            is_text: false,
            ours: ours.to_string(),
        }
    }
}

/// Compares everything.
pub(crate) fn run() -> Result<()> {
    let headers = Path::new(HEADERS);
    if !headers.join("io/blkif.h").is_file() {
        bail!("{HEADERS}/io/blkif.h is missing: apt-get install libxen-dev");
    }
    if !found("cc") {
        bail!("there is no C compiler `cc`: apt-get install gcc libc6-dev");
    }
    let mut facts = structs::facts();
    facts.extend(constants::facts());
    let known = probe::identifiers(headers)?;
    let mut newer = Vec::new();
    let mut wrong = Vec::new();
    facts.retain(|fact| match probe::unknown(&fact.c, &known) {
        None => true,
        Some(name) if NEWER.contains(&name) => {
            newer.push(format!("{} = {}", fact.c, fact.ours));
            false
        }
        Some(name) => {
            wrong.push(format!("{}: the headers have no `{name}`", fact.c));
            false
        }
    });
    let theirs = probe::run(&facts)?;
    if theirs.len() != facts.len() {
        bail!(
            "the probe printed {} values, not {}",
            theirs.len(),
            facts.len()
        );
    }
    for (fact, theirs) in facts.iter().zip(&theirs) {
        if fact.ours != *theirs {
            let (c, layout) = (&fact.c, fact.layout);
            wrong.push(format!(
                "{c} ({layout:?}): {} here, {theirs} in C",
                fact.ours
            ));
        }
    }
    for name in NEWER.iter().filter(|name| !known.contains(**name)) {
        println!("newer than these headers: {name}");
    }
    for fact in &newer {
        println!("not compared, the headers are older: {fact}");
    }
    if !wrong.is_empty() {
        bail!("{} differences:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("abi: {} sizes, offsets and constants equal", facts.len());
    Ok(())
}
