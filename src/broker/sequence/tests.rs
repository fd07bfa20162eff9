//! F3 · The order of a channel that lives elsewhere: what comes out of what is heard and read, in any order.

use super::*;
use proptest::prelude::*;

const ROOM: HeldRoom = HeldRoom { count: 8, bytes: usize::MAX };

fn publication(text: &str, offset: u64) -> Publication {
    Publication { data: text.to_owned().into(), offset, ..Publication::default() }
}

fn at(text: &str, epoch: &str, offset: u64) -> Arrival {
    let position = Some(Position { offset, epoch: epoch.into() });
    Arrival { publication: publication(text, offset).into(), position, previous: None }
}

/// What came out, in short: the data, or "gap".
fn shown(out: &mut Vec<Emission>) -> Vec<String> {
    let show = |emission| match emission {
        Emission::Pass { publication, .. } => String::from_utf8_lossy(&publication.data).into_owned(),
        Emission::Gap => "gap".to_owned(),
    };
    out.drain(..).map(show).collect()
}

struct Node {
    sequence: Sequence,
    out: Vec<Emission>,
}

impl Node {
    /// At the third publication of the life "e".
    fn at_three() -> Node {
        let mut node = Node { sequence: Sequence::default(), out: Vec::new() };
        assert_eq!(node.hear(at("3", "e", 3)), ["3"]);
        node
    }

    fn hear(&mut self, arrival: Arrival) -> Vec<String> {
        self.sequence.hear(arrival, ROOM, &mut self.out);
        shown(&mut self.out)
    }

    fn end_read(&mut self, known: &Known, top: (&str, u64), found: &[(&str, u64)]) -> Vec<String> {
        let top = Position { offset: top.1, epoch: top.0.into() };
        let found = found.iter().map(|(text, offset)| publication(text, *offset)).collect();
        self.sequence.end_read(known, 4, (top, found), ROOM, &mut self.out);
        shown(&mut self.out)
    }

    fn begin_read(&mut self) -> (u64, Known) {
        assert!(self.sequence.wants_read());
        self.sequence.begin_read()
    }

    fn offset(&self) -> u64 {
        self.sequence.place().map_or(0, |place| place.offset)
    }
}

#[test]
fn what_was_lost_is_read_before_anybody_hears_of_it() {
    let mut node = Node::at_three();
    assert!(node.hear(at("6", "e", 6)).is_empty());
    let (since, known) = node.begin_read();
    assert_eq!((since, node.sequence.wants_read()), (2, false), "the last one is read again");
    assert!(node.hear(at("7", "e", 7)).is_empty() && node.hear(at("9", "e", 9)).is_empty());
    let read = node.end_read(&known, ("e", 6), &[("3", 3), ("4", 4), ("5", 5), ("6", 6)]);
    assert_eq!(read, ["4", "5", "6", "7"], "each once");
    assert!(node.sequence.wants_read(), "8 is lost too");
    assert_eq!(node.hear(at("8", "e", 8)), ["gap", "8"], "never heard after 9 but in a stream that went back");
}

#[test]
fn what_was_read_before_it_was_heard_is_passed_on_once() {
    let mut node = Node::at_three();
    node.sequence.doubt();
    let (_, known) = node.begin_read();
    assert_eq!(node.hear(at("4", "e", 4)), ["4"]);
    assert_eq!(node.end_read(&known, ("e", 5), &[("3", 3), ("4", 4), ("5", 5)]), ["5"]);
    assert!(node.hear(at("5", "e", 5)).is_empty());
    assert_eq!((node.hear(at("6", "e", 6)), node.sequence.bytes()), (vec!["6".to_owned()], 0));
    assert!(node.sequence.line.is_none(), "an idle channel has no line");
}

#[test]
fn nothing_is_passed_on_after_a_loss_before_the_stream_was_read() {
    let mut node = Node::at_three();
    node.sequence.lose();
    let (_, known) = node.begin_read();
    assert!(node.hear(at("4", "e", 4)).is_empty(), "it may be of a store that lost 3");
    node.sequence.lose();
    assert_eq!(node.end_read(&known, ("e", 4), &[("3", 3), ("4", 4)]), ["4"]);
    assert!(node.hear(at("5", "e", 5)).is_empty(), "another loss");
    let (_, known) = node.begin_read();
    assert_eq!(node.end_read(&known, ("e", 5), &[("4", 4), ("5", 5)]), ["5"]);
    assert_eq!((node.hear(at("6", "e", 6)), node.sequence.line.is_none()), (vec!["6".to_owned()], true));
}

