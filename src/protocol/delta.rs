//! F2 · What changed from one payload to the next, in Fossil's delta format, as the SDKs apply it.
//!
//! Owns the search for what is shared and the text it is written in. A delta of text is text, so that JSON can carry
//! it. Knows nothing of channels: which payload the receiver has is decided above.

use bytes::Bytes;

/// Bytes that are looked up at once. Shorter repetitions are hardly longer than the command that copies them.
const BLOCK: usize = 8;
/// Blocks of one hash that are tried; what all have in common (zeros, say) would otherwise take quadratic time.
const TRIED_MAX: usize = 8;
/// Bytes without a copy until larger steps are taken.
const SLOW: usize = 256;
/// Bytes of the new payload for each comparison that is made for it. Payloads of few letters have many places in common
/// and little to gain from them: whoever sends such is not to cost more than others.
const BYTES_COMPARED: usize = 2;
/// A comparison of so many bytes counts as one more.
const LONG: usize = 64;
/// A match of so many bytes is taken; after a shorter one, a longer one is looked for.
const ENOUGH: usize = 64;
/// A copy in between costs its own marks and the head of one more literal.
const COPY_MARKS: usize = 2 + 3;
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The commands that make `new` out of `old`; not always shorter than `new`. Each is below 4 GiB.
pub fn delta(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Writer { new, is_text: std::str::from_utf8(new).is_ok(), done: 0, bytes: Vec::new() };
    out.number(new.len());
    out.bytes.push(b'\n');
    // Mostly little changes in the middle: what is before and after it needs no search.
    let front = common(old, new);
    out.copy(0, front, 0);
    let rest = new.get(front..).unwrap_or_default();
    let back = common_end(old, rest);
    let end = new.len() - back;
    if rest.len() - back >= 2 * BLOCK {
        search(old, end, front, &mut out);
    }
    out.copy(end, new.len(), old.len() - back);
    out.literal(new.len());
    out.number(checksum(new) as usize);
    out.bytes.push(b';');
    out.bytes
}

/// The same, if it is shorter than what it stands for.
pub fn shorter(old: &[u8], new: &[u8]) -> Option<Bytes> {
    let delta = delta(old, new);
    (delta.len() < new.len()).then(|| delta.into())
}

/// Copies what `old` has of the new payload between `at` and `end`; the comparisons that it made.
fn search(old: &[u8], end: usize, mut at: usize, out: &mut Writer<'_>) -> usize {
    let mut index = Index::new(old);
    let (mut compared, most) = (0, SLOW + (end - at) / BYTES_COMPARED);
    // Where the last copy would go on in `old`: records of one form have many blocks in common, but only one in place.
    let mut shift = 0;
    // The longest match since `at` was `since`: as only every eighth place of `old` is known, a longer one may follow.
    let (mut best, mut since) = (Match::default(), at);
    while let Some(wanted) = block(between(out.new, at, end), 0) {
        let in_place = at.wrapping_add(shift);
        let longest = std::iter::once(in_place)
            .chain(index.candidates(wanted, in_place))
            .filter(|&from| block(old, from) == Some(wanted))
            .map(|from| Match::around(old, from, out, at, end))
            .inspect(|found| compared += 1 + found.len / LONG)
            .filter(|found| gains(found.len, found.from))
            .fold(Match::default(), Match::longer);
        if best.len == 0 {
            since = at;
        }
        best = best.longer(longest);
        // Where nothing was found for long, little is expected. Odd steps come to every eighth place all the same, and
        // a match goes back over what was passed.
        at += if best.len == 0 { ((at - out.done) / SLOW) | 1 } else { 1 };
        if best.len >= ENOUGH || at - since >= BLOCK {
            if out.copy(best.start, best.start + best.len, best.from) {
                (shift, at) = (best.from.wrapping_sub(best.start), at.max(out.done));
            }
            best = Match::default();
        }
        if compared >= most {
            break;
        }
    }
    out.copy(best.start, best.start + best.len, best.from);
    compared
}

