//! Compares the step functions with the tables beside them, for every input there is.

extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use super::{BackView, BackWish, Class, FrontView, FrontWish, Held, Peer, back, front};
use crate::wire::xenbus::XenbusState;

struct Row {
    line: usize,
    patterns: Vec<String>,
    action: String,
}

/// The lines with a source for each; the notes that the sources name must be there.
fn rows(text: &str, columns: usize) -> Vec<Row> {
    let mut rows = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let cells: Vec<String> = line.split_whitespace().map(String::from).collect();
        assert_eq!(cells.len(), columns + 2, "line {number}: {line}");
        let source = &cells[columns + 1];
        let header = ["io/blkif.h:", "io/netif.h:", "io/xenbus.h:"];
        let noted = text.lines().any(|l| l.starts_with(&format!("# {source} ")));
        assert!(
            noted || header.iter().any(|header| source.starts_with(header)),
            "line {number}: source {source}"
        );
        rows.push(Row {
            line: number,
            patterns: cells[..columns].to_vec(),
            action: cells[columns].clone(),
        });
    }
    rows
}

/// The action of the first row that fits.
fn expected<'r>(rows: &'r [Row], used: &mut [bool], input: &[String]) -> &'r str {
    let fits = |row: &Row| {
        let cells = row.patterns.iter().zip(input);
        cells.into_iter().all(|(pattern, value)| {
            pattern == "*" || pattern.split('|').any(|alternative| alternative == value)
        })
    };
    let place = rows.iter().position(fits);
    let place = place.unwrap_or_else(|| panic!("no line for {input:?}"));
    used[place] = true;
    &rows[place].action
}

fn assert_used(rows: &[Row], used: &[bool]) {
    for (row, used) in rows.iter().zip(used) {
        assert!(used, "line {} never holds", row.line);
    }
}

pub(super) const CLASSES: [(&str, Class); 2] = [("vbd", Class::Vbd), ("vif", Class::Vif)];
const HELD: [(&str, Held); 3] = [
    ("nothing", Held::Nothing),
    ("idle", Held::Idle),
    ("busy", Held::Busy),
];
const FLAGS: [(&str, bool); 2] = [("0", false), ("1", true)];

fn states() -> impl Iterator<Item = (String, XenbusState)> {
    let states = XenbusState::NAMED.iter();
    states.map(|(_, state)| (state.digit().to_string(), *state))
}

fn peers() -> impl Iterator<Item = (String, Peer)> {
    let others = [
        ("missing", Peer::Missing),
        ("denied", Peer::Denied),
        ("garbage", Peer::Garbage),
    ];
    others
        .into_iter()
        .map(|(name, peer)| (name.to_string(), peer))
        .chain(states().map(|(name, state)| (name, Peer::State(state))))
}

/// What is held, and by whom the directory is kept.
fn kept() -> impl Iterator<Item = ((&'static str, Held), (&'static str, bool))> {
    HELD.into_iter()
        .flat_map(|held| FLAGS.map(|flag| (held, flag)))
}

#[test]
fn the_backend_does_what_its_table_says() {
    let rows = rows(include_str!("back.table"), 8);
    let mut used = vec![false; rows.len()];
    let wishes = [
        ("run", BackWish::Run),
        ("detach", BackWish::Detach),
        ("retire", BackWish::Retire),
    ];
    let mut inputs = 0;
    for (class_name, class) in CLASSES {
        for (own_name, own) in states() {
            for (peer_name, peer) in peers() {
                for (online_name, online) in FLAGS {
                    for (ready_name, ready) in FLAGS {
                        for (wish_name, wish) in wishes {
                            for ((held_name, held), (keeper_name, keeper)) in kept() {
                                let input = [
                                    class_name,
                                    &own_name,
                                    &peer_name,
                                    online_name,
                                    ready_name,
                                    wish_name,
                                    held_name,
                                    keeper_name,
                                ]
                                .map(String::from);
                                let view = BackView {
                                    own,
                                    peer,
                                    online,
                                    ready,
                                    wish,
                                    held,
                                    keeper,
                                };
                                let action = format!("{:?}", back::step(class, &view));
                                assert_eq!(action, expected(&rows, &mut used, &input), "{input:?}");
                                inputs += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(inputs, 2 * 9 * 12 * 2 * 2 * 3 * 3 * 2);
    assert_used(&rows, &used);
}

#[test]
fn the_frontend_does_what_its_table_says() {
    let rows = rows(include_str!("front.table"), 6);
    let mut used = vec![false; rows.len()];
    let wishes = [
        ("run", FrontWish::Run),
        ("close", FrontWish::Close),
        ("retire", FrontWish::Retire),
    ];
    let mut inputs = 0;
    for (class_name, class) in CLASSES {
        for (own_name, own) in states() {
            for (peer_name, peer) in peers() {
                for (online_name, online) in FLAGS {
                    for (wish_name, wish) in wishes {
                        for (held_name, held) in HELD {
                            let input = [
                                class_name,
                                &own_name,
                                &peer_name,
                                online_name,
                                wish_name,
                                held_name,
                            ]
                            .map(String::from);
                            let view = FrontView {
                                own,
                                peer,
                                online,
                                wish,
                                held,
                            };
                            let action = format!("{:?}", front::step(class, &view));
                            assert_eq!(action, expected(&rows, &mut used, &input), "{input:?}");
                            inputs += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(inputs, 2 * 9 * 12 * 2 * 3 * 3);
    assert_used(&rows, &used);
}
