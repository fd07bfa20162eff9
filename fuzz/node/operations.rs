//! Two shards under a sequence of typed operations, their mail in order but late, the backend's answers in any order or
//! never; what must hold holds after each, and nothing is left at the end.
use super::client::Asked;
use super::{self as node, CHANNELS, Node, SERVICE, USERS, WIRES, disconnect, masked, rules, setup, token};
use arbitrary::Arbitrary;
use gannet::auth::Overrides;
use gannet::broker::{Asker, Request, Treatment};
use gannet::protocol::{
    ChannelRequest, Command, ConnectRequest, Empty, Encoding, FilterNode, HistoryRequest, Publication, PublishRequest,
    RefreshRequest, RpcRequest, SendRequest, StreamPosition, SubRefreshRequest, SubscribeRequest, UnsubscribeRequest,
};
use gannet::session::backend::{ConnectGrant, PublishGrant, RefreshGrant, Said, SubscribeGrant};
use gannet::shard::{Chosen, Control, Mail};
use gannet::wire::Wire;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Arbitrary)]
pub enum Operation {
    Open {
        conn: u8,
        wire: u8,
        frame_pings: bool,
    },
    Command {
        conn: u8,
        what: What,
    },
    /// In one message; maybe by the same id.
    Two {
        conn: u8,
        again: bool,
        first: What,
        second: What,
    },
    /// One object with two requests.
    Both {
        conn: u8,
        id: u8,
        first: What,
        second: What,
    },
    /// By another request than the client's own.
    Astray {
        conn: u8,
        named: bool,
        what: What,
    },
    Bytes {
        conn: u8,
        message: Vec<u8>,
    },
    PongFrame {
        conn: u8,
    },
    Close {
        conn: u8,
    },
    Tick {
        ticks: u8,
    },
    /// By the backend.
    Publish {
        channel: u8,
        data: u8,
        how: u8,
        version: u8,
    },
    RemoveHistory {
        channel: u8,
    },
    Mail {
        from: u8,
        count: u8,
    },
    Lose {
        from: u8,
    },
    FanOut {
        budget: u8,
    },
    Full {
        which: u8,
    },
    Said {
        at: u8,
        said: Answering,
    },
    Disconnect {
        user: u8,
        code: u16,
    },
    Subscribe {
        user: u8,
        channel: u8,
        how: u8,
    },
    Unsubscribe {
        user: u8,
        channel: u8,
    },
    Refresh {
        user: u8,
        how: Answering,
    },
    Ask {
        what: u8,
    },
}

#[derive(Debug, Arbitrary)]
pub enum What {
    Connect { user: u8, expires: u8, subs: u8, wishes: u8 },
    Subscribe { channel: u8, how: u16, offset: u8, expires: u8 },
    Unsubscribe(u8),
    Publish { channel: u8, data: u8 },
    Presence { channel: u8, counts: bool },
    History { channel: u8, limit: i8, since: Option<u8>, reverse: bool },
    Send,
    Rpc,
    Refresh { user: u8, expires: u8 },
    SubRefresh { channel: u8, expires: u8 },
    Ping,
    Pong,
}

#[derive(Debug, Arbitrary)]
pub enum Answering {
    /// The service thread has no room for the question.
    Nobody,
    NoCredentials,
    Connect {
        user: u8,
        expires: u8,
        subs: u8,
        how: u8,
    },
    Refresh {
        expired: bool,
        expires: u8,
        info: bool,
    },
    Subscribe {
        expires: u8,
        how: u8,
    },
    Publish {
        data: u8,
        skip_history: bool,
        tag: bool,
    },
    Rpc {
        json: bool,
    },
    Keys {
        failed: bool,
    },
    Error {
        code: u8,
    },
    Disconnect {
        code: u16,
    },
}

fn channel(which: u8) -> String {
    CHANNELS[usize::from(which) % CHANNELS.len()].to_owned()
}

/// The channels whose bits are set.
fn channels(bits: u8) -> impl Iterator<Item = String> {
    (0..8).filter(move |bit| bits & 1 << bit != 0).map(channel)
}

