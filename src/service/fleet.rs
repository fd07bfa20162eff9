//! F10 · This node among the others: what they ask is carried out here, and this node says what it is.
//!
//! Owns the answers to surveys, which are those of Centrifugo nodes. Knows nothing of how messages travel.

use super::api::{ChannelInfo, ChannelsRequest, ChannelsResult};
use super::node::{Node, Unavailable};
use super::seats::{self, SEATS};
use crate::engine::board::PresenceQuestion;
use crate::engine::control::{
    ControlCommand, FleetNode, FleetWish, SAY_EVERY, SurveyFault, SurveyRequest, SurveyResponse,
};
use crate::protocol::{ClientInfo, EmulationRequest};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const CHANNELS: &str = "channels";
const EMULATION: &str = "centrifuge_emulation";
/// Gannet's own: who of a node's clients is in a channel. Centrifugo nodes know nothing of it, and tell nobody.
const PRESENCE: &str = "gannet_presence";

/// Codes of answers to surveys.
const INTERNAL: u32 = 1;
const INVALID: u32 = 2;
const UNKNOWN_OP: u32 = 3;
/// Gannet's own: the answer is longer than what carries it. Other nodes take it for a failure like any other.
const TOO_LONG: u32 = 4;
/// Those to commands of clients whose connection goes one way.
const BAD_REQUEST: u32 = 1;
const NO_SESSION: u32 = 2;

/// How long nodes may take to say who is present: somebody waits.
const PRESENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// A list of who is present is told in parts of about so much: a server of NATS passes on 1 MiB at once.
const PRESENCE_PART: u64 = 64 << 10;

#[derive(Clone, PartialEq, Message)]
struct PresenceSurvey {
    #[prost(string, tag = "1")]
    channel: String,
    /// More are too many; 0 = none are.
    #[prost(uint64, tag = "2")]
    most: u64,
    /// The client to go on after; empty: from the first one.
    #[prost(bytes = "bytes", tag = "3")]
    after: Bytes,
    /// About how long the answer may be; 0 = all in one.
    #[prost(uint64, tag = "4")]
    part: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PresenceSurveyed {
    #[prost(message, repeated, tag = "1")]
    clients: Vec<ClientInfo>,
    /// The client to go on after; empty: these were all.
    #[prost(bytes = "bytes", tag = "2")]
    last: Bytes,
}

/// Users are counted exactly up to so many clients; beyond, one of two that are on several reactors is counted again.
const EXACT_MAX: usize = 50_000;

/// Hears the other nodes and speaks to them, for ever.
pub async fn run(node: Arc<Node>, mut control: mpsc::UnboundedReceiver<Bytes>) {
    if node.fleet.is_alone() {
        return;
    }
    let mut say = tokio::time::interval(SAY_EVERY);
    loop {
        tokio::select! {
            message = control.recv() => {
                let Some(message) = message else { return };
                if let Some(wish) = node.fleet.hear(message) {
                    // Their first steps, which put them into mailboxes, are in the order in which they came.
                    tokio::spawn(carry_out(node.clone(), wish));
                }
            }
            _ = say.tick() => drop(tokio::spawn(introduce(node.clone(), None))),
        }
    }
}

async fn carry_out(node: Arc<Node>, wish: FleetWish) {
    match wish {
        FleetWish::Control(control) => {
            if node.control(*control).await.is_err() {
                super::sums::add("fleet control", 1, |count| {
                    tracing::warn!(count, "a reactor was too busy for what another node asked of its clients");
                });
            }
        }
        FleetWish::Survey { from, request } => {
            let SurveyRequest { id, op, data } = request;
            let (code, data) = match &*op {
                CHANNELS => channels(&node, data).await,
                EMULATION => (emulation(&node, data), Bytes::new()),
                PRESENCE => presence(&node, data),
                SEATS => match seats::answer(&node, &from, data).await {
                    Some(data) => (0, data),
                    None => (INTERNAL, Bytes::new()),
                },
                // Whoever asks waits for an answer.
                _ => (UNKNOWN_OP, Bytes::new()),
            };
            let respond = |code, data| {
                let survey_response = Some(SurveyResponse { id, code, data });
                node.fleet.say(Some(&from), ControlCommand { survey_response, ..ControlCommand::default() })
            };
            let Err(why) = respond(code, data).await else { return };
            // Whoever asks waits. If a short answer is taken, it was the length of the other.
            if respond(TOO_LONG, Bytes::new()).await.is_ok() {
                super::sums::add("fleet answer", 1, move |count| {
                    tracing::warn!(
                        count,
                        op,
                        why,
                        "an answer to another node was not taken: ask for less by a narrower pattern, or raise the server's limit"
                    );
                });
            }
        }
        FleetWish::Introduce(uid) => introduce(node, Some(uid)).await,
    }
}

/// Says what this node is, to one or to all.
async fn introduce(node: Arc<Node>, to: Option<String>) {
    let Ok(stats) = node.stats().await else { return };
    let sum = |part: fn(&crate::shard::Stats) -> usize| stats.iter().map(part).sum::<usize>();
    let clients = sum(|s| s.clients);
    let users = match clients {
        ..=EXACT_MAX => node.users().await.unwrap_or(0),
        _ => sum(|s| s.users),
    };
    let told = FleetNode {
        uid: node.info.uid.clone(),
        name: node.info.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        num_clients: clients as u32,
        num_users: users as u32,
        num_channels: sum(|s| s.channels) as u32,
        uptime: node.info.started.elapsed().as_secs() as u32,
        num_subs: sum(|s| s.subscriptions) as u32,
        metrics: None,
    };
    node.fleet.say_soon(to.as_deref(), ControlCommand { node: Some(told), ..ControlCommand::default() });
}

async fn channels(node: &Node, data: Bytes) -> (u32, Bytes) {
    let Ok(request) = ChannelsRequest::decode(data) else { return (INVALID, Bytes::new()) };
    let glob = (!request.pattern.is_empty()).then(|| globset::Glob::new(&request.pattern)).transpose();
    let Ok(glob) = glob else { return (INVALID, Bytes::new()) };
    match node.channels_here(glob.map(|glob| glob.compile_matcher())).await {
        Ok(found) => {
            let info = |(name, clients): (Arc<str>, u64)| {
                (name.to_string(), ChannelInfo { num_clients: u32::try_from(clients).unwrap_or(u32::MAX) })
            };
            let channels = found.into_iter().map(info).collect();
            (0, ChannelsResult { channels }.encode_to_vec().into())
        }
        Err(_) => (INTERNAL, Bytes::new()),
    }
}

fn presence(node: &Node, data: Bytes) -> (u32, Bytes) {
    let Ok(PresenceSurvey { channel, most, after, part }) = PresenceSurvey::decode(data) else {
        return (INVALID, Bytes::new());
    };
    let or_all = |number| usize::try_from(number).ok().filter(|number| *number > 0).unwrap_or(usize::MAX);
    let (clients, last) = node.board.page(&channel, or_all(most), &after, or_all(part));
    let last = last.map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last));
    (0, PresenceSurveyed { clients, last }.encode_to_vec().into())
}

