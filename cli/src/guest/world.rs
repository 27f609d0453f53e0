//! What a guest needs of its platform beyond the drivers' needs: descriptors to sleep on.

use std::os::fd::AsFd;

use ringfence_core::platform::Platform;
use ringfence_core::store::{Connection, Transport};

/// A platform whose event channels and store can be polled.
pub trait World: Platform<Channel: AsFd, Store = Connection<Self::Stream>> + Clone {
    /// The byte stream to the store.
    type Stream: Transport + AsFd;
}

impl<P, T> World for P
where
    P: Platform<Store = Connection<T>> + Clone,
    P::Channel: AsFd,
    T: Transport + AsFd,
{
    type Stream = T;
}