/// "" for none of them.
fn user(which: u8) -> &'static str {
    USERS.get(usize::from(which % 4)).copied().unwrap_or("")
}

fn data(which: u8) -> &'static str {
    const LONG: &str =
        r#"{"price":1234.5,"name":"a name that is longer than what changes","list":[1,2,3,4,5,6,7],"n":"#;
    match which % 8 {
        0 => "1",
        1 => concat!(
            r#"{"price":1234.5,"name":"a name that is longer than what changes","list":[1,2,3,4,5,6,7],"n":"#,
            "1}"
        ),
        2 => concat!(
            r#"{"price":1234.5,"name":"a name that is longer than what changes","list":[1,2,3,4,5,6,7],"n":"#,
            "2}"
        ),
        3 => "[\n1,\r\n2]",
        4 => "\"caf\u{e9}\"",
        5 => "",
        6 => "null",
        // No JSON.
        _ => LONG,
    }
}

fn tags(on: bool) -> HashMap<String, String> {
    if on { [("k".to_owned(), "1".to_owned())].into() } else { HashMap::new() }
}

impl Answering {
    fn said(&self, now: u64) -> Option<Said> {
        let at = |expires: u8| if expires == 0 { 0 } else { (now + u64::from(expires % 8)).saturating_sub(2) };
        Some(match self {
            Answering::Nobody => return None,
            Answering::NoCredentials => Said::NoCredentials,
            Answering::Connect { user: who, expires, subs, how } => Said::Connect(Box::new(ConnectGrant {
                user: user(*who).into(),
                expire_at: at(*expires),
                info: info(how & 64 != 0),
                data: info(how & 128 != 0),
                subs: channels(*subs).map(|channel| (channel, granted(*how, at(how / 4)))).collect(),
                meta: bytes::Bytes::new(),
            })),
            Answering::Refresh { expired, expires, info: new } => Said::Refresh(RefreshGrant {
                expired: *expired,
                expire_at: at(*expires),
                info: Some(info(*new)),
                meta: None,
            }),
            Answering::Subscribe { expires, how } => Said::Subscribe(Box::new(granted(*how, at(*expires)))),
            Answering::Publish { data: what, skip_history, tag } => Said::Publish(Box::new(PublishGrant {
                data: (what % 2 == 0).then(|| data(*what).into()),
                skip_history: *skip_history,
                tags: tags(*tag),
            })),
            Answering::Rpc { json } => Said::Rpc(if *json { "{}" } else { "!" }.into()),
            Answering::Keys { failed } => {
                let mut jwks = gannet::auth::Jwks::default();
                match failed {
                    true => jwks.fail(node::KEYS_AT.into(), now),
                    false => jwks = node::keys(now),
                }
                Said::Keys(Arc::new(jwks))
            }
            Answering::Error { code } => {
                let code = 100 + u32::from(*code);
                Said::Error(gannet::protocol::Error { code, message: "no".into(), temporary: code.is_multiple_of(2) })
            }
            Answering::Disconnect { code } => Said::Disconnect(disconnect(*code)),
        })
    }
}

fn info(on: bool) -> bytes::Bytes {
    if on { "{\"name\":\"n\"}".into() } else { bytes::Bytes::new() }
}

fn granted(how: u8, expire_at: u64) -> SubscribeGrant {
    let forced = |bit: u8| (how & 1 << bit != 0).then_some(how & 32 != 0);
    let overrides = Overrides {
        presence: forced(0),
        join_leave: forced(1),
        force_push_join_leave: forced(2),
        force_recovery: forced(3),
        force_positioning: forced(4),
    };
    SubscribeGrant { expire_at, info: info(how & 64 != 0), data: info(how & 128 != 0), overrides }
}

