//! The broker in memory, request by request.

use super::super::{Asker, CHANNEL_PARTS};
use super::*;

fn memory() -> Memory {
    Memory::new(7, Limits { history_bytes: 0, recent: 10 })
}

fn ask(memory: &mut Memory, request: Request) -> Vec<(Target, Event)> {
    let mut out = Vec::new();
    memory.handle(1, request, &mut out);
    out
}

fn subscribe(memory: &mut Memory, reactor: u16) -> Vec<(Target, Event)> {
    let from = ConnKey { reactor, index: 7, generation: 1 };
    ask(memory, Request::Subscribe { channel: "c".into(), from, ticket: 3, want: None })
}

/// The subscribers of each channel.
fn all(memory: &Memory) -> Vec<u64> {
    (0..CHANNEL_PARTS).flat_map(|part| memory.channels(part).map(|(_, n)| n)).collect()
}

/// Where a publication and then its answer go.
fn publish(memory: &mut Memory, asker: Asker) -> Vec<Target> {
    let request =
        Request::Publish { channel: "c".into(), publication: Publication::default().into(), asker, treatment: None };
    ask(memory, request).into_iter().map(|(target, _)| target).collect()
}

#[test]
fn a_publication_goes_once_to_each_reactor_with_subscribers() {
    let mut memory = memory();
    let backend = Asker::Backend(1);
    assert_eq!(publish(&mut memory, backend), [Target::Backend], "answered without subscribers too");
    let told = subscribe(&mut memory, 0);
    let conn = ConnKey { reactor: 0, index: 7, generation: 1 };
    assert_eq!(told, [(Target::Reactor(0), Event::Subscribed { channel: "c".into(), conn, ticket: 3, found: None })]);
    subscribe(&mut memory, 0);
    subscribe(&mut memory, 2);
    assert_eq!(publish(&mut memory, backend), [Target::Reactor(0), Target::Reactor(2), Target::Backend]);
    let client = Asker::Client { conn: ConnKey { reactor: 5, index: 1, generation: 1 }, ticket: 1 };
    assert_eq!(publish(&mut memory, client), [Target::Reactor(0), Target::Reactor(2), Target::Reactor(5)]);
    assert_eq!(all(&memory), [3]);
}

#[test]
fn a_channel_ends_with_its_last_subscriber() {
    let mut memory = memory();
    for reactor in [0, 0, 2] {
        subscribe(&mut memory, reactor);
    }
    for (reactor, left) in
        [(0, vec![Target::Reactor(0), Target::Reactor(2)]), (2, vec![Target::Reactor(0)]), (0, vec![])]
    {
        ask(&mut memory, Request::Leave { channel: "c".into(), reactor, gone: None });
        let mut told = publish(&mut memory, Asker::Backend(1));
        assert_eq!(told.pop(), Some(Target::Backend));
        assert_eq!(told, left);
    }
    assert!(memory.is_empty());
}

const KEEP: Keep = Keep { size: 3, ttl_ms: 100, meta_ttl_ms: 1000 };

fn kept(data: &str, change: impl FnOnce(&mut Treatment)) -> Request {
    let mut treatment = Treatment { keep: Some(KEEP), ..Treatment::default() };
    change(&mut treatment);
    Request::Publish {
        channel: "c".into(),
        publication: Publication { data: data.to_owned().into(), ..Publication::default() }.into(),
        asker: Asker::Backend(1),
        treatment: Some(Box::new(treatment)),
    }
}

/// All that followed, its answer last.
fn handle(memory: &mut Memory, now_ms: u64, request: Request) -> Vec<Event> {
    let mut out = Vec::new();
    memory.handle(now_ms, request, &mut out);
    out.into_iter().map(|(_, event)| event).collect()
}

/// The offset in its answer, and whether anybody was told.
fn published(memory: &mut Memory, now_ms: u64, request: Request) -> (Result<u64, ClientError>, usize) {
    let mut events = handle(memory, now_ms, request);
    let Some(Event::Answer { answer, .. }) = events.pop() else { panic!("an answer") };
    let offset = match answer {
        Answer::Published(position) => Ok(position.map_or(0, |position| position.offset)),
        Answer::Refused(error) => Err(error),
        other => panic!("no answer to this: {other:?}"),
    };
    (offset, events.len())
}

