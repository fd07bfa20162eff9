//! What cursors promise.

use super::*;
use crate::broker::archive::ArchivedCursor;

const KEEP: InboxKeep = InboxKeep {
    ttl_ms: 1000,
    size: 100,
    page: 10,
    cursors: 3,
    undelivered_ms: 160,
    with_data: false,
    archive: CursorArchive::None,
};

fn inboxes() -> Inboxes {
    Inboxes::new(7, InboxLimits { bytes: 0, of_user: 3 })
}

fn who(user: &str, device: &str) -> Follow {
    Follow { user: user.into(), device: device.into(), keep: KEEP }
}

fn at(offset: u64, epoch: &str) -> Position {
    Position { offset, epoch: epoch.into() }
}

fn channel(name: &str) -> Arc<str> {
    name.into()
}

/// A first subscription while the stream stands at `offset`.
fn begin(inboxes: &mut Inboxes, now_ms: u64, name: &str, follow: &Follow, offset: u64) {
    let name = channel(name);
    assert_eq!(inboxes.begin(now_ms, &name, follow), Ok(None));
    inboxes.stand(now_ms, &name, follow, &at(offset, "e"), None, false);
}

fn arrived(name: &str, user: &str, offset: u64, epoch: &str) -> Arrived {
    let epoch = Epoch::from(epoch).mark();
    Arrived { channel: channel(name), user: user.into(), device: "".into(), offset, epoch }
}

fn stands(inboxes: &mut Inboxes, now_ms: u64, name: &str, follow: &Follow) -> Option<(u64, String)> {
    let found = inboxes.begin(now_ms, &channel(name), follow).expect("room");
    found.map(|(at, _)| (at.offset, at.epoch.to_string()))
}

#[test]
fn a_cursor_begins_at_the_top_and_only_moves_on() {
    let mut all = inboxes();
    let anna = who("anna", "");
    begin(&mut all, 0, "a", &anna, 5);
    assert_eq!(stands(&mut all, 1, "a", &anna), Some((5, "e".into())));
    for (offset, expected) in [(7, 7), (6, 7), (8, 8)] {
        all.arrived(2, &arrived("a", "anna", offset, "e"), KEEP);
        assert_eq!(stands(&mut all, 3, "a", &anna), Some((expected, "e".into())));
    }
    assert_eq!((all.len(), all.tally.moved), (1, 2));
    // A position that the client names counts as far as the stream goes.
    all.stand(4, &channel("a"), &anna, &at(20, "e"), Some(99), true);
    assert_eq!(stands(&mut all, 5, "a", &anna), Some((20, "e".into())));
}

#[test]
fn another_life_of_the_stream_is_not_recovered_from() {
    let mut all = inboxes();
    let anna = who("anna", "");
    begin(&mut all, 0, "a", &anna, 5);
    all.published(1, "a", &at(1, "f"));
    assert_eq!(stands(&mut all, 1, "a", &anna), Some((5, "_".into())), "nobody knows what was lost between them");
    assert_eq!(all.facts("anna")[0].waiting, 1);
    all.arrived(2, &arrived("a", "anna", 1, "f"), KEEP);
    assert_eq!(stands(&mut all, 3, "a", &anna), Some((1, "f".into())));
}

#[test]
fn devices_are_apart_and_so_are_users() {
    let mut all = inboxes();
    for (user, device) in [("anna", "phone"), ("anna", "desk"), ("bert", "phone")] {
        begin(&mut all, 0, "a", &who(user, device), 0);
    }
    all.arrived(1, &Arrived { device: "phone".into(), ..arrived("a", "anna", 4, "e") }, KEEP);
    all.published(1, "a", &at(4, "e"));
    let offsets = |user: &str| all.facts(user).into_iter().map(|it| (it.device.to_string(), it.offset, it.waiting));
    assert_eq!(offsets("anna").collect::<Vec<_>>(), [("phone".into(), 4, 0), ("desk".into(), 0, 4)]);
    assert_eq!(offsets("bert").collect::<Vec<_>>(), [("phone".into(), 0, 4)]);
    assert_eq!(all.clear("anna", Some("desk"), None), 1);
    assert_eq!(all.clear("anna", None, Some("b")), 0);
    assert_eq!(all.clear("anna", None, None), 1);
    assert_eq!((all.facts("anna").len(), all.len()), (0, 1));
}

