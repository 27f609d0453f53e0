//! XenStore: through the kernel, `/dev/xen/xenbus`, or a stream socket of xenstored's in dom0.

mod device;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ringfence_core::DomId;
use ringfence_core::store::{Connection, Interest, Store, StoreError, Transport, Tx};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::platform::OpenError;
use device::Device;

/// A connection to XenStore. Whoever polls many descriptors finds its own with `store.transport().as_fd()`.
pub type LinuxStore = Connection<StoreFile>;

/// Where xenstored listens in dom0: today's place and the one before.
pub const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];

/// Where the kernel offers a connection: today's place and the one before.
pub const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// The stream to the store. Readable when a reply or an event is there.
#[derive(Debug)]
pub struct StoreFile(Way);

#[derive(Debug)]
enum Way {
    Device(Box<Device>),
    Socket(OwnedFd),
}

impl StoreFile {
    /// Takes a fresh descriptor of `/dev/xen/xenbus`, or a connected stream socket of xenstored's.
    ///
    /// # Errors
    /// As `fstat(2)` and `fcntl(2)`.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let socket = file.metadata()?.file_type().is_socket();
        let file = OwnedFd::from(file);
        Ok(Self(if socket {
            Way::Socket(file)
        } else {
            Way::Device(Box::new(Device::new(file)?))
        }))
    }

    /// Whether it goes through the kernel, whose messages are 16 bytes shorter.
    pub const fn is_device(&self) -> bool {
        matches!(self.0, Way::Device(_))
    }
}

/// A connection over a descriptor as [`StoreFile::new`] takes it.
///
/// # Errors
/// As there.
pub fn from_fd(file: OwnedFd) -> io::Result<LinuxStore> {
    StoreFile::new(file).map(LinuxStore::new)
}

/// Connects to xenstored's socket, which is there in dom0 only, or else opens the kernel's device.
///
/// # Errors
/// Why neither could be had: that of the device.
pub fn open_store() -> io::Result<LinuxStore> {
    from_fd(open_connection()?)
}

/// The descriptor for [`open_store`].
pub(crate) fn open_connection() -> io::Result<OwnedFd> {
    let sockets = SOCKETS.iter();
    if let Some(socket) = sockets
        .filter_map(|path| UnixStream::connect(path).ok())
        .next()
    {
        return Ok(socket.into());
    }
    let [device, old] = DEVICES.map(Path::new);
    crate::files::open(device).or_else(|error| crate::files::open(old).map_err(|_| error))
}

/// The number of the domain we are in: what the store says, or that of the control domain where Xen says that we are it.
///
/// # Errors
/// [`OpenError::Domid`], [`OpenError::Garbage`].
pub fn own_domid<S: Store>(store: &mut S) -> Result<DomId, OpenError> {
    let mut room = [0; 32];
    match store.read(Tx::NONE, "domid", &mut room) {
        Ok(text) => ringfence_core::store::number::unsigned(text)
            .and_then(|number| u16::try_from(number).ok())
            .map(DomId::new)
            .filter(|domid| *domid < DomId::FIRST_RESERVED)
            .ok_or_else(|| OpenError::Garbage(String::from_utf8_lossy(text).into_owned())),
        // Nobody has told xenstored about dom0 yet.
        Err(StoreError::Missing) if is_control_domain() => Ok(DomId::DOM0),
        Err(error) => Err(error.into()),
    }
}

fn is_control_domain() -> bool {
    std::fs::read_to_string("/proc/xen/capabilities").is_ok_and(|all| all.contains("control_d"))
}

impl AsFd for StoreFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Way::Device(device) => device.as_fd(),
            Way::Socket(socket) => socket.as_fd(),
        }
    }
}

impl Transport for StoreFile {
    type Error = Errno;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let socket = match &mut self.0 {
            Way::Device(device) => return device.send(bytes),
            Way::Socket(socket) => socket,
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| rustix::net::send(&*socket, bytes, flags)) {
            Err(Errno::AGAIN) => Ok(0),
            other => other,
        }
    }

    fn recv(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        let socket = match &mut self.0 {
            Way::Device(device) => return device.recv(room),
            Way::Socket(socket) => socket,
        };
        let flags = RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::recv(&*socket, &mut *room, flags)) {
            Ok((0, _)) => Err(Errno::CONNRESET),
            Ok((count, _)) => Ok(count),
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    fn wait(&mut self, interest: Interest, timeout: Option<Duration>) -> Result<(), Errno> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.recv);
        if interest.send {
            match self.0 {
                // The device takes requests at any time, and never says so.
                Way::Device(_) => return Ok(()),
                Way::Socket(_) => events |= PollFlags::OUT,
            }
        }
        let timeout = timeout.map(Timespec::try_from).and_then(Result::ok);
        let fd = self.as_fd();
        match rustix::event::poll(
            &mut [PollFd::from_borrowed_fd(fd, events)],
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Result<&'static str, StoreError>);

    macro_rules! unused {
        ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {
            $(fn $name(&mut self, $(_: $arg),*) -> Result<$out, StoreError> {
                Err(StoreError::Transport)
            })*
        };
    }

    impl Store for Says {
        fn read<'b>(
            &mut self,
            _: Tx,
            path: &str,
            buf: &'b mut [u8],
        ) -> Result<&'b [u8], StoreError> {
            assert_eq!(path, "domid");
            let text = self.0?.as_bytes();
            buf[..text.len()].copy_from_slice(text);
            Ok(&buf[..text.len()])
        }
        fn directory<'b>(
            &mut self,
            _: Tx,
            _: &str,
            _: &'b mut [u8],
        ) -> Result<ringfence_core::store::Names<'b>, StoreError> {
            Err(StoreError::Transport)
        }
        unused! {
            write(Tx, &str, &[u8]) -> ();
            mkdir(Tx, &str) -> ();
            rm(Tx, &str) -> ();
            get_perms(Tx, &str) -> ringfence_core::store::Perms;
            set_perms(Tx, &str, &[ringfence_core::store::Perm]) -> ();
            watch(&str, &str) -> ();
            unwatch(&str, &str) -> ();
            next_watch() -> Option<ringfence_core::store::WatchEvent>;
            wait(Option<Duration>) -> ();
            transaction_start() -> Tx;
            transaction_end(Tx, bool) -> ();
        }
    }

    #[test]
    fn the_store_says_who_we_are() {
        let domid = |says| own_domid(&mut Says(says));
        assert_eq!(domid(Ok("7")).unwrap(), DomId::new(7));
        for garbage in ["", "x", "-1", "65536", "32752"] {
            assert!(matches!(domid(Ok(garbage)), Err(OpenError::Garbage(_))));
        }
        let denied = domid(Err(StoreError::Denied));
        assert!(matches!(denied, Err(OpenError::Domid(StoreError::Denied))));
    }
}
