//! F5 · The table of channels and the fan-out: order, gaps, batching, and that nobody is missed or served twice.

use super::batch::EVENT_BYTES;
use super::*;
use crate::broker::Epoch;
use crate::protocol::Encoding;
use crate::ws;
use proptest::prelude::*;
use prost::Message as _;
use std::collections::HashMap;

fn publication(text: &str) -> Arc<Publication> {
    Arc::new(Publication { data: text.to_owned().into(), ..Publication::default() })
}

fn json_slot(conn: u32) -> Slot {
    Slot { conn, back: 0, wire: Wire::WebSocketJson, flags: Flags::default() }
}

fn subscribe(hub: &mut Hub<u32>, conn: u32, encoding: Encoding) -> (ChannelId, u32) {
    let id = hub.hold("c");
    (id, hub.join(id, Slot { conn, back: 0, wire: Wire::websocket(encoding), flags: Flags::default() }))
}

#[test]
fn one_frame_for_all_that_waits_in_each_encoding() {
    let mut hub = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    subscribe(&mut hub, 2, Encoding::Protobuf);
    assert!(hub.publish("c", publication("1"), None, None) && hub.publish("c", publication("2"), None, None));
    assert!(!hub.publish("other", publication("3"), None, None));
    let Some(Work::Deliver(delivery)) = hub.next(10, &mut Deflater::default()) else { panic!("a delivery") };
    assert_eq!((delivery.items, delivery.slots.len()), (2, 2));
    let json =
        "{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":1}}}\n{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":2}}}";
    assert_eq!(delivery.bytes(&delivery.slots[0]).expect("JSON"), &ws::frame(ws::Opcode::Text, json.as_bytes()));
    assert_eq!(
        delivery.bytes(&delivery.slots[1]).expect("Protobuf"),
        &b"\x82\x16\x0a\x22\x08\x12\x01c\x22\x03\x22\x011\x0a\x22\x08\x12\x01c\x22\x03\x22\x012"[..]
    );
    assert!(hub.next(10, &mut Deflater::default()).is_none() && !hub.has_work());
    assert_eq!(hub.waiting_bytes(), 0);
}

#[test]
fn who_joins_during_a_fan_out_gets_only_what_comes_after() {
    let mut hub = Hub::default();
    for conn in 0..4 {
        subscribe(&mut hub, conn, Encoding::Json);
    }
    hub.publish("c", publication("1"), None, None);
    assert!(
        matches!(hub.next(3, &mut Deflater::default()), Some(Work::Deliver(delivery)) if delivery.slots.len() == 3)
    );
    let id = hub.hold("c");
    assert_eq!(hub.queue_join(id, 9), None);
    hub.publish("c", publication("2"), None, None);
    assert!(
        matches!(hub.next(3, &mut Deflater::default()), Some(Work::Deliver(delivery)) if delivery.slots.len() == 1)
    );
    assert!(matches!(hub.next(3, &mut Deflater::default()), Some(Work::Join(9))));
    hub.join(id, json_slot(9));
    assert!(
        matches!(hub.next(9, &mut Deflater::default()), Some(Work::Deliver(delivery)) if delivery.slots.len() == 5)
    );
}

fn at(offset: u64, epoch: &str) -> Arc<Publication> {
    Arc::new(Publication { data: "1".into(), offset, epoch: epoch.to_owned(), ..Publication::default() })
}

fn position(offset: u64, life: u8) -> Position {
    Position { offset, epoch: Epoch::from(char::from(life).to_string().repeat(8).as_str()) }
}

/// What waits, in short.
fn waiting(hub: &mut Hub<u32>) -> String {
    let mut all = String::new();
    while let Some(work) = hub.next(9, &mut Deflater::default()) {
        match work {
            Work::Deliver(delivery) => all.extend((0..delivery.items).map(|_| 'p')),
            Work::Join(_) => all.push('j'),
            Work::Gap { .. } => all.push('g'),
        }
    }
    all
}

