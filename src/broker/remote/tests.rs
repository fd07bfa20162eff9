//! F3 · What is asked of channels that live elsewhere, and what is told, by an engine that answers when it is told to.

use super::super::engine::EngineAnswer;
use super::super::{ConnKey, Epoch, Query, Recover, Treatment, Want};
use super::*;
use crate::protocol::ClientInfo;

const KEEP: Keep = Keep { size: 3, ttl_ms: 100, meta_ttl_ms: 1000 };
const LIMITS: EngineLimits =
    EngineLimits { held: 100, held_bytes: 1 << 20, inflight: 100, present: 2, presence_ms: 27_000, check_ms: 40_000 };

/// An owner, with what it said last.
struct Bench {
    remote: RemoteChannels,
    now_ms: u64,
    told: Told,
}

impl Bench {
    fn new() -> Bench {
        Bench { remote: RemoteChannels::new(LIMITS), now_ms: 1_000_000, told: Vec::new() }
    }

    /// One with a subscriber that knows its position, at offset 5 of the life "e".
    fn positioned() -> Bench {
        let mut bench = Bench::new();
        bench.subscribe(1, positioned());
        bench.listening();
        let read = bench.ticket();
        bench.answer(read, at(5), &[]);
        bench.shown();
        bench
    }

    fn ask(&mut self, request: Request) {
        self.remote.handle(self.now_ms, Engine::Redis, request, &mut self.told);
    }

    fn subscribe(&mut self, ticket: u32, want: Want) {
        let want = Some(Box::new(want));
        self.ask(Request::Subscribe { channel: "c".into(), from: conn(ticket), ticket, want });
    }

    fn leave(&mut self, gone: Option<Gone>) {
        self.ask(Request::Leave { channel: "c".into(), reactor: 0, gone: gone.map(Box::new) });
    }

    fn hear(&mut self, heard: Heard) {
        self.remote.hear(self.now_ms, heard, &mut self.told);
    }

    fn listening(&mut self) {
        self.hear(Heard::Listening { channel: "c".into(), life: 1, result: Ok(()) });
    }

    fn publish(&mut self, offset: u64) {
        let publication = publication(offset).into();
        let position = (offset > 0).then(|| at(offset));
        self.hear(Heard::Publication { channel: "c".into(), publication, position, previous: None });
    }

    fn answer(&mut self, ticket: u64, top: Position, offsets: &[u64]) {
        let found = (top, offsets.iter().map(|offset| publication(*offset)).collect());
        self.hear(Heard::Answer { ticket, answer: Ok(EngineAnswer::Read(Box::new(found))) });
    }

    fn away(&mut self, ticket: u64) {
        self.hear(Heard::Answer { ticket, answer: Err(Away) });
    }

    fn pass(&mut self, ms: u64) -> Option<u64> {
        self.now_ms += ms;
        self.remote.expire(self.now_ms, &mut self.told)
    }

    /// What was called, in short.
    fn calls(&mut self) -> Vec<String> {
        let show = |(engine, call)| {
            assert_eq!(engine, Engine::Redis);
            match call {
                EngineCall::Listen { life, .. } => format!("listen {life}"),
                EngineCall::Unlisten { .. } => "unlisten".into(),
                EngineCall::Publish { ticket, .. } => format!("publish {ticket}"),
                EngineCall::Announce { joined, .. } => format!("announce {joined}"),
                EngineCall::Read { ticket, query, .. } => {
                    let Query { since, limit, reverse, .. } = *query;
                    let since = since.map(|(offset, _)| offset);
                    format!("read {ticket} {since:?} {limit} {reverse}")
                }
                EngineCall::AddPresence { client, .. } => format!("add {}", client[0]),
                EngineCall::RemovePresence { client, ticket, .. } => format!("remove {} {ticket:?}", client[0]),
                EngineCall::RemoveHistory { ticket, .. }
                | EngineCall::Presence { ticket, .. }
                | EngineCall::PresenceStats { ticket, .. } => format!("ask {ticket}"),
                EngineCall::ReadCursor { ticket, name, .. } => format!("cursor {ticket} {name}"),
                EngineCall::WriteCursor { name, position, .. } => format!("cursor of {name} {}", position.offset),
            }
        };
        self.remote.calls.drain(..).map(show).collect()
    }

    /// The ticket of the one call, which is a read.
    fn ticket(&mut self) -> u64 {
        let calls = self.calls();
        let read = calls.iter().find_map(|call| call.strip_prefix("read ")?.split(' ').next()?.parse().ok());
        read.unwrap_or_else(|| panic!("no read: {calls:?}"))
    }

