//! Block backend: engine, sinks, service.
