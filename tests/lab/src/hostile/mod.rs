//! What a hostile domain does to another one: to its grant table and its ports ([`tables`]), and to its block backend through a
//! frontend of its own ([`block`]). The real tables keep the domains apart; these attacks show that our layers on top neither
//! open them nor break over what the other side does.

pub mod block;
pub mod frontend;
pub mod tables;

/// An attack's name and what it does, to be followed by the same process and domain going on with their work.
pub type Attack<W> = (&'static str, fn(&mut W));