#[test]
fn what_the_stream_no_longer_has_is_a_gap() {
    let mut node = Node::at_three();
    node.hear(at("9", "e", 9));
    let (_, known) = node.begin_read();
    assert_eq!(node.end_read(&known, ("e", 9), &[("8", 8), ("9", 9)]), ["gap", "8", "9"]);
    node.hear(at("12", "e", 12));
    let (_, known) = node.begin_read();
    assert_eq!(node.end_read(&known, ("e", 12), &[]), ["gap"], "all of it was removed");
    assert_eq!((node.offset(), node.hear(at("13", "e", 13))), (12, vec!["13".to_owned()]));
}

#[test]
fn another_life_is_a_gap_and_its_publications_go_on() {
    let mut node = Node::at_three();
    assert!(node.hear(at("one", "f", 1)).is_empty());
    let (_, known) = node.begin_read();
    assert!(node.hear(at("two", "f", 2)).is_empty());
    assert_eq!(node.end_read(&known, ("f", 1), &[("one", 1)]), ["gap"]);
    let (since, known) = node.begin_read();
    assert_eq!(
        (since, node.end_read(&known, ("f", 2), &[("one", 1), ("two", 2)])),
        (0, ["one", "two"].map(str::to_owned).to_vec())
    );
    assert!(node.hear(at("4", "e", 4)).is_empty(), "late, of the old one");
    let (_, known) = node.begin_read();
    assert!(node.end_read(&known, ("f", 2), &[("two", 2)]).is_empty());
    assert_eq!((node.hear(at("three", "f", 3)), node.sequence.line.is_none()), (vec!["three".to_owned()], true));
}

#[test]
fn a_stream_that_went_back_is_a_gap_however_it_shows() {
    let mut node = Node::at_three();
    assert_eq!(node.hear(at("other 2", "e", 2)), ["gap", "other 2"], "an offset that was heard before");
    let mut node = Node::at_three();
    node.sequence.lose();
    let (_, known) = node.begin_read();
    assert_eq!(node.end_read(&known, ("e", 1), &[]), ["gap"], "a top below what is known");
    assert_eq!((node.offset(), node.hear(at("other 2", "e", 2))), (1, vec!["other 2".to_owned()]));
    let mut node = Node::at_three();
    node.sequence.lose();
    let (_, known) = node.begin_read();
    let found = [("other 3", 3), ("other 4", 4)];
    assert_eq!(node.end_read(&known, ("e", 4), &found), ["gap"], "another at the place of the last one");
    assert_eq!(node.sequence.missed(3, 100, &[publication("other 4", 4)], 4), Missed::Lost, "3 may be either");
    assert_eq!(node.sequence.missed(4, 100, &[], 4), Missed::All(Vec::new()));
}

/// The same where the last publication was read, and never heard.
#[test]
fn a_stream_refilled_to_the_same_offset_is_a_gap() {
    let top = || Position { offset: 3, epoch: "e".into() };
    let lost_and_read = |found: &[Publication], covers, read: &[(&str, u64)]| {
        let mut node = Node { sequence: Sequence::default(), out: Vec::new() };
        assert!(node.sequence.saw(&Known::default(), &top(), (found, covers), &mut node.out));
        node.sequence.lose();
        let (since, known) = node.begin_read();
        assert_eq!(since, 2);
        node.end_read(&known, ("e", 3), read)
    };
    let three = [publication("3", 3)];
    assert_eq!(lost_and_read(&three, true, &[("other 3", 3)]), ["gap"]);
    assert_eq!(lost_and_read(&[], true, &[("other 3", 3)]), ["gap"], "nothing was there");
    assert_eq!(lost_and_read(&[], false, &[("3", 3)]), ["gap"], "nobody has seen what was there");
    assert!(lost_and_read(&three, true, &[("3", 3)]).is_empty());
    assert!(lost_and_read(&three, true, &[]).is_empty(), "removed, or too old by now");
    let mut node = Node { sequence: Sequence::default(), out: Vec::new() };
    node.sequence.saw(&Known::default(), &top(), (&[], false), &mut node.out);
    let (_, known) = node.begin_read();
    assert!(node.end_read(&known, ("e", 3), &[("3", 3)]).is_empty(), "it is seen now");
    assert_eq!((node.sequence.is_unseen(), node.sequence.line.is_none()), (false, true));
}

