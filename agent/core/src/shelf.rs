//! Objects of one kind as they were seen last, whatever order the answers of an API server come in.

use std::collections::{BTreeMap, BTreeSet};

use proto::Moment;
use serde_json::Value;

use crate::parse;
use crate::world::{Change, Key};

/// Things of one kind, by namespace and name, with the order of their versions.
#[derive(Debug)]
pub struct Shelf<T> {
    things: BTreeMap<String, BTreeMap<String, (u64, T)>>,
    listed: BTreeMap<String, Moment>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { things: BTreeMap::new(), listed: BTreeMap::new() }
    }
}

impl<T: PartialEq> Shelf<T> {
    pub fn take(&mut self, change: Change, parse: impl Fn(&Value) -> Option<T>) {
        match change {
            Change::Applied(object) => self.apply(&object, parse),
            Change::Deleted(object) => {
                let key = key_of(&object);
                if version_of(&object) >= self.version(&key) {
                    self.remove(&key);
                }
            }
            Change::Listed { namespace, objects, began } => {
                let namespace = namespace.unwrap_or_default();
                let keys: BTreeSet<Key> = objects.iter().map(key_of).collect();
                for (of, things) in &mut self.things {
                    if namespace.is_empty() || *of == namespace {
                        things.retain(|name, _| keys.contains(&(of.clone(), name.clone())));
                    }
                }
                for object in &objects {
                    self.apply(object, &parse);
                }
                let listed = self.listed.entry(namespace).or_default();
                *listed = began.max(*listed);
            }
        }
    }

    pub fn apply(&mut self, object: &Value, parse: impl Fn(&Value) -> Option<T>) {
        let (key, version) = (key_of(object), version_of(object));
        if version < self.version(&key) {
            return;
        }
        match parse(object) {
            Some(thing) => {
                self.things.entry(key.0).or_default().insert(key.1, (version, thing));
            }
            None => self.remove(&key),
        }
    }

    pub fn version(&self, (namespace, name): &Key) -> u64 {
        self.things.get(namespace).and_then(|things| things.get(name)).map_or(0, |(version, _)| *version)
    }

    pub fn remove(&mut self, (namespace, name): &Key) {
        if let Some(things) = self.things.get_mut(namespace) {
            things.remove(name);
        }
    }

    pub fn keep_only(&mut self, followed: impl Fn(&str) -> bool) {
        self.things.retain(|namespace, _| namespace.is_empty() || followed(namespace));
        self.listed.retain(|namespace, _| namespace.is_empty() || followed(namespace));
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.things.get(namespace)?.get(name).map(|(_, thing)| thing)
    }

    pub fn of<'a>(&'a self, namespace: &str) -> impl Iterator<Item = (&'a str, &'a T)> + use<'a, T> {
        let things = self.things.get(namespace).into_iter().flatten();
        things.map(|(name, (_, thing))| (name.as_str(), thing))
    }

    /// With their namespaces.
    pub fn all(&self) -> impl Iterator<Item = (&str, &T)> {
        self.things.iter().flat_map(|(namespace, things)| {
            things.values().map(move |(_, thing)| (namespace.as_str(), thing))
        })
    }

    pub fn was_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    pub fn listed(&self, namespace: &str) -> Option<Moment> {
        self.listed.get(namespace).copied()
    }
}

pub fn key_of(object: &Value) -> Key {
    let metadata = object.get("metadata");
    let text = |name: &str| {
        let value = metadata.and_then(|metadata| metadata.get(name));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    (text("namespace"), text("name"))
}

/// Resource versions of one kind are ordered numbers; one that is not is taken as the newest.
fn version_of(object: &Value) -> u64 {
    let text = parse::at(object, "/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX - 1)
}
