//! Style as a test: the floor rules of docs/architecture.md, names, sizes and what may not be in the source.
//!
//! Reads the source as text with a small lexer. Every violation is listed with its file and line; a rule that is in the
//! way is changed here, in the open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 900;
const COLUMNS_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;

/// Each module's floor: it may use its own and those below.
const FLOORS: [(&str, u8); 31] = [
    ("config", 0),
    ("base", 0),
    ("http", 1),
    ("ws", 1),
    ("tls", 1),
    ("protocol", 2),
    ("auth", 2),
    ("broker", 3),
    ("wire", 4),
    ("hub", 5),
    ("session", 6),
    ("shard", 7),
    ("turn", 8),
    ("admission", 9),
    ("origin", 9),
    ("wall_clock", 9),
    ("heap", 9),
    ("certificates", 9),
    ("consumers", 10),
    ("archive", 10),
    ("engine", 10),
    ("kafka", 10),
    ("spans", 10),
    ("reactor", 10),
    ("workers", 10),
    ("service", 10),
    ("host", 11),
    ("server", 11),
    ("cli", 11),
    ("main", 11),
    ("lib", 11),
];
/// The highest floor without I/O.
const PURE_MAX: u8 = 8;
const IMPURE: [&str; 7] = ["mio", "tokio", "std::net", "std::thread", "Instant::now", "SystemTime::now", "getrandom"];
/// Modules below the I/O floor that threads share: the one lock is in `mailbox`, and `meter` has a table of atomics,
/// because a user's clients are on all reactors and a limit on what they do together cannot wait for mail.
const SHARED: [&str; 2] = ["src/base/mailbox.rs", "src/base/meter.rs"];
/// What a module never says.
const UNSAID: [(&str, &str); 4] =
    [("ws", "channel"), ("protocol", "frame"), ("broker", "session"), ("session", "socket")];
const BANNED: [&str; 6] = ["manager", "handler", "helper", "util", "utils", "misc"];
/// Names that others chose: options of Centrifugo's configuration, and crates.
const ALLOWED: [&str; 6] = [
    "deadpool_postgres::Manager",
    "handler_prefix",
    "presence_manager",
    "hyper_util",
    "futures_util",
    "http_body_util",
];
const UNFINISHED: [&str; 4] = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
/// What is defined once by name, if it is public: nobody should ask which of two is meant.
const TYPES: [&str; 5] = ["struct", "enum", "trait", "type", "union"];
/// Modules that read a peer's bytes: they may not panic.
const PANIC_FREE: [&str; 5] = ["ws", "http", "tls", "protocol", "auth"];

/// A source file in several views of the same shape: what is not of a view is blank there.
struct Source {
    path: String,
    text: String,
    /// Without comments.
    code: String,
    /// Without comments and the content of literals.
    bare: String,
    /// As `code` and `bare`, without test code.
    live_code: String,
    live_bare: String,
}

struct Violation {
    path: String,
    line: usize,
    what: String,
}

type Found = Vec<Violation>;

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let (code, bare) = views(text);
        let tests = test_ranges(path, &bare);
        let live = |view: &str| {
            let mut view = view.as_bytes().to_vec();
            for range in &tests {
                view[range.clone()].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            }
            String::from_utf8(view).expect("blanks are UTF-8")
        };
        let (live_code, live_bare) = (live(&code), live(&bare));
        Source { path: path.into(), text: text.into(), code, bare, live_code, live_bare }
    }

    /// The module of the crate that the file belongs to.
    fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = inner.split('/').next().unwrap_or(inner);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn floor(&self) -> Option<u8> {
        floor(self.module())
    }

    fn violation(&self, at: usize, what: impl Into<String>) -> Violation {
        let line = 1 + self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        Violation { path: self.path.clone(), line, what: what.into() }
    }
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

// --- the lexer ---

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    /// The content of a string or character.
    Literal,
}

/// The text without comments, and without comments and literals; blanks keep every byte in its place.
fn views(text: &str) -> (String, String) {
    let kinds = kinds(text.as_bytes());
    let blank = |keep: &dyn Fn(Kind) -> bool| {
        let bytes = text.bytes().zip(&kinds).map(|(b, kind)| if keep(*kind) || b == b'\n' { b } else { b' ' });
        String::from_utf8(bytes.collect()).expect("whole characters are kept or blanked")
    };
    (blank(&|kind| kind != Kind::Comment), blank(&|kind| kind == Kind::Code))
}

fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; text.len()];
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (kind, len) = match rest {
            [b'/', b'/', ..] => (Kind::Comment, find(rest, b"\n").unwrap_or(rest.len())),
            [b'/', b'*', ..] => (Kind::Comment, find(rest, b"*/").map_or(rest.len(), |end| end + 2)),
            [b'r', b'"' | b'#', ..] if !after_word(text, at) || text[at - 1] == b'b' => match raw_string(rest) {
                Some(len) => (Kind::Literal, len),
                None => (Kind::Code, 1),
            },
            [b'"', ..] => (Kind::Literal, quoted(rest, b'"')),
            [b'\'', b'\\', ..] => (Kind::Literal, quoted(rest, b'\'')),
            // A character, and not a lifetime: it is closed after one.
            [b'\'', ..] => match std::str::from_utf8(&rest[1..]).ok().and_then(|s| s.chars().next()) {
                Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => (Kind::Literal, 2 + c.len_utf8()),
                _ => (Kind::Code, 1),
            },
            _ => (Kind::Code, 1),
        };
        kinds[at..at + len].fill(kind);
        at += len;
    }
    kinds
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn after_word(text: &[u8], at: usize) -> bool {
    at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_')
}

/// Bytes of `r"..."` or `r#"..."#` at the front.
fn raw_string(text: &[u8]) -> Option<usize> {
    let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    find(&text[2 + hashes..], &end).map(|at| 2 + hashes + at + end.len())
}

/// Bytes up to the closing quote, with it.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Where the block that opens at or after `from` ends; a `;` before it ends the item.
fn item_end(bare: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in bare.bytes().enumerate().skip(from) {
        match byte {
            b';' if depth == 0 => return at + 1,
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bare.len()
}

/// Items under `#[cfg(test)]`; all of a file that holds tests alone.
fn test_ranges(path: &str, bare: &str) -> Vec<std::ops::Range<usize>> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    if path.ends_with("/tests.rs") {
        return Vec::from_iter(Some(0..bare.len()));
    }
    let starts = bare.match_indices(ATTRIBUTE).map(|(at, _)| at);
    starts.map(|at| at..item_end(bare, at + ATTRIBUTE.len())).collect()
}

/// Words of identifiers, with their places: split where one ends, at `_` and at capitals.
fn words(view: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    let mut before = ' ';
    for (at, c) in view.char_indices() {
        let in_word = c.is_ascii_alphanumeric();
        let begins = in_word && (!open || c.is_ascii_uppercase() && before.is_ascii_lowercase());
        if begins {
            out.push((at, String::new()));
        }
        if let (true, Some((_, word))) = (in_word, out.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
        (open, before) = (in_word, c);
    }
    out
}

/// Places of `what` as a whole: no letter before or after it.
fn whole<'a>(view: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = view.as_bytes();
    view.match_indices(what).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        !is_word(before) && !is_word(bytes.get(at + what.len()))
    })
}

// --- the rules ---

fn check(source: &Source) -> Found {
    let mut found = Found::new();
    sizes(source, &mut found);
    names(source, &mut found);
    unfinished(source, &mut found);
    if source.path.starts_with("src/") {
        floors(source, &mut found);
        purity(source, &mut found);
        unsaid(source, &mut found);
        panics(source, &mut found);
    }
    found
}

fn sizes(source: &Source, found: &mut Found) {
    if !source.text.starts_with("//!") {
        found.push(source.violation(0, "a file opens with //! lines"));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        found.push(source.violation(source.text.len(), format!("{lines} lines in a file, of {LINES_MAX}")));
    }
    let mut at = 0;
    for (line, code) in source.text.split_inclusive('\n').zip(source.code.split_inclusive('\n')) {
        let columns = line.trim_end().chars().count();
        // A literal cannot be wrapped.
        if columns > COLUMNS_MAX && !code.contains('"') {
            found.push(source.violation(at, format!("{columns} columns, of {COLUMNS_MAX}")));
        }
        at += line.len();
    }
    for at in whole(&source.bare, "fn") {
        let end = item_end(&source.bare, at);
        let lines = source.bare[at..end].lines().count();
        if lines > FUNCTION_LINES_MAX {
            found.push(source.violation(at, format!("{lines} lines in a function, of {FUNCTION_LINES_MAX}")));
        }
    }
}

