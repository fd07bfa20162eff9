//! F3 · Streams of the memory broker that an archive knows too.
//!
//! Owns what is done to a stream from outside its requests: it is put back as the archive has it, or taken back to what
//! is on disk.

use super::super::archive::ArchivedStream;
use super::super::{Answer, Event, Keep, Position, Told};
use super::{Channel, Memory};
use crate::broker::Member;
use crate::protocol::Publication;
use compact_str::CompactString;
use std::sync::Arc;

/// Where a stream stands, and how far back it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub position: Position,
    /// Offset of the oldest publication in memory; one beyond the top if there is none.
    pub first: u64,
}

impl Memory {
    /// What is past its time is forgotten first.
    pub fn extent(&mut self, now_ms: u64, name: &Arc<str>) -> Option<Extent> {
        self.forget_if_over(now_ms, name);
        let stream = self.channels.get(name)?.stream.as_ref()?;
        Some(Extent { position: stream.position(), first: stream.first() })
    }

    pub fn has_stream(&self, name: &str) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.stream.is_some())
    }

    /// Publications with offsets from `from` on.
    pub fn read(&self, name: &str, from: u64) -> Vec<Publication> {
        let stream = self.channels.get(name).and_then(|channel| channel.stream.as_ref());
        stream.map_or(Vec::new(), |stream| stream.read(from, usize::MAX).collect())
    }

    /// Puts the stream where the archive says, in the same epoch, or in a new one if it is not `whole`. Where it
    /// stands then.
    pub fn restore(&mut self, now_ms: u64, name: &Arc<str>, keep: Keep, found: &ArchivedStream) -> Position {
        let Memory { channels, kept, .. } = self;
        let Channel { stream, interest, .. } = channels.get_or_insert_default(name);
        let known = stream.is_some();
        let stream = stream.get_or_insert_with(|| kept.begin(name));
        let mut position = found.position.clone();
        if known && !stream.is_empty() || !found.whole {
            kept.end_life(name);
        }
        if !found.whole {
            position.epoch = kept.epoch(name);
        }
        stream.is_archived = true;
        stream.restore(now_ms, keep, position.clone(), &found.latest);
        kept.settle(name, stream, !interest.is_empty());
        kept.list(name, stream, now_ms.saturating_add(keep.ttl_ms).min(stream.until).max(now_ms + 1));
        self.make_room(name, |_| 0);
        position
    }

    /// The answer to a publication that is the last thing told says whether anybody subscribes to the channel.
    pub fn tell_present(&self, name: &str, told: &mut Told) {
        if let Some((_, Event::Answer { answer, .. })) = told.last_mut()
            && let Answer::Published(top) = answer
        {
            let top = top.take();
            *answer = Answer::PublishedTo(top, self.is_occupied(name));
        }
    }

    /// Forgets the publications beyond `offset`, of which nobody has heard.
    pub fn roll_back(&mut self, name: &Arc<str>, offset: u64) {
        if let Some(Channel { stream: Some(stream), interest, .. }) = self.channels.get_mut(name) {
            let goes_back = stream.position().offset > offset;
            stream.roll_back(offset);
            // The disk may have them all the same: another stream does not begin with the epoch of this one.
            if goes_back && stream.is_empty() {
                self.kept.end_life(name);
            }
            self.kept.settle(name, stream, !interest.is_empty());
        }
    }

    /// The stream is archived from now on.
    pub fn adopt(&mut self, name: &str) {
        if let Some(stream) = self.channels.get_mut(name).and_then(|channel| channel.stream.as_mut()) {
            stream.is_archived = true;
        }
    }

    /// The stream ends: what comes next is in another epoch. Its subscribers are told.
    pub fn abandon(&mut self, name: &Arc<str>, out: &mut Told) {
        self.tell_gap(name, out);
        self.forget_stream(name);
    }

    pub fn tell_gap(&mut self, name: &Arc<str>, out: &mut Told) {
        if let Some(channel) = self.channels.get(name) {
            channel.interest.tell(out, || Event::Gap { channel: name.clone() });
        }
    }

    /// A publication that was rolled back may come again.
    pub fn forget_key(&mut self, name: &Arc<str>, key: &CompactString) {
        self.recent.revoke(name, key);
    }

    /// A subscriber that began without being told of is told of now.
    pub fn introduce(&mut self, name: &Arc<str>, member: Member, out: &mut Told) {
        let channel = self.channels.get_or_insert_default(name);
        let Member { client, info, presence, announce } = member;
        if presence {
            channel.presence.get_or_insert_default().insert(client, &info);
        }
        if announce {
            channel.interest.tell(out, || Event::Join { channel: name.clone(), info: info.clone() });
        }
    }

    /// One that begins nothing takes deltas until it leaves.
    pub fn count_delta(&mut self, name: &str) {
        if let Some(stream) = self.channels.get_mut(name).and_then(|channel| channel.stream.as_mut()) {
            stream.deltas += 1;
        }
    }
}