#[test]
fn limits_refuse_who_is_new() {
    let mut all = inboxes();
    for name in ["a", "b", "c"] {
        begin(&mut all, 0, name, &who("anna", ""), 0);
    }
    let refused = |all: &mut Inboxes, name: &str, user: &str| all.begin(1, &channel(name), &who(user, "")).err();
    assert_eq!(refused(&mut all, "d", "anna"), Some(ClientError::LimitExceeded));
    assert_eq!(refused(&mut all, "c", "anna"), None, "who is known stays");
    for user in ["bert", "cora"] {
        begin(&mut all, 0, "a", &who(user, ""), 0);
    }
    assert_eq!(refused(&mut all, "a", "dora"), Some(ClientError::LimitExceeded));
    all.set_limits(InboxLimits { bytes: all.bytes(), of_user: 3 });
    assert_eq!(refused(&mut all, "d", "dora"), Some(ClientError::TooManyRequests));
    assert_eq!(all.tally.refused, [1, 1, 1]);
    // A proof without a cursor makes none then, and nothing is counted twice.
    all.arrived(1, &arrived("d", "dora", 4, "e"), KEEP);
    assert_eq!((all.len(), all.facts("dora").len()), (5, 0));
}

#[test]
fn cursors_end_by_their_last_use_and_leave_nothing() {
    let mut all = inboxes();
    let mut told = Vec::new();
    begin(&mut all, 0, "a", &who("anna", ""), 0);
    begin(&mut all, 10, "b", &who("anna", "a device with quite a long name"), 0);
    let short = Follow { keep: InboxKeep { ttl_ms: 100, ..KEEP }, ..who("bert", "") };
    begin(&mut all, 20, "a", &short, 0);
    assert_eq!(all.expire(50, &mut told), Some(120));
    assert_eq!(all.expire(120, &mut told), Some(1000));
    all.arrived(500, &arrived("a", "anna", 1, "e"), KEEP);
    assert_eq!((all.expire(1010, &mut told), all.len()), (Some(1500), 1));
    // One past its time is none, though nobody has looked at it yet.
    assert_eq!(stands(&mut all, 1500, "a", &who("anna", "")), None);
    assert_eq!((all.expire(1500, &mut told), all.len(), all.bytes()), (None, 0, 0));
    assert_eq!((all.tally.expired, told.len()), (3, 0));
    assert!(all.index.is_empty() && all.users.is_empty() && all.channels.is_empty());
}

/// Who was told of which offsets.
fn told(all: &mut Inboxes, now_ms: u64) -> Vec<(String, u64, u64)> {
    let mut out = Vec::new();
    while all.expire(now_ms, &mut out).is_some_and(|next| next <= now_ms) {}
    out.into_iter().map(|one| (one.user.to_string(), one.from, one.to)).collect()
}

#[test]
fn what_has_not_arrived_in_time_is_told_once() {
    let mut all = inboxes();
    let keep = InboxKeep { ttl_ms: 100_000, ..KEEP };
    for user in ["anna", "bert"] {
        begin(&mut all, 0, "a", &Follow { keep, ..who(user, "") }, 2);
    }
    for (now_ms, offset) in [(100, 3), (105, 4), (200, 5)] {
        all.published(now_ms, "a", &at(offset, "e"));
    }
    all.arrived(150, &arrived("a", "bert", 4, "e"), keep);
    assert!(told(&mut all, 259).is_empty(), "too soon");
    // Late by a sixteenth at most.
    assert_eq!(told(&mut all, 270), [("anna".into(), 3, 4)]);
    assert!(told(&mut all, 359).is_empty());
    assert_eq!(told(&mut all, 370), [("anna".into(), 5, 5), ("bert".into(), 5, 5)]);
    assert!(told(&mut all, 5000).is_empty() && all.due.is_empty());
    // In another life it begins anew.
    all.published(6000, "a", &at(1, "f"));
    assert_eq!(told(&mut all, 6170), [("anna".into(), 1, 1), ("bert".into(), 1, 1)]);
    assert!(told(&mut all, 9000).is_empty());
}

#[test]
fn many_are_told_in_parts_whoever_leaves_meanwhile() {
    let mut all = Inboxes::new(7, InboxLimits { bytes: 0, of_user: 3 });
    let keep = InboxKeep { ttl_ms: 100_000, cursors: 1000, ..KEEP };
    for user in 0..600 {
        begin(&mut all, 0, "a", &Follow { keep, ..who(&format!("user {user}"), "") }, 0);
    }
    all.published(0, "a", &at(1, "e"));
    let mut out = Vec::new();
    assert_eq!(all.expire(1000, &mut out), Some(1000));
    assert_eq!(out.len(), AT_ONCE);
    // The next one in the line goes, and a publication comes.
    all.clear("user 256", None, None);
    all.published(1000, "a", &at(2, "e"));
    while all.expire(1000, &mut out).is_some_and(|next| next <= 1000) {}
    assert_eq!(out.len(), 599);
    assert!(out.iter().all(|one| (one.from, one.to) == (1, 1)));
    out.clear();
    while all.expire(2000, &mut out).is_some_and(|next| next <= 2000) {}
    assert!(out.len() == 599 && out.iter().all(|one| (one.from, one.to) == (2, 2)));
}

