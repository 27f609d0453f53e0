//! What the toolstack asks of a guest: `control/shutdown` in its home in XenStore, as `xl shutdown`, `xl reboot`, `xl save` and
//! `xl migrate` write it.

use ringfence_core::store::{Store, StoreError, StoreExt as _, Tx};

/// The token of the watch that [`listen`] sets.
pub const TOKEN: &str = "ringfence-control";

/// The node, in the domain's home.
const NODE: &str = "control/shutdown";

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// To end: [`shutdown`](crate::shutdown).
    Poweroff,
    /// To end, and be started again.
    Reboot,
    /// To be saved: [`Guest::suspend`](crate::Guest::suspend).
    Suspend,
}

impl Request {
    fn parse(word: &[u8]) -> Option<Self> {
        match word {
            b"poweroff" | b"halt" => Some(Self::Poweroff),
            b"reboot" => Some(Self::Reboot),
            b"suspend" => Some(Self::Suspend),
            _ => None,
        }
    }
}

/// Watches for requests, and says that they are heard: at the start, and again after having been restored.
///
/// # Errors
/// The store failed.
pub fn listen<S: Store>(store: &mut S) -> Result<(), StoreError> {
    for feature in ["feature-poweroff", "feature-reboot", "feature-suspend"] {
        match store.write_str(Tx::NONE, "control", feature, "1") {
            // For the toolstack to read where it lets us say so, and it asks all the same.
            Ok(()) | Err(StoreError::Denied) => {}
            Err(error) => return Err(error),
        }
    }
    store.watch(NODE, TOKEN)
}

/// Takes what is asked, if anything is. This tells the toolstack that it was heard: then it waits for the deed.
///
/// # Errors
/// The store failed.
pub fn take<S: Store>(store: &mut S) -> Result<Option<Request>, StoreError> {
    store.transaction(|store, tx| {
        let mut room = [0; 32];
        let word = match store.read(tx, NODE, &mut room) {
            Ok(word) => word,
            // Longer than any word that is known here.
            Err(StoreError::TooLong { .. }) => b"?",
            Err(StoreError::Missing) => b"",
            Err(error) => return Err(error),
        };
        if word.is_empty() {
            return Ok(None);
        }
        let asked = Request::parse(word);
        store.write(tx, NODE, b"")?;
        Ok(asked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::DomId;
    use ringfence_core::store::Perm;
    use ringfence_sim::World;

    #[test]
    fn a_request_is_heard_once() {
        let world = World::new();
        let mut guest = world.create(DomId::new(1)).store();
        let mut dom0 = world.store(DomId::DOM0);
        let node = "/local/domain/1/control/shutdown";
        dom0.write(Tx::NONE, node, b"").unwrap();
        let perms = [Perm::owner(DomId::new(1))];
        dom0.set_perms(Tx::NONE, node, &perms).unwrap();
        // It may not write beside the node, and need not.
        listen(&mut guest).unwrap();
        while guest.next_watch().unwrap().is_some() {}
        assert_eq!(take(&mut guest), Ok(None));
        let words = [
            ("suspend", Some(Request::Suspend)),
            ("halt", Some(Request::Poweroff)),
            ("poweroff", Some(Request::Poweroff)),
            ("reboot", Some(Request::Reboot)),
            ("dance", None),
            ("something that takes more than 32 bytes", None),
        ];
        for (word, request) in words {
            dom0.write(Tx::NONE, node, word.as_bytes()).unwrap();
            assert!(guest.next_watch().unwrap().is_some(), "{word}");
            assert_eq!(take(&mut guest), Ok(request), "{word}");
            let mut room = [0; 32];
            assert_eq!(dom0.read(Tx::NONE, node, &mut room).unwrap(), b"");
            assert_eq!(take(&mut guest), Ok(None));
        }
    }
}