    /// What was told, in short.
    fn shown(&mut self) -> Vec<String> {
        let show = |(_, event)| match event {
            Event::Subscribed { ticket, found: None, .. } => format!("subscribed {ticket}"),
            Event::Subscribed { ticket, found: Some(found), .. } => {
                let recovery = found.recovery.map(|recovery| {
                    let offsets: Vec<u64> = recovery.publications.iter().map(|it| it.offset).collect();
                    format!(" {} {offsets:?}", recovery.recovered)
                });
                format!("subscribed {ticket} at {}{}", found.position.offset, recovery.unwrap_or_default())
            }
            Event::Refused { ticket, error, .. } => format!("refused {ticket} {}", error.code()),
            Event::Publication { publication, .. } => format!("publication {}", publication.offset),
            Event::Join { .. } => "join".into(),
            Event::Leave { .. } => "leave".into(),
            Event::Gap { .. } => "gap".into(),
            Event::Answer { answer, .. } => format!("{answer:?}"),
            Event::Occupied { occupied, .. } => format!("occupied {occupied}"),
            Event::Undelivered(missed) => format!("undelivered {missed:?}"),
            Event::Logged(call) => format!("logged {call:?}"),
        };
        self.told.drain(..).map(show).collect()
    }
}

fn conn(index: u32) -> ConnKey {
    ConnKey { reactor: 0, index, generation: 1 }
}

fn at(offset: u64) -> Position {
    Position { offset, epoch: "e".into() }
}

fn publication(offset: u64) -> Publication {
    Publication { data: offset.to_string().into(), offset, ..Publication::default() }
}

fn positioned() -> Want {
    Want { position: Some(KEEP), ..Want::default() }
}

fn recovers(offset: u64, epoch: &str) -> Want {
    Want { recover: Some(Recover { offset, epoch: epoch.into(), limit: 10, most: 10, cache: false }), ..positioned() }
}

fn member(client: u8) -> Option<Member> {
    let info = ClientInfo { user: "u".into(), client: client.to_string(), ..ClientInfo::default() };
    Some(Member { client: [client; 16], info: info.into(), presence: true, announce: true })
}

#[test]
fn one_that_wants_no_position_begins_when_the_channel_is_listened_to() {
    let mut bench = Bench::new();
    bench.subscribe(1, Want::default());
    bench.subscribe(2, Want::default());
    assert_eq!((bench.calls(), bench.shown()), (vec!["listen 1".to_owned()], vec![]));
    bench.publish(0);
    bench.listening();
    assert_eq!(bench.shown(), ["subscribed 1", "subscribed 2"], "and nothing of before");
    bench.publish(7);
    bench.publish(9);
    assert_eq!(bench.shown(), ["publication 7", "publication 9"], "nobody looks at offsets");
    bench.subscribe(3, Want::default());
    assert_eq!((bench.shown(), bench.calls()), (vec!["subscribed 3".to_owned()], vec![]));
}

#[test]
fn a_position_is_read_once_and_known_from_then_on() {
    let mut bench = Bench::new();
    bench.subscribe(1, positioned());
    bench.subscribe(2, positioned());
    bench.calls();
    bench.listening();
    assert_eq!(bench.calls(), ["read 1 None 1 true"], "for both");
    bench.publish(6);
    bench.answer(1, at(5), &[]);
    assert_eq!(bench.shown(), ["publication 6", "subscribed 1 at 6", "subscribed 2 at 6"]);
    bench.subscribe(3, positioned());
    bench.subscribe(4, recovers(6, "e"));
    assert_eq!(bench.shown(), ["subscribed 3 at 6", "subscribed 4 at 6 true []"]);
    assert!(bench.calls().is_empty(), "who missed nothing costs the engine nothing");
}

