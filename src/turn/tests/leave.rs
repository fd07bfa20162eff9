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
