//! A platform whose operations are executed by an agent elsewhere.

mod handles;
mod store;

pub use handles::{RemoteChannel, RemoteGranted, RemoteMapping};
pub use store::RemoteStore;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use ringfence_core::platform::{
    Access, Capabilities, EvtchnError, GrantCopy, GrantError, GrantStatus, Local, Platform,
    PlatformError,
};
use ringfence_core::{DomId, EvtchnPort, GrantRef};

use ringfence_lab_agent::pages::PagesError;
use ringfence_lab_agent::rpc::{Answer, Census, CopyLocal, CopyOp, Failure, Id, Request};

/// Carries one request to an agent and its answer back, both as bytes.
pub trait Carrier {
    /// Sends `request` and waits for its answer.
    fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, PagesError>;

    /// Sends `request`, which has no answer.
    fn send(&mut self, request: &[u8]) -> Result<(), PagesError>;
}

/// The way to one process of one agent. Whatever was made through it belongs to that process.
pub struct Line {
    /// None once the process at the other end is no more.
    carrier: RefCell<Option<Box<dyn Carrier>>>,
    domid: DomId,
    capabilities: Capabilities,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("domid", &self.domid)
            .field("dead", &self.carrier.borrow().is_none())
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Asks the agent at the other end of `carrier` who it is.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn new(mut carrier: Box<dyn Carrier>) -> Rc<Self> {
        match exchange(&mut *carrier, &Request::Hello) {
            Answer::Hello {
                domid,
                capabilities,
            } => Rc::new(Self {
                carrier: RefCell::new(Some(carrier)),
                domid: DomId::new(domid),
                capabilities: capabilities.into(),
            }),
            other => unexpected(&Request::Hello, &other),
        }
    }

    /// The process at the other end is no more: from now on dropping what it held does nothing.
    pub fn hang_up(&self) {
        self.carrier.replace(None);
    }

    /// Has a request executed.
    ///
    /// # Panics
    /// If the agent does not answer, is dead, or panicked.
    pub(crate) fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let mut carrier = self.carrier.borrow_mut();
        let Some(carrier) = carrier.as_mut() else {
            panic!("{request:?} to a dead process of domain {}", self.domid);
        };
        match exchange(&mut **carrier, request) {
            Answer::Failed(Failure::Other(text)) => {
                panic!("domain {} at {request:?}: {text}", self.domid)
            }
            Answer::Failed(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    fn done<E>(&self, request: &Request, sort: fn(Failure) -> E) -> Result<(), E> {
        match self.ask(request) {
            Ok(Answer::Done) => Ok(()),
            Ok(other) => unexpected(request, &other),
            Err(failure) => Err(sort(failure)),
        }
    }

    /// Lets go of something the agent holds. Whatever is wrong then, the agent's end ends it.
    fn release(&self, id: Id) {
        let request = postcard::to_stdvec(&Request::Drop { id });
        if let (Some(carrier), Ok(request)) = (self.carrier.borrow_mut().as_mut(), request) {
            let _ = carrier.call(&request);
        }
    }

    /// How many things the agent holds.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn census(&self) -> Census {
        match self.ask(&Request::Census) {
            Ok(Answer::Census(census)) => census,
            other => panic!("no census: {other:?}"),
        }
    }

    /// Has the agent's process end at once, and hangs up.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn kill(&self) {
        let request = postcard::to_stdvec(&Request::Die).expect("a request can be encoded");
        if let Some(mut carrier) = self.carrier.take() {
            let sent = carrier.send(&request);
            sent.unwrap_or_else(|error| panic!("{:?}: {error}", Request::Die));
        }
    }
}

fn exchange(carrier: &mut dyn Carrier, request: &Request) -> Answer {
    let bytes = postcard::to_stdvec(request).expect("a request can be encoded");
    match carrier.call(&bytes) {
        Ok(answer) => postcard::from_bytes(&answer).unwrap_or_else(|error| {
            panic!("an answer to {request:?} that makes no sense: {error}")
        }),
        Err(error) => panic!("{request:?}: {error}"),
    }
}

fn unexpected(request: &Request, answer: &Answer) -> ! {
    panic!("{answer:?} is no answer to {request:?}")
}

/// The domain at the other end of a [`Line`].
#[derive(Clone, Debug)]
pub struct Remote(Rc<Line>);

