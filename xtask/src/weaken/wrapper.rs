//! The program that stands before the compiler of our own crates and takes a check away.
//!
//! The name of the check travels in an environment variable per package, which the wrapper also writes into the crate's
//! dependency file as if the crate read it. So cargo builds again exactly the package that has the check, and what depends
//! on it, and all variants share one target directory.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "RINGFENCE_WEAKEN_";

const SCRIPT: &str = r##"#!/bin/sh
variable=RINGFENCE_WEAKEN_$(echo "$CARGO_PKG_NAME" | tr - _)
eval "check=\${$variable-}"
crate= dir= extra= before=
for argument; do
    case $before in
        --crate-name) crate=$argument ;;
        --out-dir) dir=$argument ;;
        -C) case $argument in extra-filename=*) extra=${argument#*=} ;; esac ;;
    esac
    before=$argument
done
if [ -n "$check" ]; then
    "$@" --cap-lints=allow --cfg "ringfence_weaken=\"$check\"" || exit
    dependency="$variable=$check"
else
    "$@" --cap-lints=allow || exit
    dependency=$variable
fi
deps="$dir/$crate$extra.d"
if [ -n "$crate" ] && [ -f "$deps" ]; then
    printf '\n# env-dep:%s\n' "$dependency" >>"$deps"
fi
"##;

/// Writes the wrapper into `dir`.
pub(super) fn write(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("rustc-wrapper");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == SCRIPT) {
        return Ok(path);
    }
    std::fs::write(&path, SCRIPT).with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// What tells the wrapper to take `check` away from `package`.
pub(super) fn variable(package: &str, check: &str) -> (String, OsString) {
    (
        format!("{PREFIX}{}", package.replace('-', "_")),
        check.into(),
    )
}
