//! F10 · Which channels are to be heard on one PUB/SUB connection, and which are.
//!
//! Owns what is wanted, what was asked of the server, and in which order to ask: a wish that changes while the server
//! is being asked is looked at again when it has answered. Pure.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    /// The server was not asked.
    Silent,
    /// It was asked, and has not answered.
    Asked,
    Heard,
    /// It was asked to stop, and has not answered.
    Leaving,
}

#[derive(Debug)]
struct Interest {
    /// The life of the wish, if there is one.
    wanted: Option<u32>,
    hearing: Hearing,
    /// It was heard on an earlier connection.
    was_heard: bool,
}

#[derive(Debug, Default)]
pub struct Interests {
    all: HashMap<Arc<str>, Interest, RandomState>,
    /// Those to look at.
    dirty: VecDeque<Arc<str>>,
}

/// What to ask the server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeBatch {
    pub subscribe: bool,
    pub channels: Vec<Arc<str>>,
}

impl Interests {
    /// True if it is heard already.
    pub fn listen(&mut self, channel: Arc<str>, life: u32) -> bool {
        let interest = self.all.entry(channel.clone()).or_insert(Interest {
            wanted: None,
            hearing: Hearing::Silent,
            was_heard: false,
        });
        interest.wanted = Some(life);
        match interest.hearing {
            Hearing::Silent => self.dirty.push_back(channel),
            Hearing::Heard => return true,
            Hearing::Asked | Hearing::Leaving => {}
        }
        false
    }

    pub fn unlisten(&mut self, channel: &Arc<str>) {
        let Some(interest) = self.all.get_mut(channel) else { return };
        (interest.wanted, interest.was_heard) = (None, false);
        match interest.hearing {
            Hearing::Heard => self.dirty.push_back(channel.clone()),
            Hearing::Silent => drop(self.all.remove(channel)),
            Hearing::Asked | Hearing::Leaving => {}
        }
    }

    /// What to ask for next: at most so many channels, all of one kind.
    pub fn next(&mut self, most: usize) -> Option<SubscribeBatch> {
        let mut batch: Option<SubscribeBatch> = None;
        while let Some(channel) = self.dirty.front() {
            let wish = self.all.get_mut(channel).and_then(|interest| match (interest.wanted, interest.hearing) {
                (Some(_), Hearing::Silent) => Some((interest, true)),
                (None, Hearing::Heard) => Some((interest, false)),
                _ => None,
            });
            let Some((interest, subscribe)) = wish else {
                self.dirty.pop_front();
                continue;
            };
            if batch.as_ref().is_some_and(|batch| batch.subscribe != subscribe || batch.channels.len() >= most) {
                break;
            }
            interest.hearing = if subscribe { Hearing::Asked } else { Hearing::Leaving };
            let batch = batch.get_or_insert(SubscribeBatch { subscribe, channels: Vec::new() });
            batch.channels.extend(self.dirty.pop_front());
        }
        batch
    }

    /// The server has answered for `channel`: the wish to tell of, if it is heard now.
    pub fn answered(&mut self, channel: &str, subscribed: bool) -> Option<(Arc<str>, u32)> {
        let (name, interest) = self.all.get_key_value(channel)?;
        let (name, wanted, hearing) = (name.clone(), interest.wanted, interest.hearing);
        let interest = self.all.get_mut(channel)?;
        match (subscribed, hearing) {
            (true, Hearing::Asked) => {
                interest.hearing = Hearing::Heard;
                interest.was_heard = true;
                match wanted {
                    Some(life) => return Some((name, life)),
                    None => self.dirty.push_back(name),
                }
            }
            // The server takes it away unasked as well: its slot has moved.
            (false, Hearing::Leaving | Hearing::Heard) => {
                interest.hearing = Hearing::Silent;
                match wanted {
                    Some(_) => self.dirty.push_back(name),
                    None => drop(self.all.remove(channel)),
                }
            }
            _ => {}
        }
        None
    }

    /// The server will not have it: the wish that is given up, if there is one.
    pub fn refused(&mut self, channel: &str) -> Option<(Arc<str>, u32)> {
        let (name, interest) = self.all.remove_entry(channel)?;
        interest.wanted.map(|life| (name, life))
    }

    /// Is `channel` heard, and wanted? Its name, kept by who listens.
    pub fn heard(&self, channel: &str) -> Option<&Arc<str>> {
        let (name, interest) = self.all.get_key_value(channel)?;
        (interest.hearing == Hearing::Heard && interest.wanted.is_some()).then_some(name)
    }

