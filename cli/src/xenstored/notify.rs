//! Telling systemd that the service is up: the datagram of `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to whoever `$NOTIFY_SOCKET` names.
///
/// # Errors
/// Nobody listens there.
pub(super) fn ready(socket: &OsStr) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(b"READY=1\n", &address)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_told() {
        let dir = std::env::temp_dir().join(format!("ringfence-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("notify");
        let name = format!("ringfence-notify-{}", std::process::id());
        let abstract_one = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into()),
            (
                UnixDatagram::bind_addr(&abstract_one).unwrap(),
                std::ffi::OsString::from(format!("@{name}")),
            ),
        ] {
            ready(&socket).unwrap();
            let mut bytes = [0; 32];
            let len = listener.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"READY=1\n");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(ready(path.as_os_str()).is_err());
    }
}
