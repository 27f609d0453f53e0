//! The store of an island: a table of nodes, for one who asks at a time.

use core::time::Duration;

use heapless::{String, Vec};
use ringfence_core::DomId;
use ringfence_core::store::{Names, NodeAccess, Perm, Perms, Store, StoreError, Tx, WatchEvent};
use ringfence_core::wire::xs_wire::Errno;

/// Paths and their values.
pub struct Nodes(Vec<(String<64>, Vec<u8, 64>), 32>);

impl Nodes {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    fn find(&self, path: &str) -> Result<usize, StoreError> {
        let found = self.0.iter().position(|(own, _)| own == path);
        found.ok_or(StoreError::Missing)
    }
}

const fn full() -> StoreError {
    StoreError::Refused(Errno::NoSpc)
}

impl Store for Nodes {
    fn read<'b>(&mut self, _: Tx, path: &str, buf: &'b mut [u8]) -> Result<&'b [u8], StoreError> {
        let value = &self.0[self.find(path)?].1;
        let (len, room) = (value.len(), buf.len());
        let part = buf
            .get_mut(..len)
            .ok_or(StoreError::TooLong { len, room })?;
        part.copy_from_slice(value);
        Ok(part)
    }

    fn write(&mut self, _: Tx, path: &str, value: &[u8]) -> Result<(), StoreError> {
        let value = Vec::from_slice(value).map_err(|_| full())?;
        if let Ok(at) = self.find(path) {
            self.0[at].1 = value;
            return Ok(());
        }
        let path = String::try_from(path).map_err(|_| full())?;
        self.0.push((path, value)).map_err(|_| full())
    }

    fn mkdir(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        match self.find(path) {
            Ok(_) => Ok(()),
            Err(_) => self.write(tx, path, b""),
        }
    }

    fn rm(&mut self, _: Tx, path: &str) -> Result<(), StoreError> {
        let below = |own: &str| {
            own.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.retain(|(own, _)| !below(own));
        Ok(())
    }

    /// A frontend asks for names that it knows.
    fn directory<'b>(&mut self, _: Tx, _: &str, _: &'b mut [u8]) -> Result<Names<'b>, StoreError> {
        Err(StoreError::Refused(Errno::NoSys))
    }

    fn get_perms(&mut self, _: Tx, _: &str) -> Result<Perms, StoreError> {
        let all = Perm {
            domid: DomId::DOM0,
            access: NodeAccess::Both,
        };
        Perms::from_slice(&[all]).map_err(|_| full())
    }

    fn set_perms(&mut self, _: Tx, _: &str, _: &[Perm]) -> Result<(), StoreError> {
        Ok(())
    }

    /// The guest steps its frontend after each turn of the driver domain and so needs no event.
    fn watch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn unwatch(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn next_watch(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        Ok(None)
    }

    fn wait(&mut self, _: Option<Duration>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Nobody else writes meanwhile.
    fn transaction_start(&mut self) -> Result<Tx, StoreError> {
        Ok(Tx::new(1))
    }

    fn transaction_end(&mut self, _: Tx, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
}