#[test]
fn an_offset_that_does_not_follow_is_a_gap_and_an_old_one_is_skipped() {
    let mut hub = Hub::default();
    let (id, slot) = subscribe(&mut hub, 1, Encoding::Json);
    hub.publish("c", at(9, ""), None, None);
    assert_eq!(waiting(&mut hub), "p", "nobody keeps a position yet");
    hub.begin(id, &position(3, b'a'));
    for (offset, epoch, expected) in
        [(4, "", "p"), (4, "", ""), (2, "", ""), (5, "aaaaaaaa", "p"), (0, "", "p"), (7, "", "gp"), (9, "", "p")]
    {
        hub.publish("c", at(offset, epoch), None, None);
        assert_eq!(waiting(&mut hub), expected, "{offset} {epoch}");
    }
    hub.begin(id, &position(9, b'a'));
    hub.publish("c", at(1, "bbbbbbbb"), None, None);
    assert_eq!(waiting(&mut hub), "gp", "another life of the stream");
    hub.gap("c");
    assert_eq!(waiting(&mut hub), "g");
    hub.leave(id, slot);
    assert!(hub.is_empty());
}

#[test]
fn a_position_from_before_nobody_listened_is_forgotten() {
    let mut hub = Hub::default();
    let (id, slot) = subscribe(&mut hub, 1, Encoding::Json);
    hub.begin(id, &position(20, b'a'));
    hub.hold("c");
    hub.leave(id, slot);
    // Held by one that waits for its owner; the stream has begun anew meanwhile.
    hub.begin(id, &position(5, b'b'));
    hub.join(id, json_slot(2));
    hub.publish("c", at(6, ""), None, None);
    assert_eq!(waiting(&mut hub), "p");
    hub.hold("c");
    hub.begin(id, &position(8, b'b'));
    assert_eq!(waiting(&mut hub), "g", "somebody listened and did not hear 7 and 8");
}

#[test]
fn deltas_are_between_what_is_kept() {
    let mut hub: Hub<u32> = Hub::default();
    let id = hub.hold("c");
    let slot = hub.join(id, Slot { flags: Flags::DELTA, ..json_slot(1) });
    let extras = || Some(Box::new(Extras { delta: Some("D".into()), except: None }));
    let hear = |hub: &mut Hub<u32>| {
        let Some(Work::Deliver(delivery)) = hub.next(9, &mut Deflater::default()) else { return String::new() };
        let text = String::from_utf8_lossy(delivery.bytes(&delivery.slots[0]).expect("JSON")).into_owned();
        let ready = delivery.begins_deltas;
        hub.set_delta_ready(id, slot, ready);
        text.split("\"data\":\"").skip(1).map(|rest| &rest[..1]).collect()
    };
    for (offsets, expected) in [
        (&[1, 2][..], "1D"),
        (&[3], "D"),
        // One that is not kept goes as it is, and so does the next.
        (&[0], "1"),
        (&[4], "1"),
        (&[5, 0, 6, 7], "D11D"),
    ] {
        for &offset in offsets {
            hub.publish("c", at(offset, ""), extras().filter(|_| offset > 0), None);
        }
        assert_eq!(hear(&mut hub), expected, "{offsets:?}");
        assert!(hub.next(9, &mut Deflater::default()).is_none());
    }
    hub.gap("c");
    assert_eq!(waiting(&mut hub), "g");
    hub.publish("c", at(9, ""), extras(), None);
    assert_eq!(hear(&mut hub), "1", "after a gap");
}