#[test]
fn the_first_read_sees_what_is_at_the_top() {
    let mut bench = Bench::new();
    bench.subscribe(1, recovers(5, "e"));
    bench.calls();
    bench.listening();
    assert_eq!(bench.calls(), ["read 1 Some(4) 11 false"], "one more, which the client has");
    bench.answer(1, at(6), &[5, 6]);
    assert_eq!(bench.shown(), ["subscribed 1 at 6 true [6]"]);
    assert!(bench.calls().is_empty(), "it is known what is there");
    let mut bench = Bench::new();
    bench.subscribe(1, recovers(5, "e"));
    bench.calls();
    bench.listening();
    bench.calls();
    bench.answer(1, at(90), &[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(bench.shown(), ["subscribed 1 at 90 false []"]);
    assert_eq!(bench.calls(), ["read 2 Some(89) 512 false"], "what is at the top was too far off");
}

#[test]
fn what_was_missed_meets_what_comes_live() {
    let mut bench = Bench::positioned();
    bench.subscribe(2, recovers(2, "e"));
    bench.subscribe(3, recovers(2, "e"));
    assert_eq!(bench.calls(), ["read 2 Some(2) 10 false"], "for both");
    bench.publish(6);
    bench.answer(2, at(5), &[3, 4, 5]);
    bench.publish(7);
    let both = ["publication 6", "subscribed 2 at 6 true [3, 4, 5, 6]", "subscribed 3 at 6 true [3, 4, 5, 6]"];
    assert_eq!(bench.shown(), [&both[..], &["publication 7"]].concat());
    bench.subscribe(4, recovers(2, "e"));
    let read = bench.ticket();
    bench.answer(read, at(9), &[3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(bench.shown(), ["subscribed 4 at 7 true [3, 4, 5, 6, 7]"], "8 and 9 are on their way to all");
    for (offset, epoch) in [(2, "other"), (1, "e")] {
        bench.subscribe(5, recovers(offset, epoch));
        let read = bench.ticket();
        bench.answer(read, at(7), &[3, 4, 5, 6, 7]);
        assert_eq!(bench.shown(), ["subscribed 5 at 7 false []"], "{offset} {epoch}");
    }
    assert_eq!(bench.remote.held_bytes(), 0);
}

#[test]
fn who_knows_more_than_this_node_waits_until_it_has_caught_up() {
    let mut bench = Bench::positioned();
    bench.subscribe(2, recovers(7, "e"));
    let read = bench.ticket();
    bench.answer(read, at(7), &[]);
    assert!(bench.shown().is_empty());
    let read = bench.ticket();
    bench.answer(read, at(8), &[6, 7, 8]);
    let told = ["publication 6", "publication 7", "publication 8", "subscribed 2 at 8 true [8]"];
    assert_eq!(bench.shown(), told);
    bench.subscribe(3, recovers(20, "e"));
    let read = bench.ticket();
    bench.answer(read, at(8), &[]);
    let read = bench.ticket();
    bench.answer(read, at(8), &[8]);
    assert_eq!(bench.shown(), ["subscribed 3 at 8 false []"], "nobody has it");
}

#[test]
fn the_latest_alone_will_do_for_a_cache() {
    let ask = |offset| {
        let recover = Some(Recover { offset, epoch: "e".into(), limit: 10, most: 10, cache: true });
        Want { recover, ..positioned() }
    };
    let mut bench = Bench::positioned();
    bench.subscribe(2, ask(1));
    assert_eq!(bench.calls(), ["read 2 None 1 true"]);
    bench.publish(6);
    bench.answer(2, at(5), &[5]);
    assert_eq!(bench.shown(), ["publication 6", "subscribed 2 at 6 true [6]"]);
    bench.subscribe(3, ask(6));
    let read = bench.ticket();
    bench.answer(read, at(6), &[6]);
    assert_eq!(bench.shown(), ["subscribed 3 at 6 true []"], "it is known");
    bench.subscribe(4, ask(6));
    let read = bench.ticket();
    bench.answer(read, at(6), &[]);
    assert_eq!(bench.shown(), ["subscribed 4 at 6 false []"], "nothing is kept");
}

#[test]
fn what_the_connection_lost_is_read_and_only_what_is_gone_is_a_gap() {
    let mut bench = Bench::positioned();
    bench.publish(8);
    assert_eq!((bench.shown(), bench.calls()), (vec![], vec!["read 2 Some(4) 512 false".to_owned()]));
    bench.answer(2, at(8), &[6, 7, 8]);
    assert_eq!(bench.shown(), ["publication 6", "publication 7", "publication 8"]);
    bench.listening();
    let read = bench.ticket();
    bench.answer(read, at(12), &[11, 12]);
    assert_eq!(bench.shown(), ["gap", "publication 11", "publication 12"]);
    assert_eq!((bench.remote.tally.heals, bench.remote.tally.gaps), (2, 1));
}

#[test]
fn a_read_that_failed_is_tried_again_later_and_nothing_is_told() {
    let mut bench = Bench::positioned();
    bench.publish(8);
    let read = bench.ticket();
    bench.away(read);
    bench.publish(9);
    assert!(bench.shown().is_empty() && bench.calls().is_empty());
    bench.pass(999);
    assert!(bench.calls().is_empty());
    bench.pass(1);
    let read = bench.ticket();
    bench.answer(read, at(9), &[6, 7, 8, 9]);
    assert_eq!(bench.shown().len(), 4);
}

#[test]
fn while_the_engine_is_away_who_asks_is_refused_and_who_is_there_stays() {
    let mut bench = Bench::positioned();
    bench.subscribe(2, recovers(1, ""));
    let read = bench.ticket();
    bench.away(read);
    assert_eq!(bench.shown(), ["refused 2 100"]);
    bench.leave(None);
    let asker = Asker::Backend(7);
    let query = Box::new(Query { keep: KEEP, since: None, limit: 1, reverse: false });
    bench.ask(Request::History { channel: "c".into(), asker, query });
    let read = bench.ticket();
    bench.away(read);
    assert_eq!(bench.shown(), ["Refused(Internal)"]);
    let mut other = Bench::new();
    other.subscribe(1, Want::default());
    other.calls();
    other.hear(Heard::Listening { channel: "c".into(), life: 1, result: Err(Away) });
    other.subscribe(2, Want::default());
    assert_eq!((other.shown(), other.calls()), (vec!["refused 1 100".to_owned(), "refused 2 100".to_owned()], vec![]));
    other.pass(1000);
    assert_eq!(other.calls(), ["listen 1"], "somebody may still wait for it");
    other.leave(None);
    other.leave(None);
    other.listening();
    other.pass(1000);
    assert_eq!((other.calls(), other.remote.has("c")), (vec!["unlisten".to_owned()], false));
}

#[test]
fn a_channel_is_listened_to_a_second_longer_for_whoever_comes_back() {
    let mut bench = Bench::positioned();
    bench.leave(None);
    bench.pass(900);
    bench.publish(6);
    bench.subscribe(2, recovers(6, "e"));
    assert_eq!(bench.shown(), ["subscribed 2 at 6 true []"]);
    bench.pass(200);
    assert!(bench.calls().is_empty());
    bench.leave(None);
    bench.pass(1000);
    assert_eq!(bench.calls(), ["unlisten"]);
    bench.publish(7);
    bench.subscribe(3, positioned());
    assert_eq!(bench.calls(), ["listen 2"]);
    bench.listening();
    assert!(bench.shown().is_empty(), "that was an earlier life's");
}

#[test]
fn who_comes_is_present_and_named_again_until_it_leaves() {
    let mut bench = Bench::new();
    bench.subscribe(1, Want { member: member(1), ..Want::default() });
    bench.calls();
    bench.listening();
    assert_eq!(bench.calls(), ["add 1", "announce true"]);
    let mut named = Vec::new();
    for _ in 0..54 {
        bench.pass(1000);
        named.extend(bench.calls());
    }
    assert_eq!(named, ["add 1", "add 1"], "once in each interval");
    bench.listening();
    bench.pass(1);
    assert_eq!(bench.calls(), ["add 1"], "the engine may have forgotten it");
    bench.shown();
    let gone = || Gone { member: member(1), delta: false, asker: Some(Asker::Backend(3)) };
    bench.leave(Some(gone()));
    assert_eq!((bench.calls(), bench.shown()), (vec!["remove 1 Some(1)".into(), "announce false".to_owned()], vec![]));
    bench.hear(Heard::Answer { ticket: 1, answer: Ok(EngineAnswer::PresenceRemoved) });
    assert_eq!(bench.shown(), ["Left"]);
    bench.pass(30_000);
    assert_eq!(bench.calls(), ["unlisten"]);
    let mut early = Bench::new();
    early.subscribe(1, Want { member: member(1), ..Want::default() });
    early.leave(Some(gone()));
    early.calls();
    early.listening();
    assert_eq!(early.shown(), ["Left", "subscribed 1"]);
    assert!(early.calls().is_empty(), "it left before it began, and nobody saw it");
    assert_eq!((early.remote.members, bench.remote.members), (0, 0));
}

#[test]
fn a_quiet_channel_is_looked_at_once_for_all_its_subscribers() {
    let mut bench = Bench::positioned();
    bench.subscribe(2, positioned());
    bench.shown();
    let mut reads = 0;
    for second in 0..160 {
        bench.pass(1000);
        if second == 60 {
            bench.publish(6);
        }
        for call in bench.calls() {
            let ticket = call.split(' ').nth(1).and_then(|ticket| ticket.parse().ok()).expect("a read");
            bench.answer(ticket, at(7), &[6, 7]);
            reads += 1;
        }
    }
    assert_eq!(bench.shown(), ["publication 6", "publication 7"]);
    assert!((2..=4).contains(&reads), "{reads}");
}

#[test]
fn a_publisher_is_not_sent_its_own_and_deltas_go_to_those_who_take_them() {
    let mut bench = Bench::positioned();
    let client = uuid::Uuid::from_u128(9).to_string();
    let by = |data: &str| {
        let info = Some(ClientInfo { client: client.clone(), ..ClientInfo::default() });
        Arc::new(Publication { info, offset: 6, data: data.to_owned().into(), ..Publication::default() })
    };
    let treatment = Some(Box::new(Treatment { except: Some(conn(1)), ..Treatment::default() }));
    let asker = Asker::Backend(1);
    bench.ask(Request::Publish { channel: "c".into(), publication: by("1"), asker, treatment });
    assert_eq!(bench.calls(), ["publish 2"]);
    let long = "what is the same in both, and long enough to be worth it";
    let previous = Some(format!("{long} 1").into());
    let publication = by(&format!("{long} 2"));
    let heard = |position, previous, publication: &Arc<Publication>| Heard::Publication {
        channel: "c".into(),
        publication: publication.clone(),
        position: Some(position),
        previous,
    };
    bench.hear(heard(at(6), previous.clone(), &publication));
    let extras = |bench: &mut Bench| match bench.told.pop() {
        Some((_, Event::Publication { extras: Some(extras), .. })) => *extras,
        other => panic!("{other:?}"),
    };
    assert_eq!(extras(&mut bench), Extras { delta: None, except: Some(conn(1)) }, "nobody takes deltas");
    bench.subscribe(2, Want { delta: true, ..positioned() });
    bench.hear(heard(at(7), previous, &publication));
    let delta = extras(&mut bench).delta.expect("a delta");
    assert_eq!(delta::apply(format!("{long} 1").as_bytes(), &delta, 1000).as_deref(), Some(&publication.data[..]));
}

/// Whatever the engine makes of the number that it is given.
#[test]
fn a_client_is_told_of_so_many_clients_at_most() {
    let mut bench = Bench::new();
    let clients = |count| vec![ClientInfo::default(); count];
    for (asker, most) in [(Asker::Client { conn: conn(1), ticket: 1 }, 2), (Asker::Backend(1), usize::MAX)] {
        bench.ask(Request::Presence { channel: "c".into(), asker });
        let Some((_, EngineCall::Presence { ticket, most: asked, .. })) = bench.remote.calls.pop() else { panic!() };
        assert_eq!(asked, most);
        bench.hear(Heard::Answer { ticket, answer: Ok(EngineAnswer::Presence(clients(3))) });
        let refused = bench.shown() == ["Refused(LimitExceeded)"];
        assert_eq!(refused, most == 2);
    }
}

#[test]
fn questions_are_answered_as_the_engine_says_and_bounded() {
    let mut bench = Bench::new();
    let asker = Asker::Backend(1);
    let stats = || Request::PresenceStats { channel: "c".into(), asker };
    bench.ask(stats());
    bench.ask(Request::Presence { channel: "c".into(), asker });
    bench.ask(Request::RemoveHistory { channel: "c".into(), asker });
    let publication = Arc::new(Publication::default());
    bench.ask(Request::Publish { channel: "c".into(), publication, asker, treatment: None });
    let answers = [
        EngineAnswer::PresenceStats { clients: 3, users: 2 },
        EngineAnswer::Presence(Vec::new()),
        EngineAnswer::Removed,
        EngineAnswer::Published(Some(at(4))),
    ];
    for (ticket, answer) in (1..).zip(answers) {
        bench.hear(Heard::Answer { ticket, answer: Ok(answer.clone()) });
        bench.hear(Heard::Answer { ticket, answer: Ok(answer) });
    }
    let shown = bench.shown();
    assert_eq!(shown.len(), 4, "each once");
    assert_eq!(shown[0], "PresenceStats { clients: 3, users: 2 }");
    assert_eq!(shown[3], "Published(Some(Position { offset: 4, epoch: e }))");
    for _ in 0..LIMITS.inflight {
        bench.ask(stats());
    }
    assert!(bench.shown().is_empty());
    bench.ask(stats());
    assert_eq!((bench.shown(), bench.remote.inflight()), (vec!["Refused(TooManyRequests)".to_owned()], 100));
    assert_eq!(Epoch::from("e"), at(1).epoch);
}
