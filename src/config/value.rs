//! F0 · What an option's value may look like: durations, sizes, URLs, lists of texts.
//!
//! Owns reading a value from a file's tree or from the text of a flag or variable, judging its range,
//! and showing it again. Each message says what was expected, in which unit, and what was found.
//! Never knows the name of an option or where its value came from.

use std::time::Duration;

use serde_json::Value as Json;

use super::registry::Visit;
use super::{go, url};

/// What an option demands beyond its type. Both bounds are included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    Any,
    Count(u64, u64),
    Bytes(u64, u64),
    Time(Duration, Duration),
    OneOf(&'static [&'static str]),
    /// Where an HTTP endpoint lives.
    Path,
    /// What is asked over HTTP. May be empty.
    Url,
    /// URLs that differ in what stands for `{{name}}`. Judged where the names are known.
    UrlTemplate,
    /// An http or https URL, or grpc and an authority.
    ProxyUrl,
    /// Servers, whose passwords are never printed.
    Addresses,
    /// Printed as [`HIDDEN`], never quoted in a message.
    Secret,
}

impl Rule {
    fn range(self) -> Option<String> {
        match self {
            Rule::Bytes(0, NO_MAX) | Rule::Count(0, NO_MAX) => None,
            Rule::Bytes(min, NO_MAX) | Rule::Count(min, NO_MAX) => Some(format!("{min} or more")),
            Rule::Bytes(min, max) => Some(format!("{} to {}", show_size(min), show_size(max))),
            Rule::Count(min, max) => Some(format!("{min} to {max}")),
            Rule::Time(min, max) => Some(format!("{} to {}", show_duration(min), show_duration(max))),
            _ => None,
        }
    }

    /// For help and comments: "bytes, 1 to 1GiB".
    pub fn brief(self) -> Option<String> {
        match self {
            Rule::Bytes(..) => Some(with_range("bytes", self)),
            Rule::Time(..) => Some(with_range("duration", self)),
            Rule::OneOf(words) => Some(one_of(words)),
            _ => self.range(),
        }
    }
}

fn with_range(what: &str, rule: Rule) -> String {
    rule.range().map_or(what.to_owned(), |range| format!("{what}, {range}"))
}

fn one_of(words: &[&str]) -> String {
    let (empty, named): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.is_empty());
    named.join(", ") + if empty.is_empty() { "" } else { ", or empty" }
}

/// An upper bound that is none.
pub const NO_MAX: u64 = u64::MAX;

/// Stands for a secret in what is printed. Refused as a value: a key everybody knows is no secret.
pub const HIDDEN: &str = "***";

/// A value as it was given.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// By a flag or the environment.
    Text(&'a str),
    /// In a file.
    Tree(&'a Json),
}

impl<'a> Given<'a> {
    pub fn text(self) -> Option<&'a str> {
        match self {
            Given::Text(text) => Some(text.trim()),
            Given::Tree(Json::String(text)) => Some(text.trim()),
            Given::Tree(_) => None,
        }
    }

    /// For "got ...": one line, not long. What is in a list or a section is not told, for it may be a secret.
    pub fn shown(self) -> String {
        let text = match self {
            Given::Text(text) => Json::from(text).to_string(),
            Given::Tree(Json::Array(_)) => "a list".to_owned(),
            Given::Tree(Json::Object(_)) => "a section".to_owned(),
            Given::Tree(tree) => tree.to_string(),
        };
        if text.chars().count() <= 60 {
            return text;
        }
        text.chars().take(57).chain("...".chars()).collect()
    }
}

/// A value as `gannet config` prints it: what may be a secret is left out.
pub fn show(value: &dyn Value, rule: Rule) -> Json {
    match (value.show(), rule) {
        (Json::String(text), Rule::Url | Rule::UrlTemplate | Rule::ProxyUrl) => Json::from(url::shown(&text)),
        (Json::Array(list), Rule::Addresses) => {
            Json::from_iter(list.into_iter().map(|one| Json::from(url::shown(one.as_str().unwrap_or_default()))))
        }
        // An option that holds one is masked by who prints it; in a list nobody else knows of it.
        (Json::String(text), Rule::Secret) if !text.is_empty() => Json::from(HIDDEN),
        (shown, _) => shown,
    }
}

/// What is wrong with a value. `at` says where within it (`[0].name`); mostly it is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueFault {
    pub at: String,
    pub message: String,
}

fn fault(message: String) -> Vec<ValueFault> {
    let at = String::new();
    vec![ValueFault { at, message }]
}

