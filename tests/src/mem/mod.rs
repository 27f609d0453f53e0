//! Shared memory for tests: plain, counting, and lying; and the protocols to run over it.

mod counting;
mod flip;
mod heap;
mod protocol;

pub use counting::CountingMem;
pub use flip::FlipMem;
pub use heap::HeapMem;
pub use protocol::{Blk32, Blk64, Number};
