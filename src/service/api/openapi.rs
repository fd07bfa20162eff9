//! F10 · The HTTP API as programs read it: an OpenAPI 3.1 document.
//!
//! Owns the document. Its schemas are written down in `openapi.json`, which the tests here hold against the types; what
//! follows from the list of methods is made from it. `tests/run openapi` holds the whole against real answers.

use super::{BATCH, described};
use serde_json::{Map, Value, json};

const WRITTEN: &str = include_str!("openapi.json");

/// The document, for methods below `prefix`.
pub fn document(prefix: &str) -> serde_json::Result<String> {
    let mut written: Value = serde_json::from_str(WRITTEN)?;
    let mut schemas = written["schemas"].take();
    let (mut commands, mut replies, mut paths) = (Map::new(), Map::new(), Map::new());
    replies.insert("error".into(), schema("Error"));
    for (method, request, result) in described() {
        let summary = written["methods"][method].take();
        commands.insert(method.into(), json!({ "anyOf": [schema(request), { "type": "null" }] }));
        replies.insert(method.into(), schema(result));
        let needs = !schemas[request]["required"].is_null();
        let answer = json!({ "oneOf": [wrapped("result", schema(result)), wrapped("error", schema("Error"))] });
        paths.insert(format!("/{method}"), operation(method, summary, request, needs, answer));
    }
    schemas["Command"] = json!({ "type": "object", "properties": commands, "description": "One of these." });
    schemas["Reply"] = json!({ "type": "object", "properties": replies, "additionalProperties": false });
    schemas["BatchRequest"] = json!({ "type": "object", "properties": {
        "commands": { "type": ["array", "null"], "items": schema("Command") },
        "parallel": { "type": ["boolean", "null"], "description": "All at the same time." },
    } });
    let summary = json!("Carries out several calls; errors are within the replies.");
    let answer = wrapped("replies", json!({ "type": "array", "items": schema("Reply") }));
    paths.insert(format!("/{BATCH}"), operation(BATCH, summary, "BatchRequest", false, answer));
    serde_json::to_string(&json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gannet server API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "For the application's backend. Unknown fields are ignored.",
        },
        "servers": [{ "url": prefix.trim_end_matches('/') }],
        "security": [{ "header": [] }, { "scheme": [] }, { "query": [] }],
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": {
            "header": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            "scheme": { "type": "apiKey", "in": "header", "name": "Authorization", "description": "apikey KEY" },
            "query": { "type": "apiKey", "in": "query", "name": "api_key" },
        } },
    }))
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object with this and nothing else.
fn wrapped(key: &str, value: Value) -> Value {
    json!({ "type": "object", "properties": { key: value }, "required": [key], "additionalProperties": false })
}

