//! F3 · What a channel's owner tells a log, which keeps accepted publications for other programs.
//!
//! Owns the contract: a publication goes to the log once it has its place, each once, and those of a channel in their
//! order. Who published is answered without the log, or, if it is to wait, when the log has taken the publication: then
//! the answer goes to the log instead. What is for the log stands among what the owner says ([`Target::Log`]), so that
//! what holds that back holds back this too. Knows nothing of Kafka.

use super::interest::Told;
use super::{Answer, Asker, Event, Position, Request, Target, Treatment};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use std::sync::Arc;

/// Where the publications of a channel go as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTo {
    pub topic: Arc<str>,
    /// Who published is answered when the log has it.
    pub waits: bool,
}

/// An answer that is given once the log has taken what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Withheld {
    pub asker: Asker,
    pub answer: Answer,
}

/// From the owner to the log, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum LogCall {
    Append {
        topic: Arc<str>,
        channel: Arc<str>,
        publication: Arc<Publication>,
        /// If the channel keeps history.
        position: Option<Position>,
        withheld: Option<Box<Withheld>>,
    },
    /// Nothing new was published, for it was before: answered once the log has all that came before this.
    Settle { withheld: Box<Withheld> },
}

impl LogCall {
    /// What is left of it when the stream goes back to `top`: who waits for a later publication is told.
    pub(super) fn taken_back(self, top: u64) -> (Option<LogCall>, Option<Withheld>) {
        let is_later = |position: Option<&Position>| position.is_some_and(|position| position.offset > top);
        let refused = |withheld: Withheld| Withheld { answer: Answer::Refused(ClientError::Internal), ..withheld };
        match self {
            LogCall::Append { position, withheld, .. } if is_later(position.as_ref()) => {
                (None, withheld.map(|withheld| refused(*withheld)))
            }
            LogCall::Settle { withheld } => match &withheld.answer {
                Answer::Published(position) if is_later(position.as_ref()) => (None, Some(refused(*withheld))),
                _ => (Some(LogCall::Settle { withheld }), None),
            },
            call => (Some(call), None),
        }
    }
}

/// A publication for the log that has no place yet.
#[derive(Debug, Clone)]
pub(super) struct Unlogged {
    log: LogTo,
    channel: Arc<str>,
    publication: Arc<Publication>,
    pub asker: Asker,
}

impl Unlogged {
    /// Of a request that is about to be carried out; `None` = it is nothing for the log.
    pub fn of(request: &Request) -> Option<Unlogged> {
        let Request::Publish { channel, publication, asker, treatment } = request else { return None };
        Unlogged::new(channel, publication, *asker, treatment.as_deref())
    }

    pub fn new(
        channel: &Arc<str>,
        publication: &Arc<Publication>,
        asker: Asker,
        treatment: Option<&Treatment>,
    ) -> Option<Unlogged> {
        let log = treatment?.log.clone()?;
        Some(Unlogged { log, channel: channel.clone(), publication: publication.clone(), asker })
    }

    /// It was carried out, and what came of it stands in `told` from `from` on; what the log is to have comes into it.
    /// `fresh`: it was not published before.
    pub fn log(self, fresh: bool, told: &mut Told, from: usize) {
        let Unlogged { log, channel, publication, asker } = self;
        let is_its = |event: &Event| match event {
            Event::Answer { asker: to, answer: Answer::Published(_) | Answer::PublishedTo(..) } => *to == asker,
            _ => false,
        };
        let Some(at) = told[from..].iter().rposition(|(_, event)| is_its(event)) else { return };
        let Event::Answer { answer, .. } = &told[from + at].1 else { return };
        let (Answer::Published(position) | Answer::PublishedTo(position, _)) = answer else { return };
        let (position, answer) = (position.clone(), answer.clone());
        let withheld = log.waits.then(|| {
            told.remove(from + at);
            Box::new(Withheld { asker, answer })
        });
        let call = match (fresh, withheld) {
            (true, withheld) => LogCall::Append { topic: log.topic, channel, publication, position, withheld },
            (false, Some(withheld)) => LogCall::Settle { withheld },
            (false, None) => return,
        };
        told.insert(from + at, (Target::Log, Event::Logged(Box::new(call))));
    }
}