fn join(memory: &mut Memory, now_ms: u64, reactor: u16, want: Want) -> Vec<Event> {
    let from = ConnKey { reactor, index: 7, generation: 1 };
    handle(memory, now_ms, Request::Subscribe { channel: "c".into(), from, ticket: 3, want: Some(Box::new(want)) })
}

fn positioned() -> Want {
    Want { position: Some(KEEP), ..Want::default() }
}

fn found(events: &[Event]) -> Found {
    let Some(Event::Subscribed { found: Some(found), .. }) = events.first() else { panic!("a position") };
    Found::clone(found)
}

#[test]
fn a_publication_made_twice_is_answered_twice_and_sent_once() {
    let mut memory = memory();
    subscribe(&mut memory, 0);
    let with = |key: &'static str| kept("1", move |treatment| treatment.idempotency_key = key.into());
    assert_eq!(published(&mut memory, 1, with("a")), (Ok(1), 1));
    assert_eq!(published(&mut memory, 2, with("b")), (Ok(2), 1));
    assert_eq!(published(&mut memory, 3, with("a")), (Ok(1), 0));
    assert_eq!(published(&mut memory, 5 * 60_000 + 1, with("a")), (Ok(3), 1), "five minutes later");
    let plain = || kept("1", |treatment| (treatment.keep, treatment.idempotency_key) = (None, "p".into()));
    assert_eq!(published(&mut memory, 4, plain()), (Ok(0), 1));
    assert_eq!(published(&mut memory, 4, plain()), (Ok(0), 0));
}

#[test]
fn an_old_version_is_not_sent() {
    let mut memory = memory();
    subscribe(&mut memory, 0);
    let with = |version| kept("1", move |treatment| treatment.version = version);
    for (version, expected) in [(2, (Ok(1), 1)), (2, (Ok(1), 0)), (1, (Ok(1), 0)), (3, (Ok(2), 1)), (0, (Ok(3), 1))] {
        assert_eq!(published(&mut memory, 1, with(version)), expected, "{version}");
    }
}

#[test]
fn what_is_kept_comes_back() {
    let mut memory = Memory::new(7, Limits { history_bytes: 2000, recent: 0 });
    let large = || kept(&"x".repeat(500), |_| {});
    assert_eq!(published(&mut memory, 0, large()).0, Ok(1));
    assert_eq!(published(&mut memory, 0, large()).0, Ok(2));
    assert!(memory.kept_bytes() > 1000);
    let request = Request::RemoveHistory { channel: "c".into(), asker: Asker::Backend(1) };
    handle(&mut memory, 0, request);
    assert!(memory.kept_bytes() < 500);
    assert_eq!(published(&mut memory, 0, large()).0, Ok(3), "the offset goes on");
    assert_eq!(memory.expire(0), Some(100));
    assert_eq!(memory.expire(100), Some(1000), "the stream outlives its publications");
    assert!(memory.kept_bytes() < 500);
    assert_eq!(memory.expire(1000), None);
    assert_eq!((memory.kept_bytes(), memory.channels.iter().count()), (0, 0));
}

#[test]
fn streams_that_subscribers_begin_stay_within_the_limit() {
    let mut memory = Memory::new(7, Limits { history_bytes: 1200, recent: 0 });
    for n in 0..50 {
        let (channel, from) = (format!("c{n}").into(), ConnKey { reactor: 0, index: n, generation: 1 });
        let want = Some(Box::new(positioned()));
        handle(&mut memory, 1, Request::Subscribe { channel, from, ticket: 3, want });
        assert!(memory.kept_bytes() <= 1200, "{}", memory.kept_bytes());
    }
    assert!((1..50).contains(&memory.evicted().streams));
}

/// A request to another channel than "c".
fn of(name: &str, mut request: Request) -> Request {
    match &mut request {
        Request::Publish { channel, .. } | Request::History { channel, .. } => *channel = name.into(),
        other => panic!("not this: {other:?}"),
    }
    request
}

fn ask_history() -> Request {
    let query = Box::new(Query { keep: KEEP, since: None, limit: 0, reverse: false });
    Request::History { channel: "c".into(), asker: Asker::Backend(1), query }
}

