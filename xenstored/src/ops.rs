//! Requests: from a complete message to its answer.

mod control;
mod domains;
mod list;
mod nodes;
mod perms;
mod transactions;
mod watches;

use ringfence_core::DomId;
use ringfence_core::weakened;
use ringfence_core::wire::xs_wire::{Errno, Op, SockMsg};

use crate::connection::ConnId;
use crate::perms::Caller;
use crate::quota::Limits;
use crate::store::Store;
use crate::transaction::{Change, Transaction, View};
use crate::watch::WatchId;

/// What most requests are answered with.
pub(crate) const OK: &[u8] = b"OK\0";

/// One request while it is done.
pub(crate) struct Request<'a> {
    pub(crate) conn: ConnId,
    pub(crate) header: SockMsg,
    pub(crate) caller: Caller,
    pub(crate) payload: &'a [u8],
    pub(crate) tx_id: u32,
    pub(crate) tx: Option<Transaction>,
    /// To be told.
    pub(crate) changes: Vec<Change>,
    /// A watch that fires for its registration, after the answer.
    pub(crate) registered: Option<WatchId>,
}

/// A request about nodes, and what it works on.
pub(crate) struct Nodes<'a> {
    pub(crate) view: View<'a>,
    pub(crate) caller: Caller,
    pub(crate) limits: Limits,
    /// Bytes kept for the caller besides its nodes.
    pub(crate) kept: i64,
}

impl Request<'_> {
    /// The only string of the payload.
    pub(crate) fn one(&self) -> Result<&[u8], Errno> {
        match self.payload.split_last() {
            Some((0, text)) if !text.contains(&0) => Ok(text),
            _ => Err(Errno::Inval),
        }
    }

    /// Exactly `N` strings.
    pub(crate) fn strings<const N: usize>(&self) -> Result<[&[u8]; N], Errno> {
        self.list()?.try_into().map_err(|_| Errno::Inval)
    }

    /// All strings.
    pub(crate) fn list(&self) -> Result<Vec<&[u8]>, Errno> {
        match self.payload.split_last() {
            Some((0, text)) => Ok(text.split(|byte| *byte == 0).collect()),
            _ => Err(Errno::Inval),
        }
    }

    /// The first string and whatever follows its NUL.
    pub(crate) fn head(&self) -> Result<(&[u8], &[u8]), Errno> {
        let mut parts = self.payload.splitn(2, |byte| *byte == 0);
        match (parts.next(), parts.next()) {
            (Some(head), Some(rest)) => Ok((head, rest)),
            _ => Err(Errno::Inval),
        }
    }

    pub(crate) fn dom0_only(&self) -> Result<(), Errno> {
        if self.caller.is_privileged() {
            Ok(())
        } else {
            Err(Errno::Acces)
        }
    }
}

/// A domid as it is written in a request.
pub(crate) fn domid(text: &[u8]) -> Result<DomId, Errno> {
    let number = ringfence_core::store::number::unsigned(text).ok_or(Errno::Inval)?;
    let domid = DomId::new(u16::try_from(number).map_err(|_| Errno::Inval)?);
    if domid >= DomId::FIRST_RESERVED {
        Err(Errno::Inval)
    } else {
        Ok(domid)
    }
}