#[test]
fn publications_leave_together_when_their_time_has_come_or_there_are_enough() {
    let mut hub: Hub<u32> = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    let pace = |now_ms| Some((Pace { size_max: 3, delay_ms: 50, latest: false }, now_ms));
    assert!(hub.publish("c", at(0, ""), None, pace(1000)) && hub.publish("c", at(0, ""), None, pace(1010)));
    assert_eq!((hub.wake(1049), waiting(&mut hub)), (Some(1050), String::new()));
    assert_eq!((hub.wake(1050), waiting(&mut hub)), (None, "pp".to_owned()));
    for now_ms in [2000, 2001, 2002] {
        hub.publish("c", at(0, ""), None, pace(now_ms));
    }
    assert_eq!(waiting(&mut hub), "ppp");
    let latest = |now_ms| Some((Pace { size_max: 0, delay_ms: 50, latest: true }, now_ms));
    for now_ms in [3000, 3001, 3002] {
        hub.publish("c", at(0, ""), None, latest(now_ms));
        assert_eq!(hub.waiting_bytes(), EVENT_BYTES + at(0, "").encoded_len(), "what was overtaken takes no room");
    }
    hub.wake(4000);
    assert_eq!((waiting(&mut hub), hub.waiting_bytes()), ("p".to_owned(), 0));
    hub.publish("c", at(0, ""), None, latest(5000));
    let id = hub.hold("c");
    assert_eq!(hub.queue_join(id, 7), None, "who comes has what waits leave");
    assert_eq!(waiting(&mut hub), "pj");
}

/// However small publications are, and whatever their tags hold: all of it counts.
#[test]
fn what_waits_counts_for_the_room_that_it_takes() {
    let mut hub: Hub<u32> = Hub::with_room(100 * EVENT_BYTES);
    subscribe(&mut hub, 1, Encoding::Json);
    let day = Some((Pace { size_max: 0, delay_ms: 86_400_000, latest: false }, 1000));
    let published = (0..200).take_while(|_| !hub.has_work() && hub.publish("c", publication(""), None, day)).count();
    assert_eq!(published, 101, "one more than fits");
    waiting(&mut hub);
    let tags = HashMap::from([("tag".to_owned(), "x".repeat(100 * EVENT_BYTES))]);
    hub.publish("c", Publication { tags: tags.into_iter().collect(), ..Publication::default() }.into(), None, day);
    assert!(hub.has_work());
}

/// So many publications leave at once, though all but the latest were overtaken.
#[test]
fn overtaken_publications_count_for_the_size_of_a_batch() {
    let mut hub: Hub<u32> = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    let pace = Some((Pace { size_max: 3, delay_ms: 50, latest: true }, 1000));
    for left in ["", "", "p", "", "", "p"] {
        let extras = Extras { delta: Some("a delta".into()), ..Extras::default() };
        hub.publish("c", at(0, ""), Some(Box::new(extras)), pace);
        assert_eq!(if hub.has_work() { waiting(&mut hub) } else { String::new() }, left);
    }
    assert_eq!((hub.waiting_bytes(), hub.delayed.len()), (0, 0));
}

/// Nobody has what its delta is to.
#[test]
fn the_latest_of_several_goes_whole() {
    let mut hub: Hub<u32> = Hub::default();
    let id = hub.hold("c");
    let flags = Flags::DELTA.with(Flags::DELTA_READY, true).with(Flags::JOIN_LEAVE, true);
    hub.join(id, Slot { flags, ..json_slot(1) });
    let mut now = 1000;
    // "j": somebody comes in between, and what waits leaves at once.
    for (said, expected) in [("pp", "1"), ("p", "D"), ("ppp", "1"), ("pjp", "DD"), ("p", "D")] {
        for what in said.chars() {
            let extras = Box::new(Extras { delta: Some("D".into()), except: None });
            let pace = Some((Pace { size_max: 0, delay_ms: 50, latest: true }, now));
            match what {
                'p' => _ = hub.publish("c", at(now, ""), Some(extras), pace),
                _ => hub.announce("c", ChannelEvent::Presence { info: Arc::default(), joined: true }),
            }
            now += 1;
        }
        now += 100;
        hub.wake(now);
        let mut heard = String::new();
        while let Some(work) = hub.next(9, &mut Deflater::default()) {
            let Work::Deliver(delivery) = work else { continue };
            let text = String::from_utf8_lossy(delivery.bytes(&delivery.slots[0]).expect("JSON")).into_owned();
            heard.extend(text.split("\"data\":\"").skip(1).map(|rest| &rest[..1]));
        }
        assert_eq!((heard.as_str(), hub.waiting_bytes()), (expected, 0), "{said}");
    }
}

