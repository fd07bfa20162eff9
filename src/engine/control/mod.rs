//! F10 · Nodes as one fleet: who is there, what all of them are to do, and what all of them are asked.
//!
//! Owns the list of nodes and the surveys under way: `messages` what is said, `registry` who is there. How messages
//! travel is the engine's; what they ask of clients is for who asks this to carry out.

pub mod messages;
mod registry;

pub use messages::{
    ControlCommand, FleetDisconnect, FleetMetrics, FleetNode, FleetShutdown, SubscribeDefaults, SurveyRequest,
    SurveyResponse,
};

use super::Letter;
use crate::shard::Control;
use bytes::Bytes;
use prost::Message;
use registry::Registry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long nodes may take to answer a survey.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a word of goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// A node says what it is so often.
pub const SAY_EVERY: Duration = Duration::from_secs(3);

/// What a message asks of this node.
#[derive(Debug)]
pub enum FleetWish {
    /// Of its clients.
    Control(Box<Control>),
    /// To answer a survey.
    Survey { from: String, request: SurveyRequest },
    /// To say what it is, to one that it did not know.
    Introduce(String),
}

/// Why there is no answer of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SurveyFault {
    /// No such node.
    Unknown,
    /// The engine did not take the question, or somebody did not answer in time.
    Silent,
}

/// Surveys that wait for answers.
struct Survey {
    missing: HashSet<String>,
    answers: HashMap<String, SurveyResponse>,
    done: Option<oneshot::Sender<HashMap<String, SurveyResponse>>>,
}

pub struct Fleet {
    uid: String,
    /// `None` if this node is alone.
    letters: Option<mpsc::UnboundedSender<Letter>>,
    registry: Mutex<Registry>,
    surveys: Mutex<HashMap<u64, Survey>>,
    next: AtomicU64,
    began: Instant,
    /// Messages that nobody can read, or that choose clients in ways that are not known here.
    unread: AtomicU64,
}

impl Fleet {
    pub fn new(uid: String, letters: Option<mpsc::UnboundedSender<Letter>>) -> Fleet {
        Fleet {
            uid,
            letters,
            registry: Mutex::default(),
            surveys: Mutex::default(),
            next: AtomicU64::new(1),
            began: Instant::now(),
            unread: AtomicU64::new(0),
        }
    }

    pub fn is_alone(&self) -> bool {
        self.letters.is_none()
    }

