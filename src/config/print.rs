//! F0 · A configuration as text that can be loaded again.
//!
//! Owns the three forms of `gannet config` and the wording of an option's range and default, which the
//! help text shares. Secrets are never in it. Never prints: it makes the text.

use serde_json::{Map, Value as Json, json};

use super::Config;
use super::registry::{Listed, Section, listing};
use super::tree::Format;
use super::value::{HIDDEN, Rule, show_size};

/// Columns of a comment.
const WIDTH: usize = 100;

/// The whole configuration. TOML and YAML have a comment for each option; JSON has none.
pub fn print(config: &Config, format: Format) -> String {
    let sections = listing(config);
    match format {
        Format::Toml => print_toml(&sections),
        Format::Yaml => print_yaml(&sections),
        Format::Json => print_json(&sections),
    }
}

/// What an option takes and what it is without being set: "bytes, 1 to 1GiB; default 65536 (64KiB)".
pub fn note(option: &Listed) -> String {
    let default = match (&option.default, option.rule) {
        (Json::String(text), _) if text.is_empty() => "empty".to_owned(),
        (Json::Array(items), _) if items.is_empty() => "empty".to_owned(),
        (Json::String(text), _) => text.clone(),
        (number, Rule::Bytes(..)) => {
            let bytes = number.as_u64().unwrap_or_default();
            let short = show_size(bytes);
            if short == bytes.to_string() { short } else { format!("{bytes} ({short})") }
        }
        (other, _) => other.to_string(),
    };
    match option.rule.brief() {
        Some(brief) => format!("{brief}; default {default}"),
        None => format!("default {default}"),
    }
}

