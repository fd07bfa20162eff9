//! What clients do, drawn by chance: commands of every kind, several at once, and what no client should send.

use crate::client::{Expect, Foreseen, NO_CODE, Reads, Talk, command};
use crate::ledger::Sent;
use crate::node::World;
use crate::options::{BEGAN_S, CHANNELS, KEY, USERS};
use crate::rng::Rng;
use crate::script::Deed;
use crate::wire;
use gannet::protocol::{
    ChannelRequest, Command, ConnectRequest, Empty, Encoding, HistoryRequest, PublishRequest, RefreshRequest,
    RpcRequest, SendRequest, SubRefreshRequest, SubscribeRequest, UnsubscribeRequest,
};
use serde_json::json;

/// How a client leaves, or is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Close,
    End,
    Reset,
    Cut,
}

/// One thing done by a connected client; how it left, if it did.
pub fn act(talk: &mut Talk, world: &mut World) -> Option<Leave> {
    if talk.foreseen == Foreseen::Doomed {
        return None;
    }
    let faults = world.options.faults;
    if world.rng.chance(faults) {
        return misbehave(talk, world);
    }
    if world.rng.chance(2) {
        let leave = *world.rng.pick(&[Leave::Close, Leave::End, Leave::Reset]);
        if leave == Leave::Close {
            say_close(talk, world);
        }
        return Some(leave);
    }
    let count = *world.rng.pick(&[1, 1, 1, 2, 3]);
    let (mut batch, mut deeds) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (command, expect) = next_command(talk, world);
        deeds.push(talk.expect_reply(&command, expect));
        batch.push(command);
    }
    let mut message = wire::commands(talk.encoding, &batch);
    if talk.encoding == Encoding::Json && world.rng.chance(10) {
        message.push(b'\n');
    }
    assert!(message.len() <= world.options.message_bytes_max, "paddings are small enough for three commands");
    talk.send_message(world, &message, deeds);
    None
}

fn next_id(talk: &mut Talk, rng: &mut Rng) -> u32 {
    if talk.next_id > 0 && rng.chance(1) {
        talk.duplicates_ids = true;
    } else {
        talk.next_id += 1;
    }
    talk.next_id
}

fn next_command(talk: &mut Talk, world: &mut World) -> (Command, Option<Expect>) {
    let id = next_id(talk, &mut world.rng);
    let early = talk.foreseen != Foreseen::Connected;
    if talk.foreseen == Foreseen::New && world.rng.chance(96) {
        return connect(id, talk, world);
    }
    let (command, expect) = match world.rng.below(100) {
        0..35 => subscribe(id, world),
        35..55 => unsubscribe(id, world),
        55..90 => publish(id, talk, world),
        90..94 => refresh(id, talk, world),
        _ => not_offered(id, world, !early),
    };
    (command, Some(if early { Expect::Close(3501) } else { expect }))
}

/// A channel: mostly one that others use too.
fn channel(world: &mut World) -> String {
    if world.rng.chance(93) {
        return CHANNELS[world.rng.below(world.options.channels)].to_owned();
    }
    let long = "x".repeat(world.options.config.channel.max_length + 1);
    (*world.rng.pick(&["mute:1", "nowhere:1", "$private", "caf\u{e9}", &long])).to_owned()
}

fn subscribe(id: u32, world: &mut World) -> (Command, Expect) {
    let channel = if world.rng.below(1000) < world.options.faults { String::new() } else { channel(world) };
    let expect = if channel.is_empty() { Expect::Close(3501) } else { Expect::Subscribe(channel.clone()) };
    let subscribe = Some(SubscribeRequest { channel, flag: 1, ..SubscribeRequest::default() });
    (Command { subscribe, ..command(id) }, expect)
}

fn unsubscribe(id: u32, world: &mut World) -> (Command, Expect) {
    let channel = channel(world);
    let unsubscribe = Some(UnsubscribeRequest { channel: channel.clone() });
    (Command { unsubscribe, ..command(id) }, Expect::Unsubscribe(channel))
}

