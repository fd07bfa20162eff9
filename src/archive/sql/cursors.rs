//! F10 · Cursors of inboxes in a database.
//!
//! Owns what a row of them is. They are written behind the publications of the same bundle, so that none is ahead of
//! what it speaks of, and each is there once: the latest. Never speaks to a database.

use super::{EPOCH_MAX, NoPlace, SqlBatch, StreamKey, signed};
use crate::broker::archive::{ArchivedCursor, cursor_name, cursor_owner};
use compact_str::CompactString;

/// A cursor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlCursor {
    pub name: CompactString,
    pub epoch: CompactString,
    pub offset: i64,
    pub told: i64,
    pub torn: i16,
    pub until_ms: i64,
}

/// Whose a cursor is: its stream, and the hash of its name.
pub type CursorKey = (StreamKey, StreamKey);

fn who(name: &str) -> StreamKey {
    StreamKey::new("cursor", name)
}

impl SqlBatch {
    /// A cursor stands here.
    pub fn follow(&mut self, key: StreamKey, cursor: &ArchivedCursor) -> Result<(), NoPlace> {
        let epoch = cursor.epoch.as_str();
        if epoch.len() > EPOCH_MAX {
            return Err(NoPlace);
        }
        let name = cursor.name();
        self.bytes += name.len() + 128;
        let row = SqlCursor {
            epoch: epoch.into(),
            offset: i64::try_from(cursor.offset).map_err(|_| NoPlace)?,
            told: signed(cursor.told),
            torn: i16::from(cursor.torn),
            until_ms: signed(cursor.until_ms),
            name: name.clone(),
        };
        self.cursors.insert((key, who(&name)), Some(row));
        Ok(())
    }

    /// There is no such cursor.
    pub fn unfollow(&mut self, key: StreamKey, user: &str, device: &str) {
        self.cursors.insert((key, who(&cursor_name(user, device))), None);
    }

    /// Those that stand somewhere.
    pub(super) fn standing(&self) -> Vec<(&CursorKey, &SqlCursor)> {
        self.cursors.iter().filter_map(|(key, row)| Some((key, row.as_ref()?))).collect()
    }

    /// Those that are no more.
    pub(super) fn gone(&self) -> Vec<&CursorKey> {
        self.cursors.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| key).collect()
    }
}

/// A row as it was read; one that cannot be read is none.
pub fn found(name: &[u8], epoch: &[u8], [offset, told, until_ms]: [i64; 3], torn: i16) -> Option<ArchivedCursor> {
    let (user, device) = cursor_owner(std::str::from_utf8(name).ok()?)?;
    Some(ArchivedCursor {
        user,
        device,
        offset: offset.unsigned_abs(),
        epoch: std::str::from_utf8(epoch).ok()?.into(),
        told: told.unsigned_abs(),
        torn: torn != 0,
        until_ms: until_ms.unsigned_abs(),
    })
}
