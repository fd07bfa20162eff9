//! F0 · Options whose value is a list of objects, or a map of texts.
//!
//! Owns how the objects are read, judged and shown: each has options of its own, sections of them included, and is read
//! as strictly as the whole. Never knows what the objects are for.

use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

use super::foreign;
use super::go;
use super::registry::{self, Meta, Visit, Visitor, join};
use super::tree::{self, Format};
use super::value::{self, Given, HIDDEN, ListedEntry, Rule, Value, ValueFault};

/// An object in a list.
pub trait ListEntry: Visit + Default + Clone {
    /// "a namespace"
    const WHAT: &'static str;
    /// A list of one, as JSON.
    const EXAMPLE: &'static str;
    /// Options that an object is nothing without.
    const NEEDED: &'static [&'static str];
    /// A list may be given by names alone, with spaces between: their options are in variables of their own.
    const BY_NAMES: bool = false;
    /// What is wrong with a key that is no option; nothing if it is only to be told of, by `load`.
    fn foreign(key: &str, _value: &Json) -> Option<String> {
        Some(super::unknown::list_option(key, Self::WHAT, &names(&mut Self::default())))
    }
}

/// The options of an object, dotted.
pub fn names(item: &mut dyn Visit) -> Vec<String> {
    struct Names(Vec<String>);
    impl Visitor for Names {
        fn option(&mut self, meta: Meta<'_>, _: &mut dyn Value) {
            self.0.push(meta.name.to_owned());
        }
    }
    let mut names = Names(Vec::new());
    registry::walk(item, "", &mut names);
    names.0
}

impl<T: ListEntry + 'static> Value for Vec<T> {
    fn kind(&self, _: Rule) -> &'static str {
        "JSON"
    }
    fn accepts(&self, _: Rule) -> String {
        format!("a list of objects ({})", T::EXAMPLE)
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        let tree = match given {
            Given::Text(text) if T::BY_NAMES && is_names(text) => {
                text.split_whitespace().map(|name| Json::from_iter([("name", name)])).collect()
            }
            _ => tree_of(given, &self.accepts(rule))?,
        };
        let Json::Array(items) = &tree else {
            return Err(one(format!("expected {}; got {}", self.accepts(rule), given.shown())));
        };
        let mut faults = Vec::new();
        self.clear();
        for (index, item) in items.iter().enumerate() {
            match read_entry(item) {
                Ok(entry) => self.push(entry),
                Err(found) => {
                    faults.extend(found.into_iter().map(|f| ValueFault { at: format!("[{index}]{}", f.at), ..f }))
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
    fn show(&self) -> Json {
        self.iter().map(|entry| show_entry(&mut entry.clone())).collect()
    }
    fn entry(&self) -> Option<ListedEntry> {
        Some(ListedEntry { what: T::WHAT, item: Box::new(T::default()), needed: T::NEEDED })
    }
}

fn is_names(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b' ')
}

fn one(message: String) -> Vec<ValueFault> {
    vec![ValueFault { at: String::new(), message }]
}

/// A text is read as JSON.
fn tree_of(given: Given<'_>, accepts: &str) -> Result<Json, Vec<ValueFault>> {
    match (given.text(), given) {
        (Some(text), _) => {
            tree::parse(text, Format::Json).map_err(|error| one(format!("expected {accepts} as JSON; {error}")))
        }
        (None, Given::Tree(tree)) => Ok(tree.clone()),
        (None, Given::Text(_)) => Ok(Json::Null),
    }
}

fn read_entry<T: ListEntry>(item: &Json) -> Result<T, Vec<ValueFault>> {
    let Json::Object(fields) = item else {
        let with = T::NEEDED.first().map(|name| format!(" with a {name}")).unwrap_or_default();
        let got = if item.is_string() { "a text".to_owned() } else { Given::Tree(item).shown() };
        return Err(one(format!("expected an object{with}; got {got}")));
    };
    let mut entry = T::default();
    let mut faults = descend(&mut entry, "", fields);
    let is_given = |name: &str| fields.iter().any(|(key, value)| foreign::here(key) == name && !value.is_null());
    for needed in T::NEEDED.iter().filter(|needed| !is_given(needed)) {
        let article = if needed.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        faults.extend(one(format!("{} wants {article} {needed}", T::WHAT)));
    }
    if faults.is_empty() {
        faults = judge(&mut entry);
    }
    if faults.is_empty() { Ok(entry) } else { Err(faults) }
}

/// Sets what `fields`, the section at `path` of `entry`, has.
fn descend<T: ListEntry>(entry: &mut T, path: &str, fields: &Map<String, Json>) -> Vec<ValueFault> {
    let mut faults = Vec::new();
    for (key, value) in fields {
        let here = foreign::here(key);
        let name = join(path, here);
        let is_section = names(entry).iter().any(|n| n.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')));
        let found = match value {
            Json::Object(below) if is_section => {
                faults.extend(descend(entry, &name, below));
                continue;
            }
            _ if go::is_unset(&name, Given::Tree(value)) => continue,
            _ if here != key && fields.contains_key(here) => one("is given twice".into()),
            _ if is_section => one("expected a section with options".into()),
            _ => registry::set(entry, &name, Given::Tree(value))
                .unwrap_or_else(|| T::foreign(&name, value).map(one).unwrap_or_default()),
        };
        faults.extend(found.into_iter().map(|f| ValueFault { at: format!(".{name}{}", f.at), ..f }));
    }
    faults
}

/// What an object is called.
pub fn name_of(item: &mut dyn Visit) -> String {
    struct Name(String);
    impl Visitor for Name {
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            if meta.name == "name" {
                self.0 = value.show().as_str().unwrap_or_default().to_owned();
            }
        }
    }
    let mut name = Name(String::new());
    registry::walk(item, "", &mut name);
    name.0
}

/// Each option of an object against its own rule.
pub fn judge(item: &mut dyn Visit) -> Vec<ValueFault> {
    struct Judge(Vec<ValueFault>);
    impl Visitor for Judge {
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            let at = format!(".{}", meta.name);
            self.0.extend(value.judge(meta.rule).map(|message| ValueFault { at, message }));
        }
    }
    let mut judge = Judge(Vec::new());
    registry::walk(item, "", &mut judge);
    judge.0
}

fn show_entry(item: &mut dyn Visit) -> Json {
    struct Show(Map<String, Json>);
    impl Visitor for Show {
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            let mut place = &mut self.0;
            let mut parts = meta.name.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    place.insert(part.to_owned(), value::show(value, meta.rule));
                    return;
                }
                let below = place.entry(part).or_insert_with(|| Json::Object(Map::new()));
                let Json::Object(below) = below else { return };
                place = below;
            }
        }
    }
    let mut show = Show(Map::new());
    registry::walk(item, "", &mut show);
    Json::Object(show.0)
}

