//! Tables and sets in the order of their keys. All of them stand on one B-tree, of plain numbers:
//! std's is compiled anew for each pair of types, at six kilobytes each. It must never know what
//! the keys mean, and no operation may cost more than the logarithm of the size.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::marker::PhantomData;

/// What the tree sorts by: the first number, then the second.
pub type Raw = (u64, u64);

/// What can be a key. `from_raw` gives back what `to_raw` was given, and `to_raw` makes the order.
pub trait Key: Copy {
    fn to_raw(self) -> Raw;
    fn from_raw(raw: Raw) -> Self;
}

impl Key for u32 {
    fn to_raw(self) -> Raw {
        (u64::from(self), 0)
    }

    fn from_raw((number, _): Raw) -> u32 {
        number as u32
    }
}

/// Those below zero come last: there are none among pids and signals.
impl Key for i32 {
    fn to_raw(self) -> Raw {
        (self as u64, 0)
    }

    fn from_raw((number, _): Raw) -> i32 {
        number as i32
    }
}

/// The one B-tree: which keys there are, and a slot for each, below the largest number of keys that
/// there ever were. Its functions are there once, whoever calls them.
#[derive(Clone, Default)]
struct Index {
    tree: BTreeMap<Raw, u32>,
    /// Slots that no key has.
    free: Vec<u32>,
}

impl Index {
    #[inline(never)]
    fn find(&self, key: Raw) -> Option<usize> {
        self.tree.get(&key).map(|slot| *slot as usize)
    }

    /// The slot of a key that may be new.
    #[inline(never)]
    fn enter(&mut self, key: Raw) -> usize {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        // While none is free, those below the number of keys are taken, and no other.
        let slot = self.free.pop().unwrap_or(self.tree.len() as u32);
        self.tree.insert(key, slot);
        slot as usize
    }

    #[inline(never)]
    fn leave(&mut self, key: Raw) -> Option<usize> {
        let slot = self.tree.remove(&key)?;
        self.free.push(slot);
        Some(slot as usize)
    }

    fn walk(&self) -> Walk<'_> {
        Walk(self.tree.iter())
    }
}

/// The keys in their order, each with its slot.
struct Walk<'a>(btree_map::Iter<'a, Raw, u32>);

impl Iterator for Walk<'_> {
    type Item = (Raw, usize);

    #[inline(never)]
    fn next(&mut self) -> Option<(Raw, usize)> {
        self.0.next().map(|(key, slot)| (*key, *slot as usize))
    }
}

/// A map whose keys are in order. As std's `BTreeMap`, but for the names that it lacks.
#[derive(Clone)]
pub struct Table<K, V> {
    index: Index,
    slots: Vec<Option<V>>,
    key: PhantomData<K>,
}

impl<K: Key, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(self.index.find(key.to_raw())?)?.as_ref()
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.slots.get_mut(self.index.find(key.to_raw())?)?.as_mut()
    }

    /// Returns what the key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let slot = self.index.enter(key.to_raw());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots.get_mut(slot)?.replace(value)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.index.leave(key.to_raw())?;
        self.slots.get_mut(slot)?.take()
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let rows = self.index.walk();
        rows.filter_map(|(key, slot)| Some((K::from_raw(key), self.slots.get(slot)?.as_ref()?)))
    }

    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.index.walk().map(|(key, _)| K::from_raw(key))
    }

    /// In no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().flatten()
    }

    pub fn len(&self) -> usize {
        self.index.tree.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            index: Index::default(),
            slots: Vec::new(),
            key: PhantomData,
        }
    }
}

impl<K: Key + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A set whose members are in order. As std's `BTreeSet`, but for the names that it lacks.
#[derive(Clone)]
pub struct Set<K> {
    index: Index,
    key: PhantomData<K>,
}

impl<K: Key> Set<K> {
    /// Returns whether it is new.
    pub fn insert(&mut self, key: K) -> bool {
        let before = self.index.tree.len();
        self.index.enter(key.to_raw());
        self.index.tree.len() > before
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, key: &K) -> bool {
        self.index.leave(key.to_raw()).is_some()
    }

    pub fn first(&self) -> Option<K> {
        self.iter().next()
    }

    pub fn pop_first(&mut self) -> Option<K> {
        let first = self.first()?;
        self.remove(&first);
        Some(first)
    }

    pub fn iter(&self) -> impl Iterator<Item = K> {
        self.index.walk().map(|(key, _)| K::from_raw(key))
    }

    pub fn is_empty(&self) -> bool {
        self.index.tree.is_empty()
    }
}

impl<K> Default for Set<K> {
    fn default() -> Set<K> {
        Set {
            index: Index::default(),
            key: PhantomData,
        }
    }
}

impl<K: Key> Extend<K> for Set<K> {
    fn extend<T: IntoIterator<Item = K>>(&mut self, keys: T) {
        for key in keys {
            self.insert(key);
        }
    }
}

impl<K: Key> FromIterator<K> for Set<K> {
    fn from_iter<T: IntoIterator<Item = K>>(keys: T) -> Set<K> {
        let mut set = Set::default();
        set.extend(keys);
        set
    }
}

impl<K: Key + fmt::Debug> fmt::Debug for Set<K> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
