//! F2 · Tags filters: which publications of a channel a subscription wants, by their tags.
//!
//! Owns the filter as it is on the wire, its check, and the checked form that is kept and asked. Knows nothing of
//! channels, nor of who may filter. What matches is what Centrifugo's own filters let through.

use prost::Message;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Nodes above a leaf, with it. What people write has three or four; this is what a check may use of the stack.
pub const DEPTH_MAX: usize = 16;
/// Nodes, for the time of a match: each may look up a tag, and every publication asks every subscriber's filter.
pub const NODES_MAX: usize = 64;
/// Values of all lists, for the memory: each has an allocation of its own.
pub const VALUES_MAX: usize = 512;
/// Bytes of all keys and values, for the memory and the time of comparing.
pub const BYTES_MAX: usize = 8192;
/// Longer numbers are none, as in Centrifugo, with their sign and point.
const NUMBER_MAX: usize = 200;
/// Digits behind the point; numbers with more are none, as in Centrifugo.
const FRACTION_MAX: usize = 19;

/// A filter, or a part of one, as a client sends it. `op` "" is a leaf: it compares a tag.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "super::zero")]
    pub op: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "super::zero")]
    pub key: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "super::zero")]
    pub cmp: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "super::zero")]
    pub val: String,
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "super::zero")]
    pub vals: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    #[serde(deserialize_with = "objects", skip_serializing_if = "super::zero")]
    pub nodes: Vec<FilterNode>,
}

/// A list of objects, of which none is a list itself.
fn objects<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<FilterNode>, D::Error> {
    #[derive(Deserialize)]
    struct Item(#[serde(deserialize_with = "super::object")] Option<FilterNode>);

    let items = Vec::<Item>::deserialize(from)?;
    let nodes: Option<Vec<FilterNode>> = items.into_iter().map(|Item(node)| node).collect();
    nodes.ok_or_else(|| serde::de::Error::custom("a node is null"))
}

impl FilterNode {
    /// The filter to keep; `None` if it is malformed or beyond the limits.
    pub fn check(&self) -> Option<Filter> {
        Room { nodes: NODES_MAX, values: VALUES_MAX, bytes: BYTES_MAX }.node(self, DEPTH_MAX).map(Filter)
    }
}

/// A checked filter. Equal ones let the same publications through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Compare {
        test: Test,
        key: Box<str>,
        value: Box<str>,
    },
    /// The values are sorted.
    OneOf {
        key: Box<str>,
        values: Box<[Box<str>]>,
    },
}

/// How a tag is compared. The opposites of these are a `Not` around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Test {
    Exists,
    Equal,
    StartsWith,
    EndsWith,
    Contains,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a filter may still hold.
struct Room {
    nodes: usize,
    values: usize,
    bytes: usize,
}

impl Room {
    fn node(&mut self, node: &FilterNode, depth: usize) -> Option<Node> {
        let depth = depth.checked_sub(1)?;
        self.nodes = self.nodes.checked_sub(1)?;
        match node.op.as_str() {
            "" => self.leaf(node),
            "and" => Some(Node::All(self.nodes(node, depth)?)),
            "or" => Some(Node::Any(self.nodes(node, depth)?)),
            "not" => match node.nodes.as_slice() {
                [one] => Some(not(self.node(one, depth)?)),
                _ => None,
            },
            _ => None,
        }
    }

    fn nodes(&mut self, node: &FilterNode, depth: usize) -> Option<Box<[Node]>> {
        let nodes: Box<[Node]> = node.nodes.iter().map(|node| self.node(node, depth)).collect::<Option<_>>()?;
        (!nodes.is_empty()).then_some(nodes)
    }