    /// Messages of control that could not be followed.
    pub fn unread(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn surveys(&self) -> MutexGuard<'_, HashMap<u64, Survey>> {
        self.surveys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The nodes beside this one.
    pub fn others(&self) -> Vec<FleetNode> {
        let mut registry = self.registry();
        registry.forget(self.now_ms());
        registry.others().cloned().collect()
    }

    /// A message: what it asks of this node, if anything.
    pub fn hear(&self, message: Bytes) -> Option<FleetWish> {
        let Ok(command) = ControlCommand::decode(message) else {
            self.unread.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if command.uid == self.uid {
            return None;
        }
        let from = command.uid.clone();
        if let Some(node) = command.node {
            let uid = node.uid.clone();
            return self.registry().hear(node, self.now_ms()).then_some(FleetWish::Introduce(uid));
        }
        if command.shutdown.is_some() {
            self.registry().leave(&from);
            return None;
        }
        if let Some(response) = command.survey_response {
            self.answered(&from, response);
            return None;
        }
        if let Some(request) = command.survey_request {
            return Some(FleetWish::Survey { from, request });
        }
        let control = command.control().map(|control| FleetWish::Control(control.into()));
        if control.is_none() {
            self.unread.fetch_add(1, Ordering::Relaxed);
        }
        control
    }

    fn answered(&self, from: &str, response: SurveyResponse) {
        let mut surveys = self.surveys();
        let id = response.id;
        let Some(survey) = surveys.get_mut(&id) else { return };
        if !survey.missing.remove(from) {
            return;
        }
        survey.answers.insert(from.to_owned(), response);
        if survey.missing.is_empty()
            && let Some(Survey { answers, done: Some(done), .. }) = surveys.remove(&id)
        {
            // Who gave up waiting does not mind.
            let _ = done.send(answers);
        }
    }

    /// Says something to all nodes, or to one; whether it was taken.
    pub async fn say(&self, node: Option<&str>, command: ControlCommand) -> Result<(), String> {
        let Some(letters) = &self.letters else { return Ok(()) };
        let message = ControlCommand { uid: self.uid.clone(), ..command }.encode_to_vec();
        let (taken, wait) = oneshot::channel();
        let gone = || "the engine's thread ended".to_owned();
        letters.send(Letter { node: node.map(str::to_owned), message, taken: Some(taken) }).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// The same without waiting.
    pub fn say_soon(&self, node: Option<&str>, command: ControlCommand) {
        let Some(letters) = &self.letters else { return };
        let message = ControlCommand { uid: self.uid.clone(), ..command }.encode_to_vec();
        // The engine is gone only when the process is.
        let _ = letters.send(Letter { node: node.map(str::to_owned), message, taken: None });
    }

    /// Says that this node goes, and waits a little until that is on its way.
    pub async fn say_goodbye(&self) {
        let Some(letters) = &self.letters else { return };
        let goodbye = ControlCommand { shutdown: Some(FleetShutdown {}), ..ControlCommand::default() };
        let message = ControlCommand { uid: self.uid.clone(), ..goodbye }.encode_to_vec();
        let (taken, wait) = oneshot::channel();
        if letters.send(Letter { node: None, message, taken: Some(taken) }).is_ok() {
            // Nobody can do more than wait for it.
            let _ = tokio::time::timeout(GOODBYE, wait).await;
        }
    }

    /// Asks the other nodes, or the one named; each must answer.
    pub async fn survey(
        &self,
        node: Option<&str>,
        op: &str,
        data: Bytes,
    ) -> Result<HashMap<String, SurveyResponse>, SurveyFault> {
        self.survey_within(SURVEY_TIMEOUT, node, op, data).await
    }

    /// The same with less patience.
    pub async fn survey_within(
        &self,
        patience: Duration,
        node: Option<&str>,
        op: &str,
        data: Bytes,
    ) -> Result<HashMap<String, SurveyResponse>, SurveyFault> {
        let missing: HashSet<String> = match node {
            Some(uid) if self.registry().knows(uid) => HashSet::from([uid.to_owned()]),
            Some(_) => return Err(SurveyFault::Unknown),
            None => self.others().into_iter().map(|node| node.uid).collect(),
        };
        if missing.is_empty() {
            return Ok(HashMap::new());
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, wait) = oneshot::channel();
        let survey = Survey { missing, answers: HashMap::new(), done: Some(done) };
        self.surveys().insert(id, survey);
        let request = SurveyRequest { id, op: op.to_owned(), data };
        let command = ControlCommand { survey_request: Some(request), ..ControlCommand::default() };
        let result = match self.say(node, command).await {
            Ok(()) => tokio::time::timeout(patience, wait).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.surveys().remove(&id);
        result.ok_or(SurveyFault::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(uid: &str, command: ControlCommand) -> Bytes {
        ControlCommand { uid: uid.into(), ..command }.encode_to_vec().into()
    }

    fn node(uid: &str) -> Bytes {
        let node = FleetNode { uid: uid.into(), ..FleetNode::default() };
        said(uid, ControlCommand { node: Some(node), ..ControlCommand::default() })
    }

    fn response(uid: &str, id: u64, code: u32) -> Bytes {
        let response = SurveyResponse { id, code, data: Bytes::new() };
        said(uid, ControlCommand { survey_response: Some(response), ..ControlCommand::default() })
    }

    #[tokio::test]
    async fn a_survey_waits_for_each_node_once() {
        let (letters, mut sent) = mpsc::unbounded_channel();
        let fleet = Fleet::new("me".into(), Some(letters));
        assert_eq!(fleet.survey(None, "channels", Bytes::new()).await, Ok(HashMap::new()), "nobody is there");
        assert!(matches!(fleet.hear(node("a")), Some(FleetWish::Introduce(uid)) if uid == "a"));
        assert!(fleet.hear(node("a")).is_none() && fleet.hear(node("b")).is_some());
        assert!(fleet.hear(node("me")).is_none() && fleet.others().len() == 2);
        let answers = async {
            let letter = sent.recv().await.expect("a letter");
            let command = ControlCommand::decode(&*letter.message).expect("a command");
            assert!(letter.node.is_none() && command.uid == "me");
            letter.taken.expect("somebody waits").send(Ok(())).expect("sent");
            let id = command.survey_request.expect("a survey").id;
            for (uid, code) in [("a", 0), ("a", 9), ("stranger", 9), ("b", 3)] {
                assert!(fleet.hear(response(uid, id, code)).is_none());
            }
        };
        let (found, ()) = tokio::join!(fleet.survey(None, "channels", Bytes::new()), answers);
        let found = found.expect("answers");
        assert_eq!((found.len(), found["a"].code, found["b"].code), (2, 0, 3));
        assert_eq!(fleet.survey(Some("c"), "x", Bytes::new()).await, Err(SurveyFault::Unknown));
        let shutdown = ControlCommand { shutdown: Some(Default::default()), ..ControlCommand::default() };
        fleet.hear(said("a", shutdown));
        assert_eq!(fleet.others().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let fleet = Fleet::new("me".into(), None);
        assert!(fleet.hear(Bytes::from_static(b"\xff\xff")).is_none());
        assert!(fleet.hear(said("a", ControlCommand::default())).is_none());
        assert_eq!(fleet.unread(), 2);
    }
}
