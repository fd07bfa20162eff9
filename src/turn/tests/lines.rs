//! F8 · Clients that speak in lines: however these are cut, too long, too many or unfinished.

use super::*;

const CONNECT: &str = "{\"id\":1,\"connect\":{}}\n";

/// A connection on which nothing was said.
fn lines(bench: &mut Bench, line: &Line) -> u32 {
    bench.turn.begin(bench.now, 0);
    bench.turn.accept_lines(line.clone(), 0)
}

/// A client whose connect command is answered.
fn connected(bench: &mut Bench, line: &Line) -> u32 {
    let conn = lines(bench, line);
    line.say(CONNECT.as_bytes());
    bench.run(&[conn]);
    let said = told(line);
    assert!(said.contains(r#""connect":"#) && said.ends_with("}\n"), "{said}");
    conn
}

fn told(line: &Line) -> String {
    String::from_utf8(line.clone().take_written()).expect("UTF-8")
}

/// The code of the disconnect that ends what was said.
fn end_of(text: &str) -> Option<u16> {
    let last = text.strip_suffix("}}}\n")?.rsplit('\n').next()?;
    last.strip_prefix(r#"{"push":{"disconnect":{"code":"#)?.get(..4)?.parse().ok()
}

#[test]
fn lines_are_read_however_they_are_cut() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = connected(&mut bench, &line);
    // Two in a read, line ends of two bytes, and lines with nothing on them.
    let commands = format!("\r\n {{\"id\":2,{STATS}}}\r\n\n\n{{\"id\":3,{STATS}}}\n");
    line.say(commands.as_bytes());
    bench.run(&[conn]);
    assert_eq!(ids(told(&line).as_bytes()), [2, 3]);
    for byte in commands.as_bytes() {
        line.say(&[*byte]);
        bench.run(&[conn]);
    }
    assert_eq!(ids(told(&line).as_bytes()), [2, 3]);
    assert_eq!(bench.turn.conns.held_bytes(), 0);
    let partial = bench.turn.conns.get(conn).map(|it| it.partial.is_some());
    assert_eq!(partial, Some(false), "who has ended its line costs nothing more");
}

#[test]
fn a_line_has_a_limit_whole_or_not() {
    for (long, ends) in [(true, false), (true, true), (false, true)] {
        let (mut bench, line) = (Bench::new(1, |config| config.tcp_line.message_size_limit = 100), Line::default());
        let conn = connected(&mut bench, &line);
        let text = format!(r#"{{"id":2,"rpc":{{"data":"{}"}}}}"#, "x".repeat(if long { 100 } else { 70 }));
        line.say(&text.as_bytes()[..50]);
        bench.run(&[conn]);
        line.say(&text.as_bytes()[50..]);
        if ends {
            line.say(b"\n");
        }
        bench.run(&[conn]);
        let said = told(&line);
        assert_eq!(end_of(&said), long.then_some(3501), "{said}");
        assert_eq!(bench.turn.shard.counters.lines_too_long, u64::from(long));
        assert!(!long || said.contains("tcp_line.message_size_limit"), "{said}");
    }
}

#[test]
fn what_is_no_command_ends_the_client() {
    for bad in ["GET / HTTP/1.1\r\n\r\n", "\u{0}\u{1}\u{2}\n", "[1]\n", "{}\n", "{\"id\":2}{\"id\":3}\n"] {
        let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
        let conn = lines(&mut bench, &line);
        line.say(bad.as_bytes());
        bench.run(&[conn]);
        assert_eq!(end_of(&told(&line)), Some(3501), "{bad:?}");
    }
}

#[test]
fn a_line_that_does_not_end_has_its_time() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = connected(&mut bench, &line);
    line.say(b"{\"id\":2,");
    bench.run(&[conn]);
    bench.now.tick += crate::base::wheel::ticks(Config::default().websocket.message_timeout);
    bench.run(&[]);
    assert_eq!(end_of(&told(&line)), Some(3501));
    assert_eq!(bench.turn.shard.counters.message_timeouts, 1);
}

#[test]
fn lines_have_a_budget_and_empty_ones_too() {
    for (one, replies) in [(format!("{{\"id\":7,{STATS}}}\n"), 300), ("\r\n".to_owned(), 0)] {
        let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 10), Line::default());
        let conn = connected(&mut bench, &line);
        line.say(one.repeat(300).as_bytes());
        let (mut all, mut turns) = (0, 0);
        bench.run(&[conn]);
        // Each turn has its part, and there are no more of them than lines.
        while turns < 400 {
            let now = ids(told(&line).as_bytes()).len();
            assert!(now <= 10, "{now} in a turn");
            (all, turns) = (all + now, turns + 1);
            if !bench.turn.has_work() {
                break;
            }
            bench.run(&[]);
        }
        assert_eq!(all, replies);
        assert!(turns >= 30, "{turns} turns");
        assert_eq!(bench.turn.conns.held_bytes(), 0);
    }
}