/// The type of an option.
pub trait Value {
    /// The placeholder of the help text.
    fn kind(&self, rule: Rule) -> &'static str;
    /// What may be given, with unit and range.
    fn accepts(&self, rule: Rule) -> String;
    /// Sets it; the type is judged, the range not.
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>>;
    /// Whether it keeps its rule.
    fn judge(&self, _rule: Rule) -> Option<String> {
        None
    }
    fn show(&self) -> Json;
    /// An object of the list that it is.
    fn entry(&self) -> Option<ListedEntry> {
        None
    }
}

/// What each object of a list has.
pub struct ListedEntry {
    pub what: &'static str,
    pub item: Box<dyn Visit>,
    pub needed: &'static [&'static str],
}

fn expected(what: &dyn Value, given: Given<'_>, rule: Rule) -> Vec<ValueFault> {
    fault(format!("expected {}; got {}", what.accepts(rule), given.shown()))
}

impl Value for bool {
    fn kind(&self, _: Rule) -> &'static str {
        "BOOL"
    }
    fn accepts(&self, _: Rule) -> String {
        "true or false".into()
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        *self = match (given, given.text()) {
            (Given::Tree(Json::Bool(b)), _) => *b,
            // Go's zero.
            (Given::Tree(_), Some("")) => false,
            (_, Some(text)) => go::boolean(text).ok_or_else(|| expected(self, given, rule))?,
            (Given::Tree(Json::Number(number)), _) if matches!(number.as_u64(), Some(0 | 1)) => {
                number.as_u64() == Some(1)
            }
            _ => return Err(expected(self, given, rule)),
        };
        Ok(())
    }
    fn show(&self) -> Json {
        Json::from(*self)
    }
}

/// The whole number given, if it is one.
fn read_integer(given: Given<'_>, rule: Rule) -> Option<u64> {
    match (given, given.text()) {
        (Given::Tree(Json::Number(number)), _) => number.as_u64(),
        // Go's zero: Centrifugo writes the port that is not set as an empty text.
        (Given::Tree(_), Some("")) => Some(0),
        (_, Some(text)) => match rule {
            Rule::Bytes(..) => parse_size(text),
            _ => parse_digits(text),
        },
        _ => None,
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    // `u64::from_str` would take a leading plus sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// "65536", "64KiB", "8 MB". A bare K or M could mean either thousand and is not read.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    parse_digits(digits)?.checked_mul(unit)
}

/// "64KiB" if it is a whole number of the largest such unit, else plain digits.
pub fn show_size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

fn integer_kind(rule: Rule) -> &'static str {
    match rule {
        Rule::Bytes(..) => "BYTES",
        _ => "NUMBER",
    }
}

fn integer_accepts(rule: Rule) -> String {
    let what = if matches!(rule, Rule::Bytes(..)) { "bytes (65536, 64KiB)" } else { "a whole number" };
    with_range(what, rule)
}

fn integer_judge(value: u64, rule: Rule) -> Option<String> {
    let (Rule::Bytes(min, max) | Rule::Count(min, max)) = rule else { return None };
    let within = (min..=max).contains(&value);
    (!within).then(|| format!("expected {}; got {value}", integer_accepts(rule)))
}

macro_rules! integer {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn kind(&self, rule: Rule) -> &'static str {
                integer_kind(rule)
            }
            fn accepts(&self, rule: Rule) -> String {
                integer_accepts(rule)
            }
            fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
                let number = read_integer(given, rule).and_then(|n| <$type>::try_from(n).ok());
                *self = number.ok_or_else(|| expected(self, given, rule))?;
                Ok(())
            }
            fn judge(&self, rule: Rule) -> Option<String> {
                integer_judge(*self as u64, rule)
            }
            fn show(&self) -> Json {
                Json::from(*self)
            }
        }
    )* };
}
integer!(u16, u32, u64, usize);

/// "25s", "1m 30s", "30days"; and Go's "720h0m0s" and "1.5h", which are read as there.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().or_else(|| go::duration(text))
}

/// As it can be read again: "25s", "1m30s".
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

impl Value for Duration {
    fn kind(&self, _: Rule) -> &'static str {
        "DURATION"
    }
    fn accepts(&self, rule: Rule) -> String {
        with_range("a duration with its unit (25s, 100ms, 1m30s)", rule)
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        // A number has no unit to say whether it counts seconds or milliseconds: only 0 is the same in all.
        let zero = matches!(given, Given::Tree(tree) if tree.as_u64() == Some(0));
        let read = match given.text() {
            Some(text) => parse_duration(text),
            None => zero.then_some(Duration::ZERO),
        };
        *self = read.ok_or_else(|| expected(self, given, rule))?;
        Ok(())
    }
    fn judge(&self, rule: Rule) -> Option<String> {
        let Rule::Time(min, max) = rule else { return None };
        let within = (min..=max).contains(self);
        (!within).then(|| format!("expected {}; got {}", self.accepts(rule), show_duration(*self)))
    }
    fn show(&self) -> Json {
        Json::from(show_duration(*self))
    }
}

