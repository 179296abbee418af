//! A table that forgets: of bounded size, and nothing in it is older than its age allows.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// What was seen of late, by key.
#[derive(Debug)]
pub struct Recent<K, V> {
    entries: HashMap<K, Entry<V>>,
    count_max: usize,
    age_max: Duration,
}

/// What was seen last, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// What.
    pub value: V,
    /// When.
    pub at: Instant,
}

impl<K: Clone + Eq + Hash, V: Copy> Recent<K, V> {
    /// An empty table for `count_max` entries, each of which is forgotten at the age of `age_max`.
    pub fn new(count_max: usize, age_max: Duration) -> Self {
        Self { entries: HashMap::new(), count_max, age_max }
    }

    /// What is known of `key` at `now`.
    pub fn get(&self, key: &K, now: Instant) -> Option<Entry<V>> {
        self.entries.get(key).copied().filter(|entry| now.duration_since(entry.at) < self.age_max)
    }

    /// Keeps `value`, seen `now`. When there is no room, what was seen longest ago makes it.
    pub fn put(&mut self, key: K, value: V, now: Instant) {
        if self.entries.len() >= self.count_max && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| now.duration_since(entry.at) < self.age_max);
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.at).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| self.entries.len() >= self.count_max) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, Entry { value, at: now });
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_the_old_is_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(2, Duration::from_secs(10));
        recent.put("a", 1, at(0));
        recent.put("b", 2, at(1));
        recent.put("a", 3, at(2));
        recent.put("c", 4, at(3));
        let known = |recent: &Recent<_, _>, key, now| recent.get(&key, now).map(|entry: Entry<i32>| entry.value);
        assert_eq!(["a", "b", "c"].map(|key| known(&recent, key, at(3))), [Some(3), None, Some(4)]);
        assert_eq!(["a", "c"].map(|key| known(&recent, key, at(12))), [None, Some(4)]);
        recent.put("d", 5, at(13));
        assert_eq!(recent.entries.len(), 1, "what is too old does not wait to be the oldest");
        recent.remove(&"d");
        assert_eq!(known(&recent, "d", at(13)), None);
    }
}
