//! Executes platform operations in its domain for a caller elsewhere.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use ringfence_core::platform::{Channel, GrantCopy, Granted, Local, Platform, PlatformError};
use ringfence_core::store::{NodeAccess, Perm, Store, StoreError, Tx, WatchEvent};
use ringfence_core::{DomId, EvtchnPort, GrantRef, SharedMem};

use crate::pages::{GuestEnd, PagesError, Wait};
use crate::rpc::{
    Answer, Census, CopyLocal, CopyOp, CopyResult, Event, Failure, Id, MemoryCall, Request,
    StoreCall, access,
};

/// Where an agent runs: a platform, and what its traits leave to each.
pub trait Native {
    /// The platform.
    type Platform: Platform;

    /// The platform's handle.
    fn platform(&self) -> &Self::Platform;

    /// Opens a connection to XenStore.
    ///
    /// # Errors
    /// There is none, or no other one.
    fn open_store(&self) -> Result<StoreOf<Self>, PlatformError>;

    /// Lets go of one, where it is not simply dropped.
    fn close_store(&self, store: StoreOf<Self>) {
        drop(store);
    }

    /// Takes over a page that the process before granted to `peer`; `None` where there is none, or pages die with processes.
    fn adopt_granted(&self, peer: DomId, gref: GrantRef) -> Option<GrantedOf<Self>>;

    /// Takes over a port that the process before allocated; `None` where there is none, or ports die with processes.
    fn adopt_channel(&self, port: EvtchnPort) -> Option<ChannelOf<Self>>;
}

type GrantedOf<N> = <<N as Native>::Platform as Platform>::Granted;
type MappingOf<N> = <<N as Native>::Platform as Platform>::Mapping;
type ChannelOf<N> = <<N as Native>::Platform as Platform>::Channel;
type StoreOf<N> = <<N as Native>::Platform as Platform>::Store;

/// Something that is held for the caller.
enum Handle<N: Native> {
    Granted(GrantedOf<N>),
    Mapping(MappingOf<N>),
    Channel(ChannelOf<N>),
    Store(StoreOf<N>),
}

/// What serves one caller: a platform, and what the caller holds of it.
pub struct Agent<N: Native> {
    native: N,
    handles: BTreeMap<Id, Handle<N>>,
    next: Id,
}

impl<N: Native> fmt::Debug for Agent<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("domid", &self.native.platform().domid())
            .field("census", &self.census())
            .finish()
    }
}

