//! Where one client stands in the streams of its channels: what it asks for when it is back.
//!
//! A client that does not recover has none of this. Never knows a socket, nor what a publication holds.

use crate::profile::{Past, Subscribed};

/// One channel's.
#[derive(Debug, Default)]
struct Position {
    offset: u64,
    /// None = the server has given no position.
    epoch: Option<Box<str>>,
    /// The subscribe whose reply is awaited; 0 = none.
    asked: u32,
    /// It asked for what it missed.
    recovers: bool,
    /// The server has ended the subscription.
    ended: bool,
}

/// All of a client, in the order of its channels.
#[derive(Debug, Default)]
pub struct Positions(Vec<Position>);

/// What a reply to a subscribe means for recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The first position.
    Begun,
    Recovered,
    /// It came back, without what it missed.
    Unrecovered,
    /// There is no position, so nothing can ever be recovered.
    Unrecoverable,
}

impl Positions {
    /// Subscribes in channel number `slot` of `channels` are about to be asked for with command `id`.
    pub fn ask(&mut self, slot: usize, channels: usize, id: u32) {
        if self.0.is_empty() {
            self.0.resize_with(channels, Position::default);
        }
        let position = &mut self.0[slot];
        (position.asked, position.recovers, position.ended) = (id, position.epoch.is_some(), false);
    }

    /// What to ask for in a channel.
    pub fn past(&self, slot: usize) -> Past<'_> {
        match self.0.get(slot) {
            None => Past::Ignored,
            Some(Position { epoch: None, .. }) => Past::Followed,
            Some(Position { epoch: Some(epoch), offset, .. }) => Past::Since(*offset, epoch),
        }
    }

    /// True if the reply to this command is that of a subscribe.
    pub fn awaits(&self, id: u32) -> bool {
        self.0.iter().any(|position| position.asked == id)
    }

    /// Takes the reply to command `id`, with the position in it if there is one: for which channel, and what it means.
    pub fn take(&mut self, id: u32, reply: Option<&Subscribed>) -> Option<(usize, Standing)> {
        let slot = self.0.iter().position(|position| position.asked == id)?;
        let position = &mut self.0[slot];
        position.asked = 0;
        let Some(reply) = reply else {
            position.epoch = None;
            return Some((slot, Standing::Unrecoverable));
        };
        position.epoch = Some(reply.epoch.as_str().into());
        // With publications the offset is the one that was asked from: the last of them counts.
        position.offset = reply.publications.last().map_or(reply.offset, |(_, offset)| *offset);
        let standing = match (position.recovers, reply.recovered) {
            (false, _) => Standing::Begun,
            (true, true) => Standing::Recovered,
            (true, false) => Standing::Unrecovered,
        };
        Some((slot, standing))
    }

    /// A publication with this offset came in a channel.
    pub fn advance(&mut self, slot: usize, offset: u64) {
        if let Some(position) = self.0.get_mut(slot)
            && offset > 0
        {
            position.offset = offset;
        }
    }

    /// The server ended the subscription in a channel: true if it is to be asked for again.
    pub fn end(&mut self, slot: usize) -> bool {
        let Some(position) = self.0.get_mut(slot) else { return false };
        position.ended = true;
        true
    }

    /// A channel whose subscription has ended.
    pub fn next_ended(&self) -> Option<usize> {
        self.0.iter().position(|position| position.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u32, recovered: bool, offset: u64, missed: &[u64]) -> Subscribed {
        let publications = missed.iter().map(|offset| (None, *offset)).collect();
        Subscribed { id, recovered, offset, epoch: "e".to_owned(), publications }
    }

    #[test]
    fn a_position_follows_what_comes() {
        let mut positions = Positions::default();
        assert_eq!(positions.past(0), Past::Ignored);
        (0..2).for_each(|slot| positions.ask(slot, 2, 2 + slot as u32));
        assert_eq!(positions.past(1), Past::Followed);
        assert!(positions.awaits(3) && !positions.awaits(4));
        assert_eq!(positions.take(3, Some(&reply(3, false, 5, &[]))), Some((1, Standing::Begun)));
        assert_eq!(positions.take(3, None), None, "only once");
        positions.advance(1, 6);
        positions.advance(1, 0);
        assert_eq!(positions.past(1), Past::Since(6, "e"));
        positions.ask(1, 2, 9);
        assert_eq!(positions.take(9, Some(&reply(9, true, 6, &[7, 8]))), Some((1, Standing::Recovered)));
        assert_eq!(positions.past(1), Past::Since(8, "e"));
        positions.ask(1, 2, 10);
        assert_eq!(positions.take(10, Some(&reply(10, false, 20, &[]))), Some((1, Standing::Unrecovered)));
        assert_eq!(positions.past(1), Past::Since(20, "e"));
        assert_eq!(positions.take(2, None), Some((0, Standing::Unrecoverable)));
        assert_eq!(positions.past(0), Past::Followed);
    }

    #[test]
    fn what_the_server_ends_is_asked_for_again() {
        let mut positions = Positions::default();
        assert!(!positions.end(0), "a client that does not recover");
        (0..2).for_each(|slot| positions.ask(slot, 2, 2 + slot as u32));
        positions.take(3, Some(&reply(3, false, 5, &[])));
        assert!(positions.end(1));
        assert_eq!(positions.next_ended(), Some(1));
        positions.ask(1, 2, 7);
        assert_eq!((positions.next_ended(), positions.past(1)), (None, Past::Since(5, "e")));
    }
}
