//! What a domain can make the daemon say (XSA-180).

#[path = "../../../../tests/tests/logs/mod.rs"]
mod kept;

use super::*;
use kept::logged;

#[test]
fn xsa_180_a_domain_that_breaks_its_ring_again_and_again_is_named_seldom() {
    let mut world = World::new();
    let mut tool = world.tool();
    let guest = world.guest(&mut tool, 1);
    let (log, ()) = logged(|| {
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
    });
    // With the first, and whenever their number has doubled.
    assert_eq!(log.len(), 10, "{log:#?}");
    assert!(log.iter().all(|line| line.len() < 256), "{log:#?}");
}
