//! Makes the world match the rows.

mod poke;

pub use poke::Poke;