/// As a program in a pipe does: it says all it has and ends its side, then reads.
#[test]
fn who_ends_its_side_gets_what_it_is_owed() {
    let (mut bench, line, name) = (Bench::new(2, |_| {}), Line::default(), elsewhere());
    let conn = lines(&mut bench, &line);
    line.say(CONNECT.as_bytes());
    line.say(format!("{{\"id\":2,\"publish\":{{\"channel\":\"{name}\",\"data\":1}}}}\n{{\"id\":3,").as_bytes());
    line.hang_up();
    bench.run(&[conn]);
    assert_eq!(bench.turn.host.gone, 0, "the other reactor has not answered");
    let asked = bench.turn.host.sent.pop().and_then(|(_, mut mail)| mail.pop());
    let Some(Mail::Ask(Request::Publish { asker, .. })) = asked else { panic!("nothing was asked") };
    let answer = Event::Answer { asker, answer: Owned::Published(None) };
    bench.run_with(&[], vec![Mail::Event(answer)]);
    bench.settle(3);
    bench.run(&[]);
    let said = told(&line);
    assert_eq!(ids(said.as_bytes()), [1, 2], "{said}");
    assert_eq!((end_of(&said), bench.turn.host.gone), (None, 1));
    assert_eq!(bench.turn.shard.counters.resets, 0);
}

#[test]
fn a_drain_and_a_slow_reader_end_with_a_line() {
    let (mut bench, line) = (Bench::new(1, |config| config.shutdown.spread = Duration::ZERO), Line::default());
    connected(&mut bench, &line);
    bench.run_with(&[], vec![Mail::Drain { at_once: true }]);
    bench.now.tick += 1;
    bench.run(&[]);
    assert_eq!(end_of(&told(&line)), Some(3001));

    let (mut bench, line) = (Bench::new(1, |config| config.client.queue_max_size = 4096), Line::with_room(1000));
    let conn = connected(&mut bench, &line);
    line.say(b"{\"id\":2,\"subscribe\":{\"channel\":\"c\"}}\n");
    bench.run(&[conn]);
    bench.run_with(&[], (0..10).map(|_| publish("c", long(1000), None)).collect());
    bench.settle(10);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), Some(&1));
}

#[test]
fn a_ping_is_answered_by_a_line_of_its_own() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = connected(&mut bench, &line);
    let hear = |bench: &mut Bench| {
        for _ in 0..1000 {
            bench.now.tick += 1;
            bench.run(&[]);
            if !line.written().is_empty() {
                break;
            }
        }
        told(&line)
    };
    for round in 0..3 {
        assert_eq!(hear(&mut bench), "{}\n", "round {round}");
        line.say(b"{}\r\n");
        bench.run(&[conn]);
    }
    assert_eq!(hear(&mut bench), "{}\n");
    assert_eq!(end_of(&hear(&mut bench)), Some(3012));
}
