//! What a program is linked against, read from its file: nothing of another distribution is run to find out.

use anyhow::{Context, Result, bail};
use goblin::elf::Elf;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian keeps libraries.
const DIRS: &[&str] = &[
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/xen-4.17/lib/x86_64-linux-gnu",
];

/// A shared library in an unpacked package.
pub(crate) struct Library {
    /// Relative to the root, under the name that programs ask for.
    pub(crate) path: String,
    pub(crate) source: PathBuf,
}

/// Everything that `program` needs, directly or not, but for `without`.
pub(crate) fn libraries(roots: &[&Path], program: &Path, without: &[&str]) -> Result<Vec<Library>> {
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    let mut todo = vec![program.to_path_buf()];
    while let Some(file) = todo.pop() {
        let bytes = fs::read(&file)?;
        let elf = parse(&file, &bytes)?;
        for name in elf.libraries {
            if without.contains(&name) || !known.insert(name.to_owned()) {
                continue;
            }
            let library = find(roots, name).with_context(|| {
                format!("no package has {name}, which {} needs", file.display())
            })?;
            todo.push(library.source.clone());
            found.push(library);
        }
    }
    Ok(found)
}

fn find(roots: &[&Path], name: &str) -> Option<Library> {
    roots.iter().find_map(|root| {
        DIRS.iter().find_map(|dir| {
            let path = format!("{dir}/{name}");
            let source = root.join(&path);
            source.is_file().then_some(Library { path, source })
        })
    })
}

fn parse<'a>(file: &Path, bytes: &'a [u8]) -> Result<Elf<'a>> {
    Elf::parse(bytes).with_context(|| format!("{} is no program", file.display()))
}

/// What `program` takes from one of its libraries: the symbols of each version (empty: no version).
pub(crate) type Imports = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What `program` takes from the libraries it is linked against, by library. Symbols without a version are
/// under the empty name, since a program does not say which library has them.
pub(crate) fn imports(program: &Path) -> Result<Imports> {
    let bytes = fs::read(program)?;
    let elf = parse(program, &bytes)?;
    let mut owners = BTreeMap::new();
    for need in elf.verneed.iter().flat_map(|section| section.iter()) {
        let file = elf.dynstrtab.get_at(need.vn_file).unwrap_or_default();
        for version in need.iter() {
            let name = elf.dynstrtab.get_at(version.vna_name).unwrap_or_default();
            owners.insert(version.vna_other, (file.to_owned(), name.to_owned()));
        }
    }
    let Some(versions) = elf.versym.as_ref() else {
        bail!("{} has no versions of symbols", program.display());
    };
    let mut imports = Imports::new();
    for (symbol, version) in elf.dynsyms.iter().zip(versions.iter()) {
        let weak = symbol.st_bind() == goblin::elf::sym::STB_WEAK;
        if !symbol.is_import() || weak {
            continue;
        }
        let name = elf.dynstrtab.get_at(symbol.st_name).unwrap_or_default();
        let (file, version) = owners.get(&version.vs_val).cloned().unwrap_or_default();
        imports
            .entry(file)
            .or_default()
            .entry(version)
            .or_default()
            .insert(name.to_owned());
    }
    Ok(imports)
}

/// The libraries that `program` itself names.
pub(crate) fn needed(program: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(program)?;
    let elf = parse(program, &bytes)?;
    Ok(elf.libraries.iter().map(|&name| name.to_owned()).collect())
}

/// The names of the symbols that a library has for others.
pub(crate) fn exports(library: &Path) -> Result<BTreeSet<String>> {
    let bytes = fs::read(library)?;
    let elf = parse(library, &bytes)?;
    Ok(elf
        .dynsyms
        .iter()
        .filter(|symbol| !symbol.is_import())
        .filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name))
        .map(str::to_owned)
        .collect())
}