fn position(memory: &mut Memory, now_ms: u64, name: &str) -> Position {
    match handle(memory, now_ms, of(name, ask_history())).pop() {
        Some(Event::Answer { answer: Answer::History(found), .. }) => found.0,
        other => panic!("no history: {other:?}"),
    }
}

fn subscribe_to(memory: &mut Memory, name: &str, want: Want) {
    let (from, want) = (ConnKey { reactor: 0, index: 7, generation: 1 }, Some(Box::new(want)));
    handle(memory, 0, Request::Subscribe { channel: name.into(), from, ticket: 3, want });
}

fn leave(memory: &mut Memory, name: &str) {
    handle(memory, 0, Request::Leave { channel: name.into(), reactor: 0, gone: None });
}

#[test]
fn made_up_names_cost_nothing_and_their_epochs_hold() {
    let mut memory = memory();
    let asked: Vec<Position> = (0..2000).map(|n| position(&mut memory, 0, &n.to_string())).collect();
    assert_eq!((memory.kept_bytes(), memory.channels.iter().count()), (0, 0), "a question begins nothing");
    for n in 0..2000 {
        subscribe_to(&mut memory, &n.to_string(), positioned());
    }
    assert!(memory.kept_bytes() > 2000 * 256, "subscriptions are counted");
    for n in 0..2000 {
        leave(&mut memory, &n.to_string());
    }
    assert_eq!((memory.kept_bytes(), memory.channels.iter().count()), (0, 0), "and cost nothing once they are over");
    assert_eq!(memory.evicted(), Evicted::default());
    for (n, asked) in asked.into_iter().enumerate() {
        let name = n.to_string();
        handle(&mut memory, 0, of(&name, kept("1", |_| {})));
        let epoch = position(&mut memory, 0, &name).epoch;
        assert!(asked.offset == 0 && asked.epoch == epoch, "who was told an epoch is recovered in it");
    }
}

#[test]
fn a_position_is_never_taken_for_one_in_another_life() {
    let mut memory = memory();
    let mut epochs = vec![position(&mut memory, 0, "c").epoch];
    for life in 0..50 {
        handle(&mut memory, life * 5000, kept("1", |_| {}));
        assert_eq!(Some(&position(&mut memory, life * 5000, "c").epoch), epochs.last());
        let next = position(&mut memory, life * 5000 + 2000, "c");
        assert!(next.offset == 0 && !epochs.contains(&next.epoch));
        epochs.push(next.epoch);
    }
}

/// The attack: a subscriber makes up names until the limit is reached. What others publish is kept all the same.
#[test]
fn publications_go_on_while_names_are_made_up() {
    let max = 16 * 1024;
    let mut memory = Memory::new(7, Limits { history_bytes: max, recent: 100 });
    subscribe_to(&mut memory, "good", positioned());
    let mut offset = 0;
    for n in 0..3000 {
        let name = format!("made up {n}");
        match n % 3 {
            0 => subscribe_to(&mut memory, &name, positioned()),
            1 => handle(&mut memory, n, of(&name, ask_history())).truncate(0),
            _ => handle(&mut memory, n, of(&name, kept("an outsider may publish, too", |_| {}))).truncate(0),
        }
        let request = of("good", kept("x", |treatment| treatment.idempotency_key = n.to_string().into()));
        offset += 1;
        assert_eq!(published(&mut memory, n, request), (Ok(offset), 1));
        assert!(memory.kept_bytes() <= max, "{} of {max}", memory.kept_bytes());
    }
    let Evicted { streams, refused, .. } = memory.evicted();
    assert!(streams > 1900 && refused == 0, "{streams}");
    assert_eq!(
        memory.channels.iter().count(),
        memory.len() + memory.channels.iter().filter(|(_, c)| c.interest.is_empty()).count()
    );
    assert!(memory.channels.iter().filter(|(_, channel)| channel.interest.is_empty()).count() < 100);
}