fn operation(method: &str, summary: Value, request: &str, needs: bool, answer: Value) -> Value {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let text =
        |why: &str| json!({ "description": why, "content": { "text/plain": { "schema": { "type": "string" } } } });
    let error = |why: &str| {
        let why = format!("{why}, with X-Centrifugo-Error-Mode: transport.");
        json!({ "description": why, "content": content(schema("Error")) })
    };
    let mut unreadable = error("Errors 107 and 108");
    unreadable["description"] =
        json!("The body cannot be read (text). Errors 107 and 108 in the transport mode (JSON).");
    unreadable["content"]["text/plain"] = json!({ "schema": { "type": "string" } });
    let busy = json!({
        "description": "The node takes no more: try again. In the transport mode the bare error.",
        "content": content(json!({ "anyOf": [wrapped("error", schema("Error")), schema("Error")] })),
    });
    json!({ "post": {
        "operationId": method,
        "summary": summary,
        "requestBody": { "required": needs, "content": content(schema(request)) },
        "responses": {
            "200": { "description": "The result, or an error.", "content": content(answer) },
            "400": unreadable,
            "401": text("The key is missing or wrong."),
            "404": error("Errors 102 and 104"),
            "408": text("The body took too long."),
            "413": text("The body is too large."),
            "415": text("The body is compressed."),
            "416": error("Error 112"),
            "500": error("Error 100"),
            "503": busy,
        },
    } })
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use serde::de::DeserializeOwned;
    use std::collections::BTreeSet;

    /// Something that a schema allows and that is no zero value.
    fn sample(schema: &Value, schemas: &Value) -> Value {
        if let Some(name) = schema["$ref"].as_str() {
            let found = &schemas[name.rsplit('/').next().unwrap_or_default()];
            assert!(found.is_object(), "{name} is not there");
            return sample(found, schemas);
        }
        if let Some(first) = schema["anyOf"].get(0) {
            return sample(first, schemas);
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
        match kind {
            Some("string") => json!("text"),
            Some("integer") => schema["maximum"].clone(),
            Some("number") => json!(1.5),
            Some("boolean") => json!(true),
            Some("array") => json!([sample(&schema["items"], schemas)]),
            Some("object") => match schema["properties"].as_object() {
                Some(all) => all.iter().map(|(name, one)| (name.clone(), sample(one, schemas))).collect(),
                None => match &schema["additionalProperties"] {
                    Value::Object(_) => json!({ "key": sample(&schema["additionalProperties"], schemas) }),
                    _ => json!({}),
                },
            },
            _ => json!({ "any": [1] }),
        }
    }

    /// Each property of the schema is a field of the type, of that JSON type, and the other way round.
    fn check<T: DeserializeOwned + Serialize + Default + std::fmt::Debug>(name: &str, schemas: &Value) {
        let full = sample(&schemas[name], schemas);
        let read: T = serde_json::from_value(full.clone()).unwrap_or_else(|error| panic!("{name} {full}: {error}"));
        assert_eq!(serde_json::to_value(&read).expect("JSON"), full, "{name}");
        let empty = format!("{:?}", T::default());
        let fields: BTreeSet<&str> = empty
            .split([' ', '{', '}'])
            .filter_map(|word| word.strip_suffix(':'))
            .map(|word| word.trim_start_matches("r#"))
            .collect();
        let written: BTreeSet<&str> =
            schemas[name]["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        assert_eq!(fields, written, "{name}");
    }

    #[test]
    fn its_schemas_are_those_of_the_types() {
        let document: Value = serde_json::from_str(&document("/api/").expect("a document")).expect("JSON");
        let schemas = &document["components"]["schemas"];
        check_all(schemas);
        check::<BatchRequest>("BatchRequest", schemas);
        check::<Command>("Command", schemas);
        check::<SubscribeOptionOverride>("SubscribeOptionOverride", schemas);
        check::<CustomDisconnect>("CustomDisconnect", schemas);
        check::<Publication>("Publication", schemas);
        check::<NodeResult>("NodeResult", schemas);
        check::<ClientInfo>("ClientInfo", schemas);
        assert_eq!(document["servers"][0]["url"], "/api");
        for (method, ..) in described() {
            assert!(document["paths"][format!("/{method}")]["post"]["summary"].is_string(), "{method}");
        }
    }

    macro_rules! checks {
        ($($request:ident $result:ident)*) => {
            fn check_all(schemas: &Value) {
                $(
                    check::<$request>(stringify!($request), schemas);
                    check::<$result>(stringify!($result), schemas);
                )*
                let checked = [$((stringify!($request), stringify!($result))),*];
                assert_eq!(described().map(|(_, request, result)| (request, result)).collect::<Vec<_>>(), checked);
            }
        };
    }

    checks! {
        PublishRequest PublishResult
        BroadcastRequest BroadcastResult
        SubscribeRequest Empty
        UnsubscribeRequest Empty
        DisconnectRequest Empty
        PresenceRequest PresenceResult
        PresenceStatsRequest PresenceStatsResult
        HistoryRequest HistoryResult
        HistoryRemoveRequest Empty
        InfoRequest InfoResult
        RpcRequest RpcResult
        RefreshRequest Empty
        ChannelsRequest ChannelsResult
        InboxInfoRequest InboxInfoResult
        InboxAckRequest Empty
        InboxClearRequest InboxClearResult
    }
}
