//! What a domain can make the daemon say (XSA-180).

use std::cell::RefCell;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what this thread says at the level that is the default, or above.
struct Keeper;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        LOG.with_borrow_mut(|log| log.push(line.0));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn xsa_180_a_domain_that_breaks_its_ring_again_and_again_is_named_seldom() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    let log = tracing::subscriber::with_default(Keeper, || {
        LOG.take();
        for _ in 0..1000 {
            guest.store_u32(RSP_CONS, 5000);
            world.rings(1);
            world.settle();
            assert_eq!(guest.load_u32(ERROR), ERROR_RINGIDX);
            guest.store_u32(CONNECTION, RECONNECT);
            world.rings(1);
            world.settle();
            assert_eq!(guest.load_u32(ERROR), ERROR_NONE);
        }
        LOG.take()
    });
    // With the first, and whenever their number has doubled.
    assert_eq!(log.len(), 10, "{log:#?}");
    assert!(log.iter().all(|line| line.len() < 256), "{log:#?}");
}