/// Bytes that both payloads have.
#[derive(Clone, Copy, Default)]
struct Match {
    len: usize,
    /// In the new one.
    start: usize,
    /// In the old one.
    from: usize,
}

impl Match {
    /// All there is around `from` and `at`, of what is not written yet and before `end`.
    fn around(old: &[u8], from: usize, out: &Writer<'_>, at: usize, end: usize) -> Match {
        let before = common_end(between(old, 0, from), between(out.new, out.done, at));
        let after = common(between(old, from, old.len()), between(out.new, at, end));
        Match { len: before + after, start: at - before, from: from - before }
    }

    fn longer(self, other: Match) -> Match {
        if other.len > self.len { other } else { self }
    }
}

fn between(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end).unwrap_or_default()
}

fn block(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    let ((blocks_a, _), (blocks_b, _)) = (a.as_chunks::<BLOCK>(), b.as_chunks::<BLOCK>());
    let different = |(a, b): (&[u8; BLOCK], &[u8; BLOCK])| u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
    let mut pairs = blocks_a.iter().zip(blocks_b).map(different).enumerate();
    match pairs.find(|(_, different)| *different != 0) {
        Some((at, different)) => at * BLOCK + different.trailing_zeros() as usize / 8,
        None => {
            let whole = BLOCK * blocks_a.len().min(blocks_b.len());
            let (a, b) = (between(a, whole, a.len()), between(b, whole, b.len()));
            whole + a.iter().zip(b).take_while(|(a, b)| a == b).count()
        }
    }
}

/// How many bytes both end with.
fn common_end(a: &[u8], b: &[u8]) -> usize {
    let ((_, blocks_a), (_, blocks_b)) = (a.as_rchunks::<BLOCK>(), b.as_rchunks::<BLOCK>());
    let different = |(a, b): (&[u8; BLOCK], &[u8; BLOCK])| u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
    let mut pairs = blocks_a.iter().rev().zip(blocks_b.iter().rev()).map(different).enumerate();
    match pairs.find(|(_, different)| *different != 0) {
        Some((at, different)) => at * BLOCK + different.leading_zeros() as usize / 8,
        None => {
            let whole = BLOCK * blocks_a.len().min(blocks_b.len());
            let (a, b) = (between(a, 0, a.len() - whole), between(b, 0, b.len() - whole));
            whole + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
        }
    }
}

/// The blocks of a payload, side by side, by their content. Numbers of blocks count from 1; 0 is none.
struct Index {
    /// By hash, the first block of its chain.
    heads: Vec<u32>,
    /// By hash, the last block that was before the place asked for. They only move on, as most places do, and so all
    /// moves together are no more than the blocks.
    cursors: Vec<u32>,
    /// By block, the next one of the same hash.
    next: Vec<u32>,
    shift: u32,
}

impl Index {
    fn new(old: &[u8]) -> Index {
        let (blocks, _) = old.as_chunks::<BLOCK>();
        let bits = blocks.len().next_power_of_two().trailing_zeros().max(1);
        let (mut heads, mut next, shift) = (vec![0; 1 << bits], vec![0; blocks.len()], u64::BITS - bits);
        for (at, (content, next)) in blocks.iter().zip(&mut next).enumerate().rev() {
            if let Some(head) = heads.get_mut(hash(u64::from_le_bytes(*content), shift)) {
                *next = std::mem::replace(head, at as u32 + 1);
            }
        }
        Index { cursors: heads.clone(), heads, next, shift }
    }