#[test]
fn what_finds_no_room_is_read_again() {
    let mut node = Node::at_three();
    for offset in 5..=12 {
        assert_eq!(node.sequence.hear(at("x", "e", offset), ROOM, &mut node.out), 0);
    }
    let (_, known) = node.begin_read();
    assert_eq!(node.sequence.hear(at("13", "e", 13), ROOM, &mut node.out), 9);
    assert_eq!(node.sequence.bytes(), 0);
    assert_eq!(node.end_read(&known, ("e", 6), &[("3", 3), ("4", 4), ("5", 5), ("6", 6)]), ["4", "5", "6"]);
    let (since, known) = node.begin_read();
    assert_eq!((since, node.end_read(&known, ("e", 7), &[("6", 6), ("7", 7)])), (5, vec!["7".to_owned()]));
}

#[test]
fn publications_without_a_place_keep_theirs_in_the_line() {
    let mut node = Node::at_three();
    let plain = |text: &str| Arrival { position: None, ..at(text, "", 0) };
    assert_eq!(node.hear(plain("a")), ["a"]);
    node.hear(at("5", "e", 5));
    assert!(node.hear(plain("b")).is_empty());
    let (_, known) = node.begin_read();
    assert_eq!(node.end_read(&known, ("e", 5), &[("3", 3), ("4", 4), ("5", 5)]), ["4", "5", "b"]);
}

#[test]
fn who_recovers_gets_what_was_read_and_what_was_passed_on_since() {
    let mut node = Node::at_three();
    node.sequence.begin_recovery();
    node.hear(at("4", "e", 4));
    node.hear(at("5", "e", 5));
    let offsets = |missed| -> Vec<u64> {
        match missed {
            Missed::All(all) => all.iter().map(|publication: &Publication| publication.offset).collect(),
            other => panic!("{other:?}"),
        }
    };
    let read = [publication("2", 2), publication("3", 3), publication("4", 4)];
    let missed = |since, limit, read, top| node.sequence.missed(since, limit, read, top);
    assert_eq!(offsets(missed(1, 10, &read, 4)), [2, 3, 4, 5]);
    assert_eq!(offsets(missed(3, 10, &[], 3)), [4, 5]);
    assert_eq!(offsets(missed(5, 0, &[], 3)), [0; 0]);
    assert_eq!(missed(1, 3, &read, 4), Missed::Lost, "too many");
    assert_eq!(missed(0, 10, &read, 4), Missed::Lost, "the first one is gone");
    assert_eq!(missed(6, 10, &[], 4), Missed::Lost, "of another life");
    assert_eq!(missed(1, 10, &read[..1], 2), Missed::Unknown, "3 was never seen");
    assert_eq!(node.sequence.latest(Some(&read[2])).map(|latest| latest.offset), Some(5));
    node.sequence.end_recovery();
    assert_eq!((node.sequence.bytes(), node.sequence.latest(None)), (0, None));
}

/// What a store and its connection do.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Publish,
    /// The connection carries so many of what waits.
    Carry(u8),
    /// It loses all that waits, and is made anew.
    Lose,
    Read,
    /// A read that was asked for is answered.
    Answer,
    /// The store keeps only the latest.
    Trim(u8),
    /// It begins anew, with nothing.
    Forget,
    /// It loses the end of the stream, and the connection is made anew.
    GoBack(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => Just(Deed::Publish),
        6 => (0u8..4).prop_map(Deed::Carry),
        2 => Just(Deed::Lose),
        4 => Just(Deed::Read),
        4 => Just(Deed::Answer),
        1 => (0u8..6).prop_map(Deed::Trim),
        1 => Just(Deed::Forget),
        1 => (1u8..4).prop_map(Deed::GoBack),
    ]
}

#[derive(Default)]
struct Store {
    epoch: u32,
    top: u64,
    kept: Vec<Publication>,
    made: u32,
    wire: VecDeque<Arrival>,
    /// Numbers of publications that it lost itself: they are owed to nobody.
    lost: Vec<u32>,
}

impl Store {
    fn epoch(&self) -> String {
        format!("life {} of a store", self.epoch)
    }

    fn publish(&mut self) {
        (self.made, self.top) = (self.made + 1, self.top + 1);
        let publication = publication(&self.made.to_string(), self.top);
        self.kept.push(publication.clone());
        let position = Some(Position { offset: self.top, epoch: self.epoch().as_str().into() });
        self.wire.push_back(Arrival { publication: publication.into(), position, previous: None });
    }

    fn read(&self, since: u64, limit: usize) -> (Position, Vec<Publication>) {
        let found = self.kept.iter().filter(|publication| publication.offset > since).take(limit).cloned();
        (Position { offset: self.top, epoch: self.epoch().as_str().into() }, found.collect())
    }
}