#[test]
fn publications_go_together_once_nobody_filters_any_more() {
    let mut hub: Hub<u32> = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    let id = hub.hold("c");
    let filtering = hub.join(id, Slot { flags: Flags::default().with(Flags::FILTERED, true), ..json_slot(2) });
    let batches = |hub: &mut Hub<u32>| {
        (1..3).for_each(|offset| _ = hub.publish("c", at(offset, ""), None, None));
        std::iter::from_fn(|| hub.next(9, &mut Deflater::default()).map(|_| ())).count()
    };
    assert_eq!(batches(&mut hub), 2);
    hub.leave(id, filtering);
    assert_eq!(batches(&mut hub), 1);
}

#[test]
fn a_gap_that_was_told_is_not_told_again() {
    let mut hub: Hub<u32> = Hub::default();
    let (id, _) = subscribe(&mut hub, 1, Encoding::Json);
    hub.begin(id, &position(5, 1));
    hub.publish("c", at(6, ""), None, None);
    hub.gap("c");
    hub.publish("c", at(9, ""), None, None);
    assert_eq!(waiting(&mut hub), "pgp");
}

/// Who has another delivery coming is not written to at once.
#[test]
fn a_delivery_is_alone_if_no_other_channel_has_one() {
    let mut hub: Hub<u32> = Hub::default();
    for name in ["a", "b"] {
        let id = hub.hold(name);
        hub.join(id, json_slot(1));
        hub.publish(name, publication("1"), None, None);
    }
    let alone = |hub: &mut Hub<u32>| match hub.next(9, &mut Deflater::default()) {
        Some(Work::Deliver(delivery)) => Some(delivery.alone),
        _ => None,
    };
    assert_eq!([alone(&mut hub), alone(&mut hub), alone(&mut hub)], [Some(false), Some(false), None]);
    hub.publish("a", publication("1"), None, None);
    assert_eq!(alone(&mut hub), Some(true));
}

/// Ten of these are too many: whatever came before and comes after leaves at once, and nothing is left to wait.
#[test]
fn a_full_hub_waits_for_nothing() {
    let large = Arc::new(Publication { data: vec![b'1'; 110].into(), ..Publication::default() });
    let cost = EVENT_BYTES + large.encoded_len();
    let mut hub: Hub<u32> = Hub::with_room(9 * cost);
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    for (conn, name) in names.iter().enumerate() {
        let id = hub.hold(name.as_str());
        hub.join(id, json_slot(conn as u32));
    }
    let day = Some((Pace { size_max: 0, delay_ms: 86_400_000, latest: false }, 1000));
    for (at, name) in names.iter().enumerate() {
        hub.publish(name, large.clone(), None, day);
        assert_eq!((hub.has_work(), hub.waiting_bytes()), (at == 9, (at + 1) * cost));
    }
    assert_eq!((hub.wake(1000), waiting(&mut hub)), (None, "pppppppppp".to_owned()));
    assert_eq!(hub.waiting_bytes(), 0);
    hub.publish("0", large, None, day);
    assert_eq!((hub.has_work(), hub.wake(1000)), (false, Some(86_401_000)), "there is room again");
}

