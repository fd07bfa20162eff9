//! In JSON.

use super::Outcome::*;
use super::schema::{Kind, Method, good, methods};
use super::{CHANNEL, ID, Trial, with, without};
use gannet::protocol::Encoding;
use serde_json::{Value, json};

/// Stands where something else is going to.
const MARK: &str = "\"@@\"";

/// A message whose request has `raw` at `at`.
fn message(method: &str, request: &Value, at: &str, raw: &[u8]) -> Vec<u8> {
    let text = json!({ "id": ID, method: with(request, at, "@@".into()) }).to_string();
    let place = text.find(MARK).expect("the mark");
    [&text.as_bytes()[..place], raw, &text.as_bytes()[place + MARK.len()..]].concat()
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

/// JSON that is not of this kind, and what is no JSON.
fn wrong(kind: Kind) -> Vec<String> {
    let fits: &[&str] = match kind {
        Kind::Text => &["\"x\""],
        Kind::Bool => &["true", "false"],
        Kind::Uint64 => &["0", "7"],
        Kind::Int64 | Kind::Int32 => &["0", "7", "-1"],
        Kind::Data => {
            &["null", "true", "false", "0", "7", "-1", "1.5", "1e999", "\"x\"", "[]", "[7]", "{}", "{\"x\":7}"]
        }
        // null is as if it were not there.
        Kind::Object => &["null", "{}", "{\"x\":7}"],
        Kind::Texts | Kind::Objects => &["{}"],
        Kind::ListOfTexts | Kind::ListOfObjects => &["[]"],
    };
    let json = ["null", "true", "false", "0", "7", "-1", "1.5", "1e999", "\"x\"", "[]", "[7]", "{}", "{\"x\":7}"];
    let mut all: Vec<String> = json.iter().filter(|value| !fits.contains(value)).map(|&v| v.to_owned()).collect();
    all.extend(
        ["NaN", "Infinity", "-Infinity", "01", "+1", "'x'", "x", "", "{", "\"", "\"\\x\"", "\"\n\""].map(String::from),
    );
    let deep = [nested(1000), "{\"x\":".repeat(1000) + "0" + &"}".repeat(1000)];
    all.extend(deep.into_iter().take(match kind {
        Kind::Data => 0,
        // Unknown keys may hold anything.
        Kind::Object | Kind::Objects => 1,
        _ => 2,
    }));
    all.extend(match kind {
        Kind::Text => vec!["\"\\ud800\"".to_owned()],
        Kind::Uint64 => ["18446744073709551616", "-9223372036854775808", "7.0", "1e3", "-0"].map(String::from).into(),
        Kind::Int64 => ["9223372036854775808", "-9223372036854775809", "7.0"].map(String::from).into(),
        Kind::Int32 => ["2147483648", "-2147483649", "7.0"].map(String::from).into(),
        Kind::Texts => ["{\"x\":null}", "{\"x\":{}}"].map(String::from).into(),
        Kind::Objects => vec![format!("{{\"{CHANNEL}\":[]}}"), format!("{{\"{CHANNEL}\":null}}")],
        Kind::ListOfTexts => ["[null]", "[[]]"].map(String::from).into(),
        Kind::ListOfObjects => {
            let deep = "[{\"nodes\":".repeat(1000) + "[]" + &"}]".repeat(1000);
            ["[null]", "[[]]", "[\"\"]", &deep].map(String::from).into()
        }
        _ => Vec::new(),
    });
    all
}

/// As much as fits the type.
fn extremes(kind: Kind) -> Vec<String> {
    match kind {
        // The message may have 64 KiB.
        Kind::Text => vec![format!("\"{}\"", "x".repeat(60_000))],
        Kind::Data => {
            let long = format!("\"{}\"", "x".repeat(60_000));
            vec![nested(1000), nested(30_000), long, "1e999".into(), "-0".into(), "null".into(), "\"\\ud800\"".into()]
        }
        Kind::Uint64 => vec![u64::MAX.to_string()],
        Kind::Int32 => vec![i32::MAX.to_string(), i32::MIN.to_string(), "-1".into()],
        Kind::Int64 => vec![i64::MIN.to_string()],
        _ => Vec::new(),
    }
}

fn try_method(trial: &mut Trial, method: &Method) {
    let (name, request) = (method.name, good(method.name));
    trial.try_one(name, json!({ "id": ID, name: request }).to_string().as_bytes(), method.outcome, "all is well");
    for value in ["null", "7", "true", "\"x\"", "[]", &json!([request]).to_string(), "NaN", &nested(1000)] {
        let message = format!(r#"{{"id":{ID},"{name}":{value}}}"#);
        trial.try_one(name, message.as_bytes(), Closed(3501), "no request");
    }
    // A list of a request's fields in their order is none.
    let list = json!({ "id": ID, name: request.as_object().expect("an object").values().collect::<Vec<_>>() });
    trial.try_one(name, list.to_string().as_bytes(), Closed(3501), "a list for an object");
    let (twice, deep) = (request.to_string(), nested(1000));
    for keys in
        [format!(r#""id":{ID},"id":{ID},"{name}":{twice}"#), format!(r#""id":{ID},"{name}":{twice},"{name}":{twice}"#)]
    {
        trial.try_one(name, format!("{{{keys}}}").as_bytes(), Closed(3501), "a key twice");
    }
    let mut unknown = request.clone();
    unknown["unknown"] = json!({ "a": [null] });
    let around = format!(r#"{{"unknown":{deep},"id":{ID},"{name}":{unknown},"":1e999}}"#);
    trial.try_one(name, around.as_bytes(), method.outcome, "unknown keys");
    for field in method.fields {
        let (at, what) = (field.at, format!("{name}{}", field.at));
        let missing = json!({ "id": ID, name: without(&request, at) }).to_string();
        trial.try_one(name, missing.as_bytes(), field.missing, &format!("{what} is missing"));
        for raw in wrong(field.kind) {
            let message = message(name, &request, at, raw.as_bytes());
            trial.try_one(name, &message, Closed(3501), &format!("{what} is wrong"));
        }
        for raw in extremes(field.kind) {
            let message = message(name, &request, at, raw.as_bytes());
            trial.try_one(name, &message, field.extreme, &format!("{what} is extreme"));
        }
        let key = at.rsplit('/').next().expect("a name");
        let value = request.pointer(at).expect("a value").to_string();
        let twice = message(name, &request, at, format!(r#"{value},"{key}":{value}"#).as_bytes());
        trial.try_one(name, &twice, Closed(3501), &format!("{what} twice"));
        for raw in [&b"\"\xff\""[..], b"\"\xc3\"", b"\"\xed\xa0\x80\"", b"\xfe"] {
            let message = message(name, &request, at, raw);
            trial.try_one(name, &message, Closed(3501), &format!("{what} is no UTF-8"));
        }
    }
}

#[test]
fn each_field_of_each_command_in_json() {
    let mut trial = Trial::begin(Encoding::Json);
    methods().iter().for_each(|method| try_method(&mut trial, method));
    trial.end();
}
