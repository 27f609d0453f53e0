//! Both ends, a toolstack and death, explored exhaustively: whatever happened, once nothing more happens the two ends come to
//! 4 and 4 or to 6 and 6, and neither ever writes a state that does not follow from its last one.

extern crate std;

use std::collections::{HashMap, HashSet};
use std::vec;
use std::vec::Vec;

use super::table::CLASSES;
use super::{
    BackAction, BackView, BackWish, Class, FrontAction, FrontView, FrontWish, Held, Peer, back,
    front,
};
use crate::wire::xenbus::XenbusState::{self as S, *};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct World {
    back: S,
    front: S,
    online: bool,
    ready: bool,
    back_held: u8,
    front_held: u8,
    back_wish: u8,
    front_wish: u8,
    /// The backend removes its directory itself.
    keeper: bool,
    /// The backend forgot the device.
    removed: bool,
    /// And its directory with it.
    erased: bool,
    /// The frontend's directory is gone, and the frontend with it: what is seen of it then.
    gone: Option<Gone>,
    /// Things that can still go wrong.
    trouble: u8,
}

/// How a directory that is gone looks: it depends on the one above it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Gone {
    Missing,
    Denied,
}

const START: World = World {
    back: Initialising,
    front: Initialising,
    online: true,
    ready: false,
    back_held: 0,
    front_held: 0,
    back_wish: 0,
    front_wish: 0,
    keeper: false,
    removed: false,
    erased: false,
    gone: None,
    trouble: 3,
};

const HELD: [Held; 3] = [Held::Nothing, Held::Idle, Held::Busy];
const BACK: [BackWish; 2] = [BackWish::Run, BackWish::Retire];
const FRONT: [FrontWish; 3] = [FrontWish::Run, FrontWish::Close, FrontWish::Retire];

/// The states that may follow each other in one node: those of the headers' diagrams.
fn legal(class: Class, from: S, to: S, backend: bool) -> bool {
    match (from, to) {
        (Initialising | InitWait | Initialised | Connected, Closing) | (Closing, Closed) => true,
        (Initialising, InitWait) | (InitWait, Connected) | (Closed, InitWait) => backend,
        (Initialising, Initialised) | (Initialised, Connected) => !backend && class == Class::Vbd,
        (Initialising, Connected) => !backend && class == Class::Vif,
        (Closed, Initialising) => !backend,
        _ => false,
    }
}

impl World {
    fn back_step(mut self, class: Class) -> Option<Self> {
        if self.removed {
            return None;
        }
        let view = BackView {
            own: self.back,
            peer: match self.gone {
                Some(Gone::Missing) => Peer::Missing,
                Some(Gone::Denied) => Peer::Denied,
                None => Peer::State(self.front),
            },
            online: self.online,
            ready: self.ready,
            wish: BACK[usize::from(self.back_wish)],
            held: HELD[usize::from(self.back_held)],
            keeper: self.keeper,
        };
        let from = self.back;
        match back::step(class, &view) {
            BackAction::Wait => return None,
            BackAction::Publish | BackAction::Reinitialise => self.back = InitWait,
            BackAction::Connect => (self.back, self.back_held) = (Connected, 2),
            BackAction::Resume => self.back_held = 2,
            BackAction::BeginClosing | BackAction::Fail => self.back = Closing,
            BackAction::Drain => self.back_held = 1,
            // The fault was the frontend's: it may come again.
            BackAction::Disconnect => {
                (self.back, self.back_held, self.back_wish) = (Closed, 0, 0);
            }
            BackAction::Remove => (self.removed, self.back_held) = (true, 0),
            BackAction::Erase => {
                assert!(
                    !self.online || self.gone.is_some(),
                    "taken from a guest: {self:?}"
                );
                assert_eq!(self.back_held, 0, "erased while held: {self:?}");
                (self.removed, self.erased) = (true, true);
            }
        }
        assert!(
            from == self.back || legal(class, from, self.back, true),
            "{class:?} backend wrote {} after {from}",
            self.back
        );
        Some(self)
    }

    fn front_step(mut self, class: Class) -> Option<Self> {
        if self.gone.is_some() {
            return None;
        }
        let view = FrontView {
            own: self.front,
            peer: if self.erased {
                Peer::Missing
            } else {
                Peer::State(self.back)
            },
            // A node that is missing counts as true.
            online: self.online || self.erased,
            wish: FRONT[usize::from(self.front_wish)],
            held: HELD[usize::from(self.front_held)],
        };
        let from = self.front;
        match front::step(class, &view) {
            FrontAction::Wait => return None,
            FrontAction::Publish => {
                self.front = match class {
                    Class::Vbd => Initialised,
                    Class::Vif => Connected,
                };
                self.front_held = 2;
            }
            FrontAction::Connect => self.front = Connected,
            FrontAction::BeginClosing | FrontAction::Fail => self.front = Closing,
            // Answers come from a backend that has the ring, and from no other.
            FrontAction::Drain if self.back_held == 0 => return None,
            FrontAction::Drain => self.front_held = 1,
            FrontAction::Disconnect => self.front = Closed,
            FrontAction::Release => {
                // Ours is reused from here on: nobody may have it mapped.
                assert_eq!(self.back_held, 0, "released under the backend: {self:?}");
                self.front_held = 0;
            }
            FrontAction::Reinitialise => self.front = Initialising,
        }
        assert!(
            from == self.front || legal(class, from, self.front, false),
            "{class:?} frontend wrote {} after {from}",
            self.front
        );
        Some(self)
    }

