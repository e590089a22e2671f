//! What the watch of one kind has shown, so that a relist tells what went away unseen.

use std::collections::BTreeSet;

/// A watch that was cut off lists anew, and nobody says what was deleted meanwhile: it is what the new list leaves out.
pub struct Known<K> {
    present: BTreeSet<K>,
    listed: BTreeSet<K>,
}

impl<K: Ord + Clone> Known<K> {
    pub fn new() -> Self {
        Known { present: BTreeSet::new(), listed: BTreeSet::new() }
    }

    pub fn begin_list(&mut self) {
        self.listed.clear();
    }

    pub fn listed(&mut self, key: K) {
        self.listed.insert(key.clone());
        self.present.insert(key);
    }

    pub fn deleted(&mut self, key: &K) {
        self.present.remove(key);
    }

    /// What is gone.
    pub fn end_list(&mut self) -> Vec<K> {
        let gone: Vec<K> = self.present.difference(&self.listed).cloned().collect();
        self.present = std::mem::take(&mut self.listed);
        gone
    }
}

impl<K: Ord + Clone> Default for Known<K> {
    fn default() -> Self {
        Self::new()
    }
}