/// Fills in a request and tells what its reply will be about.
fn fill(node: &Node, command: &mut Command, what: &What) -> Option<Asked> {
    let now = node.now.unix_ms / 1000;
    let exp = |expires: u8| (expires > 0).then(|| now + u64::from(expires % 8));
    let on = |which: &u8| ChannelRequest { channel: channel(*which) };
    match what {
        What::Connect { user: who, expires, subs, wishes } => {
            let list: Vec<String> = channels(*subs).collect();
            let claims = json!({ "sub": user(*who), "exp": exp(*expires), "channels": list, "info": { "n": who } });
            let token = if who / 4 % 2 == 0 { token(&claims) } else { String::new() };
            let subs = channels(*wishes).map(|name| (name.clone(), position(node, name, wishes % 2 == 0, 1))).collect();
            command.connect = Some(ConnectRequest { token, subs, ..ConnectRequest::default() });
        }
        What::Subscribe { channel: which, how, offset, expires } => {
            let request = subscribe(node, *which, *how, *offset, exp(*expires));
            let asked = Asked::Subscribe { channel: channel(*which), filtered: request.tf.is_some() };
            command.subscribe = Some(request);
            return Some(asked);
        }
        What::Unsubscribe(which) => {
            command.unsubscribe = Some(UnsubscribeRequest { channel: channel(*which) });
            return Some(Asked::Unsubscribe { channel: channel(*which) });
        }
        What::Publish { channel: which, data: what } => {
            let data = data(*what).into();
            command.publish = Some(PublishRequest { channel: channel(*which), data, kind: 0 });
        }
        What::Presence { channel, counts: true } => command.presence_stats = Some(on(channel)),
        What::Presence { channel, .. } => command.presence = Some(on(channel)),
        What::History { channel: which, limit, since, reverse } => {
            let epoch = node.known.get(&channel(*which)).map_or("x".to_owned(), |(_, epoch)| epoch.clone());
            let since = since.map(|offset| StreamPosition { offset: u64::from(offset), epoch });
            let (limit, reverse) = (i32::from(*limit), *reverse);
            command.history = Some(HistoryRequest { channel: channel(*which), limit, since, reverse });
        }
        What::Send => command.send = Some(SendRequest::default()),
        What::Rpc => command.rpc = Some(RpcRequest { data: "1".into(), method: "m".into() }),
        What::Refresh { user: who, expires } => {
            let token = token(&json!({ "sub": user(*who), "exp": exp(*expires) }));
            command.refresh = Some(RefreshRequest { token });
        }
        What::SubRefresh { channel: which, expires } => {
            let token = token(&json!({ "sub": "1", "channel": channel(*which), "exp": exp(*expires) }));
            command.sub_refresh = Some(SubRefreshRequest { channel: channel(*which), token, kind: 0 });
        }
        What::Ping => command.ping = Some(Empty {}),
        What::Pong => command.id = 0,
    }
    None
}

/// A wish to recover: from where some client stood, or from anywhere.
fn position(node: &Node, channel: String, known: bool, offset: u8) -> SubscribeRequest {
    let position = node.known.get(&channel).filter(|_| known).cloned();
    let (offset, epoch) = position.unwrap_or_else(|| (u64::from(offset % 8), String::new()));
    SubscribeRequest { channel, recover: true, offset, epoch, ..SubscribeRequest::default() }
}

fn subscribe(node: &Node, which: u8, how: u16, offset: u8, exp: Option<u64>) -> SubscribeRequest {
    let on = |bit: u16| how & 1 << bit != 0;
    let channel = channel(which);
    let mut request = match on(0) {
        true => position(node, channel, on(1), offset),
        false => SubscribeRequest { channel, ..SubscribeRequest::default() },
    };
    (request.positioned, request.recoverable, request.join_leave) = (on(2), on(3), on(4));
    request.flag = i64::from(how >> 5 & 3);
    if on(7) {
        request.delta = "fossil".into();
    }
    if on(8) {
        let leaf = FilterNode { key: "k".into(), cmp: "eq".into(), val: "1".into(), ..FilterNode::default() };
        request.tf = Some(Box::new(leaf));
    }
    if on(9) {
        let sub = user((how >> 10) as u8);
        let expire_at = if on(12) { Some(0) } else { None };
        let claims = json!({ "sub": sub, "channel": request.channel, "exp": exp, "expire_at": expire_at,
            "info": { "n": 1 }, "override": { "force_recovery": { "value": on(13) } } });
        request.token = token(&claims);
    }
    request
}