#[test]
fn a_channel_waits_for_one_time_however_often_it_is_served_before() {
    let mut hub: Hub<u32> = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    let pace = |now_ms| Some((Pace { size_max: 2, delay_ms: 1000, latest: false }, now_ms));
    for at in 0..100 {
        hub.publish("c", publication("1"), None, pace(at));
        hub.publish("c", publication("2"), None, pace(at));
        assert_eq!(waiting(&mut hub), "pp");
        assert!(hub.delayed.is_empty());
    }
    hub.publish("c", publication("1"), None, pace(500));
    assert_eq!((hub.wake(1100), hub.has_work()), (Some(1500), false), "no time of before wakes it early");
}

/// While a gap is told in slices, the channel's line waits, and who leaves because of it costs nobody the news.
#[test]
fn a_gap_is_told_in_slices_to_each_once() {
    for budget in [1, 3, 7, 1000] {
        let mut hub: Hub<u32> = Hub::default();
        let id = hub.hold("c");
        let mut place: HashMap<u32, u32> = HashMap::new();
        for conn in 0..100 {
            hub.hold("c");
            let flags = Flags::default().with(Flags::POSITIONED, conn % 3 != 0).with(Flags::DELTA, true);
            let slot = Slot { flags: flags.with(Flags::DELTA_READY, true), ..json_slot(conn) };
            place.insert(conn, hub.join(id, slot));
        }
        hub.gap("c");
        hub.publish("c", publication("1"), None, None);
        let (mut told, mut served) = (Vec::new(), Vec::new());
        while let Some(work) = hub.next(budget, &mut Deflater::default()) {
            let (mut leaving, mut left) = (Vec::new(), 0);
            match work {
                Work::Gap { slots, .. } => {
                    assert!(slots.len() <= budget && served.is_empty());
                    leaving.extend(slots.iter().map(|slot| slot.conn));
                    left = leaving.iter().map(|conn| conn * 7 % 100).find(|conn| place.contains_key(conn)).unwrap_or(0);
                }
                Work::Deliver(delivery) => {
                    assert!(delivery.slots.iter().all(|slot| !slot.flags.has(Flags::DELTA_READY)));
                    served.extend(delivery.slots.iter().map(|slot| slot.conn));
                }
                Work::Join(_) => panic!("nobody joins"),
            }
            told.extend(&leaving);
            // Those told leave, and somebody else goes for reasons of its own.
            for conn in leaving.into_iter().filter(|conn| conn % 3 != 0).chain(Some(left).filter(|conn| *conn % 7 == 1))
            {
                let Some(slot) = place.remove(&conn) else { continue };
                for moved in hub.leave(id, slot) {
                    place.insert(moved.conn, moved.slot);
                }
            }
        }
        let twice = told.len();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), twice, "nobody is told twice");
        assert!(place.keys().all(|conn| told.contains(conn) && conn % 3 == 0), "{budget}: {place:?}");
        served.sort_unstable();
        let mut stayed: Vec<u32> = place.into_keys().collect();
        stayed.sort_unstable();
        assert_eq!((served, hub.gaps()), (stayed, 1));
    }
}

#[test]
fn a_payload_that_is_no_json_has_no_json_frame() {
    let mut hub = Hub::default();
    subscribe(&mut hub, 1, Encoding::Json);
    subscribe(&mut hub, 2, Encoding::Protobuf);
    hub.publish("c", publication("not json"), None, None);
    let Some(Work::Deliver(delivery)) = hub.next(2, &mut Deflater::default()) else { panic!("a delivery") };
    assert!(delivery.bytes(&delivery.slots[0]).is_none() && delivery.bytes(&delivery.slots[1]).is_some());
}

#[test]
fn a_channel_is_forgotten_with_its_last_user() {
    let mut hub = Hub::default();
    let (id, slot) = subscribe(&mut hub, 1, Encoding::Json);
    let held = hub.hold("c");
    hub.publish("c", publication("1"), None, None);
    assert!(hub.leave(id, slot).is_empty());
    hub.release(held);
    assert_eq!(hub.len(), 1, "a publication waits");
    assert!(hub.next(1, &mut Deflater::default()).is_none());
    assert!(hub.is_empty() && hub.find("c").is_none());
}

