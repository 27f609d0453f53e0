//! What a hostile domain does to another one: to its grant table and its ports ([`tables`]), and to its block backend through a
//! frontend of its own ([`block`]). The real tables keep the domains apart; these attacks show that our layers on top neither
//! open them nor break over what the other side does. The other way round, a [`backend`] tells a frontend [`lies`].

pub mod backend;
pub mod block;
pub mod frontend;
pub mod lies;
pub mod tables;

/// An attack's name and what it does, to be followed by the same process and domain going on with their work.
pub type Attack<W> = (&'static str, fn(&mut W));
