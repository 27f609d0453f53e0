//! Messages with descriptors over a `SOCK_SEQPACKET` socket: one postcard value per packet.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of the longest message; a longer one is refused by sender and receiver.
pub const MESSAGE_MAX: usize = 60 * 1024;
/// Descriptors that travel with one message at most.
pub const FDS_MAX: usize = 16;

/// What [`recv`] found.
#[derive(Debug)]
pub enum Received<T> {
    /// A message and what came with it.
    Message(T, Vec<OwnedFd>),
    /// Nothing at the moment (only with [`RecvFlags::DONTWAIT`]).
    Nothing,
    /// The other end is gone.
    Closed,
    /// A packet that is no message, or too long.
    Garbage,
}

/// Sends one message, with at most [`FDS_MAX`] descriptors.
///
/// # Errors
/// `EMSGSIZE` for what is too long, otherwise as `sendmsg(2)`.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(|_| Errno::INVAL)?;
    if bytes.len() > MESSAGE_MAX || fds.len() > FDS_MAX {
        return Err(Errno::MSGSIZE.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)
    })?;
    Ok(())
}

/// Receives one message; descriptors beyond [`FDS_MAX`] are closed by the kernel.
///
/// # Errors
/// As `recvmsg(2)`; that the other end is gone is [`Received::Closed`].
pub fn recv<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<Received<T>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )
    });
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(Errno::CONNRESET) => return Ok(Received::Closed),
        Err(error) => return Err(error.into()),
    };
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(Received::Closed);
    }
    if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Ok(Received::Garbage);
    }
    Ok(match postcard::from_bytes(&bytes[..received.bytes]) {
        Ok(message) => Received::Message(message, fds),
        Err(_) => Received::Garbage,
    })
}