fn print_toml(sections: &[Section]) -> String {
    let mut out = String::new();
    for section in sections.iter().filter(|section| !section.options.is_empty()) {
        if !section.path.is_empty() {
            comment(&mut out, "", section.about);
            out += &format!("[{}]\n\n", section.path);
        }
        for option in &section.options {
            comment(&mut out, "", &format!("{} ({})", option.about, note(option)));
            out += &format!("{}{} = {}\n\n", hidden_mark(option), option.key(), toml_value(shown(option)));
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn toml_value(value: Json) -> String {
    match value {
        Json::Array(items) if items.iter().any(Json::is_object) => {
            let lines = items.iter().map(|item| format!("  {},\n", inline(item, " = ")));
            format!("[\n{}]", lines.collect::<String>())
        }
        other => inline(&other, " = "),
    }
}

fn print_yaml(sections: &[Section]) -> String {
    let mut out = String::new();
    for section in sections {
        let depth = if section.path.is_empty() { 0 } else { section.path.split('.').count() };
        if let Some(key) = section.path.rsplit('.').next().filter(|key| !key.is_empty()) {
            let indent = "  ".repeat(depth - 1);
            comment(&mut out, &indent, section.about);
            out += &format!("{indent}{key}:\n\n");
        }
        let indent = "  ".repeat(depth);
        for option in &section.options {
            comment(&mut out, &indent, &format!("{} ({})", option.about, note(option)));
            let value = yaml_value(shown(option), &indent);
            out += &format!("{indent}{}{}: {value}\n\n", hidden_mark(option), option.key());
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn yaml_value(value: Json, indent: &str) -> String {
    match value {
        Json::Array(items) if items.iter().any(Json::is_object) => {
            let lines = items.iter().map(|item| format!("\n{indent}  - {}", inline(item, ": ")));
            lines.collect()
        }
        other => inline(&other, ": "),
    }
}

fn print_json(sections: &[Section]) -> String {
    let mut root = Json::Object(Map::new());
    for option in sections.iter().flat_map(|section| &section.options) {
        let place = option.name.split('.').fold(&mut root, |place, key| &mut place[key]);
        *place = shown(option);
    }
    format!("{root:#}\n")
}

fn is_hidden(option: &Listed) -> bool {
    let is_url = matches!(option.rule, Rule::Url | Rule::UrlTemplate | Rule::ProxyUrl);
    let is_part_hidden = is_url && option.value.as_str().is_some_and(|url| url.contains(HIDDEN));
    is_part_hidden || option.is_secret() && option.value != json!("") && option.value != json!({})
}

/// A secret's line is commented out, so that its stand-in is not taken for the secret when it is loaded.
fn hidden_mark(option: &Listed) -> &'static str {
    if is_hidden(option) { "# " } else { "" }
}

fn shown(option: &Listed) -> Json {
    if option.is_secret() && is_hidden(option) { json!(HIDDEN) } else { option.value.clone() }
}

/// On one line. What differs between the two is only what stands between a key and its value.
fn inline(value: &Json, is: &str) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| inline(item, is)).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(fields) => {
            let (name, rest): (Vec<_>, Vec<_>) = fields.iter().partition(|(key, _)| *key == "name");
            let fields = name.into_iter().chain(rest);
            let fields: Vec<_> =
                fields.map(|(key, value)| format!("{}{is}{}", bare_or_quoted(key), inline(value, is))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A key; those of options are bare in TOML and YAML, those of headers may not be.
fn bare_or_quoted(key: &str) -> String {
    let bare = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if bare { key.to_owned() } else { quoted(key) }
}

/// A JSON string is one in TOML and YAML too, but for the few control characters that JSON lets stand.
fn quoted(text: &str) -> String {
    let json = Json::from(text).to_string();
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    json.chars().map(escape).collect()
}

/// Broken at spaces to lines of `WIDTH`.
fn comment(out: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            *out += &line;
            out.push('\n');
            line = format!("{indent}#");
        }
        line.push(' ');
        line += word;
    }
    *out += &line;
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::{File, load, options};
    use super::*;

    fn unusual() -> Config {
        let flags = [
            ("reactors", "3"),
            ("node.name", "a \"b\" \\ \t\n\u{7f}\u{85}\u{2028} # é"),
            ("client.ping_interval", "1m30s"),
            ("client.allowed_origins", "https://*.a.b,*"),
            ("http_server.handshake_timeout", "1500ms"),
            ("overload.memory_limit", "4GiB"),
            ("channel.namespaces", r#"[{"name":"chat","allow_publish_for_client":true},{"name":"a.b"}]"#),
            ("channel.without_namespace.allow_subscribe_for_client", "true"),
        ];
        let flags: Vec<_> = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        load(None, &[], &flags).unwrap().0
    }

    fn again(text: &str, name: &str) -> Config {
        let loaded = load(Some(File { name, text }), &[], &[]);
        loaded.unwrap_or_else(|errors| panic!("{errors:#?}\n{text}")).0
    }

    #[test]
    fn what_is_printed_loads_again() {
        for config in [Config::default(), unusual()] {
            let forms = [(Format::Toml, "a.toml"), (Format::Yaml, "a.yaml"), (Format::Json, "a.json")];
            for (format, name) in forms {
                assert_eq!(again(&print(&config, format), name), config, "{name}");
            }
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut config = Config::default();
        config.client.token.hmac_secret_key = "hush".into();
        config.http_api.key = "hush".into();
        for (format, name) in [(Format::Toml, "a.toml"), (Format::Yaml, "a.yaml")] {
            let text = print(&config, format);
            assert!(!text.contains("hush"));
            assert_eq!(text.matches("\"***\"").count(), 2);
            assert_eq!(again(&text, name), Config::default());
        }
        let json = print(&config, Format::Json);
        assert!(!json.contains("hush"));
        assert_eq!(json.matches("\"***\"").count(), 2);
    }

    #[test]
    fn comments_tell_unit_range_and_default() {
        let toml = print(&Config::default(), Format::Toml);
        assert!(toml.starts_with("# Insecure mode"), "{toml}");
        assert!(toml.contains("\n[client.token]\n"));
        assert!(toml.contains("65536 (64KiB)"));
        assert!(toml.contains("hmac_secret_key = \"\"\n"));
        for option in options() {
            assert!(toml.contains(&format!("\n{} = ", option.key())), "{}", option.name);
        }
        assert!(toml.lines().all(|line| line.len() <= WIDTH), "a long line");
    }
}
