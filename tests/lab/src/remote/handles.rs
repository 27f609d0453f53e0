//! What an agent holds for us.

use std::rc::Rc;

use ringfence_core::platform::{Channel, GrantStatus, Granted, PlatformError};
use ringfence_core::{EvtchnPort, GrantRef, SharedMem};

use super::{Line, unexpected};
use ringfence_lab_agent::rpc::{Answer, Failure, Id, MemoryCall, Request};

/// Pages in the agent's process.
#[derive(Debug)]
struct Pages {
    line: Rc<Line>,
    id: Id,
    len: usize,
}

impl Pages {
    fn new(line: Rc<Line>, id: Id, len: u64) -> Self {
        let len = usize::try_from(len).expect("memory has a length");
        Self { line, id, len }
    }

    fn ask(&self, call: MemoryCall) -> Answer {
        let request = Request::Memory { id: self.id, call };
        match self.line.ask(&request) {
            Ok(answer) => answer,
            Err(failure) => panic!("{request:?}: {failure:?}"),
        }
    }

    fn done(&self, call: MemoryCall) {
        let answer = self.ask(call);
        assert_eq!(answer, Answer::Done, "an answer of another kind");
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.line.release(self.id);
    }
}

impl SharedMem for Pages {
    fn len(&self) -> usize {
        self.len
    }

    fn load_u32(&self, offset: usize) -> u32 {
        match self.ask(MemoryCall::Load {
            offset: offset as u64,
        }) {
            Answer::Word(word) => word,
            other => panic!("{other:?} is no word"),
        }
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.done(MemoryCall::Store {
            offset: offset as u64,
            value,
        });
    }

    fn read(&self, offset: usize, dst: &mut [u8]) {
        match self.ask(MemoryCall::Read {
            offset: offset as u64,
            len: dst.len() as u64,
        }) {
            Answer::Bytes(bytes) => dst.copy_from_slice(&bytes),
            other => panic!("{other:?} is no memory"),
        }
    }

    fn write(&self, offset: usize, src: &[u8]) {
        self.done(MemoryCall::Write {
            offset: offset as u64,
            bytes: src.to_vec(),
        });
    }

    fn fence(&self) {
        self.done(MemoryCall::Fence);
    }
}

macro_rules! shared_mem {
    ($name:ident) => {
        impl SharedMem for $name {
            fn len(&self) -> usize {
                self.pages.len()
            }
            fn load_u32(&self, offset: usize) -> u32 {
                self.pages.load_u32(offset)
            }
            fn store_u32(&self, offset: usize, value: u32) {
                self.pages.store_u32(offset, value);
            }
            fn read(&self, offset: usize, dst: &mut [u8]) {
                self.pages.read(offset, dst);
            }
            fn write(&self, offset: usize, src: &[u8]) {
                self.pages.write(offset, src);
            }
            fn fence(&self) {
                self.pages.fence();
            }
        }
    };
}

/// A page that the agent's domain granted.
#[derive(Debug)]
pub struct RemoteGranted {
    pages: Pages,
    gref: GrantRef,
}
shared_mem!(RemoteGranted);

impl RemoteGranted {
    pub(super) fn new(line: Rc<Line>, id: Id, gref: GrantRef, len: u64) -> Self {
        let pages = Pages::new(line, id, len);
        Self { pages, gref }
    }
}

impl Granted for RemoteGranted {
    fn grant_ref(&self) -> GrantRef {
        self.gref
    }

    fn try_revoke(&mut self) -> Result<(), GrantStatus> {
        let request = Request::Revoke { id: self.pages.id };
        self.pages.line.done(&request, Failure::into_status)
    }
}

/// Pages of a peer that the agent's process has mapped.
#[derive(Debug)]
pub struct RemoteMapping {
    pages: Pages,
}
shared_mem!(RemoteMapping);

impl RemoteMapping {
    pub(super) fn new(line: Rc<Line>, id: Id, len: u64) -> Self {
        let pages = Pages::new(line, id, len);
        Self { pages }
    }
}

/// The agent's end of an event channel.
#[derive(Debug)]
pub struct RemoteChannel {
    line: Rc<Line>,
    id: Id,
    port: EvtchnPort,
}

impl RemoteChannel {
    pub(super) const fn new(line: Rc<Line>, id: Id, port: EvtchnPort) -> Self {
        Self { line, id, port }
    }
}

impl Drop for RemoteChannel {
    fn drop(&mut self) {
        self.line.release(self.id);
    }
}

impl Channel for RemoteChannel {
    fn port(&self) -> EvtchnPort {
        self.port
    }

    fn notify(&self) -> Result<(), PlatformError> {
        let request = Request::Notify { id: self.id };
        self.line.done(&request, Failure::into_platform)
    }

    fn take_pending(&self) -> Result<bool, PlatformError> {
        let request = Request::TakePending { id: self.id };
        match self.line.ask(&request) {
            Ok(Answer::Flag(rung)) => Ok(rung),
            Ok(other) => unexpected(&request, &other),
            Err(failure) => Err(failure.into_platform()),
        }
    }

    fn unmask(&self) -> Result<(), PlatformError> {
        let request = Request::Unmask { id: self.id };
        self.line.done(&request, Failure::into_platform)
    }
}
