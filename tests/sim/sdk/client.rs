//! A client as the official SDKs are: it knows its subscriptions and positions over reconnects, and checks that what it
//! hears of each channel follows from what it heard before.

use super::backend::ORDERED;
use super::line::{Heard, Line, What};
use super::options::LONG;
use super::truth::Truth;
use crate::node::World;
use gannet::protocol::{ConnectResult, Encoding, Publication, Push, Reply, SubscribeResult, delta};
use std::collections::{BTreeMap, BTreeSet};

/// Who comes and goes with a word, by channel: each client that is there, and since when it is connected.
pub type Announced = BTreeMap<String, BTreeMap<String, u64>>;

/// A position to recover from.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub offset: u64,
    pub epoch: String,
}

/// What a subscription asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub recoverable: bool,
    pub positioned: bool,
    pub join_leave: bool,
    pub delta: bool,
    /// The tag of the publications that are wanted.
    pub filter: Option<String>,
    pub token: bool,
    /// The token says so.
    pub forces_recovery: bool,
    pub forces_pushes: bool,
}

#[derive(Default)]
pub struct Sub {
    pub wanted: bool,
    pub server: bool,
    /// A subscribe command waits for its reply.
    pub asked: bool,
    pub wish: Wish,
    pub known: Option<Known>,
    pub live: Option<Live>,
}

/// A subscription that has begun.
#[derive(Debug, Default)]
pub struct Live {
    positioned: bool,
    recoverable: bool,
    delta: bool,
    epoch: String,
    /// The latest offset heard, or where it began.
    last: Option<u64>,
    base: Option<Vec<u8>>,
    hears: bool,
    /// The step in which it heard that it began.
    since: u64,
    own_join: bool,
    present: BTreeMap<String, bool>,
    /// The latest publication of each publisher.
    latest: BTreeMap<Option<(u16, u32, u32)>, usize>,
    /// What is wrong with its terms, unless it is taken away at once.
    wrong: Option<String>,
}

#[derive(Default)]
pub struct Sdk {
    pub user: String,
    pub line: Option<Line>,
    pub subs: BTreeMap<String, Sub>,
    pub next_id: u32,
    seen: BTreeMap<String, BTreeSet<usize>>,
    /// Offsets that were left out, to be justified at rest: channel, epoch, offset, filter, connection.
    owed: Vec<(String, String, u64, Option<String>, gannet::broker::ConnKey)>,
    /// Reconnects that recovered something, and that could not.
    pub recovered: usize,
    pub lost: usize,
    pub missed: usize,
    pub deltas: usize,
}

impl Sdk {
    /// Reads what has come; true if the connection is over.
    pub fn read(&mut self, world: &mut World, truth: &mut Truth) -> bool {
        let Some(line) = &mut self.line else { return false };
        for heard in line.read(world) {
            match heard {
                Heard::Reply(_) if self.line.as_ref().is_some_and(|line| line.must_close) => {}
                Heard::Reply(reply) => match &reply.push {
                    Some(_) => self.pushed(world, truth, *reply),
                    None => self.replied(world, truth, &reply),
                },
                Heard::Close(code) => {
                    *world.codes.entry(u32::from(code)).or_default() += 1;
                    self.check_close(world, code);
                    if let Some(line) = self.line.as_mut() {
                        line.say_close(world, 1000);
                    }
                }
                Heard::End => return true,
            }
        }
        false
    }

    fn check_close(&self, world: &World, code: u16) {
        let line = self.line.as_ref().expect("a connection");
        let possible = match code {
            1000 | 3001 | 3005 | 3006 | 3008 | 3012 | 3013 | 3503 | 4000..=4999 => true,
            3010 => world.post.dropped > 0,
            3501 => line.refused || !line.connected,
            3502 => !line.connected,
            3504 | 3505 => true,
            // Tokens of a user that the backend did not name, or some that nobody has signed.
            3500 => world.options.rules.connect_proxy || world.options.rules.bad_token_limit > 0,
            _ => false,
        };
        assert!(possible, "closed with {code}; waits for {:?}", line.pending);
    }

    /// The connection is gone, however that came.
    pub fn forget_line(&mut self) {
        self.line = None;
        for sub in self.subs.values_mut() {
            (sub.live, sub.asked) = (None, false);
        }
        self.subs.retain(|_, sub| sub.wanted || sub.known.is_some());
    }

