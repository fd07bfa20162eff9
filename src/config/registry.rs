//! F0 · How an option is written down once.
//!
//! Owns the `options!` macro, which makes from one list the struct, its defaults and a walk over its
//! fields, and what is asked of that walk: the listing behind the help text and `gannet config`, and
//! setting an option by its dotted name. Never knows where a value came from, nor any single option.

use serde_json::Value as Json;

use super::Config;
use super::value::{self, Given, Rule, Value, ValueFault};

/// What the walk tells about one field. For a section only `name` and `about` mean something.
#[derive(Clone, Copy)]
pub struct Meta<'a> {
    /// The dotted path: `client.ping_interval`. Empty for the whole configuration.
    pub name: &'a str,
    /// The field's doc comment.
    pub about: &'static str,
    pub rule: Rule,
}

/// A section, whose fields are visited in order, or an option, which is visited itself.
pub trait Visit {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor);
}

pub trait Visitor {
    fn section(&mut self, _meta: Meta<'_>) {}
    fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value);
}

impl<T: Value> Visit for T {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        visitor.option(meta, self);
    }
}

/// `field: Type = default, rule;` under its doc comment. The rule may be left out: then any value of the
/// type will do. A section is a field whose type is another `options!` struct.
macro_rules! options {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident : $type:ty = $default:expr $(, $rule:expr)? ;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::registry::Visit for $name {
            fn visit(
                &mut self,
                meta: $crate::config::registry::Meta<'_>,
                visitor: &mut dyn $crate::config::registry::Visitor,
            ) {
                visitor.section(meta);
                $(
                    let field = $crate::config::registry::Meta {
                        name: &$crate::config::registry::join(meta.name, stringify!($field)),
                        about: concat!($($doc),*).trim_ascii(),
                        rule: rule_or_any!($($rule)?),
                    };
                    self.$field.visit(field, visitor);
                )*
            }
        }
    };
}

macro_rules! rule_or_any {
    () => {
        $crate::config::value::Rule::Any
    };
    ($rule:expr) => {
        $rule
    };
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Walks `item` as the section called `path`.
pub fn walk(item: &mut dyn Visit, path: &str, visitor: &mut dyn Visitor) {
    let about = "The whole node";
    let rule = Rule::Any;
    item.visit(Meta { name: path, about, rule }, visitor);
}

/// A section whose options stand in another one beside a first of its own.
pub fn beside(
    first: (&str, &'static str, &mut dyn Value),
    rest: &mut dyn Visit,
    meta: Meta<'_>,
    visitor: &mut dyn Visitor,
) {
    struct Within<'a>(&'a mut dyn Visitor, &'a str);
    impl Visitor for Within<'_> {
        fn section(&mut self, meta: Meta<'_>) {
            if meta.name != self.1 {
                self.0.section(meta);
            }
        }
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            self.0.option(meta, value);
        }
    }
    let (name, about, value) = first;
    visitor.section(meta);
    visitor.option(Meta { name: &join(meta.name, name), about, rule: Rule::Any }, value);
    rest.visit(meta, &mut Within(visitor, meta.name));
}

/// A section with its options, as help and `gannet config` show them. Sections come parents first.
#[derive(Debug, Clone)]
pub struct Section {
    pub path: String,
    pub about: &'static str,
    pub options: Vec<Listed>,
}

/// One option and the value it has.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: String,
    pub about: &'static str,
    pub rule: Rule,
    /// The placeholder of the help text: `DURATION`, `BYTES`.
    pub kind: &'static str,
    pub value: Json,
    pub default: Json,
}