fn publish(id: u32, talk: &Talk, world: &mut World) -> (Command, Expect) {
    let channel = channel(world);
    if world.rng.chance(2) {
        let publish = Some(PublishRequest { channel: channel.clone(), ..PublishRequest::default() });
        return (Command { publish, ..command(id) }, Expect::Publish { channel, empty: true });
    }
    let is_json = talk.encoding == Encoding::Json || world.rng.below(1000) >= world.options.faults;
    let data = payload(world, &channel, Some(talk.key), is_json, talk.encoding == Encoding::Protobuf);
    let publish = Some(PublishRequest { channel: channel.clone(), data: data.into(), kind: 0 });
    (Command { publish, ..command(id) }, Expect::Publish { channel, empty: false })
}

/// Data with a number of its own, told to the ledger.
pub fn payload(
    world: &mut World,
    channel: &str,
    by: Option<gannet::broker::ConnKey>,
    is_json: bool,
    may_break_lines: bool,
) -> Vec<u8> {
    let pad = "x".repeat(world.rng.below(world.options.pad + 1));
    let line_end = if may_break_lines && world.rng.chance(20) { "\n" } else { "" };
    let id = world.ledger.send(|id| {
        let data = if is_json { format!("[{id},{line_end}\"{pad}\"]") } else { format!("!{id} {pad}") };
        Sent { channel: channel.to_owned(), data: data.into_bytes(), by, is_json }
    });
    world.ledger.sent(id).data.clone()
}

fn not_offered(id: u32, world: &mut World, may_be_fatal: bool) -> (Command, Expect) {
    let channel = "a".to_owned();
    let request = Some(ChannelRequest { channel: channel.clone() });
    let it = command(id);
    let fatal = may_be_fatal && world.rng.chance(world.options.faults);
    match world.rng.below(4) {
        0 if fatal => (Command { send: Some(SendRequest::default()), ..it }, Expect::Close(3508)),
        1 if fatal => (Command { ping: Some(Empty {}), ..it }, Expect::Close(3501)),
        2 if fatal => (Command { connect: Some(ConnectRequest::default()), ..it }, Expect::Close(3501)),
        0 => (Command { presence: request, ..it }, Expect::Error(108)),
        1 => (
            Command { history: Some(HistoryRequest { channel, ..HistoryRequest::default() }), ..it },
            Expect::Error(108),
        ),
        2 => (Command { rpc: Some(RpcRequest::default()), ..it }, Expect::Error(108)),
        _ => (
            Command {
                sub_refresh: Some(SubRefreshRequest { channel: channel.clone(), ..SubRefreshRequest::default() }),
                ..it
            },
            Expect::SubRefresh(channel),
        ),
    }
}

// --- tokens ---

pub fn token(claims: serde_json::Value, key: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(key.as_bytes()).expect("a key");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
}

/// Seconds since 1970, now.
fn seconds(world: &World) -> u64 {
    world.now().unix_ms / 1000
}

fn connect(id: u32, talk: &mut Talk, world: &mut World) -> (Command, Option<Expect>) {
    let client = &world.options.config.client;
    let (insecure, anonymous) = (client.insecure, client.allow_anonymous_connect_without_token);
    let no_anonymous_tokens = client.disallow_anonymous_connection_tokens;
    let user = *world.rng.pick(&USERS);
    let kind = if world.rng.chance(60) { 9 } else { world.rng.below(10) };
    let (token, expect) = match kind {
        0..3 if insecure || anonymous => (String::new(), Expect::Connect),
        0..3 => (String::new(), Expect::Close(3501)),
        3 => (token(json!({"sub": user}), "another key"), Expect::Close(3500)),
        4 => (token(json!({"sub": user, "exp": BEGAN_S - 1}), KEY), Expect::Error(109)),
        6 => {
            talk.may_expire = !insecure;
            (token(json!({"sub": user, "exp": seconds(world) + 4}), KEY), Expect::Connect)
        }
        _ => (token(json!({"sub": user, "info": {"name": user}}), KEY), Expect::Connect),
    };
    let expect = match expect {
        Expect::Connect if user.is_empty() && !token.is_empty() && no_anonymous_tokens => Expect::Close(3507),
        expect => expect,
    };
    talk.foreseen = match expect {
        Expect::Connect => Foreseen::Connected,
        Expect::Error(_) => Foreseen::Refused,
        _ => talk.foreseen,
    };
    let user = if token.is_empty() { "" } else { user };
    talk.user = user.to_owned();
    world.ledger.name_user(talk.key, user);
    let connect = Some(ConnectRequest { token, name: "sim".into(), ..ConnectRequest::default() });
    (Command { connect, ..command(id) }, Some(expect))
}

