//! The store against a map: one client, with and without a transaction, no conflicts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringfence_core::DomId;
use ringfence_core::store::{Connection, Store as _, StoreError, Tx, WatchEvent};
use ringfence_xenstored::{MemoryTransport, Store};

#[derive(Clone, Debug)]
enum Action {
    Write(String, Vec<u8>),
    Mkdir(String),
    Rm(String),
    Read(String),
    List(String),
    Start,
    End(bool),
}

/// Few names, so that paths meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "a-", "a0"]), 1..5)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn action() -> impl Strategy<Value = Action> {
    let value = prop::collection::vec(any::<u8>(), 0..8);
    prop_oneof![
        4 => (path(), value).prop_map(|(path, value)| Action::Write(path, value)),
        2 => path().prop_map(Action::Mkdir),
        3 => path().prop_map(Action::Rm),
        3 => path().prop_map(Action::Read),
        3 => path().prop_map(Action::List),
        1 => Just(Action::Start),
        1 => any::<bool>().prop_map(Action::End),
    ]
}

type Map = BTreeMap<String, Vec<u8>>;

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn make(map: &mut Map, path: &str) {
    let mut at = path;
    while at != "/" {
        map.entry(at.to_owned()).or_default();
        at = parent(at);
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn children(map: &Map, path: &str) -> Result<BTreeSet<String>, StoreError> {
    if !map.contains_key(path) {
        return Err(StoreError::Missing);
    }
    let below = map.keys().filter(|key| parent(key) == path);
    Ok(below.map(|key| key[path.len() + 1..].to_owned()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_store_does_what_a_map_does(actions in prop::collection::vec(action(), 1..60)) {
        let mut store = Store::new();
        let conn = store.connect(DomId::DOM0);
        let mut client = Connection::<_>::new(MemoryTransport::new(&mut store, conn));
        let mut map = Map::new();
        let mut open: Option<(Tx, Map)> = None;
        for action in actions {
            let tx = open.as_ref().map_or(Tx::NONE, |(tx, _)| *tx);
            let seen = open.as_mut().map_or(&mut map, |(_, map)| map);
            match action {
                Action::Write(path, value) => {
                    prop_assert_eq!(client.write(tx, &path, &value), Ok(()));
                    make(seen, &path);
                    seen.insert(path, value);
                }
                Action::Mkdir(path) => {
                    prop_assert_eq!(client.mkdir(tx, &path), Ok(()));
                    make(seen, &path);
                }
                Action::Rm(path) => {
                    let known = seen.contains_key(&path) || parent(&path) == "/" || seen.contains_key(parent(&path));
                    let expected = if known { Ok(()) } else { Err(StoreError::Missing) };
                    prop_assert_eq!(client.rm(tx, &path), expected);
                    seen.retain(|key, _| *key != path && !is_below(key, &path));
                }
                Action::Read(path) => {
                    let expected = seen.get(&path).map(Vec::as_slice).ok_or(StoreError::Missing);
                    let mut buf = [0; 64];
                    prop_assert_eq!(client.read(tx, &path, &mut buf), expected);
                }
                Action::List(path) => {
                    let mut buf = [0; 256];
                    let listed = client.directory(tx, &path, &mut buf);
                    let listed = listed.map(|names| names.map(str::to_owned).collect());
                    prop_assert_eq!(listed, children(seen, &path));
                }
                Action::Start => {
                    if open.is_none() {
                        open = Some((client.transaction_start().unwrap(), map.clone()));
                    }
                }
                Action::End(commit) => {
                    if let Some((tx, changed)) = open.take() {
                        prop_assert_eq!(client.transaction_end(tx, commit), Ok(()));
                        if commit {
                            map = changed;
                        }
                    }
                }
            }
        }
        drop(client);
        prop_assert_eq!(store.check(), Ok(()));
    }

    /// Two clients, each in a transaction: both commits succeed only if one of the two orders explains all that was read.
    #[test]
    fn commits_that_succeed_have_an_order(
        first in prop::collection::vec((0usize..3, any::<bool>()), 1..6),
        second in prop::collection::vec((0usize..3, any::<bool>()), 1..6),
    ) {
        let mut store = Store::new();
        let conns = [store.connect(DomId::DOM0), store.connect(DomId::DOM0)];
        let node = |n: usize| format!("/n/{n}");
        let run = |store: &mut Store, who: usize, tx: Option<Tx>, step: &str, n: usize| {
            let mut client = Connection::<_>::new(MemoryTransport::new(&mut *store, conns[who]));
            let tx = tx.unwrap_or(Tx::NONE);
            match step {
                "start" => client.transaction_start().map(|tx| tx.get().to_le_bytes().to_vec()),
                "commit" => client.transaction_end(tx, true).map(|()| Vec::new()),
                "read" => client.read(tx, &node(n), &mut [0; 8]).map(<[u8]>::to_vec),
                value => client.write(tx, &node(n), value.as_bytes()).map(|()| Vec::new()),
            }
        };
        for n in 0..3 {
            run(&mut store, 0, None, "0", n).unwrap();
        }
        let mut tx = [Tx::NONE; 2];
        for (who, tx) in tx.iter_mut().enumerate() {
            let id = run(&mut store, who, None, "start", 0).unwrap();
            *tx = Tx::new(u32::from_le_bytes(id.try_into().unwrap()));
        }
        let plans = [&first, &second];
        let mut read = [Vec::new(), Vec::new()];
        for at in 0..6 {
            for who in 0..2 {
                if let Some((n, write)) = plans[who].get(at) {
                    let value = if *write { ["A", "B"][who] } else { "read" };
                    let answer = run(&mut store, who, Some(tx[who]), value, *n).unwrap();
                    if !write {
                        read[who].push(answer);
                    }
                }
            }
        }
        let done = [0, 1].map(|who| run(&mut store, who, Some(tx[who]), "commit", 0));
        prop_assert_eq!(&done[0], &Ok(Vec::new()), "the first commit meets nobody");
        if done[1].is_err() {
            return Ok(());
        }
        let explained = [[0, 1], [1, 0]].into_iter().any(|order| {
            let mut state = ["0"; 3];
            let mut as_read = [Vec::new(), Vec::new()];
            for who in order {
                for (n, write) in plans[who] {
                    if *write {
                        state[*n] = ["A", "B"][who];
                    } else {
                        as_read[who].push(state[*n].as_bytes().to_vec());
                    }
                }
            }
            let now = (0..3).map(|n| run(&mut store, 0, None, "read", n).unwrap());
            as_read == read && now.eq(state.iter().map(|value| value.as_bytes().to_vec()))
        });
        prop_assert!(explained);
    }
}

#[test]
fn relative_watches_report_relative_paths() {
    let mut store = Store::new();
    let conn = store.connect(DomId::DOM0);
    let mut client = Connection::<_>::new(MemoryTransport::new(&mut store, conn));
    client.watch("data", "t").unwrap();
    client.watch("/local/domain/0", "u").unwrap();
    while client.next_watch().unwrap().is_some() {}
    client.write(Tx::NONE, "data/x", b"1").unwrap();
    let mut heard = Vec::new();
    while let Some(WatchEvent::Changed(event)) = client.next_watch().unwrap() {
        heard.push(format!("{} {}", event.path, event.token));
    }
    assert_eq!(heard, ["data/x t", "/local/domain/0/data/x u"]);
    client.unwatch("data", "t").unwrap();
    assert_eq!(client.unwatch("data", "t"), Err(StoreError::Missing));
}
