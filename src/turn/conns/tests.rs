//! F8 · What waits for peers: how it is counted, kept back and let go.

use super::super::outbox::PLACE_BYTES;
use super::super::testing::Line;
use super::*;
use crate::ws;

/// A client of a reactor that holds back, for which 100 bytes in so many frames may wait; and the other end of it.
fn delayed(frames: usize) -> (Conns<Line>, u32, Line) {
    let (mut conns, line) = (Conns::new(0, 100 + frames * PLACE_BYTES, true), Line::default());
    let conn = conns.insert(line.clone(), 0, NEVER);
    conns.get(conn).expect("a connection").phase = Phase::Client;
    (conns, conn, line)
}

/// What one turn's flush writes: calls and bytes.
fn flush(conns: &mut Conns<Line>) -> (u32, usize) {
    let dirty = conns.take_dirty();
    let wrote = dirty.iter().filter_map(|conn| conns.flush(*conn, 0, 10, false).expect("write"));
    let sum = wrote.fold((0, 0), |(calls, bytes), it| (calls + it.calls, bytes + it.bytes));
    conns.restore_dirty(dirty);
    sum
}

#[test]
fn what_is_delayed_leaves_together_and_in_order() {
    let (mut conns, conn, line) = delayed(4);
    conns.deliver(conn, &Bytes::from("a"), true);
    assert_eq!(flush(&mut conns), (0, 0));
    conns.send(conn, Bytes::from("b"));
    conns.send_hole(conn, 7, 1);
    conns.deliver(conn, &Bytes::from("d"), true);
    conns.fill(conn, 7, Bytes::from("c"));
    assert_eq!((flush(&mut conns), conns.has_delayed()), ((0, 0), true));
    conns.release_delayed();
    assert_eq!((flush(&mut conns), conns.has_delayed(), conns.has_outbox(conn)), ((1, 4), false, false));
    conns.send(conn, Bytes::from("e"));
    assert!(conns.has_delayed(), "the next waits again");
    conns.release_delayed();
    assert_eq!((flush(&mut conns), line.written()), ((1, 1), b"abcde".to_vec()));
}

#[test]
fn what_is_left_of_a_frame_that_was_written_at_once_counts_towards_the_limit() {
    for (bytes, left, full) in [(105, 100, false), (106, 101, true)] {
        let (mut conns, line) = (Conns::new(0, 100 + PLACE_BYTES, false), Line::with_room(5));
        let conn = conns.insert(line, 0, NEVER);
        conns.get(conn).expect("a connection").phase = Phase::Client;
        conns.deliver(conn, &Bytes::from(vec![b'a'; bytes]), true);
        let expected = if full { vec![conn] } else { Vec::new() };
        assert_eq!((conns.waiting(conn), conns.take_full()), (left, expected));
    }
}

/// Small frames or large ones, a client's own or shared by many: what waits takes no more than it may, and a frame.
#[test]
fn what_waits_takes_no_more_memory_than_its_limit() {
    const LIMIT: usize = 1 << 20;
    for (bytes, shared) in [(1, false), (1, true), (20, false), (20, true), (300, false), (10_000, false)] {
        let payload = vec![b'x'; bytes];
        let of_all = ws::frame(ws::Opcode::Text, &payload);
        let (mut conns, line) = (Conns::new(0, LIMIT, false), Line::with_room(0));
        let conn = conns.insert(line, 0, NEVER);
        let mut count = 0;
        let allocated = allocation_counter::measure(|| {
            while !conns.is_full(conn) {
                let frame = if shared { of_all.clone() } else { ws::frame(ws::Opcode::Text, &payload) };
                conns.send(conn, frame);
                count += 1;
            }
        });
        let taken = allocated.bytes_current as usize;
        assert!(taken <= LIMIT + LIMIT / 50 + bytes, "{taken} bytes for {count} frames of {bytes}");
        assert!(count * (bytes + PLACE_BYTES) >= LIMIT / 2, "{count} frames of {bytes}");
        conns.flush(conn, 0, 10, false).expect("blocked");
        assert_eq!(conns.output_bytes(), conns.output_of(conn));
        conns.kill(conn);
        conns.reap(|_, _| {});
        assert_eq!((conns.output_bytes(), conns.speakers), (0, 0));
    }
}

#[test]
fn a_close_and_a_full_outbox_do_not_wait() {
    let (mut conns, conn, line) = delayed(1);
    conns.send(conn, Bytes::from(vec![b'a'; 101]));
    assert_eq!((conns.take_full(), flush(&mut conns), conns.is_full(conn)), (vec![conn], (1, 101), false));
    conns.send(conn, Bytes::from("b"));
    conns.close_with(conn, Bytes::from("end"), NEVER, false);
    assert_eq!((flush(&mut conns), &line.written()[101..]), ((1, 4), &b"bend"[..]));
}

#[test]
fn a_close_does_not_wait_for_replies_that_are_owed_and_has_its_own_deadline() {
    let (mut conns, conn, line) = delayed(4);
    conns.send(conn, Bytes::from("a"));
    conns.send_hole(conn, 1, 64);
    conns.send(conn, Bytes::from("b"));
    conns.close_with(conn, Bytes::from("end"), 77, false);
    assert_eq!((flush(&mut conns), line.written()), ((1, 5), b"abend".to_vec()));
    let it = conns.get(conn).expect("a connection");
    assert_eq!((it.io_due, it.phase), (77, Phase::Closing));
}

#[test]
fn who_is_sent_much_is_flushed_once() {
    let (mut conns, line) = (Conns::new(0, 1000, false), Line::default());
    let conn = conns.insert(line, 0, NEVER);
    (0..5).for_each(|_| conns.send(conn, Bytes::from("a")));
    assert_eq!(conns.take_dirty(), [conn]);
}

#[test]
fn a_share_is_of_those_that_hold_something() {
    let mut conns = Conns::new(0, 1000, false);
    let all: Vec<u32> = (0..4).map(|_| conns.insert(Line::default(), 0, NEVER)).collect();
    for conn in &all {
        conns.partial(*conn).expect("a connection").tail.extend([0; 100]);
        conns.count_partial(*conn);
    }
    all[1..].iter().for_each(|conn| conns.give_partial_back(*conn));
    conns.partial(all[1]).expect("a connection").tail.extend([0; 30]);
    conns.count_partial(all[1]);
    // 65 each on average.
    assert_eq!((conns.held_bytes(), conns.holds_its_share(all[0]), conns.holds_its_share(all[1])), (130, true, false));
}

#[test]
fn a_reply_that_is_filled_in_counts_towards_the_limit() {
    let (mut conns, conn, _) = delayed(1);
    conns.send_hole(conn, 1, 64);
    assert!(conns.take_full().is_empty() && !conns.owes_enough(conn, 2) && conns.owes_enough(conn, 1));
    conns.fill(conn, 1, Bytes::from(vec![b'a'; 101]));
    assert_eq!((conns.take_full(), conns.is_full(conn)), (vec![conn], true));
}
