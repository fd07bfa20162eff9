//! Offline messages: who was away is sent what has not arrived, once and in order.

use crate::backend::{Backend, ok};
use crate::client::{Client, token};
use crate::server::{GUARDED, Server};
use serde_json::{Value, json};

const HISTORY: &[&str] = &[
    "--channel.without_namespace.history_size=100",
    "--channel.without_namespace.history_ttl=1h",
    "--channel.without_namespace.inbox.enabled",
    "--reactors=2",
];

fn started(options: &[&str]) -> Server {
    Server::start(&[GUARDED, HISTORY, options].concat())
}

/// The result of a subscribe command without a position.
fn subscribe(client: &mut Client, channel: &str) -> Value {
    let reply = client.ask(json!({ "subscribe": { "channel": channel } }));
    assert!(reply["subscribe"]["recoverable"] == true, "{reply}");
    reply["subscribe"].clone()
}

/// What it brought.
fn missed(result: &Value) -> Vec<u64> {
    let publications = result["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_u64().expect("a number")).collect()
}

fn heard(client: &mut Client, expected: u64) {
    assert_eq!(client.publication().1, expected);
}

fn acknowledge(client: &mut Client, params: Value) {
    let reply = client.ask(json!({ "rpc": { "method": "inbox.ack", "data": params } }));
    assert_eq!(reply["rpc"], json!({ "data": {} }), "{reply}");
}

#[test]
fn who_was_away_is_sent_what_has_not_arrived() {
    let server = started(&[]);
    server.publish_kept("room", json!(1));
    let mut anna = Client::connected_as(&server, "anna");
    let first = subscribe(&mut anna, "room");
    assert!(missed(&first).is_empty() && first["was_recovering"].is_null(), "one who is new gets nothing: {first}");
    server.publish_kept("room", json!(2));
    heard(&mut anna, 2);
    acknowledge(&mut anna, json!({}));
    drop(anna);
    for number in 3..=5 {
        server.publish_kept("room", json!(number));
    }
    let mut anna = Client::connected_as(&server, "anna");
    let again = subscribe(&mut anna, "room");
    assert_eq!(missed(&again), [3, 4, 5]);
    assert!(again["recovered"] == true && again["was_recovering"] == true && again["offset"] == 2, "{again}");
    // Part of it is proven; others are not concerned.
    acknowledge(&mut anna, json!({ "channel": "room", "offset": 4 }));
    drop(anna);
    let mut anna = Client::connected_as(&server, "anna");
    assert_eq!(missed(&subscribe(&mut anna, "room")), [5]);
    let mut bert = Client::connected_as(&server, "bert");
    assert!(missed(&subscribe(&mut bert, "room")).is_empty());
    // A position says the same, and nothing is sent twice to who has one.
    let epoch = again["epoch"].clone();
    let mut anna = Client::connected_as(&server, "anna");
    let position = json!({ "channel": "room", "recover": true, "offset": 5, "epoch": epoch });
    assert!(missed(&anna.ask(json!({ "subscribe": position }))["subscribe"]).is_empty());
    drop(anna);
    let mut anna = Client::connected_as(&server, "anna");
    assert!(missed(&subscribe(&mut anna, "room")).is_empty());
    server.counts("gannet_inbox_caught_up_total", 2);
}

#[test]
fn a_pong_proves_what_was_sent_before_its_ping() {
    let server = started(&["--client.ping_interval=4s", "--client.pong_timeout=3900ms"]);
    let mut anna = Client::connected_as(&server, "anna");
    subscribe(&mut anna, "room");
    server.publish_kept("room", json!(1));
    heard(&mut anna, 1);
    // It answers pings while it waits for something that never comes.
    anna.answers_pings_until(|| server.metric("gannet_inbox_proofs_total") >= 1);
    drop(anna);
    server.publish_kept("room", json!(2));
    let mut anna = Client::connected_as(&server, "anna");
    assert_eq!(missed(&subscribe(&mut anna, "room")), [2]);
    // What the subscribe reply brought is proven likewise.
    anna.answers_pings_until(|| server.metric("gannet_inbox_proofs_total") >= 2);
    drop(anna);
    let mut anna = Client::connected_as(&server, "anna");
    assert!(missed(&subscribe(&mut anna, "room")).is_empty());
}

#[test]
fn a_personal_channel_waits_for_its_user_and_each_device() {
    let options =
        ["--channel.without_namespace.inbox.scope=device", "--client.subscribe_to_user_personal_channel.enabled"];
    let server = started(&options);
    let come = |device: &str| {
        let mut client = Client::open(&server);
        let result = client.connect(&token(&json!({ "sub": "anna", "meta": { "device": device } })));
        (client, result["subs"]["#anna"].clone())
    };
    for device in ["phone", "desk"] {
        let (_, sub) = come(device);
        assert!(missed(&sub).is_empty() && sub["recoverable"] == true, "{sub}");
    }
    server.publish_kept("#anna", json!(1));
    let (mut phone, sub) = come("phone");
    assert!(missed(&sub) == [1] && sub["recovered"] == true, "{sub}");
    acknowledge(&mut phone, json!({ "channel": "#anna" }));
    server.publish_kept("#anna", json!(2));
    heard(&mut phone, 2);
    drop(phone);
    assert_eq!(missed(&come("phone").1), [2]);
    assert_eq!(missed(&come("desk").1), [1, 2]);
}

#[test]
fn more_than_fits_comes_in_parts_and_what_is_lost_is_told() {
    let server = started(&["--client.recovery_max_publication_limit=10"]);
    let mut anna = Client::connected_as(&server, "anna");
    subscribe(&mut anna, "room");
    drop(anna);
    for number in 1..=25 {
        server.publish_kept("room", json!(number));
    }
    let mut anna = Client::connected_as(&server, "anna");
    let mut result = subscribe(&mut anna, "room");
    let mut all = missed(&result);
    let mut parts = 1;
    while all.len() < 25 {
        // As the SDKs do: unsubscribed with 2500, they come again from where they are.
        let push = anna.next();
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
        let epoch = &result["epoch"];
        let again = json!({ "channel": "room", "recover": true, "offset": all.len(), "epoch": epoch });
        result = anna.ask(json!({ "subscribe": again }))["subscribe"].clone();
        assert_eq!(result["recovered"], true, "{result}");
        all.extend(missed(&result));
        parts += 1;
    }
    assert_eq!((all, parts), ((1..=25).collect(), 3));
    server.publish_kept("room", json!(26));
    heard(&mut anna, 26);
    drop(anna);
    // History keeps a hundred.
    for number in 27..=150 {
        server.publish_kept("room", json!(number));
    }
    let mut anna = Client::connected_as(&server, "anna");
    let lost = subscribe(&mut anna, "room");
    assert!(lost["was_recovering"] == true && lost["recovered"].is_null() && missed(&lost).is_empty(), "{lost}");
    server.counts("gannet_inbox_unrecovered_total", 1);
}

#[test]
fn limits_and_wrong_words_have_errors() {
    let server = started(&["--channel.without_namespace.inbox.cursor_limit=1"]);
    let mut anna = Client::connected_as(&server, "anna");
    subscribe(&mut anna, "room");
    let mut bert = Client::connected_as(&server, "bert");
    assert_eq!(bert.refused(json!({ "subscribe": { "channel": "room" } })), 106);
    // Whoever was refused may try elsewhere, and what nobody is named in has no inbox.
    subscribe(&mut bert, "other");
    let mut nobody = Client::connected(&server);
    assert_eq!(nobody.ask(json!({ "subscribe": { "channel": "room" } }))["subscribe"], json!({}));
    let ack = |data: Value| json!({ "rpc": { "method": "inbox.ack", "data": data } });
    assert_eq!(bert.refused(ack(json!({ "channel": "room" }))), 103);
    assert_eq!(bert.refused(ack(json!(["room"]))), 107);
    assert_eq!(bert.refused(ack(json!({ "channel": "other", "offset": -1 }))), 107);
    server.counts("gannet_inbox_cursor_limit_total", 1);
}

#[test]
fn the_backend_sees_moves_and_forgets_cursors() {
    let server = started(&[]);
    let info = || server.call("inbox_info", json!({ "user": "anna" }))["result"]["channels"].clone();
    assert_eq!(info(), json!([]));
    let mut anna = Client::connected_as(&server, "anna");
    for channel in ["room", "hall"] {
        subscribe(&mut anna, channel);
    }
    let publish = |channel: &str, with: bool| {
        server.call("publish", json!({ "channel": channel, "data": 1, "with_present": with }))["result"].clone()
    };
    assert_eq!(publish("room", true)["present"], true);
    assert!(publish("room", false)["present"].is_null());
    assert_eq!(publish("empty", true)["present"], false);
    drop(anna);
    crate::server::until("the room to be empty", || (publish("room", true)["present"] == false).then_some(()));
    let top = publish("room", false);
    let (offset, epoch) = (top["offset"].as_u64().expect("an offset"), &top["epoch"]);
    let all = info();
    assert_eq!(all[0]["channel"], "hall");
    let room = json!({ "channel": "room", "offset": 0, "epoch": epoch, "waiting": offset });
    assert_eq!(all[1], room);
    let ack =
        |channel: &str, at: u64| server.call("inbox_ack", json!({ "user": "anna", "channel": channel, "offset": at }));
    assert_eq!(ack("room", 2), json!({ "result": {} }));
    assert_eq!(info()[1]["waiting"], offset - 2);
    ack("room", 0);
    assert_eq!((&info()[1]["waiting"], &info()[1]["offset"]), (&json!(0), &json!(offset)));
    assert_eq!(ack("empty", 0)["error"]["code"], 104);
    assert_eq!(server.call("inbox_info", json!({}))["error"]["code"], 107);
    let clear = |channel: &str| server.call("inbox_clear", json!({ "user": "anna", "channel": channel }));
    assert_eq!(clear("hall")["result"], json!({ "cleared": 1 }));
    assert_eq!(clear("")["result"], json!({ "cleared": 1 }));
    assert_eq!(info(), json!([]));
    let responses = server.call("broadcast", json!({ "channels": ["room", "hall"], "data": 2, "with_present": true }));
    let present = |at: usize| responses["result"]["responses"][at]["result"]["present"].clone();
    assert_eq!((present(0), present(1)), (json!(false), json!(false)));
    let plain = Server::start(GUARDED);
    let refused = plain.call("inbox_ack", json!({ "user": "anna", "channel": "room" }));
    assert_eq!(refused["error"]["code"], 108);
}

#[test]
fn what_has_not_arrived_is_told_to_the_backend() {
    let backend = Backend::start(|_| ok(json!({})));
    let endpoint = format!("--hooks.endpoint={}", backend.url("/hooks"));
    let options = [
        &*endpoint,
        "--hooks.events=undelivered",
        "--hooks.batch_delay=0s",
        "--channel.without_namespace.inbox.undelivered_after=1s",
        "--channel.without_namespace.inbox.undelivered_data",
    ];
    let server = started(&options);
    let mut anna = Client::connected_as(&server, "anna");
    subscribe(&mut anna, "room");
    drop(anna);
    let told = |count: usize| {
        crate::server::until("the backend to be told", || {
            let batches = backend.asked("/hooks");
            let events = batches.iter().flat_map(|asked| asked.body["events"].as_array().cloned().unwrap_or_default());
            let events: Vec<Value> = events.collect();
            let offsets = |event: &Value| (event["from"].as_u64().unwrap_or(0), event["to"].as_u64().unwrap_or(0));
            (events.last().map(offsets).unwrap_or_default().1 == count as u64).then_some(events)
        })
    };
    server.publish_kept("room", json!({ "n": 1 }));
    let first = told(1);
    assert_eq!(first.len(), 1);
    let of = |key: &str| first[0][key].clone();
    assert_eq!((of("type"), of("user"), of("channel")), (json!("undelivered"), json!("anna"), json!("room")));
    assert_eq!(of("publications"), json!([{ "offset": 1, "data": { "n": 1 } }]));
    server.publish_kept("room", json!({ "n": 2 }));
    server.publish_kept("room", json!({ "n": 3 }));
    let all = told(3);
    let mut next = 1;
    for event in &all {
        assert_eq!(event["from"], next, "each is told once: {all:?}");
        next = event["to"].as_u64().expect("an offset") + 1;
    }
    server.counts("gannet_inbox_undelivered_publications_total", 3);
}
