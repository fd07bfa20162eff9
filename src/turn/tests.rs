//! F8 · Who is served when, how much each may cause, and what becomes of those that ask for more.

mod input;
mod leave;
mod lines;

use super::testing::{Bench, Line, frame, masked};
use super::*;
use crate::base::wheel::NEVER;
use crate::broker::{Answer as Owned, Asker, Event, Keep, Query, Request, Treatment, owner};
use crate::config::Config;
use crate::protocol::Publication;
use crate::protocol::code::Disconnect;
use crate::shard::{Chosen, Control, Table};
use crate::ws::Deflate;
use std::sync::Arc;
use std::time::Duration;

const KEEP: Keep = Keep { size: 100, ttl_ms: 600_000, meta_ttl_ms: 600_000 };

fn with_history(config: &mut Config) {
    let channel = &mut config.channel.without_namespace;
    (channel.history_size, channel.history_ttl) = (100, Duration::from_secs(600));
    channel.presence = true;
}

/// Of what clients send; the server's own messages stay as they are.
fn with_compression(config: &mut Config) {
    (config.websocket.compression, config.websocket.compression_min_size) = (true, 1 << 20);
}

/// The owner's order to publish, as the server API gives it.
fn publish(channel: &str, data: Vec<u8>, keep: Option<Keep>) -> Mail {
    let publication = Arc::new(Publication { data: data.into(), ..Publication::default() });
    let treatment = keep.map(|keep| Box::new(Treatment { keep: Some(keep), ..Treatment::default() }));
    Mail::Ask(Request::Publish { channel: channel.into(), publication, asker: Asker::Backend(1), treatment })
}

/// A JSON string of so many bytes.
fn long(bytes: usize) -> Vec<u8> {
    [&b"\""[..], &vec![b'x'; bytes], &b"\""[..]].concat()
}

/// A stream of 100 publications of 16 KB.
fn fill_stream(bench: &mut Bench, channel: &str) {
    bench.run_with(&[], (0..100).map(|_| publish(channel, long(16_000), Some(KEEP))).collect());
    bench.settle(10);
}

