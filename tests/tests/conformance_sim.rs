//! The platform contracts in the simulator.

/// Doorbells arrive at once.
mod exact {
    use ringfence_sim::World;
    use ringfence_tests::conformance::sim::SimWorld;

    ringfence_tests::platform_conformance!(SimWorld::new(World::new()));
}

/// Whether a page is mapped cannot be seen, as on Linux.
mod veiled {
    use ringfence_sim::World;
    use ringfence_tests::conformance::sim::SimWorld;

    ringfence_tests::platform_conformance!(SimWorld::new(World::new().veiled()));
}

/// Doorbells are delayed, reordered, duplicated and merged.
mod hostile {
    use ringfence_sim::World;
    use ringfence_tests::conformance::sim::SimWorld;

    ringfence_tests::platform_conformance!(SimWorld::new(World::hostile(7)));
}
