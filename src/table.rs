//! Tables and sets in the order of their keys. All of them stand on one B-tree, of plain numbers:
//! std's is compiled anew for each pair of types, at six kilobytes each. It must never know what
//! the keys mean, and no operation may cost more than the logarithm of the size.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::marker::PhantomData;

/// What keys are sorted by: the first number, then the second.
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

/// The one B-tree: which keys there are, and a slot for each, a number below the most keys that
/// there ever were. What is not to be inlined is there once.
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

    #[inline(never)]
    fn keys<K: Key>(&self) -> Vec<K> {
        self.walk().map(|(key, _)| K::from_raw(key)).collect()
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

/// A map whose keys are in order. Its methods are those of std's `BTreeMap`.
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

    /// A copy: the table may change while it is gone through.
    pub fn keys(&self) -> Vec<K> {
        self.index.keys()
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

/// A set whose members are in order. Its methods are those of std's `BTreeSet`.
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

    /// A copy: the set may change while it is gone through.
    pub fn to_vec(&self) -> Vec<K> {
        self.index.keys()
    }

    pub fn iter(&self) -> impl Iterator<Item = K> {
        self.index.walk().map(|(key, _)| K::from_raw(key))
    }

    pub fn len(&self) -> usize {
        self.index.tree.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Numbers that look random, the same at each run.
    fn numbers() -> impl Iterator<Item = u32> {
        let step = |last: &u64| Some(last.wrapping_mul(6364136223846793005).wrapping_add(1));
        std::iter::successors(Some(1), step).map(|it: u64| (it >> 33) as u32)
    }

    fn checked(index: &Index) {
        let keys: Vec<_> = index.walk().map(|(key, _)| key).collect();
        assert!(keys.is_sorted());
        let slots: BTreeSet<_> = index.walk().map(|(_, slot)| slot as u32).collect();
        let free: BTreeSet<_> = index.free.iter().copied().collect();
        let lengths = (index.tree.len(), index.free.len());
        assert_eq!((slots.len(), free.len()), lengths);
        let all = 0..(slots.len() + free.len()) as u32;
        assert!(slots.union(&free).copied().eq(all));
    }

    /// Does the same to a table and to std's map: `range` keys, more of them removed the larger
    /// `removals` (of 4) is.
    fn lead_a_life(table: &mut Table<u32, u32>, std: &mut BTreeMap<u32, u32>, removals: u32) {
        let mut numbers = numbers();
        for turn in 0..20_000 {
            let key = numbers.next().unwrap() % 3000;
            match numbers.next().unwrap() % 4 < removals {
                true => assert_eq!(table.remove(&key), std.remove(&key)),
                false => assert_eq!(table.insert(key, turn), std.insert(key, turn)),
            }
            let key = numbers.next().unwrap() % 3000;
            assert_eq!(table.get(&key), std.get(&key));
            assert_eq!(table.get_mut(&key), std.get_mut(&key));
        }
        checked(&table.index);
        assert_eq!(table.len(), std.len());
        assert!(
            table
                .iter()
                .eq(std.iter().map(|(key, value)| (*key, value)))
        );
        let mut values: Vec<_> = table.values().copied().collect();
        values.sort_unstable();
        let mut expected: Vec<_> = std.values().copied().collect();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn a_table_is_like_stds_map_while_it_grows_and_shrinks() {
        let (mut table, mut std) = (Table::default(), BTreeMap::new());
        for removals in [1, 3, 2, 3, 1] {
            lead_a_life(&mut table, &mut std, removals);
        }
        for key in table.keys() {
            assert_eq!(table.remove(&key), std.remove(&key));
        }
        assert!(table.is_empty() && std.is_empty());
        assert_eq!((table.iter().count(), table.get(&1)), (0, None));
        checked(&table.index);
    }

    #[test]
    fn a_table_of_growing_keys_from_which_the_oldest_go_stays_small() {
        let mut table = Table::default();
        for key in 0..10_000u32 {
            table.insert(key, key);
            assert_eq!(key < 500, table.remove(&(key.wrapping_sub(500))).is_none());
        }
        checked(&table.index);
        assert!(table.keys().into_iter().eq(9_500..10_000));
        assert_eq!(table.slots.len(), 501);
    }

    #[test]
    fn a_set_has_each_member_once_and_gives_the_first_first() {
        let mut set: Set<i32> = [15, 1, 17, 2, 15].into_iter().collect();
        assert!(!set.insert(17) && set.insert(3));
        assert!(set.remove(&2) && !set.remove(&2));
        assert_eq!(format!("{set:?}"), "{1, 3, 15, 17}");
        assert_eq!((set.first(), set.pop_first()), (Some(1), Some(1)));
        assert_eq!(set.len(), 3);
        assert_eq!(set.to_vec(), [3, 15, 17]);
        assert!(set.iter().eq([3, 15, 17]));
        while set.pop_first().is_some() {}
        assert!(set.is_empty() && set.first().is_none());
    }

    #[test]
    fn a_copy_is_a_table_of_its_own() {
        let mut table = Table::default();
        table.insert(7u32, "seven");
        let copy = table.clone();
        assert_eq!(table.remove(&7), Some("seven"));
        assert_eq!(format!("{table:?} {copy:?}"), r#"{} {7: "seven"}"#);
    }
}
