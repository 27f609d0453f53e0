//! What has to be so before a driver domain's process may serve disks on Xen, and what to do if it is not.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use ringfence_hosted::RunDir;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use thiserror::Error;

/// Why this is no place to serve disks.
#[derive(Debug, Error)]
pub(super) enum CheckError {
    /// Not on Xen, or not a kernel that knows it.
    #[error("this is not Linux on Xen: neither {} says xen nor is there a {}", kind.display(), proc.display())]
    NotXen {
        /// Where the kernel names its hypervisor.
        kind: PathBuf,
        /// Xen's directory of proc.
        proc: PathBuf,
    },
    /// A device is missing.
    #[error("{} is missing: modprobe {module}", device.display())]
    NoDevice {
        /// The device.
        device: PathBuf,
        /// What provides it.
        module: &'static str,
    },
    /// The kernel's own backend would take every disk that we are to serve.
    #[error(
        "the kernel's xen-blkback is there ({}) and serves the same disks: \
         detach them, `modprobe -r xen-blkback`, and put `blacklist xen-blkback` into /etc/modprobe.d/ringfence.conf",
        seen.display()
    )]
    Blkback {
        /// What shows it.
        seen: PathBuf,
    },
    /// Two would take the same requests.
    #[error("another driver domain process serves here already: {} is locked by process {pid}", lock.display())]
    Running {
        /// The lock.
        lock: PathBuf,
        /// Who holds it, as it said.
        pid: String,
    },
    /// The lock could not be taken.
    #[error("{}: {error}", lock.display())]
    Lock {
        /// The lock.
        lock: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// What a backend needs, and which module has it.
const DEVICES: [(&str, &str); 2] = [
    ("dev/xen/evtchn", "xen-evtchn"),
    ("dev/xen/gntdev", "xen-gntdev"),
];

/// Looks at the system whose root directory is `root`, which is `/`.
///
/// # Errors
/// [`CheckError`], saying what to do.
pub(super) fn check_host(root: &Path) -> Result<(), CheckError> {
    let kind = root.join("sys/hypervisor/type");
    let proc = root.join("proc/xen");
    let says_xen = fs::read_to_string(&kind).is_ok_and(|kind| kind.trim() == "xen");
    if !says_xen && !proc.exists() {
        return Err(CheckError::NotXen { kind, proc });
    }
    for (device, module) in DEVICES {
        let device = root.join(device);
        if !device.exists() {
            return Err(CheckError::NoDevice { device, module });
        }
    }
    Ok(())
}

/// Looks whether the kernel's own backend is there, as a module or built in.
///
/// # Errors
/// [`CheckError::Blkback`].
pub(super) fn check_blkback(root: &Path) -> Result<(), CheckError> {
    for seen in ["sys/bus/xen-backend/drivers/vbd", "sys/module/xen_blkback"] {
        let seen = root.join(seen);
        if seen.exists() {
            return Err(CheckError::Blkback { seen });
        }
    }
    Ok(())
}

/// Says that we serve, for as long as the value lives.
///
/// # Errors
/// [`CheckError::Running`] if somebody else does.
pub(super) fn take_lock(run_dir: &RunDir) -> Result<File, CheckError> {
    let lock = run_dir.path().join("driver-domain.lock");
    let failed = |error| CheckError::Lock {
        lock: lock.clone(),
        error,
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&lock).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().to_owned();
            return Err(CheckError::Running { lock, pid });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("ringfence-checks-{name}-{}", std::process::id());
            let root = Self(std::env::temp_dir().join(name));
            for (path, text) in files {
                let path = root.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            root
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_brings_it() {
        let bare = Root::new("bare", &[("sys/hypervisor/type", "kvm\n")]);
        let error = check_host(&bare.0).unwrap_err();
        assert!(matches!(error, CheckError::NotXen { .. }), "{error}");
        let xen = ("sys/hypervisor/type", "xen\n");
        let half = Root::new("half", &[xen, ("dev/xen/evtchn", "")]);
        let text = check_host(&half.0).unwrap_err().to_string();
        assert!(
            text.ends_with("dev/xen/gntdev is missing: modprobe xen-gntdev"),
            "{text}"
        );
        let all = [xen, ("dev/xen/evtchn", ""), ("dev/xen/gntdev", "")];
        check_host(&Root::new("all", &all).0).unwrap();
        let old = [("proc/xen/capabilities", ""), all[1], all[2]];
        check_host(&Root::new("old", &old).0).unwrap();
    }

    #[test]
    fn the_kernels_own_backend_is_refused() {
        check_blkback(&Root::new("none", &[("sys/module/xen_netback/refcnt", "")]).0).unwrap();
        for seen in [
            "sys/bus/xen-backend/drivers/vbd/bind",
            "sys/module/xen_blkback/refcnt",
        ] {
            let root = Root::new(&seen.replace('/', "-"), &[(seen, "")]);
            let text = check_blkback(&root.0).unwrap_err().to_string();
            assert!(text.contains("modprobe -r xen-blkback"), "{text}");
        }
    }

    #[test]
    fn the_second_process_is_told_who_the_first_is() {
        let root = Root::new("lock", &[]);
        let dir = RunDir::resolve(Some(&root.0)).unwrap();
        dir.create().unwrap();
        let first = take_lock(&dir).unwrap();
        let text = take_lock(&dir).unwrap_err().to_string();
        let own = format!("by process {}", std::process::id());
        assert!(text.ends_with(&own), "{text}");
        drop(first);
        take_lock(&dir).unwrap();
    }
}