    /// The connection is gone: the wishes that were never fulfilled, and are none any more. All others will be asked
    /// for again.
    pub fn lost(&mut self) -> Vec<(Arc<str>, u32)> {
        let mut given_up = Vec::new();
        self.dirty.clear();
        self.all.retain(|channel, interest| {
            interest.hearing = Hearing::Silent;
            match interest.wanted {
                Some(life) if !interest.was_heard => {
                    given_up.push((channel.clone(), life));
                    false
                }
                Some(_) => {
                    self.dirty.push_back(channel.clone());
                    true
                }
                None => false,
            }
        });
        given_up
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(batch: Option<SubscribeBatch>) -> Option<(bool, Vec<String>)> {
        batch.map(|batch| (batch.subscribe, batch.channels.iter().map(ToString::to_string).collect()))
    }

    fn some(subscribe: bool, channels: &[&str]) -> Option<(bool, Vec<String>)> {
        Some((subscribe, channels.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn a_wish_is_asked_for_once_and_told_when_answered() {
        let mut interests = Interests::default();
        for (life, channel) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(!interests.listen(channel.into(), life as u32));
        }
        assert_eq!(names(interests.next(2)), some(true, &["a", "b"]));
        assert_eq!(names(interests.next(2)), some(true, &["c"]));
        assert_eq!(interests.next(2), None);
        assert_eq!(interests.heard("a"), None);
        assert_eq!(interests.answered("a", true), Some(("a".into(), 0)));
        assert_eq!(interests.heard("a").map(|name| &**name), Some("a"));
        assert!(interests.listen("a".into(), 9), "it is heard");
        assert_eq!(interests.answered("x", true), None);
    }

    #[test]
    fn a_wish_that_changes_meanwhile_is_looked_at_again() {
        let mut interests = Interests::default();
        interests.listen("a".into(), 1);
        assert_eq!(names(interests.next(9)), some(true, &["a"]));
        interests.unlisten(&"a".into());
        assert_eq!(interests.next(9), None, "the server has not answered");
        interests.listen("a".into(), 2);
        assert_eq!(interests.answered("a", true), Some(("a".into(), 2)), "the latest wish");
        interests.unlisten(&"a".into());
        assert_eq!(interests.heard("a"), None, "nobody wants it");
        assert_eq!(names(interests.next(9)), some(false, &["a"]));
        interests.listen("a".into(), 3);
        assert_eq!(interests.heard("a"), None, "what comes now may be followed by silence");
        assert_eq!(interests.answered("a", false), None);
        assert_eq!(names(interests.next(9)), some(true, &["a"]));
        assert_eq!(interests.answered("a", true), Some(("a".into(), 3)));
        interests.unlisten(&"a".into());
        interests.next(9);
        interests.answered("a", false);
        assert_eq!(interests.len(), 0);
    }

    #[test]
    fn after_a_loss_only_what_was_heard_is_asked_for_again() {
        let mut interests = Interests::default();
        interests.listen("old".into(), 1);
        interests.next(9);
        interests.answered("old", true);
        interests.listen("new".into(), 2);
        interests.listen("gone".into(), 3);
        interests.next(9);
        interests.unlisten(&"gone".into());
        assert_eq!(interests.lost(), [("new".into(), 2)]);
        assert_eq!(names(interests.next(9)), some(true, &["old"]));
        assert_eq!(interests.answered("old", true), Some(("old".into(), 1)), "told again");
    }

    #[test]
    fn the_server_may_refuse_a_channel() {
        let mut interests = Interests::default();
        interests.listen("a".into(), 1);
        interests.next(9);
        assert_eq!(interests.refused("a"), Some(("a".into(), 1)));
        assert_eq!((interests.answered("a", true), interests.len()), (None, 0));
        interests.listen("a".into(), 2);
        assert_eq!(names(interests.next(9)), some(true, &["a"]), "it may be tried again");
    }

    #[test]
    fn the_server_may_take_a_channel_away() {
        let mut interests = Interests::default();
        interests.listen("a".into(), 1);
        interests.next(9);
        interests.answered("a", true);
        interests.answered("a", false);
        assert_eq!(names(interests.next(9)), some(true, &["a"]));
        assert_eq!(interests.answered("a", true), Some(("a".into(), 1)));
    }
}
