//! What has to be looked at because nobody tells: how full the pools are, and the machine's load.

use crate::store::Store;
use serde_json::Value;
use spine::{
    id::ResourceName,
    resource::global::{Load, StoragePools},
};
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// How often it is looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The shortest time between two looks: a hundred discs made at once are one change of their pool.
const POKE_PAUSE: Duration = Duration::from_millis(250);

/// `global.*` of a tail.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// R072.
    pub pools: StoragePools,
    /// R070.
    pub load: Load,
}

impl Facts {
    /// Looks. Blocks.
    pub fn look(store: &Store) -> Self {
        store.refresh_allocated();
        Self { pools: store.pools(), load: load() }
    }

    /// As resources.
    pub fn resources(&self) -> [(ResourceName, Value); 2] {
        let global = |name: &str| ResourceName::Global(name.to_owned());
        let json = |value: Result<Value, _>| value.expect("they have string keys only");
        [
            (global("storage_pools"), json(serde_json::to_value(&self.pools))),
            (global("load"), json(serde_json::to_value(self.load))),
        ]
    }
}

/// Looks for ever: after each pause, and soon after `poke`.
pub async fn keep_looking(store: Arc<Store>, poke: Arc<Notify>, facts: watch::Sender<Facts>) {
    loop {
        tokio::time::sleep(POKE_PAUSE).await;
        // A timeout is the usual end of the wait.
        let _ = tokio::time::timeout(LOOK_PAUSE, poke.notified()).await;
        let looking = store.clone();
        if let Ok(seen) = tokio::task::spawn_blocking(move || Facts::look(&looking)).await {
            facts.send_if_modified(|facts| std::mem::replace(facts, seen.clone()) != seen);
        }
    }
}

/// The load averages of one, five and fifteen minutes (proc(5)); zeroes when they cannot be read.
fn load() -> Load {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    parse_load(&text).unwrap_or_default()
}

fn parse_load(text: &str) -> Option<Load> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r070_the_load_has_three_numbers() {
        assert_eq!(parse_load("0.50 1.25 2.00 1/100 4711\n"), Some([0.5, 1.25, 2.0]));
        assert_eq!(parse_load("0.50 x"), None);
        assert_eq!(parse_load(""), None);
    }
}
