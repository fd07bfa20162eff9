//! F10 · `client.user_connection_limit` over all nodes: who came is counted on the others, and goes if they are too
//! many.
//!
//! Owns who has come and is not counted yet, and the questions about them, many users in one. A node holds the limit
//! among its own clients before they are connected; what is done here comes a moment after.
//!
//! Of two that come to two nodes at the same time the one on the node with the lower id is taken to be first. A node
//! that such a node has asked about a user, while one of its own was not counted yet, asks again: so not both stay. Who
//! cannot be counted because a node does not answer stays until it does, or is forgotten.

use super::node::Node;
use crate::engine::control::SurveyResponse;
use crate::protocol::code::Disconnect;
use crate::session::Settings;
use crate::shard::{Chosen, Control};
use bytes::Bytes;
use compact_str::CompactString;
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;

/// The question, which is Gannet's own: Centrifugo nodes count nobody.
pub const SEATS: &str = "gannet_seats";
/// How long nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Those who come within this are asked about together.
const TOGETHER: Duration = Duration::from_millis(20);
/// After a node did not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Users in one question.
const USERS_MAX: usize = 2048;
/// Users who may wait to be counted, while a node does not answer; who comes beyond is not.
const WAITING_MAX: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
struct SeatsQuestion {
    #[prost(string, repeated, tag = "1")]
    users: Vec<String>,
}

/// For each user of the question: connections, and how many of them are not counted yet.
#[derive(Clone, PartialEq, Message)]
struct SeatsAnswer {
    #[prost(uint32, repeated, tag = "1")]
    all: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    fresh: Vec<u32>,
}

/// Those of one user who are not counted yet, in the order in which they came.
#[derive(Debug, Default)]
struct Fresh {
    clients: Vec<String>,
    /// Of them, those that there were when the question was put.
    asked: usize,
    /// A node that goes before this one has asked about the user meanwhile.
    contested: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    fresh: HashMap<CompactString, Fresh>,
    /// Users to ask about, each once.
    users: Vec<CompactString>,
}

/// Who has come and is not counted yet.
#[derive(Debug, Default)]
pub struct Seats {
    waiting: Mutex<Waiting>,
    came: Notify,
}

impl Seats {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of a user was connected here.
    pub fn come(&self, user: CompactString, client: String) {
        let mut waiting = self.waiting();
        let Waiting { fresh, users } = &mut *waiting;
        if fresh.len() >= WAITING_MAX {
            return;
        }
        let all = fresh.entry(user.clone()).or_default();
        if all.clients.is_empty() {
            users.push(user);
        }
        all.clients.push(client);
        self.came.notify_one();
    }

    /// How many of each user's are not counted yet, for a node that asks. `is_before`: it goes before this one.
    fn tell(&self, users: &[String], is_before: bool) -> Vec<u32> {
        let mut waiting = self.waiting();
        let one = |user: &String| {
            let Some(fresh) = waiting.fresh.get_mut(user.as_str()) else { return 0 };
            fresh.contested |= is_before;
            fresh.clients.len() as u32
        };
        users.iter().map(one).collect()
    }

    /// Those to ask about.
    fn take(&self) -> Vec<CompactString> {
        let mut waiting = self.waiting();
        let count = waiting.users.len().min(USERS_MAX);
        let users: Vec<CompactString> = waiting.users.drain(..count).collect();
        for user in &users {
            if let Some(fresh) = waiting.fresh.get_mut(user) {
                (fresh.asked, fresh.contested) = (fresh.clients.len(), false);
            }
        }
        users
    }

    /// They are to be asked about again.
    fn put_back(&self, asked: Vec<CompactString>) {
        self.waiting().users.extend(asked);
    }

    /// So many of the user's are too many: the clients that are to go, who came last.
    fn settle(&self, user: &CompactString, over: usize) -> Vec<String> {
        let mut waiting = self.waiting();
        let Waiting { fresh, users } = &mut *waiting;
        let Some(all) = fresh.get_mut(user) else { return Vec::new() };
        let again = all.contested || all.clients.len() > all.asked;
        let gone = all.clients.split_off(all.clients.len().saturating_sub(over));
        match again && !all.clients.is_empty() {
            true => users.push(user.clone()),
            false => drop(fresh.remove(user)),
        }
        gone
    }
}

/// What a node that asks is told.
pub async fn answer(node: &Node, from: &str, data: Bytes) -> Option<Bytes> {
    let SeatsQuestion { users } = SeatsQuestion::decode(data).ok()?;
    let fresh = node.seats.tell(&users, from < &*node.info.uid);
    let all = node.seats_here(users).await.ok()?;
    Some(SeatsAnswer { all, fresh }.encode_to_vec().into())
}