impl Remote {
    /// Speaks for the domain at the other end of `line`.
    #[must_use]
    pub const fn new(line: Rc<Line>) -> Self {
        Self(line)
    }

    /// Opens a connection to XenStore in that domain.
    pub fn open_store(&self) -> Result<RemoteStore, PlatformError> {
        match self.0.ask(&Request::OpenStore) {
            Ok(Answer::Store { id }) => Ok(RemoteStore::new(self.0.clone(), id)),
            Ok(other) => unexpected(&Request::OpenStore, &other),
            Err(failure) => Err(failure.into_platform()),
        }
    }

    /// Takes over a page of the process before.
    pub fn adopt_granted(&self, peer: DomId, gref: GrantRef) -> Result<RemoteGranted, GrantError> {
        self.page(&Request::AdoptGranted {
            peer: peer.get(),
            gref: gref.get(),
        })
    }

    /// Takes over a port of the process before.
    pub fn adopt_channel(&self, port: EvtchnPort) -> Result<RemoteChannel, EvtchnError> {
        self.channel(&Request::AdoptChannel { port: port.get() })
    }

    fn page(&self, request: &Request) -> Result<RemoteGranted, GrantError> {
        match self.0.ask(request) {
            Ok(Answer::Granted { id, gref, len }) => Ok(RemoteGranted::new(
                self.0.clone(),
                id,
                GrantRef::new(gref),
                len,
            )),
            Ok(other) => unexpected(request, &other),
            Err(failure) => Err(failure.into_grant()),
        }
    }

    fn channel(&self, request: &Request) -> Result<RemoteChannel, EvtchnError> {
        match self.0.ask(request) {
            Ok(Answer::Channel { id, port }) => {
                let port = EvtchnPort::new(port);
                Ok(RemoteChannel::new(self.0.clone(), id, port))
            }
            Ok(other) => unexpected(request, &other),
            Err(failure) => Err(failure.into_evtchn()),
        }
    }
}

impl Platform for Remote {
    type Granted = RemoteGranted;
    type Mapping = RemoteMapping;
    type Channel = RemoteChannel;
    type Store = RemoteStore;

    fn domid(&self) -> DomId {
        self.0.domid
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn alloc(&self, peer: DomId, access: Access) -> Result<RemoteGranted, GrantError> {
        self.page(&Request::Alloc {
            peer: peer.get(),
            read_only: access == Access::ReadOnly,
        })
    }

    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<RemoteMapping, GrantError> {
        let request = Request::Map {
            peer: peer.get(),
            refs: refs.iter().map(|gref| gref.get()).collect(),
            read_only: access == Access::ReadOnly,
        };
        match self.0.ask(&request) {
            Ok(Answer::Mapping { id, len }) => Ok(RemoteMapping::new(self.0.clone(), id, len)),
            Ok(other) => unexpected(&request, &other),
            Err(failure) => Err(failure.into_grant()),
        }
    }

    fn copy(&self, peer: DomId, ops: &mut [GrantCopy<'_>]) -> Result<(), PlatformError> {
        let elements = ops.iter().map(|op| CopyOp {
            gref: op.gref.get(),
            offset: op.offset,
            local: match &op.local {
                Local::ToPeer(bytes) => CopyLocal::ToPeer(bytes.to_vec()),
                Local::FromPeer(bytes) => CopyLocal::FromPeer(bytes.to_vec()),
            },
        });
        let request = Request::Copy {
            peer: peer.get(),
            ops: elements.collect(),
        };
        let results = match self.0.ask(&request) {
            Ok(Answer::Copied(results)) if results.len() == ops.len() => results,
            Ok(other) => unexpected(&request, &other),
            Err(failure) => return Err(failure.into_platform()),
        };
        for (op, result) in ops.iter_mut().zip(results) {
            op.status = GrantStatus::new(result.status);
            if let Local::FromPeer(bytes) = &mut op.local {
                bytes.copy_from_slice(&result.bytes);
            }
        }
        Ok(())
    }

    fn alloc_unbound(&self, peer: DomId) -> Result<RemoteChannel, EvtchnError> {
        self.channel(&Request::AllocUnbound { peer: peer.get() })
    }

    fn bind(&self, peer: DomId, port: EvtchnPort) -> Result<RemoteChannel, EvtchnError> {
        self.channel(&Request::Bind {
            peer: peer.get(),
            port: port.get(),
        })
    }
}