/// What a lower limit leaves over goes by itself, some at a time; what is published meanwhile is kept.
#[test]
fn a_lower_limit_holds_soon_and_takes_no_long_turn() {
    let long = Keep { size: 3, ttl_ms: 1_000_000, meta_ttl_ms: 1_000_000 };
    let kept = |data: &str| kept(data, |treatment| treatment.keep = Some(long));
    let mut memory = memory();
    for n in 0..1000 {
        assert_eq!(published(&mut memory, 0, of(&format!("c{n}"), kept("x"))).0, Ok(1));
    }
    let (all, one) = (memory.kept_bytes(), memory.kept_bytes() / 1000);
    let limit = 100 * one;
    memory.set_history_limit(limit);
    assert_eq!((memory.kept_bytes(), memory.evicted().streams), (all, 0));
    for parts in 1..=3 {
        assert_eq!(memory.expire(1), Some(1), "there is more");
        let gone = memory.evicted().streams as usize;
        assert!((EXPIRED_MAX * parts..EXPIRED_MAX * parts + 3 * parts).contains(&gone), "{gone}");
        assert_eq!(published(&mut memory, 1, of("meanwhile", kept("x"))).0, Ok(parts as u64));
        assert!(memory.evicted().streams as usize - gone < 3, "it makes room for itself alone");
    }
    let beyond = of("meanwhile", kept(&"z".repeat(limit)));
    assert_eq!(published(&mut memory, 1, beyond).0, Err(ClientError::TooManyRequests), "it will never fit");
    assert!(memory.expire(1).is_some_and(|next| next > 1));
    assert!(memory.kept_bytes() <= limit && memory.kept_bytes() > limit - 2 * one, "{}", memory.kept_bytes());
    memory.set_history_limit(0);
    assert_eq!((memory.falling, published(&mut memory, 1, of("new", kept("x"))).0), (None, Ok(1)));
}

/// What cannot go, such as the positions of those who listen, ends nothing.
#[test]
fn a_limit_that_cannot_be_reached_is_given_up() {
    let mut memory = memory();
    for n in 0..300 {
        subscribe_to(&mut memory, &format!("c{n}"), positioned());
        let request = of(&format!("c{n}"), kept("x", |treatment| treatment.idempotency_key = "k".into()));
        assert_eq!(published(&mut memory, 0, request).0, Ok(1));
    }
    memory.set_history_limit(1);
    let mut calls = 0;
    while memory.expire(1) == Some(1) {
        calls += 1;
    }
    assert!((1..4).contains(&calls), "{calls}");
    assert_eq!((memory.falling, memory.evicted().histories, memory.recent.bytes()), (None, 300, 0));
}

#[test]
fn what_costs_least_is_forgotten_first() {
    let long = Keep { size: 3, ttl_ms: 1_000_000, meta_ttl_ms: 1_000_000 };
    let kept = |data: &str| kept(data, |treatment| treatment.keep = Some(long));
    let data = "x".repeat(400);
    let publish = |memory: &mut Memory, now_ms, name| published(memory, now_ms, of(name, kept(&data))).0;
    let mut memory = Memory::new(7, Limits { history_bytes: 2900, recent: 10 });
    subscribe_to(&mut memory, "heard", positioned());
    assert_eq!(publish(&mut memory, 0, "heard"), Ok(1));
    assert_eq!(publish(&mut memory, 1, "idle"), Ok(1));
    assert_eq!(publish(&mut memory, 2000, "later"), Ok(1));
    subscribe_to(&mut memory, "empty", positioned());
    let (idle, heard) = (position(&mut memory, 3500, "idle"), position(&mut memory, 1, "heard"));
    let has = |memory: &Memory, name: &str| memory.channels.get(name).is_some_and(|channel| channel.stream.is_some());
    let all = |memory: &Memory| ["empty", "later", "idle", "heard"].map(|name| has(memory, name));
    assert_eq!(all(&memory), [true; 4]);
    let mut next = 5000;
    let mut add = |memory: &mut Memory| {
        next += 2000;
        publish(memory, next, "new")
    };
    assert_eq!(add(&mut memory), Ok(1));
    assert_eq!((all(&memory), memory.evicted().streams), ([false, true, true, true], 1), "nothing was in it");
    assert_eq!(add(&mut memory), Ok(2));
    assert_eq!(all(&memory), [false, false, true, true], "the other was asked for later");
    assert_eq!((add(&mut memory), add(&mut memory)), (Ok(3), Ok(4)));
    let mut large = kept(&"y".repeat(1800));
    large = of("new", large);
    assert_eq!(published(&mut memory, 20_000, large).0, Ok(5));
    assert_eq!(all(&memory), [false, false, false, true], "nobody subscribed");
    let after = position(&mut memory, 1, "heard");
    assert_eq!(after, heard, "its subscribers go on");
    assert_ne!(position(&mut memory, 1, "idle").epoch, idle.epoch);
    let Evicted { histories, refused, .. } = memory.evicted();
    assert!(histories > 0 && refused == 0);
    let beyond = of("new", kept(&"z".repeat(3000)));
    assert_eq!(published(&mut memory, 20_000, beyond).0, Err(ClientError::TooManyRequests));
    assert_eq!(memory.evicted().refused, 1);
}

