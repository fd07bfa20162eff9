//! F3 · What waits at a channel: requests until it is open, and what is said until it is true.
//!
//! Owns the order. What was said stands behind the publication that it may tell of, and leaves when that is on disk.

use super::super::log::Withheld;
use super::super::{Answer, Event, Position, Request, Target, Told};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use compact_str::CompactString;
use std::collections::VecDeque;

#[derive(Debug)]
enum Waiting {
    Request(Box<Request>),
    Said(Box<Said>),
}

#[derive(Debug)]
struct Said {
    /// Of the append that it waits for; `None` = what is before it is enough.
    ticket: Option<u64>,
    /// The key under which the publication is remembered.
    key: CompactString,
    told: Told,
}

#[derive(Debug, Default)]
pub struct WaitingLine(VecDeque<Waiting>);

impl WaitingLine {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push_request(&mut self, request: Request) {
        self.0.push_back(Waiting::Request(Box::new(request)));
    }

    /// The requests, in their order.
    pub fn take_requests(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        let line = std::mem::take(&mut self.0);
        for waiting in line {
            match waiting {
                Waiting::Request(request) => requests.push(*request),
                said @ Waiting::Said(_) => self.0.push_back(said),
            }
        }
        requests
    }

    /// What is said of a publication that is on its way to the disk.
    pub fn push_append(&mut self, ticket: u64, key: CompactString, told: &mut Told) {
        let told = std::mem::take(told);
        self.0.push_back(Waiting::Said(Box::new(Said { ticket: Some(ticket), key, told })));
    }

    /// What is said behind that.
    pub fn push_told(&mut self, told: &mut Told) {
        match self.0.back_mut() {
            Some(Waiting::Said(said)) => said.told.append(told),
            _ => {
                let (key, told) = (CompactString::default(), std::mem::take(told));
                self.0.push_back(Waiting::Said(Box::new(Said { ticket: None, key, told })));
            }
        }
    }

    fn find(&mut self, ticket: u64) -> Option<&mut Said> {
        self.0.iter_mut().find_map(|waiting| match waiting {
            Waiting::Said(said) if said.ticket == Some(ticket) => Some(&mut **said),
            _ => None,
        })
    }

    /// Does anything wait for this append?
    pub fn has(&mut self, ticket: u64) -> bool {
        self.find(ticket).is_some()
    }

    /// The publication is on disk: what waited for nothing else is said. Did anything wait for it?
    pub fn appended(&mut self, ticket: u64, out: &mut Told) -> bool {
        let Some(said) = self.find(ticket) else { return false };
        said.ticket = None;
        while let Some(Waiting::Said(said)) = self.0.front_mut().filter(|front| front.is_free()) {
            out.append(&mut said.told);
            self.0.pop_front();
        }
        true
    }

    /// The stream goes back to `top`: what is said of later publications is not true. Those who published are answered
    /// with an error, and all else is said as it is then. The keys of the publications, and how many those were.
    pub fn fail(&mut self, top: u64, out: &mut Told) -> (Vec<CompactString>, u64) {
        let (mut keys, mut failed) = (Vec::new(), 0);
        for waiting in std::mem::take(&mut self.0) {
            match waiting {
                Waiting::Said(said) => {
                    failed += u64::from(said.ticket.is_some());
                    if !said.key.is_empty() && said.ticket.is_some() {
                        keys.push(said.key);
                    }
                    out.extend(said.told.into_iter().filter_map(|said| taken_back(said, top)));
                }
                request @ Waiting::Request(_) => self.0.push_back(request),
            }
        }
        (keys, failed)
    }
}

impl Waiting {
    fn is_free(&self) -> bool {
        matches!(self, Waiting::Said(said) if said.ticket.is_none())
    }
}

/// What is true of it when the stream is back at `top`.
fn taken_back((target, mut event): (Target, Event), top: u64) -> Option<(Target, Event)> {
    let step_back = |position: &mut Position, publications: &mut Vec<Publication>| {
        position.offset = position.offset.min(top);
        publications.retain(|publication| publication.offset <= top);
    };
    match &mut event {
        Event::Publication { publication, .. } if publication.offset > top => return None,
        Event::Subscribed { found: Some(found), .. } => {
            let found = &mut **found;
            let mut none = Vec::new();
            let publications = found.recovery.as_mut().map_or(&mut none, |recovery| &mut recovery.publications);
            step_back(&mut found.position, publications);
        }
        Event::Logged(_) => {
            let Event::Logged(call) = event else { return None };
            let (call, refused) = call.taken_back(top);
            let told = call.map(|call| (target, Event::Logged(Box::new(call))));
            return told.or(refused.map(|Withheld { asker, answer }| (asker.into(), Event::Answer { asker, answer })));
        }
        Event::Answer { answer, .. } => match answer {
            Answer::Published(Some(position)) | Answer::PublishedTo(Some(position), _) if position.offset > top => {
                *answer = Answer::Refused(ClientError::Internal);
            }
            Answer::History(found) => step_back(&mut found.0, &mut found.1),
            _ => {}
        },
        _ => {}
    }
    Some((target, event))
}