impl Value for String {
    fn kind(&self, rule: Rule) -> &'static str {
        match rule {
            Rule::Path => "PATH",
            Rule::Url | Rule::UrlTemplate | Rule::ProxyUrl => "URL",
            Rule::Secret => "SECRET",
            _ => "TEXT",
        }
    }
    fn accepts(&self, rule: Rule) -> String {
        match rule {
            Rule::OneOf(words) => format!("one of {}", one_of(words)),
            Rule::Path => "a URL path that begins with '/'".into(),
            Rule::Url | Rule::UrlTemplate => "a URL that begins with http:// or https://".into(),
            Rule::ProxyUrl => "a URL that begins with http://, https:// or grpc://".into(),
            _ => "text".into(),
        }
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        let text = match given {
            Given::Text(text) => text,
            Given::Tree(Json::String(text)) => text,
            Given::Tree(_) if rule == Rule::Secret => return Err(fault("expected text, in quotes".into())),
            Given::Tree(_) => {
                let message = format!("expected {}, in quotes; got {}", self.accepts(rule), given.shown());
                return Err(fault(message));
            }
        };
        let plain;
        *self = match rule {
            Rule::Url | Rule::ProxyUrl => {
                plain = url::with_plain_scheme(text);
                &plain
            }
            // A slash at the end makes no difference to who asks.
            Rule::Path if text.len() > 1 => text.strip_suffix('/').unwrap_or(text),
            Rule::OneOf(words) => {
                words.iter().find(|word| word.eq_ignore_ascii_case(text.trim())).copied().unwrap_or(text)
            }
            _ => text,
        }
        .to_owned();
        Ok(())
    }
    fn judge(&self, rule: Rule) -> Option<String> {
        let good = match rule {
            Rule::OneOf(words) => words.contains(&self.as_str()),
            Rule::Path => {
                let plain = self.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
                plain && self.starts_with('/') && !self.ends_with('/') && !self.contains("//")
            }
            Rule::Url | Rule::UrlTemplate | Rule::ProxyUrl if self.contains(HIDDEN) => {
                return Some(format!("{HIDDEN} only stands for what is not printed; give the whole URL"));
            }
            Rule::Url | Rule::ProxyUrl if !self.is_empty() => match url::fault(self, rule == Rule::ProxyUrl) {
                Some(more) => {
                    return Some(format!("expected {}{more}; got {:?}", self.accepts(rule), url::shown(self)));
                }
                None => true,
            },
            Rule::Secret if self == HIDDEN => {
                return Some(format!("{HIDDEN} only stands for a secret in what is printed; give the secret"));
            }
            _ => true,
        };
        let more =
            if rule == Rule::Path { ", holds letters, digits and -_.~ only, and does not end with one" } else { "" };
        (!good).then(|| format!("expected {}{more}; got {self:?}", self.accepts(rule)))
    }
    fn show(&self) -> Json {
        Json::from(self.as_str())
    }
}

impl Value for Vec<String> {
    fn kind(&self, _: Rule) -> &'static str {
        "LIST"
    }
    fn accepts(&self, _: Rule) -> String {
        "a list of texts (a,b or [\"a\", \"b\"])".into()
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        let wrong = || expected(&Vec::<String>::new(), given, rule);
        *self = match given.text() {
            // A glob may begin with a bracket ("[ab].example.com"), but then it does not begin with `["`.
            Some(text) if is_json_list(text) => serde_json::from_str(text).map_err(|_| wrong())?,
            // Servers by commas may be those of one cluster.
            Some(text) if rule == Rule::Addresses => text.split_whitespace().map(str::to_owned).collect(),
            Some(text) => {
                let parts = text.split(|c: char| c == ',' || c.is_whitespace());
                parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
            }
            None => match given {
                Given::Tree(Json::Array(items)) => {
                    let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                    texts.collect::<Option<_>>().ok_or_else(wrong)?
                }
                _ => return Err(wrong()),
            },
        };
        Ok(())
    }
    fn show(&self) -> Json {
        Json::from(self.as_slice())
    }
}

fn is_json_list(text: &str) -> bool {
    let inside = text.strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|rest| rest.starts_with('"') || rest.starts_with(']'))
}
