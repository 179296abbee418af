//! How others tell the reconciler that there may be something to do.

use spine::id::DiscNumber;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Wakes the reconciler. A poke carries no order: it only says where to look first, and a lost one
/// costs no more than the time to the next sweep.
#[derive(Clone, Debug, Default)]
pub struct Poke {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: Mutex<Asked>,
    notify: Notify,
}

/// What was asked for since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// VMs by number.
    pub vms: BTreeSet<i64>,
    /// Discs whose VM is to be looked at.
    pub discs: BTreeSet<DiscNumber>,
    /// Everything.
    pub all: bool,
}

impl Asked {
    fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.discs.is_empty() && !self.all
    }
}

impl Poke {
    /// Asks for a look at one VM: to be called after the commit.
    pub fn vm(&self, id: i64) {
        self.ask(|asked| {
            asked.vms.insert(id);
        });
    }

    /// Asks for a look at the VM that has this disc.
    pub fn disc(&self, number: DiscNumber) {
        self.ask(|asked| {
            asked.discs.insert(number);
        });
    }

    /// Asks for a look at everything.
    pub fn all(&self) {
        self.ask(|asked| asked.all = true);
    }

    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.notify.notify_one();
    }

    /// Waits until something is asked for, and takes all of it.
    pub async fn asked(&self) -> Asked {
        loop {
            let asked = std::mem::take(&mut *self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner));
            if !asked.is_empty() {
                return asked;
            }
            self.inner.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pokes_add_up_and_are_taken_once() {
        let poke = Poke::default();
        poke.vm(2);
        poke.clone().vm(1);
        poke.vm(2);
        poke.disc(DiscNumber(7));
        let asked = poke.asked().await;
        assert_eq!(asked, Asked { vms: [1, 2].into(), discs: [DiscNumber(7)].into(), all: false });
        poke.all();
        assert_eq!(poke.asked().await, Asked { all: true, ..Asked::default() });
    }
}