/// One frame with a command for each id, ten thousand at most.
fn commands(ids: std::ops::Range<u32>, command: &str) -> Vec<u8> {
    let lines: Vec<String> = ids.map(|id| format!(r#"{{"id":{id},{command}}}"#)).collect();
    frame(&lines.join("\n"))
}

/// The ids of the replies in what was written, in their order.
fn ids(written: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(written);
    let numbers = text.split(r#""id":"#).skip(1);
    numbers.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().expect("digits").parse().expect("id")).collect()
}

/// The close code that ends what was written, if it ends so.
fn close_code(written: &[u8]) -> Option<u16> {
    let at = written.windows(2).rposition(|two| two[0] == 0x88 && usize::from(two[1]) < 126)?;
    let code = written.get(at + 2..at + 4)?;
    (at + 2 + usize::from(written[at + 1]) == written.len()).then(|| u16::from_be_bytes([code[0], code[1]]))
}

const STATS: &str = r#""presence_stats":{"channel":"c"}"#;
const HISTORY: &str = r#""history":{"channel":"c","limit":100}"#;

#[test]
fn a_socket_is_read_once_in_a_turn_however_often_it_is_named() {
    let (mut bench, flood, other) = (Bench::new(1, |_| {}), Line::default(), Line::default());
    let (a, b) = (bench.client(&flood, ""), bench.client(&other, ""));
    let continuation = [masked(0x01, b""), masked(0x00, b"").repeat(60_000)].concat();
    flood.say(&continuation);
    for turn in 0..100 {
        let before = flood.reads();
        bench.run(&[a, a, a]);
        assert!(flood.reads() <= before + 1, "turn {turn}");
        assert!(bench.turn.conns.take_queue().iter().filter(|conn| **conn == a).count() <= 1);
        bench.turn.conns.queue(a);
        other.say(&frame(&format!(r#"{{"id":{},{STATS}}}"#, turn + 2)));
        bench.run(&[b]);
        assert_eq!(ids(&other.clone().take_written()), [turn + 2], "the other one is served in its turn");
    }
}

#[test]
fn pings_and_pongs_have_a_budget_too() {
    let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 10), Line::default());
    let conn = bench.client(&line, "");
    line.say(&masked(0x89, b"").repeat(1000));
    let mut pongs = 0;
    // However often it is named, and though it stands in the line of those that wait.
    bench.run(&[conn, conn]);
    for _ in 0..100 {
        let now = line.clone().take_written().len() / 2;
        assert!(now <= 10, "{now} pongs in a turn");
        pongs += now;
        bench.run(&[conn, conn]);
    }
    assert_eq!(pongs, 1000, "all are answered in the end");
}

#[test]
fn empty_parts_of_a_message_have_a_budget_too() {
    let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 10), Line::default());
    let conn = bench.client(&line, "");
    line.say(&[masked(0x01, b""), masked(0x00, b"").repeat(1000)].concat());
    bench.run(&[conn]);
    let mut held = 1001 * 6;
    assert!(bench.turn.has_work());
    while bench.turn.has_work() {
        let now = bench.turn.conns.held_bytes();
        assert!(now >= held - 60, "{} bytes of frames in a turn", held - now);
        held = now;
        bench.run(&[]);
    }
    assert_eq!(bench.turn.conns.held_bytes(), 0);
}

#[test]
fn commands_beyond_the_budget_wait_for_the_next_turn_in_their_order() {
    let (mut bench, line, other) = (Bench::new(1, with_history), Line::default(), Line::default());
    let (a, b) = (bench.client(&line, ""), bench.client(&other, ""));
    let budget = Config::default().reactor.command_budget;
    line.say(&commands(2..1002, STATS));
    let mut heard = Vec::new();
    bench.run(&[a]);
    for round in 0..20 {
        let now = ids(&line.clone().take_written());
        assert!(now.len() <= budget, "{} in one turn", now.len());
        heard.extend(now);
        other.say(&frame(&format!(r#"{{"id":{},{STATS}}}"#, round + 2)));
        bench.run(&[b]);
        assert_eq!(ids(&other.clone().take_written()), [round + 2]);
    }
    assert_eq!(heard, (2..1002).collect::<Vec<u32>>());
    assert_eq!(bench.turn.shard.counters.waits[0], 1000u64.div_ceil(budget as u64) - 1);
    assert!(!bench.turn.has_work());
}

/// Found dear and short: 32 recoveries in one message searched for seconds, and their replies were few bytes.
#[test]
fn deltas_for_who_recovers_have_a_budget() {
    let deltas = |config: &mut Config| {
        with_history(config);
        config.channel.without_namespace.allowed_delta_types = vec!["fossil".into()];
        config.channel.without_namespace.allow_recovery = true;
        config.reactor.reply_budget = 1 << 30;
        config.client.queue_max_size = 1 << 30;
    };
    let (mut bench, line) = (Bench::new(1, deltas), Line::default());
    fill_stream(&mut bench, "c");
    let conn = bench.client(&line, "");
    let recover = r#""subscribe":{"channel":"c","recover":true,"recoverable":true,"delta":"fossil"}"#;
    let leave = r#""unsubscribe":{"channel":"c"}"#;
    line.say(&frame(&format!(r#"{{"id":2,{recover}}}{0}{{"id":3,{leave}}}{0}{{"id":4,{recover}}}"#, "\n")));
    bench.run(&[conn]);
    let said = String::from_utf8_lossy(&line.clone().take_written()).into_owned();
    let budget = Config::default().reactor.decode_budget;
    let (deltas, all) = (said.matches(r#""delta":true}"#).count(), said.matches(r#""offset":"#).count());
    // Each is of 16,002 bytes; the reply itself says that it has deltas.
    assert_eq!((deltas, all), (budget.div_ceil(16_002) + 1, 100), "{}", &said[said.len() - 200..]);
    assert_eq!(ids(said.as_bytes()), [2], "the commands behind it wait for the next turn");
    bench.settle(5);
    assert_eq!(ids(&line.clone().take_written()), [3, 4]);
    assert_eq!(bench.turn.shard.counters.waits[1], 1);
}

/// Row for row: whoever asks, over any 100 turns nobody is given more than its budget in one of them.
#[test]
fn no_turn_gives_a_connection_more_than_its_budget_and_one_step() {
    let (mut bench, line) = (Bench::new(1, with_history), Line::default());
    fill_stream(&mut bench, "c");
    let conn = bench.client(&line, "");
    line.say(&commands(2..300, HISTORY));
    let most = Config::default().reactor.reply_budget as u64 + 1_700_000;
    let mut ready = vec![conn];
    for turn in 0..100 {
        let before = bench.turn.conns.queued_bytes;
        bench.run(&ready);
        ready.clear();
        let caused = bench.turn.conns.queued_bytes - before;
        assert!(caused <= most, "turn {turn}: {caused} bytes");
        line.clone().take_written();
    }
}

#[test]
fn a_client_that_asks_for_much_and_reads_nothing_is_given_no_more_than_its_limit() {
    let (mut bench, line) = (Bench::new(1, with_history), Line::default());
    fill_stream(&mut bench, "c");
    let conn = bench.client(&line, "");
    let before = bench.turn.conns.queued_bytes;
    // From here on the peer takes nothing.
    let stuck = Line::with_room(0);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(stuck.clone());
    stuck.say(&commands(2..1236, HISTORY));
    bench.run(&[conn]);
    bench.settle(100);
    let caused = bench.turn.conns.queued_bytes - before;
    assert!(caused < 2 * 1_700_000, "{caused} bytes were made for it");
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), Some(&1));
}

/// A channel that another reactor owns.
fn elsewhere() -> String {
    (0..).map(|n| format!("c{n}")).find(|name| owner(name, 2, 7) == 1).expect("a name")
}

#[test]
fn few_large_replies_may_be_owed_at_once_and_the_rest_waits_unread() {
    let (mut bench, line, name) = (Bench::new(2, with_history), Line::default(), elsewhere());
    let conn = bench.client(&line, "");
    let history = HISTORY.replace("\"c\"", &format!("{name:?}"));
    line.say(&commands(2..40, &history));
    bench.run(&[conn]);
    let mut asked: VecDeque<Asker> = VecDeque::new();
    let mut answered = 0;
    for _ in 0..200 {
        for (_, mail) in bench.turn.host.sent.drain(..) {
            asked.extend(mail.into_iter().filter_map(|mail| match mail {
                Mail::Ask(Request::History { asker, .. }) => Some(asker),
                _ => None,
            }));
        }
        assert!(asked.len() <= 5, "{} are owed", asked.len());
        let Some(asker) = asked.pop_front() else { break };
        answered += 1;
        let found = Owned::History(Box::default());
        bench.run_with(&[], vec![Mail::Event(Event::Answer { asker, answer: found })]);
        bench.run(&[]);
    }
    assert_eq!(answered, 38);
    assert_eq!(ids(&line.clone().take_written()), (2..40).collect::<Vec<u32>>());
    assert!(bench.turn.shard.counters.waits[4] > 0 && !bench.turn.has_work());
}

#[test]
fn answers_that_fill_an_outbox_end_a_client_that_takes_nothing() {
    let (mut bench, line, name) = (Bench::new(2, with_history), Line::default(), elsewhere());
    let conn = bench.client(&line, "");
    let stuck = Line::with_room(10);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(stuck.clone());
    stuck.say(&commands(2..6, &HISTORY.replace("\"c\"", &format!("{name:?}"))));
    bench.run(&[conn]);
    let publications = vec![Publication { data: long(1_500_000).into(), ..Publication::default() }];
    let answers: Vec<Mail> = (2..6)
        .map(|ticket| {
            let asker = Asker::Client { conn: bench.turn.conns.key(conn).expect("a key"), ticket };
            let answer = Owned::History(Box::new((Default::default(), publications.clone())));
            Mail::Event(Event::Answer { asker, answer })
        })
        .collect();
    let before = bench.turn.conns.queued_bytes;
    bench.run_with(&[], answers);
    bench.settle(10);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), Some(&1));
    assert!(bench.turn.conns.queued_bytes - before < 2_000_000, "the first is too much, and no other is encoded");
}

#[test]
fn what_stands_behind_a_connect_command_that_waits_is_not_lost_and_not_early() {
    let mut bench = Bench::new(1, |config| {
        with_history(config);
        config.client.proxy.connect.enabled = true;
    });
    let line = Line::default();
    let conn = bench.open(&line, "/connection/websocket");
    let two = format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,{STATS}}}");
    line.say(&[frame(&two), frame(&format!(r#"{{"id":3,{STATS}}}"#))].concat());
    bench.run(&[conn]);
    line.say(&frame(&format!(r#"{{"id":4,{STATS}}}"#)));
    bench.run(&[conn]);
    assert!(line.clone().take_written().is_empty() && !bench.turn.has_work(), "it waits, and nothing spins");
    let call = bench.turn.host.asked.pop().expect("a proxy request");
    let said = crate::session::backend::Said::Connect(Box::default());
    let (conn, ticket, ask) = (call.conn, call.ticket, call.ask);
    bench.run_with(&[], vec![Mail::Backend { conn, ticket, ask, said }]);
    bench.settle(5);
    assert_eq!(ids(&line.clone().take_written()), [1, 2, 3, 4]);
    assert_eq!(bench.turn.conns.held_bytes(), 0);
}

#[test]
fn what_a_message_inflates_to_has_a_budget() {
    let (mut bench, line) = (Bench::new(1, with_compression), Line::default());
    let conn = bench.client(&line, "");
    let text = commands(2..9000, STATS)[14..].to_vec();
    let mut deflate = Deflate::new(6);
    let payload = deflate.message(&text, 15).expect("smaller").to_vec();
    line.say(&masked(0xC1, &payload));
    bench.run(&[conn]);
    let first = ids(&line.clone().take_written()).len();
    assert!(first <= Config::default().reactor.command_budget, "{first} commands of one read");
    bench.settle(200);
    assert_eq!(ids(&line.clone().take_written()).last(), Some(&8999));
    assert!(bench.turn.shard.counters.waits[1] > 0);
}

#[test]
fn a_message_that_does_not_end_is_ended() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "?cf_ws_frame_ping_pong=true");
    line.say(&masked(0x01, b"{\"id\":2"));
    bench.run(&[conn]);
    assert!(bench.turn.conns.held_bytes() > 0);
    let timeout = crate::base::wheel::ticks(Config::default().websocket.message_timeout);
    let began = bench.now.tick;
    while bench.now.tick < began + timeout {
        bench.now.tick += 50;
        bench.run(&[]);
        // Frames of control do not end a message.
        line.say(&masked(0x8A, b""));
        bench.run(&[conn]);
    }
    bench.now.tick += 1;
    bench.run(&[]);
    assert_eq!(close_code(&line.clone().take_written()), Some(1008));
    assert_eq!((bench.turn.shard.counters.message_timeouts, bench.turn.conns.held_bytes()), (1, 0));
}

#[test]
fn a_message_in_pieces_that_ends_buys_the_next_one_its_time() {
    let (mut bench, line) = (Bench::new(1, |config| config.client.pong_timeout = Duration::ZERO), Line::default());
    let conn = bench.client(&line, "");
    let whole = frame(&format!(r#"{{"id":2,{STATS}}}"#));
    // Each read ends in the middle of a frame head, for longer than one message may take.
    line.say(&whole[..1]);
    for _ in 0..40 {
        bench.now.tick += 50;
        line.say(&[&whole[1..], &whole[..1]].concat());
        bench.run(&[conn]);
    }
    assert_eq!(bench.turn.shard.counters.message_timeouts, 0);
    assert!(bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some()));
}

#[test]
fn unfinished_messages_of_all_have_a_bound_and_those_that_hold_most_go() {
    let (mut bench, modest) = (Bench::new(1, |config| config.reactor.held_input_size = 1 << 20), Line::default());
    let small = bench.client(&modest, "");
    modest.say(&masked(0x01, b"{\"id\":"));
    bench.run(&[small]);
    let lines: Vec<Line> = (0..40).map(|_| Line::default()).collect();
    for line in &lines {
        let conn = bench.client(line, "");
        line.say(&masked(0x01, &[b'x'; 60_000]));
        bench.run(&[conn]);
        assert!(bench.turn.conns.held_bytes() <= (1 << 20) + 60_100);
    }
    let closed = lines.iter().filter(|line| close_code(&line.written()) == Some(1013)).count();
    assert_eq!(closed as u64, bench.turn.shard.counters.limit_held);
    assert!(closed > 20, "{closed}");
    modest.say(&masked(0x80, format!("2,{STATS}}}").as_bytes()));
    bench.run(&[small]);
    assert_eq!(ids(&modest.clone().take_written()), [2], "one that holds little goes on");
}

/// Beyond the bound too.
#[test]
fn one_that_holds_less_than_others_stays() {
    let mut bench = Bench::new(1, |config| config.reactor.held_input_size = 1 << 20);
    let lines: Vec<Line> = (0..18).map(|_| Line::default()).collect();
    for (at, line) in lines.iter().enumerate() {
        let conn = bench.client(line, "");
        line.say(&masked(0x01, &vec![b'x'; if at == 17 { 30_000 } else { 60_000 }]));
        bench.run(&[conn]);
    }
    assert!(bench.turn.conns.held_bytes() > 1 << 20);
    assert_eq!((bench.turn.shard.counters.limit_held, close_code(&lines[17].written())), (0, None));
}

#[test]
fn one_that_leaves_while_it_connects_is_not_waited_for() {
    let (mut bench, line, name) = (Bench::new(2, |_| {}), Line::default(), elsewhere());
    let conn = bench.open(&line, "/connection/websocket");
    line.say(&frame(&format!(r#"{{"id":1,"connect":{{"subs":{{"{name}":{{}}}}}}}}"#)));
    line.say(&frame(&format!(r#"{{"id":2,{STATS}}}"#)));
    bench.run(&[conn]);
    assert!(bench.turn.conns.has_outbox(conn), "its reply is owed");
    line.hang_up();
    bench.run(&[conn]);
    assert_eq!(bench.turn.host.gone, 1);
}

/// By other requests than its own: they are one line of commands, of which those carried out count no more.
#[test]
fn commands_of_several_requests_stand_in_one_line() {
    let small = |config: &mut Config| {
        config.reactor.command_budget = 1;
        config.websocket.message_size_limit = 1000;
    };
    let (mut bench, line) = (Bench::new(1, small), Line::default());
    let conn = bench.accept(&line);
    line.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    bench.run(&[conn]);
    let key = bench.turn.conns.key(conn).expect("a key");
    let session = bench.turn.shard.session_name(&mut bench.turn.conns, conn).expect("a name");
    let say = |bench: &mut Bench, ids: std::ops::Range<u32>| {
        let one = |id| format!(r#"{{"id":{id},"presence_stats":{{"channel":"{}"}}}}"#, "c".repeat(50)) + "\n";
        let message: String = ids.map(one).collect();
        let session = session.as_str().into();
        bench.run_with(&[], vec![Mail::Commands { conn: key, session, message: message.into() }]);
    };
    line.clone().take_written();
    say(&mut bench, 2..10);
    (0..6).for_each(|_| bench.run(&[]));
    say(&mut bench, 10..15);
    bench.settle(20);
    assert_eq!(ids(&line.clone().take_written()), (2..15).collect::<Vec<u32>>());
}

/// Its own deadline is for what the peer has not sent; this waits for others.
#[test]
fn a_message_that_waits_for_replies_is_in_time() {
    let change = |config: &mut Config| {
        with_history(config);
        config.client.pong_timeout = Duration::ZERO;
    };
    let (mut bench, line, name) = (Bench::new(2, change), Line::default(), elsewhere());
    let conn = bench.client(&line, "");
    let whole = commands(2..40, &HISTORY.replace("\"c\"", &format!("{name:?}")));
    let (first, rest) = whole.split_at(100);
    line.say(first);
    bench.run(&[conn]);
    line.say(rest);
    bench.run(&[conn]);
    bench.now.tick += 2 * crate::base::wheel::ticks(Config::default().websocket.message_timeout);
    bench.run(&[]);
    assert_eq!((bench.turn.shard.counters.message_timeouts, close_code(&line.written())), (0, None));
}

/// Beyond the limit those go for which most waits, no more of them than must, and none below their part of it.
#[test]
fn while_memory_is_over_its_limit_those_for_which_most_waits_go() {
    const PART: usize = 1 << 20;
    let mut bench = Bench::new(1, |config| config.overload.memory_limit = 20 * PART);
    // One takes nothing, and the other has begun to take something large.
    let stuck = |bench: &mut Bench, channel: &str, room| {
        let line = Line::default();
        let conn = bench.client(&line, "");
        line.say(&frame(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#)));
        bench.run(&[conn]);
        let line = Line::with_room(room);
        bench.turn.conns.get(conn).expect("a connection").socket = Some(line);
        conn
    };
    // They are looked at first.
    let modest: Vec<u32> = (0..20).map(|_| stuck(&mut bench, "quiet", 0)).collect();
    let greedy: Vec<u32> = (0..10).map(|at| stuck(&mut bench, "loud", 10 * (at % 2))).collect();
    bench.run_with(&[], (0..5).map(|_| publish("loud", long(100_000), None)).collect());
    bench.run_with(&[], vec![publish("quiet", long(100), None)]);
    bench.settle(10);
    let open = |bench: &mut Bench, conns: &[u32]| {
        let is_open = |conn: &&u32| bench.turn.conns.get(**conn).is_some_and(|it| it.session.is_some());
        conns.iter().filter(is_open).count()
    };
    assert_eq!((open(&mut bench, &greedy), open(&mut bench, &modest)), (10, 20), "memory is below its limit");
    bench.turn.host.excess = 1_200_000;
    bench.run(&[]);
    bench.settle(10);
    assert_eq!((open(&mut bench, &greedy), open(&mut bench, &modest)), (7, 20));
    assert!(bench.turn.conns.output_bytes() < 3_700_000, "what waited for them is given back at once");
    bench.turn.host.excess = 100 << 20;
    bench.run(&[]);
    bench.settle(10);
    assert_eq!((open(&mut bench, &greedy), open(&mut bench, &modest)), (2, 20), "their part of the limit is left");
    assert!(bench.turn.conns.output_bytes() <= PART && bench.turn.host.excess == 0);
    assert_eq!(bench.turn.shard.counters.limit_output, 8);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), Some(&8));
    bench.turn.host.excess = 1;
    bench.run(&[]);
    assert_eq!(bench.turn.host.excess, 1, "nobody asks while so little waits");
}

#[test]
fn nobody_is_judged_by_a_pong_that_lies_unread() {
    let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 1), Line::default());
    let conn = bench.client(&line, "");
    // A ping is sent, and the pong stands behind many commands.
    let due = bench.turn.conns.get(conn).and_then(|it| it.session.as_ref()).expect("a session").next_deadline();
    bench.now.tick = due;
    bench.run(&[]);
    assert_eq!(line.clone().take_written(), b"\x81\x02{}");
    line.say(&[commands(2..500, STATS), frame("{}")].concat());
    bench.run(&[conn]);
    let timeout = crate::base::wheel::ticks(Config::default().client.pong_timeout);
    bench.now.tick += timeout + 1;
    bench.run(&[]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), None);
    bench.settle(600);
    assert!(bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some()), "the pong was heard");
}

/// A ping leaves behind the replies that were owed before it: the client cannot answer what it has not been sent.
#[test]
fn nobody_is_judged_by_a_ping_that_stands_behind_a_reply_that_is_owed() {
    let (mut bench, line, name) = (Bench::new(2, |_| {}), Line::default(), elsewhere());
    let conn = bench.client(&line, "");
    line.say(&frame(&format!(r#"{{"id":2,"publish":{{"channel":"{name}","data":1}}}}"#)));
    bench.run(&[conn]);
    bench.now.tick = bench.turn.conns.get(conn).and_then(|it| it.session.as_ref()).expect("a session").next_deadline();
    bench.run(&[]);
    let timeout = crate::base::wheel::ticks(Config::default().client.pong_timeout);
    bench.now.tick += timeout + 1;
    bench.run(&[]);
    assert_eq!(line.clone().take_written(), b"", "the owner has not answered");
    bench.now.tick += timeout - 1;
    let key = bench.turn.conns.key(conn).expect("a key");
    let answer = Event::Answer { asker: Asker::Client { conn: key, ticket: 2 }, answer: Owned::Published(None) };
    bench.run_with(&[], vec![Mail::Event(answer)]);
    assert!(line.clone().take_written().ends_with(b"\x81\x02{}"));
    // From here on it has all of its time, and no more.
    bench.now.tick += timeout - 1;
    bench.run(&[]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), None);
    bench.now.tick += 2;
    bench.run(&[]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), Some(&1));
}

/// Pings go on while a client's input waits for this node, and each has its pong.
#[test]
fn pongs_that_lay_unread_beyond_the_next_ping_are_no_fault() {
    let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 1), Line::default());
    let conn = bench.client(&line, "");
    line.say(&commands(2..500, STATS));
    bench.run(&[conn]);
    let interval = bench.turn.shard.rules().ping_interval;
    let mut pings = 0;
    for _ in 0..3 * interval {
        bench.now.tick += 1;
        bench.run(&[]);
        if line.clone().take_written().ends_with(b"\x81\x02{}") {
            pings += 1;
            line.say(&frame("{}"));
            bench.run(&[conn]);
        }
    }
    assert_eq!((pings, bench.turn.shard.counters.disconnects.len()), (3, 0));
    bench.settle(600);
    assert!(bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some()), "all three were heard");
}

/// Replies are owed to a client, and its next commands wait for them: nobody keeps them for ever once it has left.
#[test]
fn one_that_left_is_not_waited_for_because_of_what_lies_unread() {
    let (mut bench, line) = (Bench::new(2, with_history), Line::default());
    let conn = bench.client(&line, "");
    line.say(&commands(2..40, &HISTORY.replace("\"c\"", &format!("{:?}", elsewhere()))));
    bench.run(&[conn]);
    let session = |bench: &mut Bench| bench.turn.conns.get(conn).and_then(|it| it.session.as_ref()).is_some();
    let timeout = crate::base::wheel::ticks(Config::default().client.pong_timeout);
    let interval = bench.turn.shard.rules().ping_interval;
    // Its pongs lie behind the commands.
    for _ in 0..2 * (interval + timeout) {
        bench.now.tick += 1;
        bench.run(&[]);
    }
    assert!(session(&mut bench), "the backend takes its time");
    line.hang_up();
    bench.run(&[conn]);
    assert!(session(&mut bench), "its commands may be carried out yet");
    for _ in 0..interval + timeout {
        bench.now.tick += 1;
        bench.run(&[]);
    }
    assert!(!session(&mut bench));
}

/// Lets time pass until the client is sent a ping.
fn ping(bench: &mut Bench, line: &Line, conn: u32) {
    let session = bench.turn.conns.get(conn).and_then(|it| it.session.as_ref());
    bench.now.tick = session.expect("a session").next_deadline();
    bench.run(&[]);
    assert_eq!(line.clone().take_written(), b"\x81\x02{}");
}

/// The ping stands behind a large publication in the kernel, of which the peer takes all the while.
#[test]
fn nobody_is_judged_by_a_ping_that_is_behind_what_it_takes() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    let timeout = crate::base::wheel::ticks(Config::default().client.pong_timeout);
    let has_session = |bench: &mut Bench| bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some());
    ping(&mut bench, &line, conn);
    for (acknowledged, waiting) in [(1_000, 3_000_000), (900_000, 2_000_000), (2_000_000, 1_000_000)] {
        line.say_taken(acknowledged, waiting);
        bench.now.tick += timeout;
        bench.run(&[]);
        assert!(has_session(&mut bench), "{waiting} bytes wait");
    }
    // It has everything now, and as long as ever to answer.
    line.say_taken(3_000_000, 0);
    bench.now.tick += timeout;
    bench.run(&[]);
    assert!(has_session(&mut bench));
    bench.now.tick += timeout;
    bench.run(&[]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), Some(&1));
}

#[test]
fn one_that_takes_nothing_and_answers_no_ping_goes() {
    for (waiting, rounds) in [(ON_THE_WAY, 1), (ON_THE_WAY + 1, 2)] {
        let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
        let conn = bench.client(&line, "");
        let timeout = crate::base::wheel::ticks(Config::default().client.pong_timeout);
        ping(&mut bench, &line, conn);
        line.say_taken(1_000, waiting);
        for round in 1..=rounds {
            assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), None, "{waiting} wait, before round {round}");
            bench.now.tick += timeout;
            bench.run(&[]);
        }
        assert_eq!(bench.turn.shard.counters.disconnects.get(&3012), Some(&1), "{waiting} wait");
        assert!(bench.turn.behind.is_empty());
    }
}

/// The socket takes no more, and the ping waits here: what the peer takes is what it is judged by.
#[test]
fn a_ping_that_waits_here_is_not_overdue() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    let mut slow = Line::with_room(100);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(slow.clone());
    slow.say(&frame(r#"{"id":2,"subscribe":{"channel":"c"}}"#));
    bench.run(&[conn]);
    bench.run_with(&[], vec![publish("c", long(60_000), None)]);
    let write = crate::base::wheel::ticks(Config::default().websocket.write_timeout);
    let rules = bench.turn.shard.rules();
    let until = bench.now.tick + 2 * (rules.ping_interval + rules.pong_timeout.expect("a limit"));
    while bench.now.tick < until {
        bench.now.tick += write;
        slow.give_room(100);
        bench.run(&[]);
        assert!(bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some()), "at {}", bench.now.tick);
    }
}

#[test]
fn a_subscription_that_a_client_of_a_stream_began_by_another_request_ends_in_time() {
    let mut bench = Bench::new(1, |config| {
        (config.client.insecure, config.client.allow_anonymous_connect_without_token) = (false, true);
        config.client.token.hmac_secret_key = "a key".into();
        config.client.expired_sub_close_delay = Duration::ZERO;
        // The deadlines of the handshake and of connecting must not wake the connection in its place.
        config.http_server.handshake_timeout = Duration::from_secs(60);
        config.client.stale_close_delay = Duration::from_secs(60);
        config.channel.without_namespace.allow_subscribe_for_client = true;
    });
    let line = Line::default();
    let conn = bench.accept(&line);
    line.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    bench.run(&[conn]);
    let key = bench.turn.conns.key(conn).expect("a key");
    let session = bench.turn.shard.session_name(&mut bench.turn.conns, conn).expect("a name");
    let secret = jsonwebtoken::EncodingKey::from_secret(b"a key").expect("a key");
    let began = bench.now.seconds();
    let ask = |bench: &mut Bench, id: u32, method: &str, seconds: u64| {
        let claims = serde_json::json!({ "sub": "", "channel": "c", "exp": began + seconds });
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &secret).expect("a token");
        let message = format!(r#"{{"id":{id},"{method}":{{"channel":"c","token":"{token}"}}}}"#);
        let session = session.as_str().into();
        bench.run_with(&[], vec![Mail::Commands { conn: key, session, message: message.into() }]);
        bench.settle(5);
    };
    ask(&mut bench, 2, "subscribe", 1000);
    // What it says next brings the end nearer, and no owner is asked.
    ask(&mut bench, 3, "sub_refresh", 2);
    let said = |line: &Line| String::from_utf8_lossy(&line.clone().take_written()).into_owned();
    assert!(said(&line).contains(r#""ttl":2"#));
    bench.now.tick += 20;
    bench.now.unix_ms += 2000;
    bench.run(&[]);
    assert!(said(&line).contains(r#""code":2501"#));
}

#[test]
fn each_byte_that_the_peer_takes_buys_it_time() {
    let (mut bench, line) = (Bench::new(1, |config| config.client.pong_timeout = Duration::ZERO), Line::default());
    let conn = bench.client(&line, "");
    let mut slow = Line::with_room(100);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(slow.clone());
    slow.say(&frame(r#"{"id":2,"subscribe":{"channel":"c"}}"#));
    bench.run(&[conn]);
    bench.run_with(&[], vec![publish("c", long(50_000), None)]);
    let write = crate::base::wheel::ticks(Config::default().websocket.write_timeout);
    for _ in 0..20 {
        bench.now.tick += write;
        // The kernel does not say that there is room: it waits until there is much.
        slow.give_room(1000);
        bench.run(&[]);
        assert!(bench.turn.conns.get(conn).is_some_and(|it| it.session.is_some()), "at {}", bench.now.tick);
    }
    assert!(slow.take_written().len() >= 20_000);
    bench.now.tick += write;
    bench.run(&[]);
    assert_eq!(bench.turn.shard.counters.write_timeouts, 1, "one that takes nothing has had its time");
}

#[test]
fn a_client_that_says_no_more_is_heard_to_its_last_command() {
    let (mut bench, line, other) = (Bench::new(1, |_| {}), Line::default(), Line::default());
    let (a, b) = (bench.client(&line, ""), bench.client(&other, ""));
    other.say(&frame(r#"{"id":2,"subscribe":{"channel":"c"}}"#));
    bench.run(&[b]);
    line.say(&commands(2..202, r#""publish":{"channel":"c","data":1}"#));
    line.hang_up();
    bench.run(&[a]);
    bench.settle(50);
    let heard = String::from_utf8_lossy(&other.written()).matches(r#""pub":"#).count();
    assert_eq!((heard, bench.turn.host.gone), (200, 1));
}

#[test]
fn a_full_hub_holds_publications_back_and_nothing_else() {
    let mut bench = Bench::new(2, |config| {
        config.reactor.fanout_queue_size = 1000;
        config.reactor.fanout_slice = 1;
    });
    let (line, other, name) = (Line::default(), Line::default(), elsewhere());
    let conns = [bench.client(&line, ""), bench.client(&other, "")];
    for (conn, line) in conns.iter().zip([&line, &other]) {
        line.say(&frame(&format!(r#"{{"id":2,"subscribe":{{"channel":"{name}"}}}}"#)));
        bench.run(&[*conn]);
        let key = bench.turn.conns.key(*conn).expect("a key");
        let subscribed = Event::Subscribed { channel: name.as_str().into(), conn: key, ticket: 2, found: None };
        bench.run_with(&[], vec![Mail::Event(subscribed)]);
    }
    bench.settle(10);
    let event = |n: usize| {
        let publication = Arc::new(Publication { data: long(2000 + n).into(), ..Publication::default() });
        Mail::Event(Event::Publication { channel: name.as_str().into(), publication, extras: None })
    };
    bench.run_with(&[], (0..6).map(event).collect());
    assert!(bench.turn.shard.is_full() && bench.turn.mail_waiting() == 5, "{}", bench.turn.mail_waiting());
    let key = bench.turn.conns.key(conns[0]).expect("a key");
    let answer = Event::Answer { asker: Asker::Client { conn: key, ticket: 9 }, answer: Owned::Published(None) };
    line.say(&frame(&format!(r#"{{"id":9,"publish":{{"channel":"{name}","data":1}}}}"#)));
    line.clone().take_written();
    bench.run_with(&[conns[0]], vec![publish("mine", long(10), None), Mail::Event(answer)]);
    assert_eq!(bench.turn.host.answers.len(), 1, "an order of the backend is carried out");
    assert!(String::from_utf8_lossy(&line.written()).contains(r#"{"id":9,"publish":{}}"#), "and a client answered");
    // What comes while there is room again stands behind what waited for it.
    (6..20).for_each(|n| bench.run_with(&[], vec![event(n)]));
    bench.settle(50);
    assert_eq!((bench.turn.mail_waiting(), bench.turn.shard.hub().waiting_bytes()), (0, 0));
    let written = String::from_utf8_lossy(&other.clone().take_written()).into_owned();
    let sizes = written.split(r#""data":""#).skip(1).map(|rest| rest.split('"').next().map_or(0, str::len));
    assert_eq!(sizes.collect::<Vec<_>>(), (2000..2020).collect::<Vec<_>>());
}

#[test]
fn an_owner_that_has_answered_much_goes_on_in_the_next_turn() {
    let mut bench = Bench::new(1, with_history);
    fill_stream(&mut bench, "c");
    let before = bench.turn.host.answers.len();
    let query = Query { keep: KEEP, since: None, limit: 100, reverse: false };
    let ask = |ticket| {
        let (channel, asker) = ("c".into(), Asker::Backend(ticket));
        Mail::Ask(Request::History { channel, asker, query: Box::new(query.clone()) })
    };
    bench.run_with(&[], (0..40).map(ask).collect());
    let held = 100 * 16_000;
    let most = bench.turn.bounds.budget.reply_bytes * 4 / held + 2;
    let given = bench.turn.host.answers.len() - before;
    assert!((1..=most).contains(&given) && given < 40, "{given} answers in one turn");
    assert_eq!(bench.turn.mail_waiting(), 40 - given);
    bench.settle(50);
    let tickets = bench.turn.host.answers[before..].iter().map(|(ticket, _)| *ticket);
    assert_eq!(tickets.collect::<Vec<_>>(), (0..40).collect::<Vec<_>>(), "in their order");
}

#[test]
fn what_was_published_before_a_disconnect_reaches_the_client() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    line.say(&frame(r#"{"id":2,"subscribe":{"channel":"c"}}"#));
    bench.run(&[conn]);
    let (chosen, disconnect) = (Chosen::default(), Disconnect::FORCE_DISCONNECT);
    let control = Box::new(Control::Disconnect { chosen, keep: Vec::new(), disconnect });
    bench.run_with(&[], vec![publish("c", long(10), None), Mail::Control { ticket: 5, control }]);
    bench.settle(5);
    let written = line.written();
    assert!(String::from_utf8_lossy(&written).contains(r#""pub":"#));
    assert_eq!(close_code(&written), Some(3503));
}

/// An SDK that knows its subscriptions from before would count on from such a publication, and miss those before it.
#[test]
fn nothing_stands_before_a_connect_reply_that_never_comes() {
    for by_server in [true, false] {
        let (mut bench, line, name) = (Bench::new(2, |_| {}), Line::default(), elsewhere());
        let here = (0..).map(|n| format!("h{n}")).find(|here| owner(here, 2, 7) == 0).expect("a name");
        let conn = bench.open(&line, "/connection/websocket");
        line.say(&frame(&format!(r#"{{"id":1,"connect":{{"subs":{{"{here}":{{}},"{name}":{{}}}}}}}}"#)));
        bench.run(&[conn]);
        bench.run_with(&[], vec![publish(&here, long(10), None)]);
        assert!(bench.turn.conns.waiting(conn) > 10, "it is subscribed, and will be told so");
        let (chosen, disconnect) = (Chosen::default(), Disconnect::FORCE_DISCONNECT);
        let control = Box::new(Control::Disconnect { chosen, keep: Vec::new(), disconnect });
        match by_server {
            true => bench.run_with(&[], vec![Mail::Control { ticket: 5, control }]),
            false => bench.turn.end(conn, 3503, "as a fault ends it"),
        }
        bench.settle(5);
        bench.run(&[]);
        let written = line.written();
        assert_eq!((close_code(&written), written[0]), (Some(3503), 0x88), "{}", written.escape_ascii());
    }
}

/// A ping to an idle client, and its pong: one write, and nothing from the allocator.
#[test]
fn a_ping_and_its_pong_allocate_nothing() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    let pong = frame("{}");
    let round = |bench: &mut Bench| {
        let due = bench.turn.conns.get(conn).and_then(|it| it.session.as_ref()).expect("a session").next_deadline();
        bench.now.tick = due;
        let before = bench.turn.shard.counters.writes;
        bench.run_quietly(&[]);
        line.say(&pong);
        bench.run_quietly(&[conn]);
        bench.turn.shard.counters.writes - before
    };
    // The first rounds find nothing in the pools.
    (0..100).for_each(|_| assert_eq!(round(&mut bench), 1));
    line.forget_written();
    let mut calls = 0;
    let allocated = allocation_counter::measure(|| calls = (0..20).map(|_| round(&mut bench)).sum());
    assert_eq!((calls, allocated.count_total), (20, 0));
    assert_eq!(bench.turn.conns.get(conn).expect("a connection").io_due, NEVER);
}