fn missing(id: Id) -> Failure {
    Failure::Other(format!("nothing has number {id}, or not of this kind"))
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl<N: Native> Agent<N> {
    /// Serves with `native`.
    pub const fn new(native: N) -> Self {
        Self {
            native,
            handles: BTreeMap::new(),
            next: 1,
        }
    }

    /// Executes one request. [`Request::Die`] is the caller's business: it is refused here.
    pub fn answer(&mut self, request: Request) -> Answer {
        self.execute(request).unwrap_or_else(Answer::Failed)
    }

    fn census(&self) -> Census {
        let mut census = Census::default();
        for handle in self.handles.values() {
            *match handle {
                Handle::Granted(_) => &mut census.granted,
                Handle::Mapping(_) => &mut census.mappings,
                Handle::Channel(_) => &mut census.channels,
                Handle::Store(_) => &mut census.stores,
            } += 1;
        }
        census
    }

    fn hold(&mut self, handle: Handle<N>) -> Id {
        let id = self.next;
        self.next += 1;
        self.handles.insert(id, handle);
        id
    }

    fn granted(&mut self, page: GrantedOf<N>) -> Answer {
        let (gref, len) = (page.grant_ref().get(), page.len() as u64);
        let id = self.hold(Handle::Granted(page));
        Answer::Granted { id, gref, len }
    }

    fn channel(&mut self, channel: ChannelOf<N>) -> Answer {
        let port = channel.port().get();
        let id = self.hold(Handle::Channel(channel));
        Answer::Channel { id, port }
    }

    fn channel_of(&self, id: Id) -> Result<&ChannelOf<N>, Failure> {
        match self.handles.get(&id) {
            Some(Handle::Channel(channel)) => Ok(channel),
            _ => Err(missing(id)),
        }
    }

    fn execute(&mut self, request: Request) -> Result<Answer, Failure> {
        Ok(match request {
            Request::Hello => Answer::Hello {
                domid: self.native.platform().domid().get(),
                capabilities: self.native.platform().capabilities().into(),
            },
            Request::Alloc { peer, read_only } => {
                let page = self
                    .native
                    .platform()
                    .alloc(DomId::new(peer), access(read_only))?;
                self.granted(page)
            }
            Request::Map {
                peer,
                refs,
                read_only,
            } => {
                let refs: Vec<_> = refs.into_iter().map(GrantRef::new).collect();
                let mapping =
                    self.native
                        .platform()
                        .map(DomId::new(peer), &refs, access(read_only))?;
                let len = mapping.len() as u64;
                let id = self.hold(Handle::Mapping(mapping));
                Answer::Mapping { id, len }
            }
            Request::Copy { peer, ops } => {
                Answer::Copied(copy(self.native.platform(), DomId::new(peer), ops)?)
            }
            Request::AllocUnbound { peer } => {
                let channel = self.native.platform().alloc_unbound(DomId::new(peer))?;
                self.channel(channel)
            }
            Request::Bind { peer, port } => {
                let channel = self
                    .native
                    .platform()
                    .bind(DomId::new(peer), EvtchnPort::new(port))?;
                self.channel(channel)
            }
            Request::Memory { id, call } => match self.handles.get(&id) {
                Some(Handle::Granted(page)) => memory(page, call),
                Some(Handle::Mapping(mapping)) => memory(mapping, call),
                _ => return Err(missing(id)),
            },
            Request::Revoke { id } => match self.handles.get_mut(&id) {
                Some(Handle::Granted(page)) => {
                    page.try_revoke()?;
                    Answer::Done
                }
                _ => return Err(missing(id)),
            },
            Request::Notify { id } => {
                self.channel_of(id)?.notify()?;
                Answer::Done
            }
            Request::TakePending { id } => Answer::Flag(self.channel_of(id)?.take_pending()?),
            Request::Unmask { id } => {
                self.channel_of(id)?.unmask()?;
                Answer::Done
            }
            Request::AdoptGranted { peer, gref } => {
                let page = self
                    .native
                    .adopt_granted(DomId::new(peer), GrantRef::new(gref));
                let page = page.ok_or_else(|| Failure::Other(format!("no page {gref} is left")))?;
                self.granted(page)
            }
            Request::AdoptChannel { port } => {
                let channel = self.native.adopt_channel(EvtchnPort::new(port));
                let channel =
                    channel.ok_or_else(|| Failure::Other(format!("no port {port} is left")))?;
                self.channel(channel)
            }
            Request::OpenStore => {
                let store = self.native.open_store()?;
                let id = self.hold(Handle::Store(store));
                Answer::Store { id }
            }
            Request::Store { id, call } => match self.handles.get_mut(&id) {
                Some(Handle::Store(connection)) => store(connection, call)?,
                _ => return Err(missing(id)),
            },
            Request::Drop { id } => {
                match self.handles.remove(&id).ok_or_else(|| missing(id))? {
                    Handle::Store(store) => self.native.close_store(store),
                    other => drop(other),
                }
                Answer::Done
            }
            Request::Census => Answer::Census(self.census()),
            Request::Die => return Err(Failure::Other("nobody here to kill it".to_owned())),
        })
    }
}

fn copy<P: Platform>(
    platform: &P,
    peer: DomId,
    mut ops: Vec<CopyOp>,
) -> Result<Vec<CopyResult>, PlatformError> {
    let mut elements: Vec<GrantCopy<'_>> = ops
        .iter_mut()
        .map(|op| match &mut op.local {
            CopyLocal::ToPeer(bytes) => {
                GrantCopy::to_peer(GrantRef::new(op.gref), op.offset, bytes)
            }
            CopyLocal::FromPeer(bytes) => {
                GrantCopy::from_peer(GrantRef::new(op.gref), op.offset, bytes)
            }
        })
        .collect();
    platform.copy(peer, &mut elements)?;
    let results = elements.iter().map(|element| CopyResult {
        status: element.status.get(),
        bytes: match &element.local {
            Local::ToPeer(_) => Vec::new(),
            Local::FromPeer(bytes) => bytes.to_vec(),
        },
    });
    Ok(results.collect())
}

fn memory<M: SharedMem>(memory: &M, call: MemoryCall) -> Answer {
    match call {
        MemoryCall::Load { offset } => return Answer::Word(memory.load_u32(size(offset))),
        MemoryCall::Store { offset, value } => memory.store_u32(size(offset), value),
        MemoryCall::Read { offset, len } => {
            let mut bytes = vec![0; size(len)];
            memory.read(size(offset), &mut bytes);
            return Answer::Bytes(bytes);
        }
        MemoryCall::Write { offset, bytes } => memory.write(size(offset), &bytes),
        MemoryCall::Fence => memory.fence(),
    }
    Answer::Done
}

fn store<S: Store>(store: &mut S, call: StoreCall) -> Result<Answer, StoreError> {
    match call {
        StoreCall::Read { tx, path, room } => {
            let mut room = vec![0; size(room)];
            let value = store.read(Tx::new(tx), &path, &mut room)?;
            return Ok(Answer::Bytes(value.to_vec()));
        }
        StoreCall::Write { tx, path, value } => store.write(Tx::new(tx), &path, &value)?,
        StoreCall::Mkdir { tx, path } => store.mkdir(Tx::new(tx), &path)?,
        StoreCall::Rm { tx, path } => store.rm(Tx::new(tx), &path)?,
        StoreCall::Directory { tx, path, room } => {
            let mut room = vec![0; size(room)];
            let names = store.directory(Tx::new(tx), &path, &mut room)?;
            let listed = names.flat_map(|name| [name.as_bytes(), b"\0"].concat());
            return Ok(Answer::Bytes(listed.collect()));
        }
        StoreCall::GetPerms { tx, path } => {
            let perms = store.get_perms(Tx::new(tx), &path)?;
            let texts = perms.iter().map(|perm| perm.text().as_str().to_owned());
            return Ok(Answer::Perms(texts.collect()));
        }
        StoreCall::SetPerms { tx, path, perms } => {
            store.set_perms(Tx::new(tx), &path, &parsed_perms(&perms))?;
        }
        StoreCall::Watch { path, token } => store.watch(&path, &token)?,
        StoreCall::Unwatch { path, token } => store.unwatch(&path, &token)?,
        StoreCall::NextWatch => {
            let event = store.next_watch()?.map(|event| match event {
                WatchEvent::Changed(changed) => Event::Changed {
                    path: changed.path.as_str().to_owned(),
                    token: changed.token.as_str().to_owned(),
                },
                WatchEvent::Rescan => Event::Rescan,
            });
            return Ok(Answer::Event(event));
        }
        StoreCall::Wait { millis } => store.wait(Some(Duration::from_millis(millis)))?,
        StoreCall::TransactionStart => {
            return Ok(Answer::Tx(store.transaction_start()?.get()));
        }
        StoreCall::TransactionEnd { tx, commit } => store.transaction_end(Tx::new(tx), commit)?,
    }
    Ok(Answer::Done)
}

/// Permissions out of their text. What does not parse becomes an entry for nobody, so that the list keeps its length.
#[must_use]
pub fn parsed_perms(texts: &[String]) -> Vec<Perm> {
    let nobody = Perm {
        domid: DomId::FIRST_RESERVED,
        access: NodeAccess::None,
    };
    let perms = texts.iter().map(|text| Perm::parse(text.as_bytes()));
    perms.map(|perm| perm.unwrap_or(nobody)).collect()
}

/// Answers what comes through the pages, for as long as the domain lives, where a panic is the domain's end.
///
/// # Errors
/// A message does not get through.
pub fn serve<N: Native>(
    agent: &mut Agent<N>,
    pages: &mut GuestEnd<N::Platform>,
    wait: Wait<'_, ChannelOf<N>>,
) -> Result<(), PagesError> {
    loop {
        let request = pages.next_request(wait)?;
        let answer = match postcard::from_bytes(&request) {
            Ok(request) => agent.answer(request),
            Err(error) => Answer::Failed(Failure::Other(error.to_string())),
        };
        match postcard::to_allocvec(&answer) {
            Ok(bytes) => pages.answer(&bytes)?,
            // Its caller waits in vain, and says so.
            Err(_) => continue,
        }
    }
}