#[test]
fn a_stream_lives_on_under_its_subscribers_and_begins_anew_without() {
    let mut memory = memory();
    handle(&mut memory, 0, kept("1", |_| {}));
    let first = found(&join(&mut memory, 10, 0, positioned())).position;
    assert_eq!(first.offset, 1);
    assert!(memory.expire(5000).is_some_and(|at| at > 5000));
    assert_eq!(found(&join(&mut memory, 5000, 1, positioned())).position, first);
    for reactor in [0, 1] {
        handle(&mut memory, 5000, Request::Leave { channel: "c".into(), reactor, gone: None });
    }
    let other = found(&join(&mut memory, 7000, 0, positioned())).position;
    assert!(other.offset == 0 && other.epoch != first.epoch);
}

#[test]
fn deltas_are_made_for_those_who_take_them() {
    let mut memory = memory();
    let delta_of = |events: Vec<Event>| match events.into_iter().next() {
        Some(Event::Publication { extras, .. }) => extras.and_then(|extras| extras.delta),
        other => panic!("no publication: {other:?}"),
    };
    let long = "what is the same in both, and long enough to be worth it";
    let text = |n: u32| format!("{long} {n}");
    let with = |n: u32| kept(&text(n), |treatment| treatment.delta = true);
    join(&mut memory, 0, 0, positioned());
    handle(&mut memory, 0, with(1));
    assert_eq!(delta_of(handle(&mut memory, 0, with(2))), None, "nobody takes them");
    join(&mut memory, 0, 1, Want { delta: true, ..positioned() });
    let delta = delta_of(handle(&mut memory, 0, with(3))).expect("a delta");
    assert_eq!(delta::apply(text(2).as_bytes(), &delta, 1000).as_deref(), Some(text(3).as_bytes()));
    assert_eq!(delta_of(handle(&mut memory, 0, kept("4", |treatment| treatment.delta = true))), None, "longer");
    assert_eq!(delta_of(handle(&mut memory, 0, kept(&text(5), |_| {}))), None, "not asked for");
    assert_eq!(delta_of(handle(&mut memory, 500, with(6))), None, "the one before is forgotten");
    let gone = Some(Box::new(Gone { member: None, delta: true, asker: None }));
    handle(&mut memory, 500, Request::Leave { channel: "c".into(), reactor: 1, gone });
    assert_eq!(delta_of(handle(&mut memory, 500, with(7))), None, "nobody takes them any more");
}

#[test]
fn who_comes_is_present_before_it_is_announced_and_gone_before_the_answer() {
    let mut memory = memory();
    let info = Arc::new(crate::protocol::ClientInfo { user: "u".into(), ..Default::default() });
    let member = || Some(Member { client: [1; 16], info: info.clone(), presence: true, announce: true });
    let events = join(&mut memory, 0, 0, Want { member: member(), ..Want::default() });
    assert!(matches!(&events[..], [Event::Subscribed { .. }, Event::Join { .. }]), "{events:?}");
    subscribe(&mut memory, 1);
    let asker = Asker::Backend(1);
    let counts = |memory: &mut Memory| {
        let events = handle(memory, 0, Request::PresenceStats { channel: "c".into(), asker });
        let Some(Event::Answer { answer: Answer::PresenceStats { clients, users }, .. }) = events.first() else {
            panic!("counts");
        };
        (*clients, *users)
    };
    assert_eq!(counts(&mut memory), (1, 1));
    let gone = Some(Box::new(Gone { member: member(), delta: false, asker: Some(asker) }));
    let events = handle(&mut memory, 0, Request::Leave { channel: "c".into(), reactor: 0, gone });
    assert!(matches!(&events[..], [Event::Leave { .. }, Event::Answer { answer: Answer::Left, .. }]), "{events:?}");
    assert_eq!(counts(&mut memory), (0, 0));
}