impl Listed {
    /// The last part of the name: the key within its section.
    pub fn key(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    pub fn is_secret(&self) -> bool {
        matches!(self.rule, Rule::Secret)
    }
}

/// Every section and option of a configuration, with its values.
pub fn listing(config: &Config) -> Vec<Section> {
    struct List(Vec<Section>);
    impl Visitor for List {
        fn section(&mut self, meta: Meta<'_>) {
            let (path, about) = (meta.name.to_owned(), meta.about);
            self.0.push(Section { path, about, options: Vec::new() });
        }
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            let path = meta.name.rsplit_once('.').map_or("", |(path, _)| path);
            let option = Listed {
                name: meta.name.to_owned(),
                about: meta.about,
                rule: meta.rule,
                kind: value.kind(meta.rule),
                value: value::show(value, meta.rule),
                default: Json::Null,
            };
            if let Some(section) = self.0.iter_mut().find(|s| s.path == path) {
                section.options.push(option);
            }
        }
    }
    let list = |mut config: Config| {
        let mut list = List(Vec::new());
        walk(&mut config, "", &mut list);
        list.0
    };
    let mut sections = list(config.clone());
    let defaults = list(Config::default()).into_iter().flat_map(|section| section.options);
    let options = sections.iter_mut().flat_map(|section| &mut section.options);
    options.zip(defaults).for_each(|(option, default)| option.default = default.value);
    sections
}

/// Every section and option with its default.
pub fn sections() -> Vec<Section> {
    listing(&Config::default())
}

/// Every option with its default.
pub fn options() -> Vec<Listed> {
    sections().into_iter().flat_map(|section| section.options).collect()
}

pub fn is_section(path: &str) -> bool {
    struct Find<'a>(&'a str, bool);
    impl Visitor for Find<'_> {
        fn section(&mut self, meta: Meta<'_>) {
            self.1 |= meta.name == self.0;
        }
        fn option(&mut self, _: Meta<'_>, _: &mut dyn Value) {}
    }
    // Asked for each key of a file: nothing is listed for it.
    let mut find = Find(path, false);
    walk(&mut Config::default(), "", &mut find);
    find.1
}

/// The environment variable of an option.
pub fn env_name(name: &str) -> String {
    format!("GANNET_{}", name.to_ascii_uppercase().replace('.', "_"))
}

/// Sets the option called `name` within `item`. `None` = there is no such option; else what is wrong
/// with the value, nothing if it was set. Only the type is judged here: see `Config::check` for ranges.
pub fn set(item: &mut dyn Visit, name: &str, given: Given<'_>) -> Option<Vec<ValueFault>> {
    struct Set<'a> {
        name: &'a str,
        given: Given<'a>,
        outcome: Option<Vec<ValueFault>>,
    }
    impl Visitor for Set<'_> {
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            if meta.name == self.name {
                let outcome = value.read(self.given, meta.rule);
                self.outcome = Some(outcome.err().unwrap_or_default());
            }
        }
    }
    let mut set = Set { name, given, outcome: None };
    walk(item, "", &mut set);
    set.outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_option_is_described_and_named_once() {
        let mut names = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for option in options() {
            assert!(option.about.len() > 10, "{} wants a doc comment", option.name);
            assert!(!option.about.contains("  "), "{}: {:?}", option.name, option.about);
            assert!(!option.about.contains("Default"), "{}: the default is printed anyway", option.name);
            assert!(names.insert(option.name.clone()), "{}", option.name);
            assert!(variables.insert(env_name(&option.name)), "{}", option.name);
        }
        assert!(names.contains("dev") && names.contains("client.token.hmac_secret_key"));
        assert!(names.contains("channel.without_namespace.allow_publish_for_client"));
        assert!(names.len() > 50, "{}", names.len());
    }

    #[test]
    fn sections_come_parents_first() {
        let sections = sections();
        let paths: Vec<_> = sections.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(paths[..3], ["", "node", "http_server"]);
        let client = paths.iter().position(|p| *p == "client").unwrap();
        assert_eq!(paths[client + 1], "client.token");
        assert!(sections.iter().all(|s| !s.about.is_empty()));
    }

    #[test]
    fn setting_by_name() {
        let mut config = Config::default();
        assert!(set(&mut config, "client.ping_interval", Given::Text("5s")).unwrap().is_empty());
        assert_eq!(config.client.ping_interval.as_secs(), 5);
        assert!(set(&mut config, "client", Given::Text("5s")).is_none());
        assert!(set(&mut config, "client.ping", Given::Text("5s")).is_none());
        assert_eq!(set(&mut config, "reactors", Given::Text("two")).unwrap().len(), 1);
    }
}
