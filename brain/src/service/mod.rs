//! The use cases of the API: one function each, and the transaction's boundary.
//!
//! ```text
//!   http ─▶ service: may they? is it right? ─▶ store: one transaction ─▶ commit ─▶ poke the reconciler
//! ```
//!
//! * [`accounts`], [`groups`], [`users`], [`privileges`], [`virtual_machines`], [`discs`], [`nics`]: by what they are
//!   about; [`new_vm`] makes a VM with all that belongs to it.
//! * [`bounds`]: checks what is asked for against what there is. [`addresses`]: gives addresses out.
//! * [`inventory`]: what operators see of heads, tails and pools, and set in them. [`migrations`]: discs that move
//!   between tails; [`emptying`]: all of them.
//!
//! Invariants: what fails has changed nothing; every change leaves an event with who did it (R166);
//! no function here waits for a head or a tail, except the one that passes a signal on.
//!
//! Absent: HTTP, SQL, and acting on what was written: that is the reconciler's.

pub mod accounts;
mod addresses;
pub mod bounds;
pub mod discs;
pub mod emptying;
pub mod error;
pub mod forced;
pub mod groups;
pub mod inventory;
pub mod migrations;
pub mod new_vm;
pub mod nics;
pub mod privileges;
pub mod users;
pub mod virtual_machines;

pub use error::ServiceError;

use crate::{auth::Gate, config::Config, fleet::Registry, reconcile::Poke, store::Store};
use std::sync::Arc;

/// What the use cases work with. Clones share everything.
#[derive(Clone)]
pub struct Service {
    /// The database.
    pub store: Store,
    /// Wakes the reconciler after a commit.
    pub poke: Poke,
    /// The connected nodes.
    pub registry: Registry,
    /// How the cluster is set up.
    pub config: Arc<Config>,
    /// Lets callers in.
    pub gate: Gate,
}

/// The only one of its name.
///
/// # Errors
/// When there is none, or more than one.
pub fn one<T>(found: Vec<T>) -> Result<T, ServiceError> {
    let count = found.len();
    match found.into_iter().next() {
        Some(thing) if count == 1 => Ok(thing),
        Some(_) => {
            Err(error::invalid("name", format!("is the name of {count} things: say the number, or where it is")))
        }
        None => Err(ServiceError::NotFound),
    }
}