fn names(source: &Source, found: &mut Found) {
    // Blanked, so that only other uses of their words are left.
    let blank = |bare: String, name: &&str| bare.replace(*name, &" ".repeat(name.len()));
    let bare = ALLOWED.iter().fold(source.bare.clone(), blank);
    let stem = Path::new(&source.path).with_extension("");
    let of_file = words(&stem.to_string_lossy()).into_iter().map(|(_, word)| (0, word));
    for (at, word) in words(&bare).into_iter().chain(of_file) {
        if BANNED.contains(&word.as_str()) {
            found.push(source.violation(at, format!("the word {word:?} names nothing")));
        }
    }
}

fn unfinished(source: &Source, found: &mut Found) {
    let is_test = !source.path.starts_with("src/");
    for what in UNFINISHED {
        for (at, _) in source.bare.match_indices(what) {
            found.push(source.violation(at, format!("{what} in the source")));
        }
    }
    for (at, what) in source.bare.match_indices("thread::sleep") {
        // In test code: what is not of the live view.
        if is_test || !source.live_bare[at..].starts_with(what) {
            found.push(source.violation(at, "a test that sleeps; wait for what it waits for, with a deadline"));
        }
    }
}

fn floors(source: &Source, found: &mut Found) {
    if source.module() == "lib" {
        return;
    }
    let Some(mine) = source.floor() else {
        return found.push(source.violation(0, format!("module {:?} has no floor", source.module())));
    };
    // Where a file opens with a floor, it is its own.
    let opening = source.text.strip_prefix("//! F").and_then(|rest| rest.split_once(" ·"));
    if let Some((said, _)) = opening
        && *said != mine.to_string()
    {
        found.push(source.violation(0, format!("says floor {said}, and is on floor {mine}")));
    }
    for crate_name in ["crate::", "gannet::"] {
        for at in whole(&source.bare, crate_name.trim_end_matches(':')) {
            let Some(rest) = source.bare[at..].strip_prefix(crate_name) else { continue };
            for used in used_modules(rest) {
                let problem = match floor(&used) {
                    None => Some(format!("uses {used:?}, which has no floor")),
                    Some(floor) if floor > mine => Some(format!("floor {mine} uses {used:?} of floor {floor}")),
                    Some(_) => None,
                };
                found.extend(problem.map(|what| source.violation(at, what)));
            }
        }
    }
}

/// The modules named behind `crate::`: one, or those of a list.
fn used_modules(rest: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                out.push(name(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    out.retain(|name| !name.is_empty());
    out
}

fn purity(source: &Source, found: &mut Found) {
    if source.floor().is_none_or(|floor| floor > PURE_MAX) {
        return;
    }
    for what in IMPURE {
        let places = whole(&source.live_bare, what);
        found.extend(places.map(|at| source.violation(at, format!("{what} below the I/O floor"))));
    }
    if SHARED.contains(&source.path.as_str()) {
        return;
    }
    for at in whole(&source.live_bare, "std::sync") {
        let rest = &source.live_bare[at + "std::sync::".len()..];
        if used_modules(rest) != ["Arc"] {
            found.push(source.violation(at, "only Arc of std::sync below the I/O floor"));
        }
    }
}

fn unsaid(source: &Source, found: &mut Found) {
    for (_, unsaid) in UNSAID.iter().filter(|(module, _)| *module == source.module()) {
        // The protocol's own name is one word.
        let view = source.live_code.replace("WebSocket", "websocket");
        let plural = format!("{unsaid}s");
        let said = words(&view).into_iter().filter(|(_, word)| word == unsaid || *word == plural);
        found.extend(said.map(|(at, word)| source.violation(at, format!("{} says {word:?}", source.module()))));
    }
}

fn panics(source: &Source, found: &mut Found) {
    if !PANIC_FREE.contains(&source.module()) {
        return;
    }
    for what in ["unwrap(", "expect(", "unwrap_err(", "panic!", "unreachable!"] {
        // `#[expect(...)]` is an attribute.
        let calls = source.live_bare.match_indices(what).filter(|(at, _)| !source.live_bare[..*at].ends_with("#["));
        found.extend(calls.map(|(at, _)| source.violation(at, format!("{what} where a peer's bytes are read"))));
    }
}

/// Files that no `mod` leads to.
fn unreachable(sources: &[Source]) -> Found {
    let mut found = Found::new();
    for source in sources.iter().filter(|source| !["src/lib.rs", "src/main.rs"].contains(&source.path.as_str())) {
        let path = Path::new(&source.path).with_extension("");
        let module = if path.ends_with("mod") { path.parent().unwrap_or(&path) } else { &path };
        let parent = module.parent().unwrap_or(module);
        let declares = format!("mod {};", module.file_name().unwrap_or_default().to_string_lossy());
        let parents = match parent.to_str() {
            Some("src") => vec!["src/lib.rs".to_owned()],
            _ => vec![format!("{}/mod.rs", parent.display()), format!("{}.rs", parent.display())],
        };
        let of_parent = |candidate: &&Source| parents.contains(&candidate.path);
        if !sources
            .iter()
            .filter(of_parent)
            .any(|parent| whole(&parent.bare, &declares[..declares.len() - 1]).count() > 0)
        {
            found.push(source.violation(0, format!("no {declares:?} leads to this file")));
        }
    }
    found
}

/// The names of public types that a file defines, with their places. Those that a macro makes are not seen.
fn public_types(source: &Source) -> Vec<(usize, &str)> {
    let name_of = |at: usize| {
        let mut rest = source.live_bare[at + "pub".len()..].trim_start();
        if let Some(restricted) = rest.strip_prefix('(') {
            rest = restricted.split_once(')')?.1.trim_start();
        }
        let (kind, rest) = rest.split_once(char::is_whitespace)?;
        let name = rest.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
        (TYPES.contains(&kind) && !name.is_empty()).then_some((at, name))
    };
    whole(&source.live_bare, "pub").filter_map(name_of).collect()
}

/// Public types whose name another one has: a reader could not tell which is meant.
fn namesakes(sources: &[Source]) -> Found {
    let mut first: HashMap<&str, &str> = HashMap::new();
    let mut found = Found::new();
    for source in sources {
        for (at, name) in public_types(source) {
            match first.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(&source.path)),
                Entry::Occupied(entry) => {
                    let what = format!("{name} is the name of a public type in {} already", entry.get());
                    found.push(source.violation(at, what));
                }
            }
        }
    }
    found
}

