//! Tells systemd how far the service is (`sd_notify(3)`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names systemd's socket; not for children.
pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// Says `state`, e.g. `READY=1`, to the socket of this name.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket
        .send_to_addr(state.as_bytes(), &address(name)?)
        .map(|_| ())
}

/// Says `state` to systemd, if it started us and wants to know.
pub(super) fn notify(state: &str) {
    let Some(name) = std::env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(&name, state) {
        tracing::warn!(%error, "cannot tell systemd {state:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_told() {
        let name = format!("ringfence-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let bound = [
            UnixDatagram::bind(&path).unwrap(),
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
        ];
        let names = [path.clone().into_os_string(), format!("@{name}").into()];
        for (socket, name) in bound.iter().zip(&names) {
            send(name, "READY=1").unwrap();
            let mut text = [0; 16];
            let len = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..len], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
    }
}
