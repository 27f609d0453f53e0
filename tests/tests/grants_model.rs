//! Three domains grant, map, copy, revoke and drop at random; a model of a few lines says what must happen.

use proptest::prelude::*;
use proptest::sample::Index;
use ringfence_core::platform::{Access, GrantCopy, Granted as _, Platform as _};
use ringfence_core::{DomId, GrantRef, PAGE, SharedMem};
use ringfence_sim::{Sim, SimGranted, SimMapping, World};

const DOMAINS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Grant {
        owner: usize,
        peer: usize,
        access: Access,
    },
    /// The references of up to three grants, `of` whose owner, by any domain.
    Map {
        by: usize,
        of: Index,
        more: Vec<Index>,
        access: Access,
    },
    Unmap(Index),
    Revoke(Index),
    Drop(Index),
    WriteGranted(Index, u8),
    WriteMapping(Index, u8),
    CopyTo {
        by: usize,
        grant: Index,
        value: u8,
    },
    CopyFrom {
        by: usize,
        grant: Index,
    },
    Kill(usize),
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![1 => Just(Access::ReadOnly), 3 => Just(Access::ReadWrite)]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..DOMAINS;
    let index = any::<Index>;
    prop_oneof![
        4 => (who.clone(), 1..DOMAINS, access()).prop_map(|(owner, other, access)| Step::Grant {
            owner,
            peer: (owner + other) % DOMAINS,
            access
        }),
        6 => (who.clone(), index(), prop::collection::vec(index(), 0..3), access())
            .prop_map(|(by, of, more, access)| Step::Map { by, of, more, access }),
        4 => index().prop_map(Step::Unmap),
        2 => index().prop_map(Step::Revoke),
        3 => index().prop_map(Step::Drop),
        2 => (index(), any::<u8>()).prop_map(|(at, value)| Step::WriteGranted(at, value)),
        2 => (index(), any::<u8>()).prop_map(|(at, value)| Step::WriteMapping(at, value)),
        2 => (who.clone(), index(), any::<u8>())
            .prop_map(|(by, grant, value)| Step::CopyTo { by, grant, value }),
        2 => (who.clone(), index()).prop_map(|(by, grant)| Step::CopyFrom { by, grant }),
        1 => who.prop_map(Step::Kill),
    ]
}

/// A grant, as long as its page is not free.
struct Grant {
    owner: usize,
    peer: usize,
    access: Access,
    gref: GrantRef,
    handle: Option<SimGranted>,
    revoked: bool,
    maps: usize,
    content: u8,
}

impl Grant {
    fn allows(&self, by: usize, access: Access) -> bool {
        let writable = self.access == Access::ReadWrite || access == Access::ReadOnly;
        !self.revoked && self.peer == by && writable
    }
}

/// A mapping: who has it, and the numbers of its grants.
struct Mapping {
    by: usize,
    access: Access,
    grants: Vec<usize>,
    handle: SimMapping,
}

struct Model {
    world: World,
    /// By a number that is never used again; `None` when the page is free.
    grants: Vec<Option<Grant>>,
    mappings: Vec<Mapping>,
}

fn domid(who: usize) -> DomId {
    DomId::new(u16::try_from(who + 1).expect("three of them"))
}

fn content<M: SharedMem>(mem: &M, page: usize) -> u8 {
    let (mut first, mut last) = ([0], [0]);
    mem.read(page * PAGE, &mut first);
    mem.read((page + 1) * PAGE - 1, &mut last);
    assert_eq!(first, last, "a page in one piece");
    first[0]
}

impl Model {
    fn new() -> Self {
        let world = World::new();
        for who in 0..DOMAINS {
            world.create(domid(who));
        }
        Self {
            world,
            grants: Vec::new(),
            mappings: Vec::new(),
        }
    }

    fn sim(&self, who: usize) -> Sim {
        self.world.domain(domid(who))
    }