// --- the tests ---

fn read(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            match path.is_dir() {
                true if !hidden && !path.is_symlink() => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    files.iter().map(|path| Source::new(&relative(path), &std::fs::read_to_string(path).expect("UTF-8"))).collect()
}

fn report(found: &Found) -> String {
    found.iter().fold(String::new(), |mut out, Violation { path, line, what }| {
        let _ = writeln!(out, "{path}:{line}: {what}");
        out
    })
}

#[test]
fn the_source_is_tidy() {
    let sources = read("src");
    assert!(sources.len() > 20, "the source was not found");
    let mut found: Found = sources.iter().flat_map(check).collect();
    found.extend(unreachable(&sources));
    found.extend(namesakes(&sources));
    found.extend(read("tests").iter().flat_map(check));
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), report(&found));
}

/// What is found in one file, as text.
fn found_in(path: &str, text: &str) -> String {
    report(&check(&Source::new(path, &format!("//! F\n{text}"))))
}

#[test]
fn finds_every_kind_of_violation() {
    let long = "a".repeat(COLUMNS_MAX + 1);
    let body = "    call();\n".repeat(FUNCTION_LINES_MAX);
    for (path, text, expected) in [
        ("src/base/wheel.rs", "use crate::ws::Kind;\n", "src/base/wheel.rs:2: floor 0 uses \"ws\" of floor 1"),
        ("src/hub.rs", "use crate::{ws, reactor::{a, b}};", "floor 5 uses \"reactor\" of floor 10"),
        ("src/hub.rs", "fn f() { crate::service::x() }", "floor 5 uses \"service\""),
        ("src/new.rs", "", "module \"new\" has no floor"),
        ("src/hub.rs", "use std::net::TcpStream;", "std::net below"),
        ("src/hub.rs", "fn f() { Instant::now(); }", "Instant::now below"),
        ("src/hub.rs", "use std::sync::{Arc, Mutex};", "only Arc"),
        ("src/ws/mod.rs", "const CHANNELS_MAX: u8 = 1;", "ws says \"channels\""),
        ("src/protocol/mod.rs", "struct FrameSize;", "protocol says \"frame\""),
        ("src/broker/mod.rs", "fn f() { g(\"a session\") }", "broker says \"session\""),
        ("src/session/mod.rs", "struct S { socket: u8 }", "session says \"socket\""),
        ("src/hub.rs", &long, "121 columns"),
        ("src/hub.rs", &format!("fn f() {{\n{body}}}\n"), "72 lines in a function"),
        ("src/hub.rs", &"\n".repeat(LINES_MAX), "901 lines in a file"),
        ("src/hub.rs", "struct ConnManager;", "the word \"manager\""),
        ("src/hub.rs", "fn message_handler() {}", "the word \"handler\""),
        ("src/ws/util.rs", "", "the word \"util\""),
        ("src/hub.rs", "fn f() { todo!() }", "todo! in the source"),
        ("src/hub.rs", "#[cfg(test)]\nmod t { fn f() { std::thread::sleep(d); } }", "a test that sleeps"),
        ("tests/x.rs", "fn f() { std::thread::sleep(d); }", "a test that sleeps"),
        ("src/http.rs", "fn f() { a.unwrap(); }", "unwrap( where"),
        ("src/auth.rs", "fn f() { a.expect(\"x\"); }", "expect( where"),
    ] {
        let found = found_in(path, text);
        assert!(found.contains(expected), "{path} {text:.60}: {found:?} lacks {expected:?}");
    }
    assert!(report(&check(&Source::new("src/hub.rs", "fn f() {}"))).contains("opens with //!"));
    let elsewhere = report(&check(&Source::new("src/hub.rs", "//! F4 · Channels.\n")));
    assert!(elsewhere.contains("says floor 4, and is on floor 5"), "{elsewhere}");
    let lost =
        [Source::new("src/lib.rs", "pub mod ws;"), Source::new("src/ws/mod.rs", ""), Source::new("src/ws/a.rs", "")];
    assert_eq!(report(&unreachable(&lost)), "src/ws/a.rs:1: no \"mod a;\" leads to this file\n");
    let twice = [
        Source::new("src/hub.rs", "pub struct Line;\nstruct Own;\n"),
        Source::new(
            "src/wire.rs",
            "pub(super) enum Line<'a> {}\nstruct Own;\n#[cfg(test)]\nmod t { pub struct Line; }\n",
        ),
        Source::new("src/ws.rs", "// pub type Line = u8;\npub fn line() {}\npub trait Lines {}\n"),
    ];
    let expected = "src/wire.rs:1: Line is the name of a public type in src/hub.rs already\n";
    assert_eq!(report(&namesakes(&twice)), expected);
}