fn refresh(id: u32, talk: &mut Talk, world: &mut World) -> (Command, Expect) {
    let user = talk.user.clone();
    let fatal = world.rng.chance(world.options.faults);
    let (token, expect) = match world.rng.below(4) {
        0 if fatal => (String::new(), Expect::Close(3501)),
        1 if fatal => (token(json!({"sub": "someone"}), KEY), Expect::Close(3500)),
        2 if fatal => (token(json!({"sub": user, "exp": BEGAN_S - 1}), KEY), Expect::Close(3005)),
        0 => {
            talk.may_expire = true;
            (token(json!({"sub": user, "exp": seconds(world) + 5}), KEY), Expect::Refresh)
        }
        _ => (token(json!({"sub": user}), KEY), Expect::Refresh),
    };
    (Command { refresh: Some(RefreshRequest { token }), ..command(id) }, expect)
}

// --- wrongs ---

fn say_close(talk: &mut Talk, world: &mut World) {
    let mut bytes = Vec::new();
    match world.rng.below(3) {
        0 => wire::frame(&mut bytes, wire::CLOSE, true, &[], [1; 4]),
        _ => wire::close(&mut bytes, 1000, [7; 4]),
    }
    let code = if bytes.len() > 6 { 1000 } else { NO_CODE };
    talk.said_close = true;
    talk.send_fatal(world, &bytes, code);
}

fn misbehave(talk: &mut Talk, world: &mut World) -> Option<Leave> {
    let mut bytes = Vec::new();
    let json = talk.encoding == Encoding::Json;
    match world.rng.below(12) {
        0 => talk.reads = *world.rng.pick(&[Reads::Slow, Reads::Not, Reads::Fast]),
        1 => talk.answers_pings = !talk.answers_pings,
        2 => return Some(Leave::Cut),
        3 => return Some(Leave::Reset),
        4 => {
            // A pong that nobody asked for, by its bytes or as a command without a number.
            talk.loose = true;
            let pong = if json { *world.rng.pick(&[&b"{}"[..], b"{\"subscribe\":{}}"]) } else { b"\0" };
            talk.send_message(world, pong, vec![Deed::Pong]);
        }
        5 => {
            let garbage: &[u8] =
                if json { world.rng.pick(&["x", "[]", "{\"id\":-1}", " \n"]).as_bytes() } else { b"\xff" };
            talk.expect(0, None, Expect::Close(3501));
            talk.send_message(world, garbage, Vec::new());
        }
        6 => talk.send_fatal(world, b"\x81\x02{}", 1002),
        7 => talk.send_fatal(world, b"\xf1\x80\0\0\0\0", 1002),
        8 => {
            wire::frame(&mut bytes, wire::TEXT, true, b"caf\xe9", [3; 4]);
            talk.send_fatal(world, &bytes, 1007);
        }
        9 => {
            let long = vec![b' '; world.options.message_bytes_max + 1];
            wire::frame(&mut bytes, wire::BINARY, true, &long, [5; 4]);
            talk.send_fatal(world, &bytes, 1009);
        }
        10 => {
            wire::close(&mut bytes, 1005, [0; 4]);
            talk.send_fatal(world, &bytes, 1002);
        }
        _ => {
            wire::frame(&mut bytes, wire::CONTINUE, true, b"of nothing", [2; 4]);
            talk.send_fatal(world, &bytes, 1002);
        }
    }
    None
}
