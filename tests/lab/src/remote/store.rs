//! XenStore as the agent's domain sees it.

use std::rc::Rc;
use std::time::Duration;

use ringfence_core::store::{Changed, Names, Perm, Perms, Store, StoreError, Tx, WatchEvent};

use super::{Line, unexpected};
use ringfence_lab_agent::parsed_perms;
use ringfence_lab_agent::rpc::{Answer, Event, Failure, Id, Request, StoreCall};

/// How long an agent waits at a time: it does nothing else meanwhile.
const SPELL: Duration = Duration::from_secs(1);

/// A connection to XenStore that the agent holds.
#[derive(Debug)]
pub struct RemoteStore {
    line: Rc<Line>,
    id: Id,
}

type Result<T> = std::result::Result<T, StoreError>;

impl RemoteStore {
    pub(super) const fn new(line: Rc<Line>, id: Id) -> Self {
        Self { line, id }
    }

    fn ask(&self, call: StoreCall) -> Result<Answer> {
        let request = Request::Store { id: self.id, call };
        self.line.ask(&request).map_err(Failure::into_store)
    }

    fn done(&self, call: StoreCall) -> Result<()> {
        let request = Request::Store { id: self.id, call };
        self.line.done(&request, Failure::into_store)
    }

    fn bytes<'b>(&self, call: StoreCall, buf: &'b mut [u8]) -> Result<&'b [u8]> {
        match self.ask(call)? {
            Answer::Bytes(bytes) => {
                let room = &mut buf[..bytes.len()];
                room.copy_from_slice(&bytes);
                Ok(room)
            }
            other => unexpected(&Request::OpenStore, &other),
        }
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        self.line.release(self.id);
    }
}

impl Store for RemoteStore {
    fn read<'b>(&mut self, tx: Tx, path: &str, buf: &'b mut [u8]) -> Result<&'b [u8]> {
        let call = StoreCall::Read {
            tx: tx.get(),
            path: path.to_owned(),
            room: buf.len() as u64,
        };
        self.bytes(call, buf)
    }

    fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<()> {
        self.done(StoreCall::Write {
            tx: tx.get(),
            path: path.to_owned(),
            value: value.to_vec(),
        })
    }

    fn mkdir(&mut self, tx: Tx, path: &str) -> Result<()> {
        self.done(StoreCall::Mkdir {
            tx: tx.get(),
            path: path.to_owned(),
        })
    }

    fn rm(&mut self, tx: Tx, path: &str) -> Result<()> {
        self.done(StoreCall::Rm {
            tx: tx.get(),
            path: path.to_owned(),
        })
    }

    fn directory<'b>(&mut self, tx: Tx, path: &str, buf: &'b mut [u8]) -> Result<Names<'b>> {
        let call = StoreCall::Directory {
            tx: tx.get(),
            path: path.to_owned(),
            room: buf.len() as u64,
        };
        self.bytes(call, buf).map(Names::new)
    }

    fn get_perms(&mut self, tx: Tx, path: &str) -> Result<Perms> {
        let call = StoreCall::GetPerms {
            tx: tx.get(),
            path: path.to_owned(),
        };
        match self.ask(call)? {
            Answer::Perms(texts) => Ok(parsed_perms(&texts).into_iter().collect()),
            other => unexpected(&Request::OpenStore, &other),
        }
    }

    fn set_perms(&mut self, tx: Tx, path: &str, perms: &[Perm]) -> Result<()> {
        let texts = perms.iter().map(|perm| perm.text().as_str().to_owned());
        self.done(StoreCall::SetPerms {
            tx: tx.get(),
            path: path.to_owned(),
            perms: texts.collect(),
        })
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        self.done(StoreCall::Watch {
            path: path.to_owned(),
            token: token.to_owned(),
        })
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        self.done(StoreCall::Unwatch {
            path: path.to_owned(),
            token: token.to_owned(),
        })
    }

    fn next_watch(&mut self) -> Result<Option<WatchEvent>> {
        match self.ask(StoreCall::NextWatch)? {
            Answer::Event(None) => Ok(None),
            Answer::Event(Some(Event::Rescan)) => Ok(Some(WatchEvent::Rescan)),
            Answer::Event(Some(Event::Changed { path, token })) => {
                let (path, token) = (path.as_str().try_into(), token.as_str().try_into());
                let (Ok(path), Ok(token)) = (path, token) else {
                    return Ok(Some(WatchEvent::Rescan));
                };
                Ok(Some(WatchEvent::Changed(Changed { path, token })))
            }
            other => unexpected(&Request::OpenStore, &other),
        }
    }

    /// Returns early when it would wait longer than an agent waits at a time, as the trait's implementors may.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        let spell = timeout.unwrap_or(SPELL).min(SPELL);
        self.done(StoreCall::Wait {
            millis: u64::try_from(spell.as_millis()).unwrap_or(0),
        })
    }

    fn transaction_start(&mut self) -> Result<Tx> {
        match self.ask(StoreCall::TransactionStart)? {
            Answer::Tx(tx) => Ok(Tx::new(tx)),
            other => unexpected(&Request::OpenStore, &other),
        }
    }

    fn transaction_end(&mut self, tx: Tx, commit: bool) -> Result<()> {
        self.done(StoreCall::TransactionEnd {
            tx: tx.get(),
            commit,
        })
    }
}