/// Asks all nodes who is present, for an engine that does not keep it.
pub async fn answer_questions(node: Arc<Node>, mut questions: mpsc::UnboundedReceiver<PresenceQuestion>) {
    while let Some(PresenceQuestion { channel, most, answer }) = questions.recv().await {
        let node = node.clone();
        tokio::spawn(async move {
            // Who gave up waiting does not mind.
            let _ = answer.send(node.present_anywhere(&channel, most).await);
        });
    }
}

fn emulation(node: &Node, data: Bytes) -> u32 {
    let Ok(request) = EmulationRequest::decode(data) else { return BAD_REQUEST };
    match node.commands(&request.session, super::emulation::from_node(request.data)) {
        Ok(true) => 0,
        Ok(false) | Err(_) => NO_SESSION,
    }
}

impl Node {
    /// Clients in a channel on any node; `None` if one of them did not answer.
    async fn present_anywhere(&self, channel: &str, most: usize) -> Option<Vec<ClientInfo>> {
        let until = Instant::now() + PRESENCE_TIMEOUT;
        let question = |after| {
            let (channel, most, part) = (channel.to_owned(), most as u64, PRESENCE_PART);
            PresenceSurvey { channel, most, after, part }.encode_to_vec().into()
        };
        let first = question(Bytes::new());
        let mut answers: Vec<(String, SurveyResponse)> =
            self.fleet.survey_within(PRESENCE_TIMEOUT, None, PRESENCE, first).await.ok()?.into_iter().collect();
        let mut found = self.board.present(channel, most);
        while let Some((uid, answer)) = answers.pop() {
            let part = match answer.code {
                0 => PresenceSurveyed::decode(answer.data).ok()?,
                UNKNOWN_OP => continue,
                _ => return None,
            };
            found.extend(part.clients);
            if part.last.is_empty() || found.len() > most {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            answers.extend(self.fleet.survey_within(left, Some(&uid), PRESENCE, question(part.last)).await.ok()?);
        }
        Some(found)
    }

    /// Channels with subscribers on any node, and how many each has.
    pub async fn channels(
        &self,
        pattern: String,
        glob: Option<globset::GlobMatcher>,
    ) -> Result<BTreeMap<Arc<str>, u64>, Unavailable> {
        let mut found = self.channels_here(glob).await?;
        let question = ChannelsRequest { pattern }.encode_to_vec().into();
        let answers = self.fleet.survey(None, CHANNELS, question).await.map_err(|_| Unavailable::Silent)?;
        for answer in answers.into_values() {
            let theirs = match answer.code {
                0 => ChannelsResult::decode(answer.data).map_err(|_| Unavailable::Silent)?,
                TOO_LONG => return Err(Unavailable::TooLong),
                _ => return Err(Unavailable::Silent),
            };
            for (name, info) in theirs.channels {
                *found.entry(name.into()).or_default() += u64::from(info.num_clients);
            }
        }
        Ok(found)
    }

    /// Passes commands of a client on to the node that it is connected to; false if there is no such node or session.
    pub async fn commands_elsewhere(&self, request: EmulationRequest) -> Result<bool, Unavailable> {
        let uid = request.node.clone();
        match self.fleet.survey(Some(&uid), EMULATION, request.encode_to_vec().into()).await {
            Ok(answers) => Ok(answers.into_values().all(|answer| answer.code == 0)),
            Err(SurveyFault::Unknown) => Ok(false),
            Err(SurveyFault::Silent) => Err(Unavailable::Silent),
        }
    }
}