    pub fn sub(&mut self, channel: &str) -> &mut Sub {
        self.subs.entry(channel.to_owned()).or_default()
    }

    /// A command that was not sent after all.
    pub fn unask(&mut self, what: What) {
        if let What::Subscribe { channel, .. } = what {
            self.sub(&channel).asked = false;
        }
    }

    // --- replies ---

    fn replied(&mut self, world: &mut World, truth: &mut Truth, reply: &Reply) {
        let line = self.line.as_mut().expect("a connection");
        let Some(what) = line.answered(reply) else { return };
        if let Some(error) = &reply.error {
            *world.codes.entry(error.code).or_default() += 1;
            return self.refused(world, what, error.code);
        }
        match what {
            What::Connect { known, given } => {
                let result = reply.connect.as_ref().expect("a connect result");
                self.connected(world, truth, result, &known, &given);
            }
            What::Subscribe { channel, ask, wish, .. } => {
                let result = reply.subscribe.clone().expect("a subscribe result");
                let sub = self.sub(&channel);
                // A subscription by the server may have come and gone meanwhile.
                (sub.asked, sub.wish) = (false, *wish);
                self.begin(world, truth, &channel, result, ask);
            }
            What::Unsubscribe(channel) => {
                assert!(reply.unsubscribe.is_some());
                let sub = self.sub(&channel);
                (sub.live, sub.server) = (None, false);
                let line = self.line.as_ref().expect("a connection");
                let again =
                    |(_, what): &(u32, What)| matches!(what, What::Subscribe { channel: c, .. } if *c == channel);
                if !line.pending.iter().any(again) && channel != ORDERED {
                    truth.leave(&channel, &line.client);
                }
            }
            What::Publish => assert!(reply.publish.is_some()),
            What::History { channel, limit, since, reverse } => {
                let result = reply.history.as_ref().expect("a history");
                check_history(truth, &channel, &result.publications, &result.epoch, self.is_json());
                check_range(result.offset, &result.publications, limit, since, reverse);
            }
            What::Presence { channel, asked } => {
                for client in reply.presence.as_ref().expect("a presence").presence.keys() {
                    let gone = truth.was_gone(&channel, client, asked);
                    assert!(!gone, "{channel}: {client} is listed after its unsubscribe reply");
                }
            }
            What::Stats => {
                let stats = reply.presence_stats.as_ref().expect("counts");
                assert!(stats.num_users <= stats.num_clients);
            }
            What::Rpc(data) => assert_eq!(reply.rpc.as_ref().expect("an rpc result").data, data.as_bytes()),
            What::Refresh => assert!(reply.refresh.is_some()),
            What::SubRefresh => assert!(reply.sub_refresh.is_some()),
        }
    }

