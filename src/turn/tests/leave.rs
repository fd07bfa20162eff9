//! F8 · How connections are closed, one by one and all at once.

use super::*;

/// Its goodbye crossed ours while its input waited for a reply that is owed.
#[test]
fn a_close_frame_that_lies_unread_is_read_when_the_connection_is_closed() {
    let (mut bench, line, name) =
        (Bench::new(2, |config| config.client.unanswered_limit = 1), Line::default(), elsewhere());
    let conn = bench.client(&line, "");
    line.say(&commands(2..4, &format!(r#""publish":{{"channel":"{name}","data":1}}"#)));
    bench.run(&[conn]);
    line.say(&masked(0x88, &1000_u16.to_be_bytes()));
    bench.run(&[conn]);
    assert_eq!(bench.turn.host.gone, 0, "the second command waits, and the close frame behind it");
    let (chosen, disconnect) = (Chosen::default(), Disconnect::FORCE_DISCONNECT);
    let control = Box::new(Control::Disconnect { chosen, keep: Vec::new(), disconnect });
    bench.run_with(&[], vec![Mail::Control { ticket: 5, control }]);
    bench.settle(5);
    bench.run(&[]);
    assert_eq!((close_code(&line.written()), bench.turn.host.gone), (Some(3503), 1));
}

#[test]
fn a_drain_tells_everyone_within_its_time() {
    let (mut bench, line) = (Bench::new(1, |config| config.shutdown.spread = Duration::from_secs(1)), Line::default());
    bench.client(&line, "");
    bench.run_with(&[], vec![Mail::Drain { at_once: false }]);
    assert!(bench.turn.is_draining() && bench.turn.next_tick() == Some(bench.now.tick + 1));
    for _ in 0..11 {
        bench.now.tick += 1;
        bench.run(&[]);
    }
    assert_eq!(close_code(&line.clone().take_written()), Some(3001));
}

#[test]
fn a_drain_is_spread_over_its_ticks_and_may_be_hurried() {
    let mut bench = Bench::new(1, |config| config.shutdown.spread = Duration::from_secs(1));
    let lines: Vec<Line> = (0..22).map(|_| Line::default()).collect();
    lines.iter().for_each(|line| _ = bench.client(line, ""));
    let told = || lines.iter().filter(|line| close_code(&line.written()) == Some(3001)).count();
    bench.run_with(&[], vec![Mail::Drain { at_once: false }]);
    bench.run(&[]);
    assert_eq!(told(), 0, "from the next tick on");
    for left in (8..10).rev() {
        let before = told();
        bench.now.tick += 1;
        // Turns of one tick are one share.
        (0..3).for_each(|_| bench.run(&[]));
        let now = told() - before;
        assert!((1..=22usize.div_ceil(left + 1)).contains(&now), "{now} with {left} ticks left");
    }
    assert!(told() < 22);
    bench.run_with(&[], vec![Mail::Drain { at_once: true }]);
    bench.now.tick += 1;
    bench.run(&[]);
    assert_eq!(told(), 22);
}

#[test]
fn a_peer_that_answers_a_close_held_behind_other_frames_is_let_go_at_once() {
    let (mut bench, line) = (Bench::new(1, |config| config.reactor.command_budget = 1), Line::default());
    let conn = bench.client(&line, "");
    let bad = frame("nothing that is a command");
    line.say(&[frame(&format!(r#"{{"id":2,{STATS}}}"#)), bad, masked(0x88, &3501u16.to_be_bytes())].concat());
    bench.run(&[conn]);
    bench.settle(5);
    assert_eq!(close_code(&line.clone().take_written()), Some(3501));
    bench.run(&[]);
    assert_eq!(bench.turn.host.gone, 1, "no close timeout was waited for");
}

/// Disconnects everybody, as the server API does.
fn disconnect(bench: &mut Bench, disconnect: Disconnect) {
    let control = Box::new(Control::Disconnect { chosen: Chosen::default(), keep: Vec::new(), disconnect });
    bench.run_with(&[], vec![Mail::Control { ticket: 5, control }]);
    bench.settle(5);
}

#[test]
fn what_a_peer_is_told_at_the_end_leaves_whole_though_it_says_goodbye_first() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    let mut stuck = Line::with_room(0);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(stuck.clone());
    disconnect(&mut bench, Disconnect::FORCE_DISCONNECT);
    stuck.say(&masked(0x88, &1000_u16.to_be_bytes()));
    bench.run(&[conn]);
    assert_eq!(bench.turn.host.gone, 0, "it has not been told yet");
    stuck.give_room(1000);
    bench.run(&[conn]);
    assert_eq!((close_code(&stuck.written()), bench.turn.host.gone), (Some(3503), 1));
}

#[test]
fn a_peer_that_hangs_up_in_place_of_a_close_frame_is_let_go_at_once() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    disconnect(&mut bench, Disconnect::FORCE_DISCONNECT);
    assert_eq!((line.is_ended(), bench.turn.host.gone), (false, 0), "its close frame is waited for");
    line.hang_up();
    bench.run(&[conn]);
    assert_eq!(bench.turn.host.gone, 1);
}

/// Nothing that it says can be read any more, or is waited for.
#[test]
fn one_whose_frames_cannot_be_read_is_hung_up_on_at_once() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    let conn = bench.client(&line, "");
    line.say(&masked(0x83, b"no such opcode"));
    bench.run(&[conn]);
    assert_eq!((close_code(&line.written()), line.is_ended()), (Some(1002), true));
}

#[test]
fn one_that_is_let_go_without_a_word_is_hung_up_on_at_once() {
    let (mut bench, line) = (Bench::new(1, |_| {}), Line::default());
    bench.client(&line, "");
    disconnect(&mut bench, Disconnect::CONNECTION_CLOSED);
    assert_eq!((line.written(), line.is_ended()), (Vec::new(), true));
}

/// In the turn in which it is too much; and what waited is not kept until it is gone.
#[test]
fn a_slow_peer_is_judged_when_all_was_flushed_and_is_owed_no_more_than_it_began() {
    let (mut bench, line) = (Bench::new(1, |config| config.client.queue_max_size = 1 << 20), Line::default());
    let conn = bench.client(&line, "");
    line.say(&frame(r#"{"id":2,"subscribe":{"channel":"c"}}"#));
    bench.run(&[conn]);
    bench.turn.conns.get(conn).expect("a connection").socket = Some(Line::with_room(10));
    bench.run_with(&[], vec![publish("c", long(600_000), None)]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), None);
    bench.run_with(&[], vec![publish("c", long(600_000), None)]);
    assert_eq!(bench.turn.shard.counters.disconnects.get(&3008), Some(&1));
    let left = bench.turn.conns.waiting(conn);
    assert!((590_000..610_000).contains(&left), "{left}: what it began, and the close frame");
}