    /// What the two do, one at a time in either order.
    fn steps(self, class: Class) -> Vec<Self> {
        let ready = (!self.ready).then_some(Self {
            ready: true,
            ..self
        });
        [self.back_step(class), self.front_step(class), ready]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What may happen to them.
    fn troubles(self) -> Vec<Self> {
        let Some(trouble) = self.trouble.checked_sub(1) else {
            return vec![];
        };
        let next = Self { trouble, ..self };
        let mut all = vec![
            // The processes die; the nodes stay, and what was mapped is not.
            Self {
                back_held: 0,
                back_wish: 0,
                ..next
            },
            // Only the toolstack's directory tells the next frontend process what to do.
            Self {
                front_held: 0,
                front_wish: 0,
                ..next
            },
            Self {
                front_wish: 1,
                ..next
            },
            Self {
                front_wish: 2,
                ..next
            },
            Self {
                online: false,
                ..next
            },
        ];
        if self.gone.is_none() {
            // The guest's domain was destroyed, or it removed its own directory.
            all.extend([Gone::Missing, Gone::Denied].map(|gone| Self {
                front_held: 0,
                gone: Some(gone),
                ..next
            }));
        }
        if !self.removed {
            if self.back != Closed {
                all.push(Self {
                    back_wish: 1,
                    ..next
                });
            }
            // A detach as toolstacks write it: both at once, the state into the backend's own node.
            let back = if self.back == Closed { Closed } else { Closing };
            all.push(Self {
                online: false,
                back,
                ..next
            });
        }
        all
    }

    /// Where they may rest.
    fn good(&self, class: Class) -> bool {
        let both_held_nothing = self.back_held == 0 && self.front_held == 0;
        if self.gone.is_some() {
            // A device that never connected waits for its frontend, as it may just not be there yet.
            let over = self.back == Closed && self.removed == (self.keeper || !self.online);
            return both_held_nothing
                && (over || self.back == InitWait)
                && self.erased <= self.keeper;
        }
        if self.erased && self.front == Initialising {
            // Came again when its disk was just detached: it waits for a backend and holds nothing.
            return self.keeper && both_held_nothing;
        }
        match (self.back, self.front) {
            (Connected, Connected) => {
                self.back_held > 0 && self.front_held > 0 && self.front_wish == 0
            }
            (Closed, Closed) => {
                let stays = self.removed || self.front_wish != 0;
                both_held_nothing && stays && self.erased == (self.removed && self.keeper)
            }
            _ => panic!("{class:?} rests at {self:?}"),
        }
    }
}

fn reachable(class: Class, keeper: bool) -> HashSet<World> {
    let start = World { keeper, ..START };
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some(world) = open.pop() {
        for next in world.steps(class).into_iter().chain(world.troubles()) {
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Rest {
    back: S,
    /// `None` if its directory is gone.
    front: Option<S>,
    erased: bool,
}

/// Follows every run from `world` without further trouble. A world met again on its own path would be a run without end.
fn settle(class: Class, world: World, known: &mut HashMap<World, bool>, rests: &mut HashSet<Rest>) {
    let mut path = vec![(world, false)];
    while let Some((world, done)) = path.pop() {
        if done {
            known.insert(world, true);
            continue;
        }
        match known.get(&world) {
            Some(true) => continue,
            Some(false) => panic!("{class:?} goes round and round through {world:?}"),
            None => {}
        }
        known.insert(world, false);
        path.push((world, true));
        let next = world.steps(class);
        if next.is_empty() {
            assert!(world.good(class), "{class:?} rests at {world:?}");
            rests.insert(Rest {
                back: world.back,
                front: world.gone.is_none().then_some(world.front),
                erased: world.erased,
            });
        }
        for next in next {
            match known.get(&next) {
                Some(true) => {}
                Some(false) => panic!("{class:?} goes round and round through {next:?}"),
                None => path.push((next, false)),
            }
        }
    }
}

#[test]
fn every_run_ends_connected_or_closed() {
    let keepers = [false, true];
    let kinds = CLASSES
        .iter()
        .flat_map(|kind| keepers.map(|keeper| (kind, keeper)));
    for ((name, class), keeper) in kinds {
        let class = *class;
        let worlds = reachable(class, keeper);
        assert!(worlds.len() > 1000, "{name}: {} worlds", worlds.len());
        let mut known = HashMap::new();
        let mut rests = HashSet::new();
        for world in worlds {
            settle(class, world, &mut known, &mut rests);
        }
        let rest = |back, front, erased| Rest {
            back,
            front,
            erased,
        };
        let mut expected = HashSet::from([
            rest(Connected, Some(Connected), false),
            rest(Closed, Some(Closed), false),
            rest(InitWait, None, false),
            rest(Closed, None, keeper),
        ]);
        if keeper {
            expected.insert(rest(Closed, Some(Closed), true));
            expected.insert(rest(Closed, Some(Initialising), true));
        }
        assert_eq!(rests, expected, "{name} keeper {keeper}");
    }
}
