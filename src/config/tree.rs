//! F0 · A file's text as a tree of values.
//!
//! Owns the three file formats and the complaint when a text is none of them: one line, with the place.
//! A key given twice is refused in each format. Never opens a file, and never knows what the keys mean.

use serde_json::Value as Json;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Toml,
    Yaml,
    Json,
}

impl Format {
    /// By the ending of the file's name.
    pub fn of(name: &str) -> Option<Format> {
        Format::parse(name.rsplit_once('.')?.1)
    }

    pub fn parse(word: &str) -> Option<Format> {
        match word.to_ascii_lowercase().as_str() {
            "toml" => Some(Format::Toml),
            "yaml" | "yml" => Some(Format::Yaml),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// An empty text is an empty tree, except in JSON.
pub fn parse(text: &str, format: Format) -> Result<Json, String> {
    // An editor's byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|error| toml_complaint(text, &error))?;
            serde_json::to_value(table).map_err(|error| error.to_string())
        }
        // A YAML mapping refuses a key given twice, where a JSON one keeps the last: hence it reads both.
        Format::Yaml => {
            let mut value: serde_norway::Value =
                serde_norway::from_str(text).map_err(|e| format!("not YAML: {}", one_line(&e)))?;
            value.apply_merge().map_err(|e| format!("not YAML: {}", one_line(&e)))?;
            serde_json::to_value(value).map_err(|_| "not YAML: every key must be text".into())
        }
        Format::Json => {
            let value: serde_norway::Value =
                serde_json::from_str(text).map_err(|e| format!("not JSON: {}", one_line(&e)))?;
            serde_json::to_value(value).map_err(|error| error.to_string())
        }
    }
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// The parser's own words draw the line below its message; here the place goes at the end.
fn toml_complaint(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else { return format!("not TOML: {message}") };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("not TOML: {message} at line {line} column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_format_gives_the_same_tree() {
        let tree = json!({"reactors": 2, "client": {"allowed_origins": ["a", "b"], "insecure": true}});
        let toml = "reactors = 2\n[client]\nallowed_origins = ['a', 'b']\ninsecure = true";
        let yaml = "reactors: 2\nclient:\n  allowed_origins: [a, b]\n  insecure: true";
        assert_eq!(parse(toml, Format::Toml).unwrap(), tree);
        assert_eq!(parse(yaml, Format::Yaml).unwrap(), tree);
        assert_eq!(parse(&tree.to_string(), Format::Json).unwrap(), tree);
        assert_eq!(parse("", Format::Toml).unwrap(), json!({}));
        assert_eq!(parse("# nothing\n", Format::Yaml).unwrap(), Json::Null);
    }

    #[test]
    fn yaml_merges_keys() {
        let yaml = "base: &base {timeout: 3s, a: 1}\nlist:\n- <<: *base\n  a: 2\nsection:\n  <<: [*base, {b: 3}]";
        let base = json!({"timeout": "3s", "a": 1});
        let tree = json!({"base": base, "list": [{"timeout": "3s", "a": 2}],
                          "section": {"timeout": "3s", "a": 1, "b": 3}});
        assert_eq!(parse(yaml, Format::Yaml).unwrap(), tree);
        assert!(parse("a:\n  <<: 5", Format::Yaml).unwrap_err().starts_with("not YAML: "));
    }

    #[test]
    fn complaints_are_one_line_with_the_place() {
        let bad = [
            ("reactors = 2\nreactors = 3", Format::Toml),
            ("reactors = \n[client", Format::Toml),
            ("reactors: 2\nreactors: 3", Format::Yaml),
            ("a: [1\nb: 2", Format::Yaml),
            ("{\"a\": 1,\n\"a\": 2}", Format::Json),
            ("{\"a\": \n", Format::Json),
        ];
        for (text, format) in bad {
            let complaint = parse(text, format).unwrap_err();
            assert!(complaint.starts_with("not "), "{complaint}");
            assert!(complaint.contains("line") || complaint.contains("key \"reactors\""), "{complaint}");
            assert!(!complaint.contains('\n'), "{complaint}");
        }
    }

    #[test]
    fn format_by_ending() {
        assert_eq!(Format::of("/etc/gannet.toml"), Some(Format::Toml));
        assert_eq!(Format::of("a.b.YML"), Some(Format::Yaml));
        assert_eq!(Format::of("gannet.json"), Some(Format::Json));
        assert_eq!(Format::of("gannet"), None);
        assert_eq!(Format::of("gannet.conf"), None);
    }
}