    /// Where `wanted` may be: about `near`, and from the start on.
    fn candidates(&mut self, wanted: u64, near: usize) -> impl Iterator<Item = usize> {
        let chain = hash(wanted, self.shift);
        let (heads, next) = (&self.heads, &self.next);
        let place = |block: u32| (block as usize).checked_sub(1).map(|at| at * BLOCK);
        let after = |block: u32| next.get((block as usize).checked_sub(1)?).copied().filter(|next| *next != 0);
        let mut first = 0;
        if let Some(cursor) = self.cursors.get_mut(chain) {
            while let Some(next) = after(*cursor).filter(|next| place(*next).is_some_and(|place| place <= near)) {
                *cursor = next;
            }
            first = *cursor;
        }
        let from = move |first: u32| std::iter::successors(Some(first), move |block| after(*block)).take(TRIED_MAX / 2);
        from(first).chain(heads.get(chain).copied().into_iter().flat_map(from)).filter_map(place)
    }
}

/// The upper bits of a product hang on all bits of `block`.
fn hash(block: u64, shift: u32) -> usize {
    (block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

struct Writer<'a> {
    new: &'a [u8],
    /// Literals then hold whole characters.
    is_text: bool,
    /// Bytes of `new` that are written, as literals or copies.
    done: usize,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    /// Writes the new payload up to `end`, from `start` on as a copy of the old one at `from`; not if that takes more.
    fn copy(&mut self, mut start: usize, mut end: usize, mut from: usize) -> bool {
        let inside = |at| self.is_text && self.new.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        while start < end && inside(start) {
            (start, from) = (start + 1, from + 1);
        }
        while start < end && inside(end) {
            end -= 1;
        }
        let len = end - start;
        if !gains(len, from) {
            return false;
        }
        self.literal(start);
        self.number(len);
        self.bytes.push(b'@');
        self.number(from);
        self.bytes.push(b',');
        self.done = end;
        true
    }

    /// Writes the new payload up to `end`.
    fn literal(&mut self, end: usize) {
        let bytes = between(self.new, self.done, end);
        if !bytes.is_empty() {
            self.number(bytes.len());
            self.bytes.push(b':');
            self.bytes.extend_from_slice(bytes);
            self.done = end;
        }
    }

    fn number(&mut self, number: usize) {
        for digit in (0..digits(number)).rev() {
            self.bytes.extend(DIGITS.get(number >> (6 * digit) & 63));
        }
    }
}

/// Whether a copy takes less than what it copies.
fn gains(len: usize, from: usize) -> bool {
    len > digits(len) + digits(from) + COPY_MARKS
}

/// Digits of a number at base 64.
fn digits(number: usize) -> usize {
    let bits = usize::BITS - number.leading_zeros();
    bits.div_ceil(6).max(1) as usize
}

/// The sum of the bytes as numbers of 32 bits, the last one filled up with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().fold(0, |sum: u32, word| sum.wrapping_add(u32::from_be_bytes(*word)));
    rest.iter().zip([24, 16, 8]).fold(sum, |sum, (byte, place)| sum.wrapping_add(u32::from(*byte) << place))
}

/// What `delta` makes out of `old`: a receiver's part. `None` if it is malformed, made for another payload, or makes
/// more than `size_max` bytes.
pub fn apply(old: &[u8], delta: &[u8], size_max: usize) -> Option<Vec<u8>> {
    let mut rest = delta;
    let (size, b'\n') = command(&mut rest)? else { return None };
    if size > size_max {
        return None;
    }
    let mut out = Vec::new();
    loop {
        let piece = match command(&mut rest)? {
            (len, b'@') => {
                let (from, b',') = command(&mut rest)? else { return None };
                old.get(from..from.checked_add(len)?)?
            }
            (len, b':') => rest.split_off(..len)?,
            (sum, b';') => {
                return (rest.is_empty() && out.len() == size && sum == checksum(&out) as usize).then_some(out);
            }
            _ => return None,
        };
        if piece.len() > size - out.len() {
            return None;
        }
        out.extend_from_slice(piece);
    }
}

/// A number and the mark behind it, cut off the front.
fn command(rest: &mut &[u8]) -> Option<(usize, u8)> {
    let len = rest.iter().position(|byte| !DIGITS.contains(byte))?;
    let number = rest.split_off(..len)?.iter().try_fold(0_u32, |number, byte| {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        (number >> 26 == 0).then_some(number << 6 | digit as u32)
    })?;
    let mark = rest.split_off_first()?;
    (len > 0).then_some((number as usize, *mark))
}