/// What was passed on so far is in order, each once, and follows unless a gap was told.
#[derive(Default)]
struct Witness {
    last: Option<u64>,
    told: bool,
    made: u32,
}

impl Witness {
    fn look(&mut self, lost: &[u32], out: &mut Vec<Emission>) -> Result<(), TestCaseError> {
        for emission in out.drain(..) {
            let Emission::Pass { publication, .. } = emission else {
                self.told = true;
                continue;
            };
            let made: u32 = String::from_utf8_lossy(&publication.data).parse().expect("a number");
            // A stream that went back may be told from its new end once more, behind a gap.
            prop_assert!(made > self.made || self.told, "{made} after {}", self.made);
            let follows = self.last.is_none_or(|last| publication.offset == last + 1);
            prop_assert!(follows || self.told, "{} after {:?}", publication.offset, self.last);
            let owed = (self.made + 1..made).any(|between| !lost.contains(&between));
            prop_assert!(self.told || self.made == 0 || !owed, "{made} after {}", self.made);
            (self.last, self.told, self.made) = (Some(publication.offset), false, made);
        }
        Ok(())
    }
}

proptest! {
    /// Whatever a store and a connection do, in whatever order what was read and what was heard come.
    #[test]
    fn all_is_heard_once_and_in_order_or_the_gap_is_told(
        deeds in prop::collection::vec(deed(), 1..120),
        count in 1usize..6,
        limit in 2usize..6,
    ) {
        let room = HeldRoom { count, bytes: usize::MAX };
        let (mut store, mut witness) = (Store { epoch: 1, ..Store::default() }, Witness::default());
        let (mut sequence, mut out) = (Sequence::default(), Vec::new());
        let mut asked: Option<(Known, (Position, Vec<Publication>))> = None;
        let mut went_back = false;
        // The first subscriber's.
        prop_assert!(sequence.saw(&Known::default(), &store.read(0, 0).0, (&[], true), &mut out));
        let mut rest = vec![];
        for _ in 0..60 {
            rest.extend([Deed::Carry(255), Deed::Read, Deed::Answer]);
        }
        for deed in deeds.into_iter().chain([Deed::Lose]).chain(rest) {
            match deed {
                Deed::Publish => store.publish(),
                Deed::Carry(count) => {
                    for arrival in store.wire.drain(..store.wire.len().min(usize::from(count))) {
                        sequence.hear(arrival, room, &mut out);
                    }
                }
                Deed::Lose => {
                    store.wire.clear();
                    sequence.lose();
                }
                Deed::Read if asked.is_none() && sequence.wants_read() => {
                    let (since, known) = sequence.begin_read();
                    asked = Some((known, store.read(since, limit)));
                }
                Deed::Answer => {
                    if let Some((known, found)) = asked.take() {
                        sequence.end_read(&known, limit, found, room, &mut out);
                    }
                }
                // A store that went back still has what follows, so that it can be compared.
                Deed::Trim(kept) if !went_back => {
                    let goes = store.kept.len().saturating_sub(usize::from(kept));
                    store.kept.drain(..goes);
                }
                Deed::Forget => {
                    let lost = std::mem::take(&mut store.lost);
                    store = Store { epoch: store.epoch + 1, made: store.made, lost, ..Store::default() };
                    sequence.lose();
                }
                Deed::GoBack(count) => {
                    went_back = true;
                    let kept = store.kept.len().saturating_sub(usize::from(count));
                    for publication in store.kept.drain(kept..) {
                        store.top -= 1;
                        let text = String::from_utf8_lossy(&publication.data);
                        store.lost.push(text.parse().expect("a number"));
                    }
                    store.wire.clear();
                    sequence.lose();
                }
                Deed::Read | Deed::Trim(_) => {}
            }
            witness.look(&store.lost, &mut out)?;
        }
        prop_assert!(!sequence.is_healing(), "it comes to rest");
        prop_assert_eq!(sequence.place(), Some(&store.read(0, 0).0), "where the store is");
        let latest = store.kept.last().map(|publication| String::from_utf8_lossy(&publication.data).into_owned());
        let heard = latest.is_none_or(|latest| latest == witness.made.to_string());
        prop_assert!(heard || witness.told, "{} of {:?}", witness.made, store.kept.last());
        prop_assert_eq!(sequence.line.as_ref().map_or(0, |line| line.held.len()), 0);
    }
}
