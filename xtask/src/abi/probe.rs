//! The program in C.

use super::{Fact, HEADERS, Layout};
use crate::counts::target_dir;
use crate::process::{output_of, run as run_command};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Words of C, and of our expressions, that no header of Xen defines.
const LANGUAGE: &[&str] = &[
    "sizeof",
    "offsetof",
    "struct",
    "union",
    "enum",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "xen_ulong_t",
];

/// Every word of the headers that we look into.
pub(super) fn identifiers(headers: &Path) -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    for file in [
        "grant_table.h",
        "event_channel.h",
        "errno.h",
        "io/blkif.h",
        "io/protocols.h",
        "io/ring.h",
        "io/xenbus.h",
        "io/xs_wire.h",
    ] {
        let path = headers.join(file);
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        words.extend(words_of(&String::from_utf8_lossy(&text)).map(str::to_owned));
    }
    // The ring macros paste these together.
    words.extend(["blkif_sring", "blkif_sring_entry"].map(str::to_owned));
    // `XEN_ERRNO(EPERM, 1)` defines XEN_EPERM.
    let errors: Vec<String> = words
        .iter()
        .filter(|word| word.starts_with('E'))
        .map(|word| format!("XEN_{word}"))
        .collect();
    words.extend(errors);
    Ok(words)
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// The first word of an expression that no header has.
pub(super) fn unknown<'a>(c: &'a str, known: &BTreeSet<String>) -> Option<&'a str> {
    words_of(c).find(|word| !known.contains(*word) && !LANGUAGE.contains(word))
}

/// What C says, in the order of the facts.
pub(super) fn run(facts: &[Fact]) -> Result<Vec<String>> {
    let mut values = vec![String::new(); facts.len()];
    for layout in [Layout::Native, Layout::X86_32] {
        let ours: Vec<(usize, &Fact)> = facts
            .iter()
            .enumerate()
            .filter(|(_, fact)| fact.layout == layout)
            .collect();
        let output = compile_and_run(layout, &ours)?;
        for ((place, _), line) in ours.iter().zip(output.lines()) {
            if let Some(value) = values.get_mut(*place) {
                line.clone_into(value);
            }
        }
    }
    Ok(values)
}

fn compile_and_run(layout: Layout, facts: &[(usize, &Fact)]) -> Result<String> {
    let dir = target_dir()?.join("abi");
    std::fs::create_dir_all(&dir)?;
    let source = dir.join(format!("probe-{layout:?}.c"));
    let program = dir.join(format!("probe-{layout:?}"));
    std::fs::write(&source, text(layout, facts)?)?;
    let parent = Path::new(HEADERS)
        .parent()
        .unwrap_or(Path::new("/usr/include"));
    run_command(
        Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Werror", "-Wno-pragmas", "-isystem"])
            .arg(parent)
            .arg("-D__XEN_INTERFACE_VERSION__=__XEN_LATEST_INTERFACE_VERSION__")
            .arg("-o")
            .arg(&program)
            .arg(&source),
    )?;
    output_of(&mut Command::new(program))
}

fn text(layout: Layout, facts: &[(usize, &Fact)]) -> Result<String> {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n#include <errno.h>\n\
         #define xen_mb() __sync_synchronize()\n#define xen_rmb() xen_mb()\n#define xen_wmb() xen_mb()\n\
         #include <xen/xen.h>\n#include <xen/errno.h>\n#include <xen/grant_table.h>\n\
         #include <xen/event_channel.h>\n#include <xen/io/ring.h>\n#include <xen/io/protocols.h>\n\
         #include <xen/io/xenbus.h>\n#include <xen/io/xs_wire.h>\n",
    );
    match layout {
        Layout::Native => text.push_str("#include <xen/io/blkif.h>\n"),
        // What Linux and QEMU do to serve a 32-bit guest; the header also adds a field under __i386__.
        Layout::X86_32 => text.push_str(
            "#define __i386__ 1\n#pragma pack(push, 4)\n#include <xen/io/blkif.h>\n#pragma pack(pop)\n",
        ),
    }
    text.push_str("int main(void)\n{\n");
    for (_, fact) in facts {
        let c = &fact.c;
        match fact.is_text {
            true => writeln!(text, "\tprintf(\"%s\\n\", {c});")?,
            false => writeln!(text, "\tprintf(\"%lld\\n\", (long long)({c}));")?,
        }
    }
    text.push_str("\treturn 0;\n}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_header_has_is_found() {
        let known = BTreeSet::from(["blkif_request".to_owned(), "id".to_owned()]);
        assert_eq!(unknown("offsetof(struct blkif_request, id)", &known), None);
        assert_eq!(
            unknown("offsetof(struct blkif_request, idx)", &known),
            Some("idx")
        );
        assert_eq!(unknown("XS_GET_QUOTA", &known), Some("XS_GET_QUOTA"));
    }
}
