//! F3 · Channels by their names, in parts.
//!
//! Owns the map itself. It is cut into parts so that all channels can be gone through a part at a time, while others
//! come and go. Knows nothing of what a channel is.

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};
use std::hash::BuildHasher;
use std::sync::Arc;

/// Of a million channels each part has four thousand.
pub const PARTS: usize = 256;

type Part<V> = HashTable<(Arc<str>, V)>;

#[derive(Debug)]
pub struct ChannelTable<V> {
    parts: Box<[Part<V>]>,
    hasher: RandomState,
}

impl<V> Default for ChannelTable<V> {
    fn default() -> ChannelTable<V> {
        ChannelTable { parts: (0..PARTS).map(|_| HashTable::new()).collect(), hasher: RandomState::default() }
    }
}

impl<V> ChannelTable<V> {
    /// Which part, and the hash in it. Bits are taken that the part's own table uses last: it begins with the lowest,
    /// and tells entries apart by the highest.
    fn place(&self, name: &str) -> (usize, u64) {
        let hash = self.hasher.hash_one(name);
        ((hash >> 40) as usize % PARTS, hash)
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        let (part, hash) = self.place(name);
        self.parts[part].find(hash, |(at, _)| **at == *name).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let (part, hash) = self.place(name);
        self.parts[part].find_mut(hash, |(at, _)| **at == *name).map(|(_, value)| value)
    }

    pub fn get_or_insert_default(&mut self, name: &Arc<str>) -> &mut V
    where
        V: Default,
    {
        let (part, hash) = self.place(name);
        let rehash = |(at, _): &(Arc<str>, V)| self.hasher.hash_one(&**at);
        let entry = match self.parts[part].entry(hash, |(at, _)| at == name, rehash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert((name.clone(), V::default())),
        };
        &mut OccupiedEntry::into_mut(entry).1
    }

    pub fn remove(&mut self, name: &str) {
        let (part, hash) = self.place(name);
        if let Ok(entry) = self.parts[part].find_entry(hash, |(at, _)| **at == *name) {
            entry.remove();
        }
        let table = &mut self.parts[part];
        if table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2, |(at, _)| self.hasher.hash_one(&**at));
        }
    }

    /// What is in one of [`PARTS`] parts. Whatever is there all the while is in one of them.
    pub fn part(&self, part: usize) -> impl ExactSizeIterator<Item = &(Arc<str>, V)> {
        self.parts[part].iter()
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, V)> {
        self.parts.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u16..600, 0u8..3), 1..1500)) {
            let (mut table, mut model) = (ChannelTable::<u32>::default(), BTreeMap::<Arc<str>, u32>::new());
            for (name, what) in steps {
                let name: Arc<str> = format!("channel {name}").into();
                match what {
                    0 => {
                        table.remove(&name);
                        model.remove(&name);
                    }
                    1 => {
                        let (ours, theirs) = (table.get_mut(&name), model.get_mut(&name));
                        prop_assert_eq!(&ours, &theirs);
                        if let (Some(ours), Some(theirs)) = (ours, theirs) {
                            (*ours, *theirs) = (*ours + 1, *theirs + 1);
                        }
                    }
                    _ => {
                        *table.get_or_insert_default(&name) += 10;
                        *model.entry(name.clone()).or_default() += 10;
                    }
                }
                prop_assert_eq!(table.get(&name), model.get(&name));
            }
            let listed: BTreeMap<_, _> = (0..PARTS).flat_map(|part| table.part(part).cloned()).collect();
            prop_assert_eq!(table.iter().count(), model.len());
            prop_assert_eq!(listed, model);
        }
    }

    #[test]
    fn memory_comes_back_with_the_channels_that_go() {
        let mut table = ChannelTable::<()>::default();
        let names: Vec<Arc<str>> = (0..PARTS * 100).map(|n| n.to_string().into()).collect();
        names.iter().for_each(|name| *table.get_or_insert_default(name) = ());
        let room = |table: &ChannelTable<()>| table.parts.iter().map(HashTable::capacity).sum::<usize>();
        assert!(room(&table) >= names.len());
        names[10..].iter().for_each(|name| table.remove(name));
        assert!(names[..10].iter().all(|name| table.get(name).is_some()));
        assert!(room(&table) < PARTS * 8, "{}", room(&table));
    }

    #[test]
    fn the_parts_are_of_about_one_size() {
        let mut table = ChannelTable::<()>::default();
        (0..PARTS * 100).for_each(|n| *table.get_or_insert_default(&n.to_string().into()) = ());
        let largest = (0..PARTS).map(|part| table.part(part).count()).max();
        assert!(largest < Some(200), "{largest:?}");
    }
}
