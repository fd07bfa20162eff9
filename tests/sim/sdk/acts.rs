//! What these clients and their backend do, drawn by chance.

use super::client::{Known, Sdk, Wish};
use super::line::What;
use super::options::{CHANNELS, NAMESPACES};
use super::tokens::{forged, token};
use super::truth::{Sent, Truth};
use crate::client::command;
use crate::node::World;
use crate::options::USERS;
use gannet::protocol::{
    ChannelRequest, Command, ConnectRequest, Encoding, FilterNode, HistoryRequest, PublishRequest, RefreshRequest,
    RpcRequest, StreamPosition, SubRefreshRequest, SubscribeRequest, UnsubscribeRequest,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const TAGS: [&str; 3] = ["", "red", "blue"];

pub fn channel(world: &mut World) -> String {
    let namespace = *world.rng.pick(&NAMESPACES);
    format!("{namespace}:{}", world.rng.below(CHANNELS))
}

pub fn seconds(world: &World) -> u64 {
    world.now().unix_ms / 1000
}

/// Data with a number of its own, told to the truth.
pub fn payload(
    world: &mut World,
    truth: &mut Truth,
    channel: &str,
    by: Option<gannet::broker::ConnKey>,
    may_break_lines: bool,
) -> usize {
    let id = truth.next();
    let pad = "the same in many publications, so that deltas pay ".repeat(world.rng.below(4));
    let own = "x".repeat(world.rng.below(world.options.pad + 1));
    let line = if may_break_lines && world.rng.chance(10) { "\n" } else { "" };
    let data = format!("[{id},{line}\"{pad}{own}\"]").into_bytes();
    truth.send(Sent { channel: channel.to_owned(), data, by, ..Sent::default() })
}

pub fn tag(world: &mut World) -> String {
    (*world.rng.pick(&TAGS)).to_owned()
}

pub fn tags(tag: &str) -> HashMap<String, String> {
    (!tag.is_empty()).then(|| ("t".to_owned(), tag.to_owned())).into_iter().collect()
}

/// Connects, and subscribes in the same message to what it wants, or later.
pub fn connect(sdk: &mut Sdk, world: &mut World, truth: &mut Truth) {
    let line = sdk.line.as_mut().expect("a connection");
    line.begun = true;
    // None: it was over in the turn in which it began.
    line.client = world.ledger.client(line.key).cloned().unwrap_or_default();
    truth.clients.insert(line.client.clone(), line.key);
    let config = &world.options.config.client;
    let anonymous =
        config.insecure || config.allow_anonymous_connect_without_token || world.options.rules.connect_proxy;
    let user = *world.rng.pick(&USERS);
    let (mut token_text, mut given) = (String::new(), Vec::new());
    if anonymous && world.rng.chance(30) {
        truth.users.insert(line.key, String::new());
    } else {
        let mut claims = json!({"sub": user, "info": {"name": user}});
        if world.rng.chance(15) {
            claims["exp"] = Value::from(seconds(world) + world.rng.within(1, 4) as u64);
        }
        if world.rng.chance(25) {
            given.push(channel(world));
            claims["channels"] = json!(given);
        }
        if world.rng.chance(25) {
            let other = channel(world);
            claims["subs"] = json!({&other: {"info": {"from": "token"}, "data": {"n": 1}}});
            // Beside them channels count for nothing.
            given = vec![other];
        }
        let named = |name: &'static str| claims.get(name).map(|value| (name, value.clone()));
        line.granted = ["channels", "subs"].into_iter().filter_map(named).collect();
        token_text = token(claims, world);
        truth.users.insert(line.key, user.to_owned());
    }
    let known = sdk.subs.iter().filter(|(_, sub)| sub.server);
    let known: BTreeMap<String, Known> =
        known.filter_map(|(name, sub)| Some((name.clone(), sub.known.clone()?))).collect();
    let flag = i64::from(world.rng.chance(20)) * 2;
    let wish = |known: &Known| {
        let (epoch, offset) = (known.epoch.clone(), known.offset);
        SubscribeRequest { recover: true, epoch, offset, flag, ..SubscribeRequest::default() }
    };
    let subs = known.iter().map(|(name, known)| (name.clone(), wish(known))).collect();
    sdk.next_id += 1;
    let connect = Some(ConnectRequest { token: token_text, subs, name: "sdk".into(), ..ConnectRequest::default() });
    let mut list = vec![(Command { connect, ..command(sdk.next_id) }, What::Connect { known, given })];
    sdk.user = truth.users[&line.key].clone();
    if world.rng.chance(50) {
        list.extend(resubscribe(sdk, world, truth));
    }
    if let Some(line) = &mut sdk.line {
        line.send(world, list);
    }
}

/// Subscribes to all that is wanted and is not there.
pub fn resubscribe(sdk: &mut Sdk, world: &mut World, truth: &mut Truth) -> Vec<(Command, What)> {
    let missing = sdk.subs.iter().filter(|(_, sub)| sub.wanted && !sub.server && !sub.asked && sub.live.is_none());
    let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    missing.into_iter().map(|channel| subscribe(sdk, world, truth, channel)).collect()
}

fn wish(world: &mut World) -> Wish {
    let filter = world.rng.chance(25).then(|| (*world.rng.pick(&TAGS[1..])).to_owned());
    let token = world.rng.chance(25);
    Wish {
        recoverable: world.rng.chance(60),
        positioned: world.rng.chance(40),
        join_leave: world.rng.chance(50),
        delta: filter.is_none() && world.rng.chance(50),
        filter,
        token,
        forces_recovery: token && world.rng.chance(30),
        forces_pushes: token && world.rng.chance(30),
    }
}

fn subscribe(sdk: &mut Sdk, world: &mut World, truth: &mut Truth, channel: String) -> (Command, What) {
    sdk.next_id += 1;
    let id = sdk.next_id;
    let user = sdk.user.clone();
    let client = sdk.line.as_ref().expect("a connection").client.clone();
    truth.come(&channel, &client);
    let sub = sdk.sub(&channel);
    sub.asked = true;
    let wish = &sub.wish;
    let mut ask = sub.known.clone();
    if ask.is_none() && world.rng.chance(10) {
        // As `since` of an SDK: from the beginning, in whatever life.
        ask = Some(Known { offset: world.rng.below(3) as u64, epoch: String::new() });
    }
    let mut token_text = String::new();
    if wish.token {
        let mut claims = json!({"sub": user, "channel": channel, "info": {"in": channel}});
        if world.rng.chance(40) {
            claims["exp"] = Value::from(seconds(world) + world.rng.within(1, 3) as u64);
        }
        if wish.forces_recovery {
            claims["override"]["force_recovery"] = json!({"value": true});
        }
        if wish.forces_pushes {
            claims["override"]["force_push_join_leave"] = json!({"value": true});
        }
        token_text = if world.rng.chance(5) { forged(claims, world) } else { token(claims, world) };
    }
    let tf = wish.filter.as_ref().map(|tag| {
        let (key, cmp, val) = ("t".to_owned(), "eq".to_owned(), tag.clone());
        Box::new(FilterNode { key, cmp, val, ..FilterNode::default() })
    });
    let reject = world.rng.chance(20);
    let (epoch, offset) = ask.as_ref().map_or((String::new(), 0), |known| (known.epoch.clone(), known.offset));
    let request = SubscribeRequest {
        channel: channel.clone(),
        token: token_text,
        recover: ask.is_some(),
        epoch,
        offset,
        positioned: wish.positioned,
        recoverable: wish.recoverable,
        join_leave: wish.join_leave,
        delta: if wish.delta { "fossil".into() } else { String::new() },
        tf,
        flag: 1 + 2 * i64::from(reject),
        ..SubscribeRequest::default()
    };
    let wish = Box::new(wish.clone());
    (Command { subscribe: Some(request), ..command(id) }, What::Subscribe { channel, ask, reject, wish })
}

/// Some commands of a connected client, in one message.
pub fn act(sdk: &mut Sdk, world: &mut World, truth: &mut Truth) {
    let mut list = Vec::new();
    if world.rng.chance(40) {
        list.extend(resubscribe(sdk, world, truth));
    }
    for _ in 0..world.rng.within(1, 3) {
        list.extend(one(sdk, world, truth));
    }
    if let Some(line) = sdk.line.as_mut().filter(|_| !list.is_empty()) {
        line.send(world, list);
    }
}

fn one(sdk: &mut Sdk, world: &mut World, truth: &mut Truth) -> Option<(Command, What)> {
    let name = channel(world);
    let request = || Some(ChannelRequest { channel: name.clone() });
    let chance = world.rng.below(100);
    if chance < 20 {
        let fresh = wish(world);
        let sub = sdk.sub(&name);
        if sub.asked || sub.live.is_some() || sub.server {
            return None;
        }
        if !sub.wanted || sub.known.is_none() {
            sub.wish = fresh;
        }
        sub.wanted = true;
        return Some(subscribe(sdk, world, truth, name));
    }
    sdk.next_id += 1;
    let id = sdk.next_id;
    let it = command(id);
    let line = sdk.line.as_ref().expect("a connection");
    Some(match chance {
        20..30 => {
            let sub = sdk.sub(&name);
            sub.wanted = false;
            if !world.rng.chance(50) {
                sub.known = None;
            }
            let unsubscribe = Some(UnsubscribeRequest { channel: name.clone() });
            (Command { unsubscribe, ..it }, What::Unsubscribe(name))
        }
        30..65 => {
            let id = payload(world, truth, &name, Some(line.key), line.encoding == Encoding::Protobuf);
            let data = truth.sent(id).data.clone().into();
            (Command { publish: Some(PublishRequest { channel: name, data, kind: 0 }), ..it }, What::Publish)
        }
        65..75 => history(world, it, name),
        75..85 => {
            let asked = truth.now();
            (Command { presence: request(), ..it }, What::Presence { channel: name, asked })
        }
        85..88 => (Command { presence_stats: request(), ..it }, What::Stats),
        88..92 => {
            let data = json!({"rpc": id}).to_string();
            let rpc = Some(RpcRequest { data: data.clone().into(), method: "m".into() });
            (Command { rpc, ..it }, What::Rpc(data))
        }
        92..96 if !world.options.rules.refresh_proxy && line.connected => {
            let mut claims = json!({"sub": sdk.user});
            for (name, value) in &line.granted {
                claims[*name] = value.clone();
            }
            if world.rng.chance(40) {
                claims["exp"] = Value::from(seconds(world) + world.rng.within(2, 4) as u64);
            }
            (Command { refresh: Some(RefreshRequest { token: token(claims, world) }), ..it }, What::Refresh)
        }
        _ => {
            let mut claims = json!({"sub": sdk.user, "channel": name});
            if world.rng.chance(60) {
                claims["exp"] = Value::from(seconds(world) + world.rng.within(2, 4) as u64);
            }
            let token = token(claims, world);
            let sub_refresh = Some(SubRefreshRequest { channel: name, token, kind: 0 });
            (Command { sub_refresh, ..it }, What::SubRefresh)
        }
    })
}

fn history(world: &mut World, it: Command, channel: String) -> (Command, What) {
    let limit = *world.rng.pick(&[0, 1, 3, -1]);
    let reverse = world.rng.chance(40);
    let since = world.rng.chance(40).then(|| world.rng.within(usize::from(reverse), 6) as u64);
    let position = since.map(|offset| StreamPosition { offset, epoch: String::new() });
    let history = Some(HistoryRequest { channel: channel.clone(), limit, since: position, reverse });
    (Command { history, ..it }, What::History { channel, limit, since, reverse })
}