/// A payload, or a delta, as a JSON string, which is all that JSON clients of a delta subscription get; `None` if it is
/// not text.
pub fn json_string(payload: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(payload).ok()?;
    serde_json::to_vec(text).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE_MAX: usize = 1 << 20;

    /// The delta, applied and found right.
    fn proven(old: &[u8], new: &[u8]) -> Vec<u8> {
        let delta = delta(old, new);
        assert_eq!(apply(old, &delta, new.len()).as_deref(), Some(new), "{}", String::from_utf8_lossy(&delta));
        delta
    }

    /// Bytes without a pattern.
    fn noise(len: usize) -> Vec<u8> {
        let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(1), next).map(|state| (state >> 24) as u8).take(len).collect()
    }

    /// Orders as an exchange would publish them, some 4 KiB.
    fn book(best: &str, count: u32) -> String {
        let orders: Vec<_> =
            (0..128).map(|n| format!("{{\"price\":\"{}\",\"amount\":{}}}", 60_000 + n, n * n)).collect();
        format!("{{\"best\":\"{best}\",\"orders\":[{}],\"count\":{count}}}", orders.join(","))
    }

    #[test]
    fn writes_fossils_format() {
        let twenty = "0123456789abcdefghij";
        for (old, new, expected) in [
            ("", "", "0\n0;"),
            ("", "a", "1\n1:a1X0000;"),
            ("old", "abcd", "4\n4:abcd1XObD_;"),
            ("", "abcdefg", "7\n7:abcdefg36nCe_;"),
            (twenty, &format!("{twenty}X"), "L\nK@0,1:X2~R9YS;"),
            (&format!("X{twenty}"), &format!("{twenty}X"), "L\nK@1,1:X2~R9YS;"),
            (twenty, twenty, "K\nK@0,1cR9YS;"),
            (twenty, "", "0\n0;"),
        ] {
            let delta = proven(old.as_bytes(), new.as_bytes());
            assert_eq!(String::from_utf8_lossy(&delta), expected, "{old:?} to {new:?}");
        }
        assert_eq!(checksum(&[0xff; 1000]), 0xffff_ff06, "beyond 32 bits");
        assert_eq!((digits(0), digits(63), digits(64), digits(4095), digits(4096)), (1, 1, 2, 2, 3));
    }

    /// Payloads of few letters have thousands of places in common, none of which is worth much.
    #[test]
    fn what_a_search_compares_has_a_bound() {
        let letters =
            |from: usize| noise(from + 20_000)[from..].iter().map(|byte| b'a' + byte % 2).collect::<Vec<u8>>();
        let period = |len: usize| [vec![b'a'; len], vec![b'b']].concat().repeat(1200);
        let steps = |len: usize| (0..20_000).map(|at| if at % len == 0 { b'c' } else { b'a' }).collect::<Vec<u8>>();
        for (old, new) in [(letters(0), letters(7)), (period(16), period(15)), (steps(50), steps(53))] {
            let mut out = Writer { new: &new, is_text: true, done: 0, bytes: Vec::new() };
            let compared = search(&old, new.len(), 0, &mut out);
            let most = SLOW + new.len() / BYTES_COMPARED + 2 * TRIED_MAX * (1 + new.len() / LONG);
            assert!(compared <= most, "{compared} comparisons for {} bytes", new.len());
            proven(&old, &new);
        }
        // What changes as payloads do is found all the same.
        let (old, new) = (book("1", 7).into_bytes(), book("22", 1234).into_bytes());
        let mut out = Writer { new: &new, is_text: true, done: 0, bytes: Vec::new() };
        assert!(search(&old, new.len(), 0, &mut out) < new.len() / 20);
        assert!(proven(&old, &new).len() < 60);
    }

    #[test]
    fn refuses_what_is_no_delta_of_it() {
        let old = b"0123456789abcdefghij";
        assert!(apply(old, b"L\nK@0,1:X2~R9YS;", 21).is_some());
        for bad in [
            &b""[..],
            b"L",
            b"L\n",
            b"L\nK@0,1:X2~R9YS",
            b"\nK@0,1:X2~R9YS;",
            b"L\nK@0,1:X2~R9YT;",
            b"L\nK@0,1:Y2~R9YS;",
            b"L\nK@0,1:X2~R9YS;;",
            b"L\nK@0;1:X2~R9YS;",
            b"L\nK@1,1:X2~R9YS;",
            b"L\nK@~~~~~,1:X2~R9YS;",
            b"L\n~~~~~~@0,1:X2~R9YS;",
            b"L\nK@0,K:X2~R9YS;",
            b"L\nK@0,2~R9YS;",
            b"M\nK@0,1:X2~R9YS;",
            b"K\nK@0,1:X2~R9YS;",
            b"L\nK?0,1:X2~R9YS;",
            b"L,K@0,1:X2~R9YS;",
            b"-L\nK@0,1:X2~R9YS;",
        ] {
            assert_eq!(apply(old, bad, 21), None, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(apply(old, b"L\nK@0,1:X2~R9YS;", 20), None, "more than may be");
        assert_eq!(apply(b"0123456789abcdefghiJ", b"L\nK@0,1:X2~R9YS;", 21), None, "of another payload");
    }

    #[test]
    fn a_little_change_is_a_little_delta() {
        let old = book("59999.5", 100);
        assert!(old.len() > 4000, "{}", old.len());
        let delta = |new: &str| proven(old.as_bytes(), new.as_bytes()).len();
        assert!(delta(&book("60000.25", 100)) <= 32, "one number");
        assert!(delta(&book("60000.25", 99)) <= 40, "one at either end");
        let places = old.replace("\"60033\"", "\"1\"").replace(":1600}", ":16000}").replace("60071", "60071.5");
        assert!(delta(&places) <= 64, "three in between: {}", delta(&places));
        let (front, rear) = old.split_at(2000);
        assert!(delta(&[rear, front].concat()) <= 48, "halves in other places");
        assert!(delta(&old.repeat(3)) <= 48, "thrice the same");
        let strange = proven(&noise(4096), old.as_bytes()).len();
        assert!(strange <= old.len() + 16, "nothing in common: {strange}");
    }

    #[test]
    fn a_delta_of_text_is_text() {
        // These share their first byte, or their last.
        for (old, new) in [("é", "è"), ("€", "₭"), ("Ω", "ࠩ"), ("🐦", "🐧"), ("é", "")] {
            let filled = |c: &str| ["0123456789abcdef", "ghijklmnopqrstuv", "wxyzäöü日本", "-"].join(c);
            for (old, new) in [(filled(old), filled(new)), (filled(new).repeat(3), format!("{0}{0}", filled(old)))] {
                let delta = proven(old.as_bytes(), new.as_bytes());
                assert!(std::str::from_utf8(&delta).is_ok(), "{}", String::from_utf8_lossy(&delta));
                assert!(delta.len() < new.len(), "{}", String::from_utf8_lossy(&delta));
            }
        }
        let mut binary = vec![0x80; 1000];
        assert!(proven(&binary.clone(), &binary).len() < 20, "no text, and copied for all that");
        binary[500] = 0x81;
        assert!(proven(&[0x80; 1000], &binary).len() < 30);
    }

    #[test]
    fn repetitive_payloads_are_searched_in_bounds() {
        let (zeros, period) = (vec![0; 1 << 18], b"0123456789ABCDEF012".repeat(10_000));
        assert_eq!(Index::new(&zeros).candidates(0, 1 << 17).count(), TRIED_MAX);
        assert_eq!(Index::new(&zeros).candidates(1, 1 << 17).count(), 0);
        for old in [&zeros, &period, &noise(1 << 17)] {
            // Both ends differ, so that the search has all of it.
            let marked = [&b"<<<<<<<<"[..], old, b">>>>>>>>"].concat();
            let marked = proven(old, &marked);
            assert!(marked.len() < 64, "{}", marked.len());
            proven(&[b"(", &old[..old.len() / 2], b")"].concat(), &[b"<", &old[..], b">"].concat());
            proven(&zeros, old);
            proven(&period, old);
        }
        // Matches too short to be worth a copy, again and again; and worth it, but short.
        let each = |step: usize| (0..1 << 16).map(|at| u8::from(at % step == 0)).collect::<Vec<u8>>();
        proven(&each(9), &zeros);
        proven(&each(9), &each(13));
        let near: Vec<u8> = (0..8192_u32).flat_map(|n| [b"12345678", &n.to_be_bytes()[..]].concat()).collect();
        let far: Vec<u8> = (0..8192_u32).flat_map(|n| [b"12345678", &(n << 16).to_be_bytes()[..]].concat()).collect();
        proven(&near, &far);
    }

    #[test]
    fn a_payload_becomes_a_json_string() {
        for text in ["", "{\"n\":5}", "a\n\t\\\0\u{1f}é\u{2028}🐦</script>", "L\nK@0,1:X2~R9YS;"] {
            let json = json_string(text.as_bytes()).expect("text");
            assert!(!json.contains(&b'\n'));
            assert_eq!(serde_json::from_slice::<String>(&json).expect("a JSON string"), text);
        }
        assert_eq!(json_string(b"{\"n\":5}").as_deref(), Some(&b"\"{\\\"n\\\":5}\""[..]));
        assert_eq!(json_string(b"caf\xe9"), None);
    }

    /// A payload and the next, with pieces of the first in any order and something new between them.
    fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let letters =
            prop_oneof![any::<u8>().boxed(), (b'a'..b'd').boxed(), prop::sample::select(&b"\"0:,"[..]).boxed()];
        let piece = (any::<prop::sample::Index>(), 0..200_usize, prop::collection::vec(any::<u8>(), 0..6));
        (prop::collection::vec(letters, 0..600), prop::collection::vec(piece, 0..8)).prop_map(|(old, pieces)| {
            let mut new = Vec::new();
            for (start, len, fresh) in pieces {
                let start = start.index(old.len() + 1);
                new.extend_from_slice(&old[start..old.len().min(start + len)]);
                new.extend(fresh);
            }
            (old, new)
        })
    }

    proptest! {
        #[test]
        fn any_delta_makes_the_new_of_the_old((old, new) in pair()) {
            let delta = delta(&old, &new);
            prop_assert_eq!(apply(&old, &delta, new.len()), Some(new.clone()));
            prop_assert!(delta.len() <= new.len() + 16, "{} for {}", delta.len(), new.len());
        }

        #[test]
        fn any_delta_of_text_is_text(old in "[aéè€₭🐦🐧]{0,60}", new in "[aéè€₭🐦🐧]{0,60}", end in "[0-9é]{0,30}") {
            let (old, new) = (format!("{old}{end}{old}"), format!("{new}{end}{old}{new}"));
            let delta = delta(old.as_bytes(), new.as_bytes());
            prop_assert_eq!(apply(old.as_bytes(), &delta, SIZE_MAX), Some(new.into_bytes()));
            prop_assert!(String::from_utf8(delta).is_ok());
        }

        #[test]
        fn any_bytes_apply_or_are_refused(
            old in prop::collection::vec(any::<u8>(), 0..40),
            delta in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[0-3]\n([0-9]{1,2}[@:,;][0-3]?,?){0,5}".prop_map(String::into_bytes)],
        ) {
            if let Some(new) = apply(&old, &delta, 1000) {
                prop_assert!(new.len() <= 1000);
            }
        }
    }
}