    fn leaf(&mut self, node: &FilterNode) -> Option<Node> {
        let FilterNode { key, val, vals, .. } = node;
        let (has_value, has_list) = (!val.is_empty(), !vals.is_empty());
        let (test, is_opposite) = match node.cmp.as_str() {
            "ex" => (Test::Exists, false),
            "nex" => (Test::Exists, true),
            "eq" => (Test::Equal, false),
            "neq" => (Test::Equal, true),
            "sw" => (Test::StartsWith, false),
            "ew" => (Test::EndsWith, false),
            "ct" => (Test::Contains, false),
            "lt" => (Test::Less, false),
            "lte" => (Test::LessOrEqual, false),
            "gt" => (Test::Greater, false),
            "gte" => (Test::GreaterOrEqual, false),
            "in" | "nin" => {
                if key.is_empty() || has_value || !has_list {
                    return None;
                }
                let one_of = Node::OneOf { key: self.text(key)?, values: self.values(vals)? };
                return Some(if node.cmp == "nin" { not(one_of) } else { one_of });
            }
            _ => return None,
        };
        let is_complete = if test == Test::Exists { !has_value } else { has_value && !key.is_empty() };
        if !is_complete || has_list {
            return None;
        }
        let leaf = Node::Compare { test, key: self.text(key)?, value: self.text(val)? };
        Some(if is_opposite { not(leaf) } else { leaf })
    }

    fn values(&mut self, values: &[String]) -> Option<Box<[Box<str>]>> {
        self.values = self.values.checked_sub(values.len())?;
        let mut values: Vec<Box<str>> = values.iter().map(|value| self.text(value)).collect::<Option<_>>()?;
        values.sort_unstable();
        values.dedup();
        Some(values.into())
    }

    fn text(&mut self, text: &str) -> Option<Box<str>> {
        self.bytes = self.bytes.checked_sub(text.len())?;
        Some(text.into())
    }
}

fn not(node: Node) -> Node {
    Node::Not(Box::new(node))
}

impl Filter {
    /// Whether a publication with these tags is wanted.
    pub fn matches(&self, tags: &HashMap<String, String>) -> bool {
        self.0.matches(tags)
    }
}

impl Node {
    fn matches(&self, tags: &HashMap<String, String>) -> bool {
        match self {
            Node::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Node::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Node::Not(node) => !node.matches(tags),
            Node::Compare { test, key, value } => tags.get(&**key).is_some_and(|tag| test.holds(tag, value)),
            Node::OneOf { key, values } => {
                // A tag that is not there counts as empty, here alone.
                let tag = tags.get(&**key).map_or("", String::as_str);
                values.binary_search_by(|value| (**value).cmp(tag)).is_ok()
            }
        }
    }
}

impl Test {
    fn holds(self, tag: &str, value: &str) -> bool {
        match self {
            Test::Exists => true,
            Test::Equal => tag == value,
            Test::StartsWith => tag.starts_with(value),
            Test::EndsWith => tag.ends_with(value),
            Test::Contains => tag.contains(value),
            Test::Less => ordered(tag, value, Ordering::is_lt),
            Test::LessOrEqual => ordered(tag, value, Ordering::is_le),
            Test::Greater => ordered(tag, value, Ordering::is_gt),
            Test::GreaterOrEqual => ordered(tag, value, Ordering::is_ge),
        }
    }
}

/// Whether both are numbers, in an order that `is` wants.
fn ordered(tag: &str, value: &str, is: fn(Ordering) -> bool) -> bool {
    Number::parse(tag).zip(Number::parse(value)).is_some_and(|(tag, value)| is(tag.cmp(&value)))
}