/// Counts those who come, for ever.
pub async fn run(node: Arc<Node>, settings: Receiver<Arc<Settings>>) {
    if node.fleet.is_alone() {
        return;
    }
    loop {
        let users = node.seats.take();
        if users.is_empty() {
            node.seats.came.notified().await;
            tokio::time::sleep(TOGETHER).await;
            continue;
        }
        let limit = settings.borrow().rules.user_connection_limit;
        if let Err(users) = count(&node, users, limit).await {
            node.seats.put_back(users);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The error is those who could not be counted.
async fn count(node: &Node, users: Vec<CompactString>, limit: usize) -> Result<(), Vec<CompactString>> {
    let names: Vec<String> = users.iter().map(CompactString::to_string).collect();
    let question = SeatsQuestion { users: names.clone() }.encode_to_vec().into();
    let asked = node.fleet.survey_within(PATIENCE, None, SEATS, question);
    let (others, here) = tokio::join!(asked, node.seats_here(names));
    let (Ok(others), Ok(here)) = (others, here) else { return Err(users) };
    for (at, user) in users.iter().enumerate() {
        let own = here.get(at).copied().unwrap_or(0) as usize;
        let theirs: usize = others.iter().map(|(uid, said)| counted(said, at, *uid < node.info.uid)).sum();
        let over = (own + theirs).saturating_sub(limit);
        for client in node.seats.settle(user, if limit == 0 { 0 } else { over }) {
            let chosen = Chosen { user: user.clone().into(), client, ..Chosen::default() };
            let control = Control::Disconnect { chosen, keep: Vec::new(), disconnect: Disconnect::CONNECTION_LIMIT };
            // It may be gone by itself.
            let _ = node.control(control).await;
        }
    }
    Ok(())
}

/// How many of the user at that place a node has that go before ours. `is_before`: all of its own do.
fn counted(said: &SurveyResponse, at: usize, is_before: bool) -> usize {
    let Some(said) = (said.code == 0).then(|| SeatsAnswer::decode(said.data.clone()).ok()).flatten() else { return 0 };
    let all = said.all.get(at).copied().unwrap_or(0);
    let fresh = said.fresh.get(at).copied().unwrap_or(0);
    (if is_before { all } else { all.saturating_sub(fresh) }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_last_goes_first() {
        let seats = Seats::default();
        for client in ["a", "b", "c"] {
            seats.come("u".into(), client.into());
        }
        assert_eq!(seats.take(), ["u"]);
        assert!(seats.take().is_empty(), "each user is asked about once");
        assert_eq!(seats.settle(&"u".into(), 2), ["b", "c"]);
        assert_eq!(seats.tell(&["u".into()], true), [0], "they are counted");
        seats.come("u".into(), "d".into());
        assert_eq!(seats.take(), ["u"]);
        assert!(seats.settle(&"u".into(), 0).is_empty() && seats.waiting().fresh.is_empty());
    }

    #[test]
    fn who_is_asked_about_meanwhile_is_asked_about_again() {
        let seats = Seats::default();
        seats.come("u".into(), "a".into());
        seats.take();
        assert_eq!(seats.tell(&["u".into(), "v".into()], false), [1, 0], "that node goes after this one");
        assert_eq!(seats.tell(&["u".into()], true), [1]);
        assert!(seats.settle(&"u".into(), 0).is_empty());
        assert_eq!(seats.take(), ["u"], "both may have been let in");
        seats.come("u".into(), "b".into());
        assert!(seats.settle(&"u".into(), 0).is_empty());
        assert_eq!(seats.take(), ["u"], "another came meanwhile");
        assert_eq!(seats.settle(&"u".into(), 1), ["b"]);
        assert!(seats.take().is_empty());
    }

    #[test]
    fn of_two_that_come_together_one_goes_before() {
        let answer = SeatsAnswer { all: vec![3, 1], fresh: vec![2, 0] }.encode_to_vec().into();
        let said = SurveyResponse { id: 1, code: 0, data: answer };
        assert_eq!((counted(&said, 0, true), counted(&said, 0, false), counted(&said, 1, false)), (3, 1, 1));
        let unknown = SurveyResponse { code: 3, ..said };
        assert_eq!((counted(&unknown, 0, true), counted(&unknown, 9, true)), (0, 0));
    }
}