/// What is wrong with a name of a header that is to go with requests.
pub fn header_fault(name: &str) -> Option<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Some(format!("{name:?} is no name of a header"));
    }
    let own = ["host", "connection", "content-length", "transfer-encoding"];
    own.iter().any(|own| name.eq_ignore_ascii_case(own)).then(|| format!("{name:?} belongs to the connection itself"))
}

fn text_of(name: &str, value: &Json) -> Option<(String, String)> {
    Some((name.to_owned(), value.as_str()?.to_owned()))
}

/// An object of texts, or Centrifugo's other form, for names that a file's format would not leave as they are.
fn texts_of(tree: &Json) -> Option<Vec<(String, String)>> {
    match tree {
        Json::Object(fields) => fields.iter().map(|(name, value)| text_of(name, value)).collect(),
        Json::Array(items) => {
            items.iter().map(|item| text_of(item.get("key")?.as_str()?, item.get("value")?)).collect()
        }
        _ => None,
    }
}

/// What stands for each of some texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replacements(pub BTreeMap<String, String>);

impl Value for Replacements {
    fn kind(&self, _: Rule) -> &'static str {
        "JSON"
    }
    fn accepts(&self, _: Rule) -> String {
        "an object of texts ({\":\": \".\"})".into()
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        let tree = tree_of(given, &self.accepts(rule))?;
        let wrong = || one(format!("expected {}; got {}", self.accepts(rule), given.shown()));
        self.0 = texts_of(&tree).ok_or_else(wrong)?.into_iter().collect();
        Ok(())
    }
    fn judge(&self, _: Rule) -> Option<String> {
        self.0.contains_key("").then(|| "expected no empty text to be replaced".into())
    }
    fn show(&self) -> Json {
        self.0.iter().map(|(from, to)| (from.clone(), Json::from(to.clone()))).collect::<Map<_, _>>().into()
    }
}

/// HTTP headers that are the same in each request. Their values may be secrets and are never shown.
pub type Headers = BTreeMap<String, String>;

impl Value for Headers {
    fn kind(&self, _: Rule) -> &'static str {
        "JSON"
    }
    fn accepts(&self, _: Rule) -> String {
        "an object of texts ({\"X-Api-Key\": \"...\"})".into()
    }
    fn read(&mut self, given: Given<'_>, rule: Rule) -> Result<(), Vec<ValueFault>> {
        let wrong = || one(format!("expected {}", self.accepts(rule)));
        // What was given is not quoted: it may be a secret.
        let tree = tree_of(given, &self.accepts(rule)).map_err(|_| wrong())?;
        let texts = texts_of(&tree).ok_or_else(wrong)?;
        self.clear();
        for (name, value) in texts {
            if self.insert(name.clone(), value).is_some() {
                return Err(one(format!("expected each header once; {name:?} is there twice")));
            }
        }
        Ok(())
    }
    fn judge(&self, _: Rule) -> Option<String> {
        self.iter().find_map(|(name, value)| {
            if value == HIDDEN {
                Some(format!("{HIDDEN} only stands for a secret in what is printed; give the value of {name:?}"))
            } else if let Some(why) = header_fault(name) {
                Some(why)
            } else if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
                Some(format!("the value of {name:?} is not plain ASCII on one line"))
            } else {
                None
            }
        })
    }
    fn show(&self) -> Json {
        self.keys().map(|name| (name.clone(), Json::from(HIDDEN))).collect::<Map<_, _>>().into()
    }
}
