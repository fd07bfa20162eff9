//! F8 · What clients ask for again and again, and how much of it there may be.

use super::*;

/// A client by HTTP and what it takes to send commands by other requests.
fn streaming(bench: &mut Bench, line: &Line) -> impl Fn(&mut Bench, String) + use<> {
    let conn = bench.accept(line);
    line.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    bench.run(&[conn]);
    let key = bench.turn.conns.key(conn).expect("a key");
    let name = bench.turn.shard.session_name(&mut bench.turn.conns, conn).expect("a name");
    line.clone().take_written();
    move |bench, message| {
        let session = name.as_str().into();
        bench.run_with(&[], vec![Mail::Commands { conn: key, session, message: message.into() }]);
    }
}

/// What was carried out of them is not kept, though there is always one that waits.
#[test]
fn a_line_of_commands_without_an_end_takes_no_more_room() {
    let change = |config: &mut Config| {
        config.reactor.command_budget = 1;
        config.websocket.message_size_limit = 1000;
    };
    let (mut bench, line) = (Bench::new(1, change), Line::default());
    let say = streaming(&mut bench, &line);
    let one = |id: u32| format!(r#"{{"id":{id},{STATS}}}"#);
    say(&mut bench, (2..10).map(one).collect::<Vec<_>>().join("\n"));
    for id in 10..500 {
        say(&mut bench, one(id));
        assert!((1..=1000).contains(&bench.turn.conns.held_bytes()), "{} with {id}", bench.turn.conns.held_bytes());
    }
    bench.settle(20);
    assert_eq!(ids(&line.clone().take_written()), (2..500).collect::<Vec<u32>>());
    assert_eq!(bench.turn.conns.held_bytes(), 0);
}

/// One short command may be a word to the owner of each of its channels.
#[test]
fn acknowledgements_have_a_budget() {
    let change = |config: &mut Config| {
        with_history(config);
        config.channel.without_namespace.inbox.enabled = true;
        config.channel.without_namespace.allow_subscribe_for_client = true;
        config.client.insecure = false;
        config.client.token.hmac_secret_key = "a key".into();
    };
    let (mut bench, line) = (Bench::new(1, change), Line::default());
    let conn = bench.open(&line, "/connection/websocket");
    let claims = serde_json::json!({ "sub": "42" });
    let secret = jsonwebtoken::EncodingKey::from_secret(b"a key").expect("a key");
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &secret).expect("a token");
    line.say(&frame(&format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)));
    let subscribe = |id: u32| format!(r#"{{"id":{id},"subscribe":{{"channel":"c{id}"}}}}"#);
    line.say(&frame(&(2..102).map(subscribe).collect::<Vec<_>>().join("\n")));
    bench.run(&[conn]);
    bench.settle(10);
    assert_eq!(ids(&line.clone().take_written()), (1..102).collect::<Vec<u32>>());
    line.say(&commands(102..122, r#""rpc":{"method":"inbox.ack","data":{}}"#));
    bench.run(&[conn]);
    // Each counts for a hundred KiB.
    let most = Config::default().reactor.decode_budget / (100 << 10) + 1;
    assert_eq!(ids(&line.clone().take_written()).len(), most);
    bench.settle(20);
    assert_eq!(ids(&line.clone().take_written()).last(), Some(&121));
    line.say(&commands(122..182, r#""rpc":{"method":"inbox.ack","data":{"channel":"c2"}}"#));
    bench.run(&[conn]);
    assert_eq!(ids(&line.clone().take_written()).len(), 60, "those of one channel are commands like others");
}

#[test]
fn deadlines_beyond_those_of_one_turn_are_met_in_the_next() {
    let mut bench = Bench::new(1, |_| {});
    let lines: Vec<Line> = (0..TIMERS_MAX + 6).map(|_| Line::default()).collect();
    lines.iter().for_each(|line| _ = bench.client(line, ""));
    let pinged = || lines.iter().filter(|line| line.written() == b"\x81\x02{}").count();
    bench.now.tick += 2 * bench.turn.shard.rules().ping_interval;
    bench.run(&[]);
    assert!(pinged() <= TIMERS_MAX && bench.turn.has_work(), "{}", pinged());
    bench.settle(5);
    assert_eq!(pinged(), lines.len());
}