    fn is_json(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.encoding == Encoding::Json)
    }

    fn refused(&mut self, world: &World, what: What, code: u32) {
        let possible: &[u32] = match &what {
            What::Connect { .. } => &[100, 109, 110, 111, 500],
            What::Subscribe { .. } => &[100, 103, 105, 106, 107, 109, 110, 111, 112, 500],
            What::Unsubscribe(_) => &[],
            What::Refresh => &[100, 111],
            What::Publish => &[100, 103, 111, 500],
            What::History { .. } => &[103, 108, 111, 112],
            What::Presence { .. } | What::Stats => &[103, 108, 111],
            What::Rpc(_) => &[100, 108, 111, 500],
            What::SubRefresh => &[100, 103, 110, 111],
        };
        assert!(possible.contains(&code), "{what:?} was refused with {code}");
        let line = self.line.as_mut().expect("a connection");
        match what {
            What::Connect { .. } => line.refused = true,
            What::Subscribe { channel, reject, ask, .. } => {
                let options = world.options.rules.channel(&channel).expect("a namespace");
                let sub = self.sub(&channel);
                sub.asked = false;
                match code {
                    112 => {
                        assert!(reject && ask.is_some(), "112 unasked");
                        sub.known = None;
                    }
                    107 => {
                        assert!(sub.wish.filter.is_some() && !options.allow_tags_filter, "107 without need");
                        sub.wish.filter = None;
                    }
                    109 => assert!(sub.wish.token),
                    // A token's time, or that of a proxy's grant, may end while it is on its way.
                    110 => assert!(sub.wish.token || options.subscribe_proxy_enabled),
                    103 | 106 => sub.wanted = false,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn connected(
        &mut self,
        world: &mut World,
        truth: &mut Truth,
        result: &ConnectResult,
        known: &BTreeMap<String, Known>,
        given: &[String],
    ) {
        let line = self.line.as_mut().expect("a connection");
        assert_eq!(result.client, line.client);
        line.connected = true;
        self.user = truth.users[&line.key].clone();
        let subs: BTreeMap<String, SubscribeResult> =
            result.subs.iter().map(|sub| (sub.channel.clone(), sub.result.clone().expect("a result"))).collect();
        for channel in given {
            // The backend may take one away before its owner has answered, and whom that meets is known late.
            let spared = !truth.unsubscribed.is_empty();
            assert!(spared || subs.contains_key(channel), "{channel} is not in the connect reply");
        }
        let gone: Vec<String> = self.subs.iter().filter(|(_, sub)| sub.server).map(|(name, _)| name.clone()).collect();
        for channel in gone.iter().filter(|channel| !subs.contains_key(*channel)) {
            self.subs.remove(channel);
        }
        for (channel, result) in &subs {
            let sub = self.sub(channel);
            (sub.server, sub.wish) = (true, Wish::default());
            self.begin(world, truth, channel, result.clone(), known.get(channel).cloned());
        }
    }

    // --- a subscription begins ---

    fn begin(
        &mut self,
        world: &mut World,
        truth: &mut Truth,
        channel: &str,
        result: SubscribeResult,
        ask: Option<Known>,
    ) {
        let rules = world.options.rules.clone();
        let namespace = rules.namespace(channel).expect("a namespace");
        let options = &namespace.options;
        let user = self.user.clone();
        if ask.as_ref().is_some_and(|ask| ask.epoch.is_empty()) {
            // From where it had not been.
            self.seen.remove(channel);
        }
        let sub = self.sub(channel);
        assert!(sub.live.is_none(), "{channel}: subscribed twice");
        let wish = &sub.wish;
        let (positioned, recoverable, history) = (result.positioned, result.recoverable, namespace.keep.is_some());
        assert!(history || !(positioned || recoverable || result.delta || result.recovered), "{channel}: no history");
        assert!(positioned || !recoverable, "{channel}: recoverable without a position");
        let forced = history && (options.force_recovery || wish.forces_recovery);
        let cache = options.force_recovery_mode == "cache";
        let mut wrong = (forced && !recoverable).then(|| format!("{channel}: recovery is forced"));
        let by_itself = recoverable && cache && options.auto_cache_recover;
        if result.was_recovering != (ask.is_some() || by_itself) && wrong.is_none() {
            wrong = Some(format!("{channel}: was_recovering {} for {ask:?}", result.was_recovering));
        }
        let sees = rules.insecure || namespace.may_see_presence(&user, true);
        let asks = options.force_push_join_leave || wish.forces_pushes || wish.join_leave && sees;
        let (since, delta) = (world.step, result.delta);
        let mut live = Live { positioned, recoverable, wrong, delta, since, ..Live::default() };
        (live.hears, live.epoch) = (options.join_leave && asks, result.epoch.clone());
        live.last = positioned.then_some(result.offset);
        if recoverable {
            sub.known = Some(Known { offset: result.offset, epoch: result.epoch.clone() });
        } else {
            sub.known = None;
        }
        if result.recovered && cache {
            assert!(result.publications.len() <= 1, "{channel}: a cache has one publication");
            live.last = result.publications.first().map(|publication| publication.offset - 1).or(live.last);
            if wish.filter.is_some() {
                live.last = None;
            }
        } else if result.recovered {
            let ask = ask.as_ref().expect("recovery is asked for");
            assert!(ask.epoch.is_empty() || ask.epoch == result.epoch, "{channel}: recovered from another life");
            assert_eq!(result.offset, ask.offset, "{channel}: the offset of the request");
        } else {
            assert!(result.publications.is_empty(), "{channel}: publications without recovery");
        }
        sub.live = Some(live);
        let (was, recovered) = (result.was_recovering, result.recovered);
        if recoverable && was && !recovered && !cache {
            check_loss(world, truth, channel, ask.as_ref().expect("asked"), &result);
        }
        self.recovered += usize::from(was && recovered);
        self.lost += usize::from(ask.is_some() && !recovered);
        self.missed += result.publications.len();
        for publication in result.publications {
            self.hear(world, truth, channel, publication, true);
        }
    }

    // --- pushes ---

    fn pushed(&mut self, world: &mut World, truth: &mut Truth, reply: Reply) {
        let Push { channel, publication, join, leave, unsubscribe, subscribe, refresh, .. } =
            reply.push.expect("a push");
        let connecting = line_waits_to_connect(self.line.as_ref());
        assert!(!connecting, "{channel}: a push stands before the connect reply");
        // Behind a reply that was left out, as the connection ended before it came.
        let live = self.subs.get(&channel).is_some_and(|sub| sub.live.is_some());
        let line = self.line.as_mut().expect("a connection");
        let asks = |(_, what): &(u32, What)| match what {
            What::Subscribe { channel: name, .. } => *name == channel,
            _ => false,
        };
        if !live && subscribe.is_none() && refresh.is_none() && line.pending.iter().any(asks) {
            line.must_close = true;
            return;
        }
        line.must_close |= !line.connected;
        if line.must_close {
            return;
        }
        if let Some(publication) = publication {
            self.hear(world, truth, &channel, publication, false);
        } else if let Some(one) = join.as_ref().or(leave.as_ref()) {
            let client = &one.info.as_ref().expect("somebody").client;
            self.hear_presence(world, &channel, client, join.is_some());
        } else if let Some(unsubscribe) = unsubscribe {
            *world.codes.entry(unsubscribe.code).or_default() += 1;
            let gap = self.may_miss(world, &channel);
            let sub = self.sub(&channel);
            assert!(sub.live.is_some(), "{channel}: unsubscribed without a subscription");
            sub.live = None;
            match unsubscribe.code {
                2000 => (sub.wanted, sub.server) = (false, false),
                2500 => assert!(gap && !sub.server, "{channel}: 2500 without need"),
                2501 => assert!(!sub.server),
                code => panic!("unsubscribed with {code}"),
            }
        } else if let Some(it) = subscribe {
            let sub = self.sub(&channel);
            // It may be subscribed, and is anew.
            (sub.server, sub.wish, sub.live) = (true, Wish::default(), None);
            let options = world.options.rules.channel(&channel).expect("a namespace");
            let cache = options.force_recovery_mode == "cache";
            let (recoverable, positioned, epoch, offset) = (it.recoverable, it.positioned, it.epoch, it.offset);
            // The push does not tell.
            let was_recovering = recoverable && cache && options.auto_cache_recover;
            let result = SubscribeResult {
                recoverable,
                positioned,
                epoch,
                offset,
                was_recovering,
                ..SubscribeResult::default()
            };
            self.begin(world, truth, &channel, result, None);
            if let Some(live) = self.sub(&channel).live.as_mut().filter(|_| cache) {
                // The latest publication may follow, as a push has no room for it.
                live.last = None;
            }
        } else {
            assert!(refresh.is_some(), "a push of another kind");
        }
    }

    fn hear_presence(&mut self, world: &World, channel: &str, client: &str, joined: bool) {
        let me = self.line.as_ref().map(|line| line.client == *client);
        let live = self.subs.get_mut(channel).and_then(|sub| sub.live.as_mut());
        let live = live.unwrap_or_else(|| panic!("who came to {channel}, which is not subscribed"));
        assert!(live.hears, "{channel}: told who comes and goes, and not entitled to it");
        live.own_join |= joined && me == Some(true);
        let before = live.present.insert(client.to_owned(), joined);
        let anew = joined && channel == ORDERED;
        let once = anew || before != Some(joined);
        assert!(once || self.may_miss(world, channel), "{channel}: {client} came or went twice");
    }

    fn hear(&mut self, world: &World, truth: &mut Truth, channel: &str, publication: Publication, recovered: bool) {
        let (json, line) = (self.is_json(), self.line.as_ref().expect("a connection"));
        let key = line.key;
        let rules = &world.options.rules;
        let options = rules.channel(channel).expect("a namespace");
        let sub = self.subs.get_mut(channel).filter(|sub| sub.live.is_some());
        let Sub { wish, known, live, server, .. } = sub.unwrap_or_else(|| panic!("{channel} is not subscribed"));
        let live = live.as_mut().expect("looked at before");
        if let Some(wrong) = &live.wrong {
            panic!("{wrong}");
        }
        self.deltas += usize::from(publication.delta);
        let data = payload(live, &publication, json);
        let id = Truth::id(&data);
        check_content(truth, channel, id, &data, &publication, json && !live.delta);
        let sent = truth.sent(id);
        assert!(wish.filter.as_ref().is_none_or(|tag| *tag == sent.tag), "{channel}: {id} was not wanted");
        let own = sent.by == Some(key);
        let cache = options.force_recovery_mode == "cache";
        let recovered = recovered || cache && *server;
        assert!(recovered || !(own && options.skip_publisher), "{channel}: {id} is the client's own");
        let new = self.seen.entry(channel.to_owned()).or_default().insert(id);
        assert!(new || cache, "{channel}: {id} was heard twice");
        if !options.publish_proxy_enabled {
            let by = sent.by.map(|key| (key.reactor, key.index, key.generation));
            let before = live.latest.insert(by, id);
            assert!(before.is_none_or(|before| before < id), "{channel}: {id} after {before:?} of the same publisher");
        }
        let offset = publication.offset;
        if offset == 0 {
            return;
        }
        if live.positioned {
            truth.place(channel, &live.epoch, offset, id);
        }
        if let Some(known) = known.as_mut().filter(|_| live.recoverable) {
            known.offset = offset;
        }
        let Some(last) = live.last.replace(offset) else { return };
        assert!(offset > last, "{channel}: offset {offset} after {last}");
        let may_skip = wish.filter.is_some() || options.skip_publisher || options.batch_flush_latest;
        assert!(!live.positioned || may_skip || offset == last + 1, "{channel}: offset {offset} after {last}");
        if live.positioned && !options.batch_flush_latest {
            let skipped = last + 1..offset;
            let owed = |at| (channel.to_owned(), live.epoch.clone(), at, wish.filter.clone(), key);
            self.owed.extend(skipped.map(owed));
        }
    }

    /// A full reactor is not told who comes and goes, and nobody counts on it. Did the owner of `channel` find this
    /// client's full since it connected?
    fn may_miss(&self, world: &World, channel: &str) -> bool {
        let line = self.line.as_ref().expect("a connection");
        world.post.has_lost(world.owner(channel), line.key.reactor, line.since)
    }

    // --- at rest ---

    /// Subscriptions that keep a position, with where they are.
    pub fn positions(&self) -> impl Iterator<Item = (&String, &str, u64, Option<&String>)> {
        let live = self.subs.iter().filter_map(|(channel, sub)| Some((channel, sub, sub.live.as_ref()?)));
        live.filter(|(_, _, live)| live.positioned).filter_map(|(channel, sub, live)| {
            Some((channel, live.epoch.as_str(), live.last?, sub.wish.filter.as_ref()))
        })
    }

    /// Channels in which others are to see this client, if they can be seen at all.
    pub fn live(&self) -> impl Iterator<Item = &String> {
        self.subs.iter().filter(|(_, sub)| sub.live.is_some()).map(|(channel, _)| channel)
    }

    /// Was `offset` of a channel's stream left out rightly?
    pub fn check_skipped(
        truth: &Truth,
        world: &World,
        (channel, epoch, offset, filter, key): (&str, &str, u64, Option<&String>, gannet::broker::ConnKey),
    ) {
        let options = world.options.rules.channel(channel).expect("a namespace");
        let Some(sent) = truth.at(channel, epoch, offset) else {
            assert!(filter.is_some() || options.skip_publisher, "{channel}: nobody knows {offset}");
            return;
        };
        let excluded = filter.is_some_and(|tag| *tag != sent.tag);
        let own = options.skip_publisher && sent.by == Some(key);
        assert!(excluded || own, "{channel}: never heard {offset}, and should have");
    }

    /// All has been said: nothing may be owed.
    pub fn check_rest(&mut self, world: &World, truth: &Truth, announced: &Announced) {
        for (channel, epoch, offset, filter, key) in std::mem::take(&mut self.owed) {
            Sdk::check_skipped(truth, world, (&channel, &epoch, offset, filter.as_ref(), key));
        }
        let Some(line) = self.line.as_ref().filter(|line| line.closed.is_none()) else { return };
        assert!(line.pending.is_empty(), "{:?}: unanswered at rest: {:?}", line.key, line.pending);
        assert!(!line.must_close, "an answer is missing, and the connection lives on");
        for (channel, sub) in &self.subs {
            let Some(live) = &sub.live else { continue };
            assert!(live.wrong.is_none(), "{:?}", live.wrong);
            let heard = live.own_join || !live.hears || self.may_miss(world, channel);
            assert!(heard, "{channel}: never heard of its own coming");
            if live.hears && channel != ORDERED && !self.may_miss(world, channel) {
                let there = announced.get(channel);
                for (client, &joined) in &live.present {
                    let is = there.is_some_and(|there| there.contains_key(client));
                    assert_eq!(joined, is, "{channel}: whether {client} is there, as it was told and as it is");
                }
                let mut later = there.into_iter().flatten().filter(|(_, since)| **since > live.since);
                let untold = later.find(|(client, _)| !live.present.contains_key(*client));
                assert_eq!(untold, None, "{channel}: came later, and was never heard of");
            }
        }
    }
}

fn line_waits_to_connect(line: Option<&Line>) -> bool {
    line.is_some_and(|line| line.pending.iter().any(|(_, what)| matches!(what, What::Connect { .. })))
}

/// The data of a publication, deltas undone.
fn payload(live: &mut Live, publication: &Publication, json: bool) -> Vec<u8> {
    assert!(live.delta || !publication.delta, "a delta that nobody asked for");
    let raw = match live.delta && json {
        true => serde_json::from_slice::<String>(&publication.data).expect("a text").into_bytes(),
        false => publication.data.to_vec(),
    };
    let data = match publication.delta {
        true => {
            let base = live.base.as_ref().expect("a delta follows a whole publication");
            delta::apply(base, &raw, 1 << 20).expect("a delta to the publication before")
        }
        false => raw,
    };
    if live.delta {
        live.base = Some(data.clone());
    }
    data
}

/// The payload is what was sent, and its publisher who sent it.
fn check_content(truth: &Truth, channel: &str, id: usize, data: &[u8], publication: &Publication, lines: bool) {
    let sent = truth.sent(id);
    assert_eq!(sent.channel, channel, "{id} reached another channel");
    assert!(!sent.dud, "{channel}: {id} repeats another, or is too old");
    let mut expected = sent.data.clone();
    if lines {
        expected.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    }
    assert_eq!(String::from_utf8_lossy(data), String::from_utf8_lossy(&expected), "the payload changed on the way");
    assert_eq!(publication.tags.get("t").map_or("", String::as_str), sent.tag, "the tags of {id}");
    let by = publication.info.as_ref().map(|info| (truth.clients[&info.client], info.user.clone()));
    assert_eq!(by, sent.by.map(|key| (key, truth.users[&key].clone())), "the publisher of {id}");
}

/// A history's publications stand where others say that they do.
fn check_history(truth: &mut Truth, channel: &str, publications: &[Publication], epoch: &str, json: bool) {
    for publication in publications {
        let id = Truth::id(&publication.data);
        check_content(truth, channel, id, &publication.data, publication, json);
        truth.place(channel, epoch, publication.offset, id);
    }
}

fn check_range(top: u64, publications: &[Publication], limit: i32, since: Option<u64>, reverse: bool) {
    let offsets: Vec<u64> = publications.iter().map(|publication| publication.offset).collect();
    let most = if limit < 0 { 20 } else { limit.min(20) as usize };
    assert!(offsets.len() <= most, "{} publications of {most}", offsets.len());
    let steps = offsets.windows(2).all(|pair| if reverse { pair[1] + 1 == pair[0] } else { pair[0] + 1 == pair[1] });
    assert!(steps, "a history out of order: {offsets:?}");
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else { return };
    match (since, reverse) {
        (Some(since), false) => assert!(first > since),
        (Some(since), true) => assert!(first < since),
        (None, true) => assert_eq!(first, top),
        (None, false) => {}
    }
    assert!(reverse || offsets.len() == most || last == top, "a history that ends at {last}, not at {top}");
}

/// Nothing was recovered: was it too much, or is it no longer there?
fn check_loss(world: &World, truth: &Truth, channel: &str, ask: &Known, result: &SubscribeResult) {
    let config = &world.options.config;
    let options = world.options.rules.channel(channel).expect("a namespace");
    if options.history_ttl < LONG || truth.removed.contains(channel) || ask.offset > result.offset {
        return;
    }
    let same_life = ask.epoch.is_empty() || ask.epoch == result.epoch;
    assert!(same_life, "{channel}: another life of a stream that lives long");
    let most = options.history_size.min(config.client.recovery_max_publication_limit) as u64;
    assert!(result.offset - ask.offset > most, "{channel}: {ask:?} could be recovered at {}", result.offset);
}
