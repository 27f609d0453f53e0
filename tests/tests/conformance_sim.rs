//! The platform contracts in the simulator.

/// Doorbells arrive at once.
mod exact {
    use ringfence_sim::World;
    use ringfence_tests::conformance::sim::SimWorld;

    ringfence_tests::platform_conformance!(SimWorld::new(World::new()));
}

/// Doorbells are delayed, reordered, duplicated and merged.
mod hostile {
    use ringfence_sim::World;
    use ringfence_tests::conformance::sim::SimWorld;

    ringfence_tests::platform_conformance!(SimWorld::new(World::hostile(7)));
}