#[test]
fn lets_pass_what_is_fine() {
    for (path, text) in [
        ("src/hub.rs", "use crate::{protocol::Encoding, ws};\nuse crate::broker::Event;"),
        ("src/hub.rs", "use std::sync::Arc;\n// Instant::now is the reactor's.\nconst A: &str = \"tokio\";"),
        ("src/hub.rs", "#[cfg(test)]\nmod tests { fn f() { std::thread::spawn(g); } }"),
        ("src/base/mailbox.rs", "use std::sync::Mutex;"),
        ("src/base/meter.rs", "use std::sync::atomic::AtomicU64;"),
        ("src/reactor/mod.rs", "use std::time::Instant; fn f() { Instant::now(); std::thread::sleep(d); }"),
        ("src/ws/mod.rs", "// Knows no channel.\n#[expect(dead_code)]\nstruct A;"),
        ("src/session/mod.rs", "/// A WebSocket ping frame.\nstruct WebSocketPing;"),
        ("src/config/mod.rs", "struct A { handler_prefix: String }"),
        (
            "src/http.rs",
            "fn f<'a>(a: &'a str) -> char { '\"' } // a.unwrap() \"\n#[cfg(test)]\nmod t { fn f() { a.unwrap(); } }",
        ),
        ("src/http.rs", "const A: &str = r#\"todo! \" unwrap() \"#; const B: u8 = b'\\''; fn f() { a.unwrap_or(1); }"),
    ] {
        assert_eq!(found_in(path, text), "", "{path}: {text}");
    }
}

/// What docs/security.md calls a test is one.
#[test]
fn the_tests_that_security_is_shown_by_are_there() {
    let page = fs::read_to_string("docs/security.md").expect("the page");
    let mut sources = String::new();
    for folder in ["src", "tests/blackbox"] {
        let mut folders = vec![PathBuf::from(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => sources += &fs::read_to_string(&path).expect("a source"),
                }
            }
        }
    }
    let rows = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next());
    let is_name = |word: &&str| {
        word.contains("::") && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    let named: Vec<&str> = rows.flat_map(|cell| cell.split([' ', ','])).filter(is_name).collect();
    assert!(named.len() > 100, "{} are named", named.len());
    for name in named {
        let function = name.rsplit("::").next().unwrap_or(name);
        // The last part is a test, or a module of tests.
        let is_there = sources.contains(&format!("fn {function}(")) || sources.contains(&format!("mod {function}"));
        assert!(is_there, "{name} is not there");
    }
}
