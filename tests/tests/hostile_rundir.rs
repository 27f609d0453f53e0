//! Who may reach the broker's sockets: control nodes are for their owner.

use ringfence_hosted::{RunDir, RunDirError};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A folder of the test's own.
fn place(test: &str) -> PathBuf {
    let place =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    fs::create_dir(&place).unwrap();
    place
}

fn create(dir: &Path) -> Result<(), RunDirError> {
    RunDir::resolve(Some(dir)).unwrap().create()
}

#[test]
fn xsa_468_a_new_run_directory_is_its_owners() {
    let place = place("xsa_468_new");
    let dir = place.join("run");
    create(&dir).unwrap();
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    create(&dir).expect("the broker may come back to it");
    fs::remove_dir_all(&place).unwrap();
}

#[test]
fn xsa_468_a_run_directory_that_others_may_enter_is_refused() {
    let place = place("xsa_468_open");
    for open in [0o710, 0o701, 0o720, 0o755, 0o777, 0o1777] {
        let dir = place.join(format!("{open:o}"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(open)).unwrap();
        match create(&dir) {
            Err(RunDirError::NotPrivate { mode, .. }) => assert_eq!(mode, open),
            other => panic!("mode {open:o}: {other:?}"),
        }
    }
    fs::remove_dir_all(&place).unwrap();
}

#[test]
fn xsa_468_a_link_to_a_directory_is_refused() {
    let place = place("xsa_468_link");
    let private = place.join("private");
    create(&private).unwrap();
    let link = place.join("link");
    symlink(&private, &link).unwrap();
    assert!(matches!(create(&link), Err(RunDirError::NotPrivate { .. })));
    fs::remove_dir_all(&place).unwrap();
}