fn encode(wire: Wire, command: &Command, message: &mut Vec<u8>) {
    match wire.encoding() {
        Encoding::Protobuf => message.extend(prost::Message::encode_length_delimited_to_vec(command)),
        // Who only listens sends a request without a command around it.
        Encoding::Json if wire.is_uni() => {
            message.extend(serde_json::to_vec(&command.connect.clone().unwrap_or_default()).expect("JSON"));
        }
        Encoding::Json => {
            if !message.is_empty() {
                message.push(b'\n');
            }
            message.extend(serde_json::to_vec(command).expect("JSON"));
        }
    }
}

/// A message of one or two commands, and what follows from it for the client's own view.
fn command(node: &mut Node, conn: u8, again: bool, list: &[&What]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for what in list {
        let mut command = Command::default();
        let asked = fill(node, &mut command, what);
        // No JSON goes into the text of a JSON client.
        let text = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).is_ok();
        let conn = node.conn(conn)?;
        if let Some(publish) = command.publish.as_mut().filter(|publish| !text(&publish.data))
            && conn.wire.encoding() == Encoding::Json
        {
            publish.data = "2".into();
        }
        if !matches!(what, What::Pong) {
            conn.client.next_id += u32::from(!again);
            command.id = conn.client.next_id;
        }
        conn.client.muddled |= again;
        conn.client.asked.extend(asked.map(|asked| (command.id, asked)));
        encode(conn.wire, &command, &mut message);
    }
    Some(message)
}

fn both(node: &mut Node, conn: u8, id: u8, list: [&What; 2]) -> Option<Vec<u8>> {
    let mut command = Command { id: u32::from(id), ..Command::default() };
    for what in list {
        fill(node, &mut command, what);
    }
    command.publish.iter_mut().for_each(|publish| publish.data = "3".into());
    let conn = node.conn(conn)?;
    conn.client.muddled = true;
    let mut message = Vec::new();
    encode(conn.wire, &command, &mut message);
    Some(message)
}

fn run(node: &mut Node, operation: &Operation) {
    match operation {
        Operation::Open { conn, wire, frame_pings } => {
            node.open(*conn, Wire::from_index(usize::from(*wire) % WIRES), *frame_pings);
        }
        Operation::Tick { ticks } => node.tick(u32::from(*ticks)),
        Operation::Mail { from, count } => {
            node.take_mail(usize::from(*from) % (SERVICE + 1), usize::from(*count));
        }
        Operation::Lose { from } => node.lose(usize::from(*from) % SERVICE),
        Operation::FanOut { budget } => _ = node.work(usize::from(*budget)),
        Operation::Full { which } => node.set_full([which & 1 != 0, which & 2 != 0]),
        Operation::Said { at, said } => {
            let said = said.said(node.now.unix_ms / 1000);
            node.said(usize::from(*at), said);
        }
        Operation::PongFrame { conn } => {
            if node.conn(*conn).is_some_and(|conn| conn.wire.is_websocket()) {
                node.say(*conn, &masked(0x8A, b""), usize::MAX);
                node.turn(Node::at(*conn).1, Vec::new());
            }
        }
        Operation::Close { conn } => node.close(*conn),
        Operation::Command { .. }
        | Operation::Two { .. }
        | Operation::Both { .. }
        | Operation::Astray { .. }
        | Operation::Bytes { .. } => say(node, operation),
        _ => serve(node, operation),
    }
}

