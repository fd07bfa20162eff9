//! F10 · How a stream stands in the archive, and the keys and values of its publications, as bytes.
//!
//! Owns the format on disk. A channel's publications are neighbours, in the order of their offsets.

use crate::broker::Position;
use crate::broker::archive::{ArchiveKeep, ArchivedCursor, cursor_owner};
use crate::protocol::Publication;
use prost::Message;

/// Of what follows.
pub const FORMAT: u64 = 1;

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEntry {
    /// Of the latest publication, kept or not.
    pub position: Position,
    /// Publications with offsets from here on are there.
    pub first: u64,
    /// Those below this are gone from the disk too.
    pub swept: u64,
    /// The life in which it was opened ahead; 0 = it was not.
    pub ahead: u64,
    pub keep: ArchiveKeep,
    /// When something was called about it last.
    pub used_ms: u64,
}

impl StreamEntry {
    pub fn to_bytes(&self) -> Vec<u8> {
        let StreamEntry { position, first, swept, ahead, keep, used_ms } = self;
        let numbers = [position.offset, *first, *swept, *ahead, keep.size, keep.ttl_ms, keep.meta_ttl_ms, *used_ms];
        let mut bytes = Vec::with_capacity(64 + 8);
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(position.epoch.as_str().as_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<StreamEntry> {
        let (numbers, epoch) = bytes.split_at_checked(64)?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next();
        let (offset, first, swept, ahead) = (next()?, next()?, next()?, next()?);
        let keep = ArchiveKeep { size: next()?, ttl_ms: next()?, meta_ttl_ms: next()? };
        let epoch = std::str::from_utf8(epoch).ok()?.into();
        Some(StreamEntry { position: Position { offset, epoch }, first, swept, ahead, keep, used_ms: next()? })
    }
}

/// The length goes first, so that no channel's keys are among another's.
pub fn key(channel: &str, offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + channel.len() + 8);
    key.extend((channel.len() as u16).to_be_bytes());
    key.extend(channel.as_bytes());
    key.extend(offset.to_be_bytes());
    key
}

/// What the keys of a channel's cursors begin with.
pub fn cursor_prefix(channel: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + channel.len());
    key.extend((channel.len() as u16).to_be_bytes());
    key.extend(channel.as_bytes());
    key
}

pub fn cursor_key(channel: &str, name: &str) -> Vec<u8> {
    let mut key = cursor_prefix(channel);
    key.extend(name.as_bytes());
    key
}

pub fn cursor_value(cursor: &ArchivedCursor) -> Vec<u8> {
    let mut value = Vec::with_capacity(25 + 8);
    [cursor.until_ms, cursor.offset, cursor.told].iter().for_each(|number| value.extend(number.to_le_bytes()));
    value.push(u8::from(cursor.torn));
    value.extend(cursor.epoch.as_str().as_bytes());
    value
}

/// Until when a cursor is kept.
pub fn cursor_until(value: &[u8]) -> Option<u64> {
    time_of(value)
}

/// `name`: what of its key comes behind the channel's.
pub fn cursor_of(name: &[u8], value: &[u8]) -> Option<ArchivedCursor> {
    let (user, device) = cursor_owner(std::str::from_utf8(name).ok()?)?;
    let (numbers, rest) = value.split_at_checked(24)?;
    let [until_ms, offset, told] = numbers.as_chunks::<8>().0 else { return None };
    let [until_ms, offset, told] = [until_ms, offset, told].map(|number| u64::from_le_bytes(*number));
    let (torn, epoch) = rest.split_first()?;
    let epoch = std::str::from_utf8(epoch).ok()?.into();
    Some(ArchivedCursor { user, device, offset, epoch, told, torn: *torn != 0, until_ms })
}

pub fn offset_of(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

pub fn value(publication: &Publication, unix_ms: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(8 + publication.encoded_len());
    value.extend(unix_ms.to_le_bytes());
    // A vector takes any number of bytes.
    let _ = publication.encode(&mut value);
    value
}

/// When it was published.
pub fn time_of(value: &[u8]) -> Option<u64> {
    value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

pub fn publication_of(value: &[u8]) -> Option<Publication> {
    Publication::decode(value.get(8..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_publications_come_back() {
        let keep = ArchiveKeep { size: 7, ttl_ms: 8, meta_ttl_ms: 9 };
        for epoch in ["", "abcdefgh", "longer than eight"] {
            let position = Position { offset: 3, epoch: epoch.into() };
            let entry = StreamEntry { position, first: 2, swept: 1, ahead: 5, keep, used_ms: u64::MAX };
            assert_eq!(StreamEntry::from_bytes(&entry.to_bytes()), Some(entry));
        }
        assert_eq!(StreamEntry::from_bytes(&[0; 63]), None);
        let publication = Publication { data: "{}".into(), offset: 4, ..Publication::default() };
        let bytes = value(&publication, 77);
        assert_eq!((time_of(&bytes), publication_of(&bytes)), (Some(77), Some(publication)));
        assert_eq!(offset_of(&key("c", 4)), Some(4));
    }

    #[test]
    fn cursors_come_back() {
        for (device, epoch, torn) in [("", "", false), ("phone", "abcdefgh", true)] {
            let (user, device, epoch) = ("4:ä".into(), device.into(), epoch.into());
            let cursor = ArchivedCursor { user, device, offset: 3, epoch, told: 2, torn, until_ms: 77 };
            let (key, value) = (cursor_key("room", &cursor.name()), cursor_value(&cursor));
            let name = key.strip_prefix(&cursor_prefix("room")[..]).expect("its channel");
            assert_eq!((cursor_until(&value), cursor_of(name, &value)), (Some(77), Some(cursor)));
            assert_eq!((cursor_of(name, &value[..24]), cursor_of(b"x", &value)), (None, None));
        }
    }

    #[test]
    fn keys_of_a_channel_are_neighbours_in_their_order() {
        let mut keys: Vec<(&str, u64)> =
            [("a", 1), ("a", 2), ("a", 256), ("b", 0), ("aa", 1), ("a\0", 0), ("ab", u64::MAX)].to_vec();
        keys.sort_by_key(|(channel, offset)| key(channel, *offset));
        let mut runs: Vec<&str> = keys.iter().map(|(channel, _)| *channel).collect();
        runs.dedup();
        assert_eq!(runs.len(), 5, "{keys:?}");
        assert!(keys.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1));
    }
}