/// Against a map: whatever comes, cursors stand where they should, and bytes and lists agree.
#[test]
fn lists_hold_whatever_comes_and_goes() {
    let mut all = Inboxes::new(1, InboxLimits { bytes: 0, of_user: 1000 });
    let keep = InboxKeep { cursors: 1000, ttl_ms: u64::MAX, ..KEEP };
    let mut model = std::collections::BTreeMap::new();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..5000 {
        let (name, user) = (format!("channel {}", random(7)), format!("user {}", random(9)));
        match random(8) {
            0 => {
                all.clear(&user, None, Some(&name));
                model.remove(&(name, user));
            }
            1 => {
                all.clear(&user, None, None);
                model.retain(|(_, of), _| *of != user);
            }
            _ => {
                let offset = random(1000);
                all.arrived(step, &arrived(&name, &user, offset, "e"), keep);
                let known: &mut u64 = model.entry((name, user)).or_default();
                *known = (*known).max(offset);
            }
        }
        assert_eq!(all.len(), model.len());
    }
    for user in (0..9).map(|user| format!("user {user}")) {
        let mut found: Vec<(String, u64)> =
            all.facts(&user).into_iter().map(|it| (it.channel.to_string(), it.offset)).collect();
        found.sort();
        let of_user = model.iter().filter(|((_, of), _)| *of == user);
        assert_eq!(found, of_user.map(|((name, _), offset)| (name.clone(), *offset)).collect::<Vec<_>>());
        all.clear(&user, None, None);
    }
    assert_eq!((all.len(), all.bytes()), (0, 0));
}

const SYNC: InboxKeep = InboxKeep { archive: CursorArchive::Sync, undelivered_ms: 0, ..KEEP };
const BATCHED: InboxKeep = InboxKeep { archive: CursorArchive::Batched, ..SYNC };

/// What the archive is told: user, offset, epoch, and whether the stream begins.
fn written(inboxes: &mut Inboxes) -> Vec<(String, u64, String, bool)> {
    std::iter::from_fn(|| inboxes.take_unwritten(1000))
        .map(|CursorNews { cursor, begins, .. }| {
            (cursor.user.to_string(), cursor.offset, cursor.epoch.to_string(), begins.is_some())
        })
        .collect()
}

fn kept(user: &str, offset: u64, epoch: &str) -> ArchivedCursor {
    let (user, device, epoch) = (user.into(), "".into(), epoch.into());
    ArchivedCursor { user, device, offset, epoch, told: 0, torn: false, until_ms: 1000 + 500 + 124 }
}

/// An archive brings cursors when its clock is at 1,000.
fn load(inboxes: &mut Inboxes, keep: InboxKeep, cursors: &[ArchivedCursor], top: Option<Position>, torn: Option<&str>) {
    let (cursors, torn, name) = (cursors.to_vec(), torn.map(Epoch::from), channel("a"));
    inboxes.load(0, CursorsFound { channel: &name, keep, cursors, top, torn, unix_ms: 1000 });
}

#[test]
fn an_archive_is_told_how_cursors_stand_and_no_more() {
    for keep in [SYNC, BATCHED] {
        let mut all = inboxes();
        let follow = |user: &str| Follow { keep, ..who(user, "") };
        begin(&mut all, 0, "a", &follow("anna"), 0);
        // With sync any life that comes will have all of it; otherwise the archive notes this one.
        let (epoch, begins) = if keep == SYNC { ("", false) } else { ("e", true) };
        assert_eq!(written(&mut all), [("anna".into(), 0, epoch.into(), begins)]);
        all.published(1, "a", &at(4, "e"));
        (1..=3).for_each(|offset| all.arrived(1, &arrived("a", "anna", offset, "e"), keep));
        begin(&mut all, 1, "a", &follow("bert"), 4);
        assert_eq!(
            written(&mut all),
            [("anna".into(), 3, "e".into(), false), ("bert".into(), 4, "e".into(), false)],
            "once"
        );
        // That one is used, it hears now and then.
        assert!(all.begin(10, &channel("a"), &follow("anna")).is_ok() && written(&mut all).is_empty());
        assert!(all.begin(100, &channel("a"), &follow("anna")).is_ok());
        assert_eq!(written(&mut all).len(), 1);
        assert_eq!((all.clear("bert", None, None), written(&mut all).len()), (1, 0));
        let gone: Vec<String> = all.take_gone().into_iter().map(|gone| gone.user.to_string()).collect();
        assert_eq!((gone, all.take_gone().len()), (vec!["bert".to_owned()], 0));
    }
}