    /// One of those that are not free.
    fn pick(&self, index: &Index) -> Option<usize> {
        let live: Vec<_> = (0..self.grants.len())
            .filter(|at| self.grants[*at].is_some())
            .collect();
        (!live.is_empty()).then(|| live[index.index(live.len())])
    }

    fn grant(&mut self, at: usize) -> &mut Grant {
        self.grants[at].as_mut().expect("picked")
    }

    /// Frees the page if nobody has it any more.
    fn release(&mut self, at: usize) {
        let grant = self.grant(at);
        if grant.handle.is_none() && grant.maps == 0 {
            self.grants[at] = None;
        }
    }

    fn forget_mapping(&mut self, mapping: Mapping) {
        for at in mapping.grants {
            self.grant(at).maps -= 1;
            self.release(at);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Grant {
                owner,
                peer,
                access,
            } => self.add(*owner, *peer, *access),
            Step::Map {
                by,
                of,
                more,
                access,
            } => self.map(*by, of, more, *access),
            Step::Unmap(index) if !self.mappings.is_empty() => {
                let mapping = self.mappings.swap_remove(index.index(self.mappings.len()));
                self.forget_mapping(mapping);
            }
            Step::Unmap(_) => {}
            Step::Revoke(index) => {
                let Some(at) = self.pick(index) else { return };
                let grant = self.grant(at);
                let free = grant.maps == 0;
                if let Some(handle) = &mut grant.handle {
                    assert_eq!(handle.try_revoke().is_ok(), free);
                    grant.revoked |= free;
                }
            }
            Step::Drop(index) => {
                let Some(at) = self.pick(index) else { return };
                self.grant(at).handle = None;
                self.release(at);
            }
            Step::WriteGranted(index, value) => {
                let Some(at) = self.pick(index) else { return };
                let grant = self.grant(at);
                if let Some(handle) = &grant.handle {
                    handle.write(0, &[*value; PAGE]);
                    grant.content = *value;
                }
            }
            Step::WriteMapping(index, value) => self.write_mapping(index, *value),
            Step::CopyTo { by, grant, value } => self.copy(*by, grant, Some(*value)),
            Step::CopyFrom { by, grant } => self.copy(*by, grant, None),
            Step::Kill(who) => self.kill(*who),
        }
    }

    fn add(&mut self, owner: usize, peer: usize, access: Access) {
        let handle = self.sim(owner).alloc(domid(peer), access).expect("a page");
        let gref = handle.grant_ref();
        let taken = self.grants.iter().flatten();
        let mut same = taken.filter(|grant| grant.owner == owner && grant.gref == gref);
        assert!(same.next().is_none(), "{gref} is in use");
        let mut all = [1; PAGE];
        handle.read(0, &mut all);
        assert_eq!(all, [0; PAGE], "a fresh page");
        self.grants.push(Some(Grant {
            owner,
            peer,
            access,
            gref,
            handle: Some(handle),
            revoked: false,
            maps: 0,
            content: 0,
        }));
    }

    fn map(&mut self, by: usize, of: &Index, more: &[Index], access: Access) {
        let Some(first) = self.pick(of) else { return };
        let owner = self.grant(first).owner;
        let picked = std::iter::once(of)
            .chain(more)
            .filter_map(|index| self.pick(index));
        let grants: Vec<_> = picked.collect();
        // A reference of another owner means whatever it means in this owner's table.
        let found: Vec<_> = grants
            .iter()
            .map(|at| {
                let gref = self.grants[*at].as_ref().expect("picked").gref;
                self.grants.iter().position(|grant| {
                    matches!(grant, Some(grant) if grant.owner == owner && grant.gref == gref)
                })
            })
            .collect();
        let refs: Vec<_> = grants.iter().map(|at| self.grant(*at).gref).collect();
        let allowed = found.iter().all(|at| {
            at.and_then(|at| self.grants[at].as_ref())
                .is_some_and(|grant| grant.allows(by, access))
        });
        let result = self.sim(by).map(domid(owner), &refs, access);
        assert_eq!(result.is_ok(), allowed, "{:?}", result.err());
        let Ok(handle) = result else { return };
        let grants: Vec<_> = found.into_iter().flatten().collect();
        for at in &grants {
            self.grant(*at).maps += 1;
        }
        self.mappings.push(Mapping {
            by,
            access,
            grants,
            handle,
        });
    }

