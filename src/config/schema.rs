//! F0 · The configuration file's form, as a JSON Schema for editors.
//!
//! Owns how each kind of value is told in a schema. Names, descriptions, ranges and defaults are the registry's.
//! Never judges a value: what an editor lets pass may still be refused, for a schema knows no rule between options.

use serde_json::{Map, Value as Json, json};

use super::Config;
use super::registry::{self, Meta, Visit, Visitor};
use super::value::{self, NO_MAX, Rule, Value};

/// `65536`, `64KiB`, `8 MB`.
const SIZE: &str = "^[0-9]+ ?([kKmMgG][iI]?[bB]|[tT][iI][bB]|[bB])?$";

/// The schema of a whole file, whichever of the three formats it has.
pub fn schema() -> Json {
    let mut schema = object("Gannet's configuration", &mut Config::default(), &[]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("gannet");
    schema
}

/// A section, or an object of a list.
fn object(about: &str, item: &mut dyn Visit, needed: &[&str]) -> Json {
    let mut tree = Tree(section(about));
    registry::walk(item, "", &mut tree);
    let (named_twice, needed): (Vec<&str>, Vec<&str>) = needed.iter().partition(|name| other_name(name).is_some());
    if !needed.is_empty() {
        tree.0["required"] = json!(needed);
    }
    if !named_twice.is_empty() {
        let either = |name: &str| json!({"anyOf": [{"required": [name]}, {"required": [other_name(name)]}]});
        tree.0["allOf"] = named_twice.into_iter().map(either).collect();
    }
    tree.0
}

/// What Centrifugo calls `name` where it is a file: the same option here.
fn other_name(name: &str) -> Option<String> {
    name.ends_with("_pem").then(|| format!("{name}_file"))
}

fn section(about: &str) -> Json {
    json!({"type": "object", "description": about, "properties": {}, "additionalProperties": false})
}

struct Tree(Json);

impl Tree {
    /// The properties that the last part of `name` belongs to, and that part. Sections come before what is in them.
    fn place<'a>(&mut self, name: &'a str) -> (Option<&mut Map<String, Json>>, &'a str) {
        let (path, key) = name.rsplit_once('.').unwrap_or(("", name));
        let parts = path.split('.').filter(|part| !part.is_empty());
        let at = parts.fold(&mut self.0, |at, part| &mut at["properties"][part]);
        (at["properties"].as_object_mut(), key)
    }
}

impl Visitor for Tree {
    fn section(&mut self, meta: Meta<'_>) {
        if let (Some(properties), key) = self.place(meta.name)
            && !key.is_empty()
        {
            properties.insert(key.to_owned(), section(meta.about));
        }
    }

    fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
        let mut told = form(value, meta.rule);
        told["description"] = json!(meta.about);
        told["default"] = value::show(value, meta.rule);
        if let (Some(properties), key) = self.place(meta.name) {
            if let Some(other) = other_name(key) {
                let about = format!("The same as {key}, by its name in Centrifugo; one of the two.");
                properties.insert(other, json!({"type": "string", "description": about}));
            }
            properties.insert(key.to_owned(), told);
        }
    }
}