#[test]
fn cursors_come_back_from_an_archive() {
    let mut all = inboxes();
    let anna = Follow { keep: SYNC, ..who("anna", "") };
    load(&mut all, SYNC, &[kept("anna", 3, "e"), kept("bert", 9, "old")], Some(at(5, "e")), None);
    assert_eq!(stands(&mut all, 1, "a", &anna), Some((3, "e".into())));
    assert_eq!(stands(&mut all, 1, "a", &Follow { keep: SYNC, ..who("bert", "") }), Some((9, "_".into())));
    assert_eq!((written(&mut all).len(), all.facts("anna")[0].waiting), (0, 2), "the archive knows them");
    // Those that are here are later ones, and are told again: the archive may have lost them.
    load(&mut all, SYNC, &[kept("anna", 1, "e")], Some(at(5, "e")), None);
    assert_eq!(stands(&mut all, 2, "a", &anna), Some((3, "e".into())));
    assert_eq!(written(&mut all).len(), 2);
}

#[test]
fn a_cursor_from_before_the_first_publication_holds_in_any_life() {
    let anna = Follow { keep: SYNC, ..who("anna", "") };
    for stored in ["", "e"] {
        let mut all = inboxes();
        load(&mut all, SYNC, &[kept("anna", 0, stored)], None, None);
        all.published(1, "a", &at(2, "f"));
        assert_eq!(stands(&mut all, 1, "a", &anna), Some((0, "".into())), "all of it is new");
    }
    // The same without a restart: a stream that was forgotten before anything was published.
    let mut all = inboxes();
    begin(&mut all, 0, "a", &anna, 0);
    all.published(1, "a", &at(2, "f"));
    assert_eq!(stands(&mut all, 1, "a", &anna), Some((0, "".into())));
    all.published(2, "a", &at(1, "g"));
    all.published(3, "a", &at(2, "h"));
    all.arrived(4, &arrived("a", "anna", 2, "h"), SYNC);
    assert_eq!(stands(&mut all, 5, "a", &anna), Some((2, "h".into())));
}

#[test]
fn behind_a_torn_stream_something_may_be_missing_until_the_cursor_moves() {
    let mut all = inboxes();
    let anna = Follow { keep: BATCHED, ..who("anna", "") };
    let torn = |all: &mut Inboxes| all.begin(1, &channel("a"), &anna).expect("room").expect("a cursor");
    load(&mut all, BATCHED, &[kept("anna", 9, "e")], Some(at(5, "f")), Some("e"));
    assert_eq!(torn(&mut all), (at(5, "f"), true), "no further than the archive");
    let told = all.take_unwritten(1000).expect("news").cursor;
    assert_eq!((told.offset, told.torn, told.epoch.as_str()), (5, true, "f"));
    // So it is after another restart.
    let mut next = inboxes();
    load(&mut next, BATCHED, &[told], Some(at(7, "f")), None);
    assert_eq!(torn(&mut next), (at(5, "f"), true));
    next.arrived(2, &arrived("a", "anna", 7, "f"), BATCHED);
    assert_eq!(torn(&mut next), (at(7, "f"), false));
}

#[test]
fn a_cursor_from_an_archive_lives_as_long_as_is_left_of_it() {
    let (mut all, mut told) = (inboxes(), Vec::new());
    load(&mut all, SYNC, &[kept("anna", 3, "e")], Some(at(5, "e")), None);
    // Half of its time, and up to a sixteenth more.
    let ends = all.expire(0, &mut told).expect("an end");
    assert!((500..=563).contains(&ends), "{ends}");
    all.expire(ends, &mut told);
    assert_eq!((all.len(), all.take_gone().len()), (0, 1));
    // What there is no room for stays where it is.
    all.set_limits(InboxLimits { bytes: 1, of_user: 3 });
    load(&mut all, SYNC, &[kept("anna", 3, "e"), kept("bert", 3, "e")], Some(at(5, "e")), None);
    assert_eq!((all.len(), all.tally.refused[2], all.take_gone().len()), (1, 1, 0));
}

#[test]
fn what_came_before_a_restart_is_told_after_it_and_what_was_told_is_not() {
    let keep = InboxKeep { undelivered_ms: 160, ttl_ms: 100_000, ..SYNC };
    let (mut all, mut told) = (inboxes(), Vec::new());
    let until_ms = 1_000_000;
    let anna = ArchivedCursor { told: 4, until_ms, ..kept("anna", 2, "e") };
    let bert = ArchivedCursor { until_ms, ..kept("bert", 3, "e") };
    load(&mut all, keep, &[anna, bert], Some(at(5, "e")), None);
    all.expire(1000, &mut told);
    let ranges: Vec<(&str, u64, u64)> = told.iter().map(|one| (one.user.as_str(), one.from, one.to)).collect();
    assert_eq!(ranges, [("anna", 5, 5), ("bert", 4, 5)]);
    let told: Vec<u64> = std::iter::from_fn(|| all.take_unwritten(1000)).map(|news| news.cursor.told).collect();
    assert_eq!(told, [5, 5], "and the archive knows that");
}