    fn write_mapping(&mut self, index: &Index, value: u8) {
        if self.mappings.is_empty() {
            return;
        }
        let at = index.index(self.mappings.len());
        let mapping = &self.mappings[at];
        if mapping.access == Access::ReadWrite {
            mapping.handle.write(0, &vec![value; mapping.handle.len()]);
            for at in mapping.grants.clone() {
                self.grant(at).content = value;
            }
        }
    }

    fn copy(&mut self, by: usize, index: &Index, value: Option<u8>) {
        let Some(at) = self.pick(index) else { return };
        let sim = self.sim(by);
        let grant = self.grant(at);
        let (owner, gref) = (domid(grant.owner), grant.gref);
        let mut page = [value.unwrap_or(0); PAGE];
        let access = match value {
            Some(_) => Access::ReadWrite,
            None => Access::ReadOnly,
        };
        let allowed = grant.allows(by, access);
        let mut ops = [match value {
            Some(_) => GrantCopy::to_peer(gref, 0, &page),
            None => GrantCopy::from_peer(gref, 0, &mut page),
        }];
        sim.copy(owner, &mut ops).expect("the platform works");
        let [op] = ops;
        assert_eq!(op.status.is_okay(), allowed, "{}", op.status);
        if allowed {
            match value {
                Some(value) => grant.content = value,
                None => assert_eq!(page, [grant.content; PAGE]),
            }
        }
    }

    fn kill(&mut self, who: usize) {
        self.world.kill(domid(who));
        let (dead, alive) = std::mem::take(&mut self.mappings)
            .into_iter()
            .partition(|mapping| mapping.by == who);
        self.mappings = alive;
        let dead: Vec<Mapping> = dead;
        for mapping in dead {
            self.forget_mapping(mapping);
        }
        let next = self.sim(who);
        for slot in &mut self.grants {
            let Some(grant) = slot.as_mut().filter(|grant| grant.owner == who) else {
                continue;
            };
            let held = grant.handle.is_some();
            let adopted = next.adopt_granted(grant.gref);
            assert_eq!(adopted.is_some(), held && !grant.revoked);
            grant.handle = adopted;
            if held && grant.revoked {
                *slot = None;
            }
        }
    }

    fn check(&self) {
        for grant in self.grants.iter().flatten() {
            if let Some(handle) = &grant.handle {
                assert_eq!(content(handle, 0), grant.content);
            }
        }
        for mapping in &self.mappings {
            for (page, at) in mapping.grants.iter().enumerate() {
                let grant = self.grants[*at].as_ref().expect("mapped");
                assert_eq!(content(&mapping.handle, page), grant.content);
            }
        }
        for who in 0..DOMAINS {
            let usage = self.world.usage(domid(who));
            let own = || {
                self.grants
                    .iter()
                    .flatten()
                    .filter(|grant| grant.owner == who)
            };
            assert_eq!(usage.granted, own().filter(|g| g.handle.is_some()).count());
            assert_eq!(
                usage.quarantined,
                own().filter(|g| g.handle.is_none()).count()
            );
            let mapped = self.mappings.iter().filter(|mapping| mapping.by == who);
            assert_eq!(
                usage.mapped,
                mapped.map(|mapping| mapping.grants.len()).sum::<usize>()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grants_behave_as_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.check();
        }
    }

    #[test]
    fn the_same_steps_leave_the_same_trace(steps in prop::collection::vec(step(), 1..60)) {
        let traces = [(), ()].map(|()| {
            let mut model = Model::new();
            for step in &steps {
                model.step(step);
            }
            model.world.trace()
        });
        assert_eq!(traces[0], traces[1]);
    }
}