/// What a file may have for a value.
fn form(value: &dyn Value, rule: Rule) -> Json {
    if let Some(mut entry) = value.entry() {
        return json!({"type": "array", "items": object(entry.what, entry.item.as_mut(), entry.needed)});
    }
    match (value.kind(rule), rule) {
        ("BOOL", _) => json!({"type": "boolean"}),
        ("NUMBER", _) => whole(rule),
        ("BYTES", _) => json!({"anyOf": [whole(rule), {"type": "string", "pattern": SIZE}]}),
        ("DURATION", _) => {
            json!({"anyOf": [{"type": "string", "pattern": "^[0-9]"}, {"const": 0}], "examples": ["25s", "100ms"]})
        }
        ("LIST", _) => json!({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
        ("JSON", _) => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        (_, Rule::OneOf(words)) => json!({"enum": words}),
        (_, Rule::Path) => json!({"type": "string", "pattern": "^/"}),
        _ => json!({"type": "string"}),
    }
}

fn whole(rule: Rule) -> Json {
    let mut told = json!({"type": "integer"});
    if let Rule::Count(min, max) | Rule::Bytes(min, max) = rule {
        told["minimum"] = json!(min);
        if max != NO_MAX {
            told["maximum"] = json!(max);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::{Format, options, print};
    use super::*;

    /// Why `value` is not of the schema; of its words, those that are used here.
    fn fault(schema: &Json, value: &Json) -> Option<String> {
        if let Some(any) = schema.get("anyOf").and_then(Json::as_array) {
            let faults: Option<Vec<String>> = any.iter().map(|one| fault(one, value)).collect();
            return faults.map(|faults| faults.join("; "));
        }
        let all = schema.get("allOf").and_then(Json::as_array).into_iter().flatten();
        if let Some(fault) = all.into_iter().find_map(|one| fault(one, value)) {
            return Some(fault);
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            return (!words.contains(value)).then(|| format!("{value} is none of {words:?}"));
        }
        if let Some(only) = schema.get("const") {
            return (only != value).then(|| format!("{value} is not {only}"));
        }
        // One of those above says nothing of the kind.
        match (schema["type"].as_str().or(Some("object")), value) {
            (Some("boolean"), Json::Bool(_)) => None,
            (Some("string"), Json::String(text)) => {
                let pattern = schema.get("pattern").and_then(Json::as_str).map(|p| regex::Regex::new(p).unwrap());
                pattern.filter(|pattern| !pattern.is_match(text)).map(|pattern| format!("{text} is no {pattern}"))
            }
            (Some("integer"), Json::Number(number)) => {
                let number = number.as_u64()?;
                let below = schema.get("minimum").and_then(Json::as_u64).is_some_and(|min| number < min);
                let above = schema.get("maximum").and_then(Json::as_u64).is_some_and(|max| number > max);
                (below || above).then(|| format!("{number} is out of range"))
            }
            (Some("array"), Json::Array(items)) => items.iter().find_map(|item| fault(&schema["items"], item)),
            (Some("object"), Json::Object(fields)) => {
                let needed = schema.get("required").and_then(Json::as_array).into_iter().flatten();
                let missing = needed.filter_map(Json::as_str).find(|name| !fields.contains_key(*name));
                missing.map(|name| format!("{name} is missing")).or_else(|| {
                    fields.iter().find_map(|(key, value)| match schema["properties"].get(key) {
                        Some(own) => fault(own, value).map(|why| format!("{key}: {why}")),
                        None if schema["additionalProperties"] == json!(false) => Some(format!("{key} is unknown")),
                        None if schema["additionalProperties"].is_null() => None,
                        None => fault(&schema["additionalProperties"], value),
                    })
                })
            }
            (kind, value) => Some(format!("{value} is no {kind:?}")),
        }
    }

    #[test]
    fn what_config_prints_is_of_the_schema() {
        let schema = schema();
        let printed: Json = serde_json::from_str(&print(&Config::default(), Format::Json)).unwrap();
        assert_eq!(fault(&schema, &printed), None);
        for option in options() {
            let at = option.name.split('.').fold(&schema, |at, part| &at["properties"][part]);
            assert_eq!(at["description"], option.about, "{}", option.name);
        }
    }

    #[test]
    fn an_editor_marks_what_is_wrong() {
        let schema = schema();
        for (file, part) in [
            (json!({"client": {"ping_intervall": "5s"}}), "ping_intervall is unknown"),
            (json!({"client": {"ping_interval": 5}}), "5 is not 0"),
            (json!({"http_server": {"port": 70000}}), "out of range"),
            (json!({"websocket": {"message_size_limit": "64 K"}}), "64 K is no"),
            (json!({"http_server": {"steering": "luck"}}), "none of"),
            (json!({"channel": {"namespaces": [{"presence": true}]}}), "name is missing"),
            (json!({"tls": {"certificates": [{"cert_pem_file": "a"}]}}), "key_pem_file is missing"),
            (json!({"tls": {"certificates": [{"cert_pem": "a", "key_file": "b"}]}}), "key_pem is missing"),
            (json!({"http_server": {"cert_pem_file": "a"}}), "cert_pem_file is unknown"),
            (json!({"channel": {"namespaces": [{"name": "chat", "presense": true}]}}), "presense is unknown"),
        ] {
            let found = fault(&schema, &file).unwrap_or_default();
            assert!(found.contains(part), "{file}: {found}");
        }
        let fine = json!({"websocket": {"message_size_limit": "64KiB"}, "client": {"allowed_origins": ["*"]},
                          "channel": {"namespaces": [{"name": "chat", "history_ttl": "5m"}]}});
        assert_eq!(fault(&schema, &fine), None);
        let names = json!({"http_server": {"tls": {"cert_pem_file": "a", "key_pem_file": "b", "client_ca_pem_file": "c"}},
                           "tls": {"certificates": [{"cert_pem": "a", "key_pem_file": "b"}]}});
        assert_eq!(fault(&schema, &names), None, "by their other names");
    }
}