/// What clients do.
fn say(node: &mut Node, operation: &Operation) {
    let (conn, message) = match operation {
        Operation::Command { conn, what } => (conn, command(node, *conn, false, &[what])),
        Operation::Two { conn, again, first, second } => (conn, command(node, *conn, *again, &[first, second])),
        Operation::Both { conn, id, first, second } => (conn, both(node, *conn, *id, [first, second])),
        Operation::Bytes { conn, message } => {
            node.conn(*conn).into_iter().for_each(|conn| conn.client.muddled = true);
            (conn, Some(message.clone()))
        }
        Operation::Astray { conn, named, what } => {
            let at = Node::at(*conn).1;
            let Some(message) = command(node, *conn, false, &[what]) else { return };
            let Some(key) = node.key(*conn) else { return };
            let name = node.session_name(*conn).filter(|_| *named);
            let (session, message) = (name.unwrap_or_default().into(), message.into());
            return node.mail[SERVICE][at].push_back(Mail::Commands { conn: key, session, message });
        }
        _ => return,
    };
    if let Some(message) = message.filter(|_| node.is_open(*conn)) {
        node.message(*conn, &message);
    }
}

/// What the backend does.
fn serve(node: &mut Node, operation: &Operation) {
    let chosen = |who: &u8| Chosen { user: user(*who).to_owned(), ..Chosen::default() };
    match operation {
        Operation::Publish { channel: which, data: what, how, version } => publish(node, *which, *what, *how, *version),
        Operation::RemoveHistory { channel: which } => {
            let channel: Arc<str> = channel(*which).into();
            let to = Node::owner(&channel);
            node.mail[SERVICE][to].push_back(Mail::Ask(Request::RemoveHistory { channel, asker: Asker::Backend(1) }));
        }
        Operation::Disconnect { user, code } => {
            let disconnect = disconnect(*code);
            node.control(&Control::Disconnect { chosen: chosen(user), keep: Vec::new(), disconnect });
        }
        Operation::Subscribe { user, channel: which, how } => {
            let request = match how & 1 {
                0 => position(node, channel(*which), how & 2 != 0, how >> 5),
                _ => SubscribeRequest { channel: channel(*which), ..SubscribeRequest::default() },
            };
            // Its owner looks at the name before it comes here.
            if node::rules(0).namespace(&request.channel).is_some() {
                let grant = granted(*how, if how & 4 != 0 { node.now.unix_ms / 1000 + 2 } else { 0 });
                node.control(&Control::Subscribe { chosen: chosen(user), request, grant });
            }
        }
        Operation::Unsubscribe { user, channel: which } => {
            let channel = if *which == 255 { String::new() } else { channel(*which) };
            node.control(&Control::Unsubscribe { chosen: chosen(user), channel });
        }
        Operation::Refresh { user, how } => {
            if let Some(Said::Refresh(grant)) = how.said(node.now.unix_ms / 1000) {
                node.control(&Control::Refresh { chosen: chosen(user), grant });
            }
        }
        Operation::Ask { what: 0 } => node.control(&Control::Users),
        Operation::Ask { what } if what % 2 == 0 => node.control(&Control::Channels(None)),
        Operation::Ask { .. } => node.control(&Control::Stats),
        _ => {}
    }
}

fn publish(node: &mut Node, which: u8, what: u8, how: u8, version: u8) {
    let channel: Arc<str> = channel(which).into();
    let Some(keep) = rules(0).namespace(&channel).map(|namespace| namespace.keep) else { return };
    let publication = Publication { data: data(what).into(), tags: tags(how & 1 != 0), ..Publication::default() };
    let treatment = Treatment {
        keep: keep.filter(|_| how & 2 == 0),
        delta: how & 4 != 0,
        except: None,
        idempotency_key: if how & 8 != 0 { "k" } else { "" }.into(),
        version: u64::from(version % 4),
        version_epoch: if how & 16 != 0 { "e" } else { "" }.into(),
        log: None,
        tells_present: false,
    };
    let to = Node::owner(&channel);
    let treatment = (how & 32 == 0).then(|| Box::new(treatment));
    let publish = Request::Publish { channel, publication: publication.into(), asker: Asker::Backend(1), treatment };
    node.mail[SERVICE][to].push_back(Mail::Ask(publish));
}

/// The options, and what happens.
pub type Input = (u8, Vec<Operation>);

pub fn try_it((bits, operations): Input) {
    let mut node = Node::new(setup(bits));
    for operation in operations.iter().take(200) {
        run(&mut node, operation);
        node.check();
    }
    node.finish();
}