/// A decimal number by its digits, which no conversion rounds. Zeros at both ends are cut off.
#[derive(Debug, PartialEq, Eq)]
struct Number<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Number<'a> {
    /// Digits, maybe with a sign before them, maybe with a point inside; no exponent.
    fn parse(text: &'a str) -> Option<Number<'a>> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if text.len() > NUMBER_MAX || fraction.len() > FRACTION_MAX || !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Number { is_negative: text.starts_with('-') && !is_zero, whole, fraction })
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = |number: &Self| (number.whole.len(), number.whole, number.fraction);
        match (self.is_negative, other.is_negative) {
            (false, false) => size(self).cmp(&size(other)),
            (true, true) => size(other).cmp(&size(self)),
            (self_is_negative, _) => {
                if self_is_negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoding, SubscribeRequest};
    use super::*;
    use proptest::prelude::*;

    fn tags(tags: &[(&str, &str)]) -> HashMap<String, String> {
        tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// From JSON, as a client sends it.
    fn node(json: &str) -> FilterNode {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    fn filter(json: &str) -> Filter {
        node(json).check().unwrap_or_else(|| panic!("{json} is refused"))
    }

    fn leaf(cmp: &str, value: &str) -> FilterNode {
        FilterNode { key: "k".into(), cmp: cmp.into(), val: value.into(), ..FilterNode::default() }
    }

    /// Whether a tag of that value passes; `None` is a publication without it.
    fn passes(cmp: &str, value: &str, tag: Option<&str>) -> bool {
        let tags = tag.map(|tag| ("k".to_owned(), tag.to_owned())).into_iter().collect();
        leaf(cmp, value).check().expect("a good leaf").matches(&tags)
    }

    #[test]
    fn leaves_compare_text() {
        for (cmp, value, passing, refused) in [
            ("eq", "ab", &[Some("ab")][..], &[Some("a"), Some("abc"), Some(""), None][..]),
            ("neq", "ab", &[Some("a"), Some(""), None], &[Some("ab")]),
            ("ex", "", &[Some("a"), Some("")], &[None]),
            ("nex", "", &[None], &[Some("a"), Some("")]),
            ("sw", "ab", &[Some("ab"), Some("abc")], &[Some("a"), Some("cab"), None]),
            ("ew", "ab", &[Some("ab"), Some("cab")], &[Some("b"), Some("abc"), None]),
            ("ct", "ab", &[Some("ab"), Some("cabc")], &[Some("ba"), Some(""), None]),
        ] {
            for tag in passing {
                assert!(passes(cmp, value, *tag), "{tag:?} is {cmp} {value:?}");
            }
            for tag in refused {
                assert!(!passes(cmp, value, *tag), "{tag:?} is not {cmp} {value:?}");
            }
        }
    }

    #[test]
    fn leaves_look_into_lists() {
        let (within, without) = (
            filter(r#"{"key":"k","cmp":"in","vals":["us","eu","us"]}"#),
            filter(r#"{"key":"k","cmp":"nin","vals":["us","eu","us"]}"#),
        );
        for (tag, expected) in [("us", true), ("eu", true), ("u", false), ("use", false), ("", false)] {
            assert_eq!(within.matches(&tags(&[("k", tag)])), expected, "{tag}");
            assert_eq!(without.matches(&tags(&[("k", tag)])), !expected, "{tag}");
        }
        assert!(!within.matches(&tags(&[("other", "us")])) && without.matches(&tags(&[("other", "us")])));
        let empty = filter(r#"{"key":"k","cmp":"in","vals":["","a"]}"#);
        assert!(empty.matches(&tags(&[])), "a tag that is not there is in a list with the empty value");
    }

    #[test]
    fn leaves_compare_numbers() {
        for (less, more) in [
            ("9", "10"),
            ("-10", "-9"),
            ("-1", "0"),
            ("0.1000000000000000000", "0.1000000000000000001"),
            ("41.99999999", "42"),
            ("9007199254740992", "9007199254740993"),
            ("-0.5", "-0.49"),
            ("1.05", "1.5"),
            ("+3", "0003.1"),
            ("99999999999999999999999999999999999999999", "100000000000000000000000000000000000000000"),
        ] {
            for (cmp, is_less) in [("lt", true), ("lte", true), ("gt", false), ("gte", false)] {
                assert_eq!(passes(cmp, more, Some(less)), is_less, "{less} {cmp} {more}");
                assert_eq!(passes(cmp, less, Some(more)), !is_less, "{more} {cmp} {less}");
            }
        }
        for (a, b) in [("1", "01.0"), ("0", "-0"), ("-0.0", "+00"), ("12.50", "12.5"), ("7", "+7")] {
            assert!(passes("lte", a, Some(b)) && passes("gte", a, Some(b)), "{a} is {b}");
            assert!(!passes("lt", a, Some(b)) && !passes("gt", a, Some(b)), "{a} is {b}");
        }
        let (long, longer) = ("1".repeat(NUMBER_MAX), "1".repeat(NUMBER_MAX + 1));
        assert!(passes("gt", "1", Some(&long)) && !passes("gt", "1", Some(&longer)));
        for none in ["", "-", "+", ".5", "5.", "1e3", "0x10", " 1", "1 ", "1.2.3", "--1", "½", "1,5", "NaN", "-.5"] {
            for cmp in ["lt", "lte", "gt", "gte"] {
                assert!(!passes(cmp, "1", Some(none)), "{none} is no number");
                assert!(none.is_empty() || !passes(cmp, none, Some("1")), "{none} is no number");
            }
        }
        assert!(passes("lt", "1", Some("0.1234567890123456789")) && !passes("lt", "1", Some("0.12345678901234567890")));
        assert!(!passes("lt", "1", None) && !passes("gte", "1", None));
    }

    #[test]
    fn nodes_combine() {
        let wanted = filter(
            r#"{"op":"or","nodes":[
                {"op":"and","nodes":[{"key":"env","cmp":"eq","val":"prod"},{"key":"n","cmp":"gte","val":"2"}]},
                {"op":"not","nodes":[{"key":"env","cmp":"ex"}]}]}"#,
        );
        for (given, expected) in [
            (&[("env", "prod"), ("n", "2")][..], true),
            (&[("env", "prod"), ("n", "1")], false),
            (&[("env", "prod")], false),
            (&[("env", "test"), ("n", "2")], false),
            (&[("n", "1")], true),
            (&[], true),
        ] {
            assert_eq!(wanted.matches(&tags(given)), expected, "{given:?}");
        }
        assert_eq!(size_of::<Node>(), 40, "bytes a node in memory");
    }

    #[test]
    fn refuses_what_is_malformed() {
        for bad in [
            r#"{}"#,
            r#"{"op":"xor","nodes":[{"key":"k","cmp":"ex"}]}"#,
            r#"{"op":"AND","nodes":[{"key":"k","cmp":"ex"}]}"#,
            r#"{"op":"and"}"#,
            r#"{"op":"or","nodes":[]}"#,
            r#"{"op":"not"}"#,
            r#"{"op":"not","nodes":[{"key":"k","cmp":"ex"},{"key":"k","cmp":"ex"}]}"#,
            r#"{"op":"and","nodes":[{"key":"k","cmp":"ex"},{}]}"#,
            r#"{"key":"k","val":"v"}"#,
            r#"{"key":"k","cmp":"like","val":"v"}"#,
            r#"{"key":"k","cmp":"eq"}"#,
            r#"{"cmp":"eq","val":"v"}"#,
            r#"{"key":"k","cmp":"eq","val":"v","vals":["v"]}"#,
            r#"{"key":"k","cmp":"in"}"#,
            r#"{"key":"k","cmp":"in","val":"v"}"#,
            r#"{"key":"k","cmp":"nin","val":"v","vals":["v"]}"#,
            r#"{"cmp":"in","vals":["v"]}"#,
            r#"{"key":"k","cmp":"ex","val":"v"}"#,
            r#"{"key":"k","cmp":"nex","vals":["v"]}"#,
        ] {
            assert_eq!(node(bad).check(), None, "{bad}");
        }
        assert!(node(r#"{"cmp":"nex"}"#).check().is_some(), "whether a tag exists may be asked of the empty key");
    }

    #[test]
    fn refuses_what_is_beyond_the_limits() {
        let nested = |depth: usize| {
            (1..depth).fold(leaf("ex", ""), |node, _| FilterNode {
                op: "not".into(),
                nodes: vec![node],
                ..FilterNode::default()
            })
        };
        let wide = |nodes: usize| FilterNode {
            op: "or".into(),
            nodes: vec![leaf("ex", ""); nodes - 1],
            ..FilterNode::default()
        };
        let long = |bytes: usize| leaf("eq", &"v".repeat(bytes - 1));
        let many = |values: usize| FilterNode { vals: vec![String::new(); values], ..leaf("in", "") };
        for (name, good, bad) in [
            ("depth", nested(DEPTH_MAX), nested(DEPTH_MAX + 1)),
            ("nodes", wide(NODES_MAX), wide(NODES_MAX + 1)),
            ("bytes", long(BYTES_MAX), long(BYTES_MAX + 1)),
            ("values", many(VALUES_MAX), many(VALUES_MAX + 1)),
        ] {
            assert!(good.check().is_some(), "{name}: as much as may be");
            assert_eq!(bad.check(), None, "{name}: one more");
        }
    }

    #[test]
    fn reads_and_writes_both_encodings() {
        let json = r#"{"op":"and","nodes":[{"key":"a","cmp":"in","vals":["x",""]},{"key":"b","cmp":"gt","val":"1"}]}"#;
        let filter = node(json);
        assert_eq!(serde_json::to_string(&filter).expect("JSON"), json);
        let protobuf = b"\x0a\x03and\x32\x0c\x12\x01a\x1a\x02in\x2a\x01x\x2a\x00\x32\x0a\x12\x01b\x1a\x02gt\x22\x011";
        assert_eq!(filter.encode_to_vec(), protobuf);
        assert_eq!(FilterNode::decode(&protobuf[..]), Ok(filter.clone()));
        let subscribe: SubscribeRequest = serde_json::from_str(&format!(r#"{{"tf":{json}}}"#)).expect("a filter");
        assert_eq!(subscribe.tf.as_deref(), Some(&filter));
        for bad in [
            r#"["and"]"#,
            r#"{"nodes":[["and"]]}"#,
            r#"{"nodes":[null]}"#,
            r#"{"nodes":{}}"#,
            r#"{"nodes":[{"nodes":[[]]}]}"#,
            r#"{"vals":"v"}"#,
            r#"{"val":1}"#,
        ] {
            assert!(serde_json::from_str::<SubscribeRequest>(&format!(r#"{{"tf":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_it_is_checked() {
        let json = |depth: usize| {
            let open = r#"{"op":"not","nodes":["#.repeat(depth);
            format!(r#"{{"id":1,"subscribe":{{"channel":"c","tf":{open}{{}}{}}}}}"#, "]}".repeat(depth))
        };
        let protobuf = |depth: usize| {
            let message = |number: u8, content: Vec<u8>| {
                let mut out = vec![number << 3 | 2];
                prost::encode_length_delimiter(content.len(), &mut out).expect("room");
                [out, content].concat()
            };
            let filter = (0..depth).fold(Vec::new(), |inner, _| message(6, inner));
            let command = message(5, message(13, filter));
            let mut out = Vec::new();
            prost::encode_length_delimiter(command.len(), &mut out).expect("room");
            [out, command].concat()
        };
        let decodes = |encoding: Encoding, message: &[u8]| encoding.decode(&mut &*message).expect("a command").is_ok();
        for (depth, expected) in [(DEPTH_MAX, true), (60, true), (100, false), (1000, false), (20_000, false)] {
            assert_eq!(decodes(Encoding::Json, json(depth).as_bytes()), expected, "{depth} in JSON");
            assert_eq!(decodes(Encoding::Protobuf, &protobuf(depth)), expected, "{depth} in Protobuf");
        }
    }

    #[test]
    fn a_match_allocates_nothing() {
        let filter = filter(
            r#"{"op":"and","nodes":[{"key":"a","cmp":"in","vals":["x","y"]},{"key":"b","cmp":"gt","val":"-1.50"},
                {"key":"c","cmp":"ct","val":"needle"},{"op":"not","nodes":[{"op":"or","nodes":[{"key":"d","cmp":"ex"},
                {"key":"a","cmp":"neq","val":"y"},{"key":"a","cmp":"sw","val":"z"}]}]}]}"#,
        );
        let tags = tags(&[("a", "y"), ("b", "20.000"), ("c", "hay, a needle, and more hay")]);
        let mut is_match = false;
        let allocated = allocation_counter::measure(|| is_match = filter.matches(&tags));
        assert!(is_match);
        assert_eq!(allocated.count_total, 0);
    }

    fn nodes() -> impl Strategy<Value = FilterNode> {
        let text = "[a-c]{0,2}|-?[0-9]{1,3}(\\.[0-9]{1,2})?";
        let cmp = prop::sample::select(vec![
            "eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte", "",
        ]);
        let leaf = ("[a-c]?", cmp, text, prop::collection::vec(text, 0..3)).prop_map(|(key, cmp, val, vals)| {
            // Mostly with what the comparison wants.
            let (val, vals) = match cmp {
                "in" | "nin" => (String::new(), vals),
                "ex" | "nex" => (String::new(), Vec::new()),
                _ => (val, Vec::new()),
            };
            FilterNode { key, cmp: cmp.into(), val, vals, ..FilterNode::default() }
        });
        leaf.prop_recursive(4, 24, 3, |inner| {
            let op = prop::sample::select(vec!["and", "or", "not", "and", "or", "nor"]);
            (op, prop::collection::vec(inner, 0..3)).prop_map(|(op, nodes)| FilterNode {
                op: op.into(),
                nodes,
                ..FilterNode::default()
            })
        })
    }

    fn some_tags() -> impl Strategy<Value = HashMap<String, String>> {
        prop::collection::hash_map("[a-c]", "[a-c]{0,2}|-?[0-9]{1,3}(\\.[0-9]{1,2})?", 0..4)
    }

    /// Centrifugo's rules once more, said in another way: numbers as integers of hundredths.
    fn expected(node: &FilterNode, tags: &HashMap<String, String>) -> bool {
        let number = |text: &str| {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, if text.is_empty() { "none" } else { "" }));
            format!("{whole}{fraction:0<2}").parse::<i64>().ok()
        };
        let tag = tags.get(&node.key);
        let numbers = tag.and_then(|tag| number(tag).zip(number(&node.val)));
        match (node.op.as_str(), node.cmp.as_str()) {
            ("and", _) => node.nodes.iter().all(|node| expected(node, tags)),
            ("or", _) => node.nodes.iter().any(|node| expected(node, tags)),
            ("not", _) => !expected(&node.nodes[0], tags),
            (_, "eq") => tag == Some(&node.val),
            (_, "neq") => tag != Some(&node.val),
            (_, "in") => node.vals.contains(tag.unwrap_or(&String::new())),
            (_, "nin") => !node.vals.contains(tag.unwrap_or(&String::new())),
            (_, "ex") => tag.is_some(),
            (_, "nex") => tag.is_none(),
            (_, "sw") => tag.is_some_and(|tag| tag.starts_with(&node.val)),
            (_, "ew") => tag.is_some_and(|tag| tag.ends_with(&node.val)),
            (_, "ct") => tag.is_some_and(|tag| tag.contains(&node.val)),
            (_, "lt") => numbers.is_some_and(|(tag, value)| tag < value),
            (_, "lte") => numbers.is_some_and(|(tag, value)| tag <= value),
            (_, "gt") => numbers.is_some_and(|(tag, value)| tag > value),
            (_, "gte") => numbers.is_some_and(|(tag, value)| tag >= value),
            (op, cmp) => panic!("{op:?} {cmp:?} passed the check"),
        }
    }

    proptest! {
        #[test]
        fn a_checked_filter_lets_through_what_it_says(node in nodes(), tags in some_tags()) {
            if let Some(filter) = node.check() {
                prop_assert_eq!(filter.matches(&tags), expected(&node, &tags));
            }
        }

        #[test]
        fn filters_survive_the_way(node in nodes()) {
            let json = serde_json::to_vec(&node).expect("JSON");
            prop_assert_eq!(serde_json::from_slice::<FilterNode>(&json).expect("what was written"), node.clone());
            prop_assert_eq!(FilterNode::decode(&node.encode_to_vec()[..]), Ok(node));
        }

        #[test]
        fn numbers_are_in_the_order_of_their_values(
            a in -999_999_i64..1_000_000,
            b in -999_999_i64..1_000_000,
            zeros in 0_usize..4,
        ) {
            // Thousandths.
            let text = |n: i64| {
                let sign = if n < 0 { "-" } else { "" };
                format!("{sign}{}{}.{:03}{}", "0".repeat(zeros), n.abs() / 1000, n.abs() % 1000, "0".repeat(zeros))
            };
            let order = Number::parse(&text(a)).expect("a number").cmp(&Number::parse(&text(b)).expect("a number"));
            prop_assert_eq!(order, a.cmp(&b));
        }
    }
}