/// One step of work: a join is done, a delivery is heard. False when there is none.
fn drain_one(
    hub: &mut Hub<u32>,
    id: ChannelId,
    place: &mut HashMap<u32, u32>,
    joining: &mut Vec<u32>,
    got: &mut HashMap<u32, Vec<String>>,
    budget: usize,
) -> bool {
    match hub.next(budget, &mut Deflater::default()) {
        None => return false,
        Some(Work::Join(conn)) => {
            joining.retain(|c| *c != conn);
            place.insert(conn, hub.join(id, json_slot(conn)));
        }
        Some(Work::Gap { .. }) => panic!("nothing is missing"),
        Some(Work::Deliver(delivery)) => {
            for slot in delivery.slots {
                let text = String::from_utf8_lossy(delivery.bytes(slot).expect("JSON")).into_owned();
                let heard = text.split("\"data\":").skip(1).map(|t| t.split('}').next().expect("end").to_owned());
                got.entry(slot.conn).or_default().extend(heard);
            }
        }
    }
    true
}

proptest! {
    /// Joins, leaves, publications and slices in any order: everyone there from a publication's arrival to its
    /// delivery gets it exactly once and in order, nobody gets one from before they joined, and every session
    /// is told where it stands.
    #[test]
    fn nobody_is_missed_or_served_twice(steps in prop::collection::vec((0u8..5, 0u32..6, 1usize..4), 1..120)) {
        let mut hub: Hub<u32> = Hub::default();
        let mut place: HashMap<u32, u32> = HashMap::new();
        let mut joining: Vec<u32> = Vec::new();
        let mut expected: HashMap<u32, Vec<String>> = HashMap::new();
        let mut got: HashMap<u32, Vec<String>> = HashMap::new();
        let (mut next, mut alive) = (0, hub.hold("c"));
        let hold = alive;
        let join = |hub: &mut Hub<u32>, place: &mut HashMap<u32, u32>, conn| {
            let slot = hub.join(hold, json_slot(conn));
            place.insert(conn, slot);
        };
        let drain = |hub: &mut Hub<u32>, place: &mut _, joining: &mut _, got: &mut _, budget| {
            drain_one(hub, hold, place, joining, got, budget)
        };
        for (what, conn, budget) in steps {
            match what {
                0 if !place.contains_key(&conn) && !joining.contains(&conn) => {
                    alive = hub.hold("c");
                    prop_assert_eq!(alive, hold);
                    // A client that comes again is a new one.
                    expected.remove(&conn);
                    got.remove(&conn);
                    match hub.queue_join(hold, conn) {
                        Some(conn) => join(&mut hub, &mut place, conn),
                        None => joining.push(conn),
                    }
                    expected.insert(conn, Vec::new());
                }
                1 => if let Some(slot) = place.remove(&conn) {
                    for moved in hub.leave(hold, slot) {
                        place.insert(moved.conn, moved.slot);
                    }
                    expected.remove(&conn);
                },
                2 => {
                    next += 1;
                    let text = next.to_string();
                    hub.publish("c", publication(&text), None, None);
                    for heard in expected.values_mut() { heard.push(text.clone()); }
                }
                _ => { drain(&mut hub, &mut place, &mut joining, &mut got, budget); }
            }
            for (&conn, &slot) in &place {
                prop_assert_eq!(hub.channels[hold as usize].slots[slot as usize].conn, conn);
            }
        }
        while drain(&mut hub, &mut place, &mut joining, &mut got, 2) {}
        for (conn, heard) in expected {
            prop_assert_eq!(got.get(&conn).cloned().unwrap_or_default(), heard, "client {}", conn);
        }
        prop_assert_eq!(hub.waiting_bytes(), 0);
    }
}