impl Store {
    /// Does the connection's complete request, if there is one and it may be done now. Returns whether one was.
    pub(crate) fn run(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.conns.get(&conn) else {
            return false;
        };
        let outstanding = self.limits_of(connection.who.domid).outstanding;
        let Some((header, payload)) = connection.request() else {
            return false;
        };
        if connection.out.replies() >= outstanding && !weakened!("xsa_326_outstanding") {
            return false;
        }
        if connection.introducing.is_some() || self.must_wait(conn, header, payload) {
            return false;
        }
        let payload = payload.to_vec();
        // Done with before it is begun: a release may look at every connection again, this one among them.
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.done();
        }
        let (answer, changes, registered) = self.answer(conn, header, &payload);
        // As Xen's daemon has it: whoever changes what they watch hears of it before the answer.
        self.fire(&changes);
        if let Some(connection) = self.conns.get_mut(&conn)
            && connection.introducing.is_none()
        {
            connection.answer(header, answer);
        }
        if let Some(watch) = registered {
            let path = self
                .watches
                .get(watch)
                .map(|watch| watch.path.clone())
                .unwrap_or_default();
            self.notify(watch, &path);
        }
        true
    }

    fn answer(
        &mut self,
        conn: ConnId,
        header: SockMsg,
        payload: &[u8],
    ) -> (Result<Vec<u8>, Errno>, Vec<Change>, Option<WatchId>) {
        let Some(caller) = self.caller(conn) else {
            return (Err(Errno::Inval), Vec::new(), None);
        };
        let mut request = Request {
            conn,
            header,
            caller,
            payload,
            tx_id: header.tx_id,
            tx: None,
            changes: Vec::new(),
            registered: None,
        };
        let result = self.dispatch(header.op, &mut request);
        (result, request.changes, request.registered)
    }

    fn dispatch(&mut self, op: Op, request: &mut Request<'_>) -> Result<Vec<u8>, Errno> {
        match op {
            Op::DIRECTORY
            | Op::READ
            | Op::GET_PERMS
            | Op::WRITE
            | Op::MKDIR
            | Op::RM
            | Op::SET_PERMS
            | Op::DIRECTORY_PART => self.in_transaction(request, |store, request| match op {
                Op::DIRECTORY => store.directory(request),
                Op::DIRECTORY_PART => store.directory_part(request),
                Op::READ => store.read(request),
                Op::GET_PERMS => store.get_perms(request),
                Op::SET_PERMS => store.set_perms(request),
                Op::WRITE => store.write(request),
                Op::MKDIR => store.mkdir(request),
                _ => store.rm(request),
            }),
            Op::CONTROL => self.control(request),
            Op::WATCH => self.watch(request),
            Op::UNWATCH => self.unwatch(request),
            Op::RESET_WATCHES => self.reset_watches(request),
            Op::TRANSACTION_START => self.transaction_start(request),
            Op::TRANSACTION_END => self.transaction_end(request),
            Op::INTRODUCE => self.introduce_request(request),
            Op::RELEASE => self.release_request(request),
            Op::RESUME => self.resume_request(request),
            Op::SET_TARGET => self.set_target(request),
            Op::GET_DOMAIN_PATH => self.get_domain_path(request),
            Op::IS_DOMAIN_INTRODUCED => self.is_domain_introduced(request),
            _ => Err(Errno::NoSys),
        }
    }

    /// Runs a request about nodes with its transaction, if it names one, taken out of the connection meanwhile.
    fn in_transaction(
        &mut self,
        request: &mut Request<'_>,
        body: impl FnOnce(&mut Self, &mut Request<'_>) -> Result<Vec<u8>, Errno>,
    ) -> Result<Vec<u8>, Errno> {
        let tx_id = request.tx_id;
        if tx_id != 0 {
            let connection = self.conns.get_mut(&request.conn).ok_or(Errno::Inval)?;
            request.tx = Some(connection.transactions.remove(&tx_id).ok_or(Errno::NoEnt)?);
        }
        let before = request.tx.as_ref().map_or(0, Transaction::bytes);
        let result = body(self, request);
        if let (Some(tx), Some(connection)) = (request.tx.take(), self.conns.get_mut(&request.conn))
        {
            let grown = tx.bytes().saturating_sub(before);
            connection.transactions.insert(tx_id, tx);
            let domain = self.domain_mut(request.caller.who.domid);
            domain.tx_bytes = domain.tx_bytes.saturating_add_signed(grown);
        }
        result
    }

    /// What a request about nodes works on.
    fn nodes<'a>(&'a mut self, request: &'a mut Request<'_>) -> Nodes<'a> {
        let domid = request.caller.who.domid;
        let limits = self.limits_of(domid);
        let kept = self.domains.get(&domid).map_or(0, |domain| {
            domain.watch_bytes.saturating_add(domain.tx_bytes)
        });
        Nodes {
            view: View {
                tree: &mut self.tree,
                tx: request.tx.as_mut(),
                tx_nodes: limits.transaction_nodes,
                changes: &mut request.changes,
            },
            caller: request.caller,
            limits,
            kept: i64::try_from(kept).unwrap_or(i64::MAX),
        }
    }
}
