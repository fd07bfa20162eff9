//! F10 · What is said to a server and not answered yet.
//!
//! Owns the bytes to be written, and who waits for what. A server of NATS answers nothing but pings, in their order:
//! what was said before a ping is done when its answer is there, or was refused before. Pure: time is an argument.

use super::protocol;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What somebody waits for.
#[derive(Debug)]
pub enum Awaited {
    Published {
        reactor: u16,
        ticket: u64,
        subject: String,
    },
    Told(oneshot::Sender<Result<(), String>>),
    /// The channel is heard.
    Heard(Arc<str>),
    /// It is heard no more.
    Left(Arc<str>),
}

impl Awaited {
    /// Is it a call, which must not wait for long?
    pub fn is_call(&self) -> bool {
        matches!(self, Awaited::Published { .. } | Awaited::Told(_))
    }
}

#[derive(Debug, Default)]
pub struct Talk {
    pub out: BytesMut,
    /// Since the last ping.
    fresh: Vec<Awaited>,
    /// When each was sent, and who waits for its answer.
    pings: VecDeque<(u64, Vec<Awaited>)>,
}

impl Talk {
    /// Whoever waits is answered after what is in `out` by now.
    pub fn wait(&mut self, awaited: Awaited) {
        self.fresh.push(awaited);
    }

    /// Asks for a sign of life, unless one is awaited.
    pub fn probe(&mut self, now_ms: u64) {
        if self.pings.is_empty() {
            protocol::ping(&mut self.out);
            self.pings.push_back((now_ms, std::mem::take(&mut self.fresh)));
        }
    }

    /// What is to be written, with a ping if somebody waits; nothing if there is none.
    pub fn take(&mut self, now_ms: u64) -> Option<Bytes> {
        if !self.fresh.is_empty() {
            protocol::ping(&mut self.out);
            self.pings.push_back((now_ms, std::mem::take(&mut self.fresh)));
        }
        (!self.out.is_empty()).then(|| self.out.split().freeze())
    }

    /// A ping is answered: those who waited for it.
    pub fn pong(&mut self) -> Vec<Awaited> {
        self.pings.pop_front().map(|(_, awaited)| awaited).unwrap_or_default()
    }

    /// For how long the oldest ping has been waited for.
    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        self.pings.front().map_or(0, |(at, _)| now_ms.saturating_sub(*at))
    }

    /// The first who waits for what the server refused.
    pub fn refused(&mut self, is_it: impl Fn(&Awaited) -> bool) -> Option<Awaited> {
        let all = self.pings.iter_mut().map(|(_, awaited)| awaited).chain([&mut self.fresh]);
        all.into_iter().find_map(|all| all.iter().position(&is_it).map(|at| all.remove(at)))
    }

    /// Calls that have waited for too long are given up; what is heard goes on.
    pub fn give_up(&mut self) -> Vec<Awaited> {
        let all = self.pings.iter_mut().map(|(_, awaited)| awaited).chain([&mut self.fresh]);
        all.flat_map(|all| all.extract_if(.., |one| one.is_call()).collect::<Vec<_>>()).collect()
    }

    /// The connection is gone: all who waited.
    pub fn lose(&mut self) -> Vec<Awaited> {
        let Talk { fresh, pings, .. } = std::mem::take(self);
        pings.into_iter().flat_map(|(_, awaited)| awaited).chain(fresh).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(ticket: u64, subject: &str) -> Awaited {
        Awaited::Published { reactor: 0, ticket, subject: subject.into() }
    }

    fn names(all: &[Awaited]) -> Vec<String> {
        let name = |one: &Awaited| match one {
            Awaited::Published { ticket, .. } => format!("{ticket}"),
            Awaited::Told(_) => "told".into(),
            Awaited::Heard(channel) | Awaited::Left(channel) => channel.to_string(),
        };
        all.iter().map(name).collect()
    }

    #[test]
    fn those_who_wait_are_answered_by_the_ping_behind_them() {
        let mut talk = Talk::default();
        assert_eq!(talk.take(0), None, "nothing to say");
        talk.out.extend_from_slice(b"1");
        talk.wait(published(1, "a"));
        assert_eq!(talk.take(5).as_deref(), Some(&b"1PING\r\n"[..]));
        talk.out.extend_from_slice(b"2");
        assert_eq!(talk.take(6).as_deref(), Some(&b"2"[..]), "nobody waits");
        talk.wait(Awaited::Heard("c".into()));
        talk.wait(published(2, "b"));
        assert_eq!(talk.take(7).as_deref(), Some(&b"PING\r\n"[..]));
        assert_eq!(talk.silence_ms(10), 5);
        assert_eq!(names(&talk.pong()), ["1"]);
        assert_eq!(names(&talk.pong()), ["c", "2"]);
        assert_eq!((names(&talk.pong()), talk.silence_ms(99)), (vec![], 0));
    }

    #[test]
    fn calls_are_given_up_and_the_rest_waits_on() {
        let mut talk = Talk::default();
        for ticket in [1, 2] {
            talk.wait(published(ticket, "a"));
            talk.wait(Awaited::Left(format!("c{ticket}").into()));
            talk.take(ticket);
        }
        talk.wait(published(3, "a"));
        let is = |one: &Awaited| matches!(one, Awaited::Published { subject, .. } if subject == "a");
        assert_eq!(talk.refused(is).map(|one| names(&[one])), Some(vec!["1".to_owned()]));
        assert_eq!(names(&talk.give_up()), ["2", "3"]);
        assert!(talk.refused(is).is_none());
        assert_eq!(names(&talk.lose()), ["c1", "c2"]);
    }

    #[test]
    fn a_probe_is_sent_only_if_no_answer_is_awaited() {
        let mut talk = Talk::default();
        talk.probe(1);
        talk.probe(2);
        assert_eq!(talk.take(3).as_deref(), Some(&b"PING\r\n"[..]));
        assert_eq!(talk.silence_ms(4), 3);
    }
}
