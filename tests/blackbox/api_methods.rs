//! What each method of the server API does, as a backend and its clients see it.

use crate::client::{Client, now};
use crate::peer::Peer;
use crate::server::{GUARDED, KEY, Server, until};
use crate::stream::{Stream, get};
use serde_json::{Value, json};

/// One that keeps everything, one for bytes, one for JSON objects, and one with nothing.
const NAMESPACES: &str = r#"[
    {"name": "keep", "history_size": 5, "history_ttl": "60s", "presence": true, "join_leave": true,
     "allow_subscribe_for_client": true},
    {"name": "binary", "publication_data_format": "binary", "history_size": 5, "history_ttl": "60s"},
    {"name": "object", "publication_data_format": "json_object"},
    {"name": "plain", "allow_subscribe_for_client": true}
]"#;

fn start() -> Server {
    start_with(&[])
}

fn start_with(options: &[&str]) -> Server {
    Server::start(&[GUARDED, &["--reactors", "2", "--channel.namespaces", NAMESPACES], options].concat())
}

/// A call that must succeed.
fn result(server: &Server, method: &str, body: Value) -> Value {
    let answer = server.call(method, body.clone());
    assert!(answer.get("error").is_none(), "{method} {body}: {answer}");
    answer["result"].clone()
}

/// A call that must not; its error code.
fn refused(server: &Server, method: &str, body: Value) -> u64 {
    let answer = server.call(method, body.clone());
    answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {body}: {answer}"))
}

/// All that is kept of a channel, and where it stands.
fn kept(server: &Server, channel: &str) -> (Vec<Value>, u64) {
    let history = result(server, "history", json!({ "channel": channel, "limit": -1 }));
    let publications = history["publications"].as_array().expect("publications");
    (publications.iter().map(|one| one["data"].clone()).collect(), history["offset"].as_u64().expect("an offset"))
}

/// A client of `user` with its id.
fn client(server: &Server, user: &str) -> (Client, String) {
    let mut client = Client::open(server);
    let connect = client.connect(&crate::client::token(&json!({ "sub": user })));
    let id = connect["client"].as_str().expect("an id").to_owned();
    (client, id)
}

#[test]
fn publish_says_where_the_publication_stands() {
    let server = start();
    let publish = |body: Value| result(&server, "publish", body);
    let first = publish(json!({ "channel": "keep:a", "data": 1, "tags": { "k": "v" } }));
    assert_eq!(first["offset"], 1);
    let epoch = first["epoch"].as_str().expect("an epoch");
    assert_eq!(publish(json!({ "channel": "keep:a", "data": 2 })), json!({ "offset": 2, "epoch": epoch }));
    assert_eq!(publish(json!({ "channel": "keep:a", "data": 3, "skip_history": true })), json!({}));
    assert_eq!(publish(json!({ "channel": "plain:a", "data": 4 })), json!({}), "no history");
    // Base64 goes before data.
    publish(json!({ "channel": "keep:a", "b64data": "InRleHQi", "data": 5 }));
    assert_eq!(publish(json!({ "channel": "keep:a", "data": null })).get("offset"), Some(&json!(4)), "null is JSON");
    assert_eq!(kept(&server, "keep:a"), (vec![json!(1), json!(2), json!("text"), Value::Null], 4));
    let history = result(&server, "history", json!({ "channel": "keep:a", "limit": 1 }));
    assert_eq!(history["publications"], json!([{ "data": 1, "offset": 1, "tags": { "k": "v" } }]));
}

#[test]
fn a_repeated_idempotency_key_publishes_once() {
    let server = start();
    let (mut client, _) = client(&server, "1");
    client.ask(json!({ "subscribe": { "channel": "keep:a" } }));
    let publish = |key: &str, data: u64| {
        result(&server, "publish", json!({ "channel": "keep:a", "data": data, "idempotency_key": key }))
    };
    let first = publish("one", 1);
    assert_eq!(publish("one", 2), first, "the first result again");
    assert_eq!(publish("two", 3)["offset"], 2);
    assert_eq!((client.publication().1, client.publication().1), (json!(1), json!(3)));
    let elsewhere = json!({ "channels": ["keep:b", "plain:a", "keep:a"], "data": 4, "idempotency_key": "one" });
    let answers = result(&server, "broadcast", elsewhere)["responses"].clone();
    assert_eq!(answers[0]["result"]["offset"], 1, "the key is the channel's own");
    assert_eq!(answers[1]["result"], json!({}));
    assert_eq!(answers[2]["result"], first);
    assert_eq!(kept(&server, "keep:a").1, 2);
}

#[test]
fn a_key_repeated_while_the_first_is_on_its_way_publishes_once() {
    let server = start();
    let body = json!({ "channel": "keep:a", "data": 1, "idempotency_key": "k" }).to_string();
    let mut peers: Vec<Peer> = (0..20).map(|_| Peer::open(server.address)).collect();
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Length: {}", body.len());
    peers.iter_mut().for_each(|peer| peer.send(format!("{head}\r\n\r\n{body}").as_bytes()));
    let answers: Vec<String> = peers.iter_mut().map(|peer| peer.response().body).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.contains("\"offset\":1,")), "{answers:?}");
    assert_eq!(kept(&server, "keep:a"), (vec![json!(1)], 1));
}

#[test]
fn a_version_not_above_the_latest_is_dropped() {
    let server = start();
    let publish = |version: u64, epoch: &str| {
        let body = json!({ "channel": "keep:a", "data": version, "version": version, "version_epoch": epoch });
        result(&server, "publish", body)["offset"].clone()
    };
    assert_eq!(publish(5, "e"), 1);
    assert_eq!((publish(5, "e"), publish(4, "e"), publish(3, "")), (json!(1), json!(1), json!(1)), "the top again");
    assert_eq!(publish(6, "e"), 2);
    assert_eq!(publish(1, "another"), 3, "versions begin again");
    assert_eq!(kept(&server, "keep:a").0, [json!(5), json!(6), json!(1)]);
    // Without history nothing is compared: each is published.
    let (mut client, _) = client(&server, "1");
    client.subscribe("plain:a");
    for version in [2, 1] {
        let body = json!({ "channel": "plain:a", "data": version, "version": version });
        assert_eq!(result(&server, "publish", body), json!({}));
        let push = json!({ "push": { "channel": "plain:a", "pub": { "data": version, "version": version } } });
        assert_eq!(client.next(), push);
    }
    client.subscribe("keep:a");
    publish(9, "another");
    let told = client.next();
    assert_eq!((&told["push"]["pub"]["version"], &told["push"]["pub"]["offset"]), (&json!(9), &json!(4)), "{told}");
}

#[test]
fn data_must_be_what_the_namespace_says() {
    let server = start();
    let code = |channel: &str, data: Value| {
        let mut body = data;
        body["channel"] = channel.into();
        server.call("publish", body)["error"]["code"].as_u64().unwrap_or(0)
    };
    let bytes = json!({ "b64data": "AAE=" });
    assert_eq!((code("plain:a", bytes.clone()), code("keep:a", bytes.clone())), (107, 107));
    assert_eq!((code("plain:a", json!({})), code("plain:a", json!({ "b64data": "not base64" }))), (107, 107));
    assert_eq!(
        (code("binary:a", bytes.clone()), code("binary:a", json!({})), code("binary:a", json!({"data": 1}))),
        (0, 0, 0)
    );
    assert_eq!((code("object:a", json!({ "data": {} })), code("object:a", json!({ "data": [] }))), (0, 107));
    assert_eq!((code("object:a", bytes), code("object:a", json!({ "b64data": "e30=" }))), (107, 0));
    assert_eq!(kept(&server, "binary:a").0, [json!("AAE="), json!(""), json!(1)], "bytes are told as base64");
    assert_eq!(refused(&server, "broadcast", json!({ "channels": ["plain:a", "object:a"] })), 107);
    let answer = result(&server, "broadcast", json!({ "channels": ["plain:a", "binary:a"], "b64data": "AAE=" }));
    assert_eq!(answer["responses"][0]["error"]["code"], 107);
    assert_eq!(answer["responses"][1]["result"]["offset"], 4);
    for (field, body) in [
        ("info", json!({ "b64info": "AAE=" })),
        ("data", json!({ "b64data": "AAE=" })),
        ("expire_at", json!({ "expire_at": -1 })),
    ] {
        let mut body = body;
        (body["user"], body["channel"]) = ("1".into(), "plain:a".into());
        assert_eq!(refused(&server, "subscribe", body), 107, "{field}");
    }
}

#[test]
fn subscribe_puts_clients_into_a_channel() {
    let server = start();
    let (mut one, id) = client(&server, "42");
    let (mut two, second) = client(&server, "42");
    let body = json!({
        "user": "42", "channel": "keep:a", "client": id, "info": { "role": "x" }, "data": { "hello": 1 },
    });
    assert_eq!(result(&server, "subscribe", body), json!({}));
    let push = one.next()["push"].clone();
    assert_eq!((&push["channel"], &push["subscribe"]["data"]), (&json!("keep:a"), &json!({ "hello": 1 })));
    let present = result(&server, "presence", json!({ "channel": "keep:a" }))["presence"].clone();
    assert_eq!(present, json!({ &id: { "user": "42", "client": &id, "chan_info": { "role": "x" } } }));

    result(&server, "publish", json!({ "channel": "keep:a", "data": 1 }));
    assert_eq!(one.publication().1, json!(1));
    let at = result(&server, "history", json!({ "channel": "keep:a" }));
    result(&server, "publish", json!({ "channel": "keep:a", "data": 2 }));
    assert_eq!(one.publication().1, json!(2));

    let overrides = json!({ "presence": { "value": false }, "force_recovery": { "value": true } });
    let since = json!({ "offset": at["offset"], "epoch": at["epoch"] });
    let body = json!({
        "user": "42", "client": second, "channel": "keep:a", "override": overrides, "recover_since": since,
    });
    assert_eq!(result(&server, "subscribe", body), json!({}));
    let push = two.next()["push"]["subscribe"].clone();
    assert_eq!((&push["recoverable"], &push["positioned"]), (&json!(true), &json!(true)));
    assert_eq!(two.publication(), ("keep:a".to_owned(), json!(2)), "what it missed");
    let stats = result(&server, "presence_stats", json!({ "channel": "keep:a" }));
    assert_eq!(stats, json!({ "num_clients": 1, "num_users": 1 }), "the second is not shown");

    assert_eq!(result(&server, "subscribe", json!({ "user": "nobody", "channel": "keep:a" })), json!({}));
    assert_eq!(refused(&server, "subscribe", json!({ "user": "42", "channel": "nowhere:a" })), 102);
    assert_eq!(refused(&server, "subscribe", json!({ "user": "42" })), 107);
    assert_eq!(refused(&server, "subscribe", json!({ "channel": "keep:a" })), 107);
}

/// Pushes up to the first publication, each by what it is.
fn pushes(client: &mut Client) -> Vec<String> {
    let kind =
        |push: &Value| push.as_object().into_iter().flatten().map(|(key, _)| key.clone()).find(|key| key != "channel");
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "pub") {
        kinds.extend(kind(&client.next()["push"]));
    }
    kinds
}

#[test]
fn who_is_subscribed_is_subscribed_anew() {
    let loud = r#"[{"name": "loud", "presence": true, "join_leave": true, "force_push_join_leave": true,
        "allow_subscribe_for_client": true}]"#;
    let options = ["--reactors", "3", "--channel.namespaces", loud];
    for way in ["its own", "the server's"] {
        let server = Server::start(&[GUARDED, &options[..]].concat());
        let (mut one, id) = client(&server, "42");
        let (mut witness, _) = client(&server, "7");
        witness.ask(json!({ "subscribe": { "channel": "loud:a" } }));
        let anew = |n: u64| {
            let (info, data) = (json!({ "role": n }), json!({ "hello": n }));
            let body = json!({ "user": "42", "channel": "loud:a", "info": info, "data": data });
            assert_eq!(result(&server, "subscribe", body), json!({}));
        };
        match way {
            "its own" => drop(one.ask(json!({ "subscribe": { "channel": "loud:a" } }))),
            _ => anew(0),
        }
        // Nothing waits for the owner's answer: the last of them counts all the same.
        (1..=3).for_each(anew);
        let seen = || result(&server, "presence", json!({ "channel": "loud:a" }))["presence"][&id].clone();
        let expected = json!({ "user": "42", "client": &id, "chan_info": { "role": 3 } });
        until("the last info", || (seen() == expected).then_some(()));
        server.publish("loud:a", json!("end"));
        let told = pushes(&mut one);
        let count = |told: &[String], kind: &str| told.iter().filter(|told| *told == kind).count();
        let begun = if way == "its own" { 3 } else { 4 };
        assert_eq!((count(&told, "subscribe"), count(&told, "leave"), count(&told, "pub")), (begun, 0, 1), "{told:?}");
        let told = pushes(&mut witness);
        assert_eq!((count(&told, "join"), count(&told, "leave"), count(&told, "pub")), (5, 0, 1), "{way}: {told:?}");
        let of = |series: &str| server.metric(series);
        assert_eq!((of("gannet_node_num_subscriptions"), of("gannet_node_num_channels")), (2, 1), "each is there once");

        let told = one.ask(json!({ "unsubscribe": { "channel": "loud:a" } }));
        assert_eq!(told["unsubscribe"], json!({}));
        assert_eq!(seen(), Value::Null);
        until("one subscription", || (of("gannet_node_num_subscriptions") == 1).then_some(()));
        assert_eq!(one.refused(json!({ "presence": { "channel": "loud:a" } })), 103);
        drop(one);
        until("nobody", || (of("gannet_node_num_clients") == 1).then_some(()));
        assert_eq!(witness.next()["push"]["leave"]["info"]["client"], id.as_str(), "one leave");
    }
}

#[test]
fn nothing_is_missed_or_doubled_while_a_subscription_begins_anew() {
    let server = Server::start(&[GUARDED, &["--reactors", "3", "--channel.namespaces", NAMESPACES]].concat());
    for channel in ["plain:a", "plain:b", "keep:a", "keep:b"] {
        let (mut one, _) = client(&server, "42");
        one.ask(json!({ "subscribe": { "channel": channel } }));
        for n in 0..200 {
            result(&server, "publish", json!({ "channel": channel, "data": n }));
            result(&server, "subscribe", json!({ "user": "42", "channel": channel }));
        }
        let mut heard = 0;
        while heard < 200 {
            let push = one.next()["push"].clone();
            if push["subscribe"].is_null() {
                assert_eq!(push["pub"]["data"], heard, "{push}");
                heard += 1;
            }
        }
        one.ask(json!({ "unsubscribe": { "channel": channel } }));
    }
    until("no subscriptions", || (server.metric("gannet_node_num_subscriptions") == 0).then_some(()));
}

#[test]
fn a_silent_disconnect_says_nothing() {
    let server = start_with(crate::stream::ALL);
    let (mut client, _) = client(&server, "42");
    let token = crate::client::token(&json!({ "sub": "42" }));
    let say = json!({ "token": token }).to_string();
    let mut listener = Peer::open(server.address).upgrade(crate::stream::UNI_WEBSOCKET);
    listener.send_frame(crate::peer::TEXT, say.as_bytes());
    listener.text();
    let mut sse = Stream::open(&server, &get(crate::stream::UNI_SSE, &say));
    sse.next();
    let silent = json!({ "user": "42", "disconnect": { "code": 3000, "reason": "gone" } });
    assert_eq!(result(&server, "disconnect", silent), json!({}));
    assert!(client.try_next().is_err());
    assert_eq!(listener.try_frame(), None, "no push and no close frame");
    assert_eq!(sse.try_next(), None);
    server.counts("gannet_client_num_server_disconnects_total{code=\"3000\"}", 3);
}

#[test]
fn a_subscription_of_the_api_may_end_by_itself() {
    let server = start_with(&["--client.expired_sub_close_delay", "0s"]);
    let (mut client, _) = client(&server, "42");
    result(&server, "subscribe", json!({ "user": "42", "channel": "plain:a", "expire_at": now() + 2 }));
    assert_eq!(client.next()["push"]["channel"], "plain:a");
    assert_eq!(client.closed(), 3006);
}

#[test]
fn refresh_gives_time_or_ends_it() {
    let server = start();
    let (mut client, id) = client(&server, "42");
    client.ask(json!({ "subscribe": { "channel": "keep:a" } }));
    let body = json!({ "user": "42", "client": "another", "expired": true });
    assert_eq!(result(&server, "refresh", body), json!({}), "nobody is meant");
    result(&server, "refresh", json!({ "user": "42", "client": &id, "expire_at": now() + 1000, "info": { "n": 1 } }));
    let push = client.next()["push"]["refresh"].clone();
    assert_eq!(push["expires"], true);
    assert!((990..=1000).contains(&push["ttl"].as_u64().expect("a ttl")), "{push}");
    client.ask(json!({ "unsubscribe": { "channel": "keep:a" } }));
    client.ask(json!({ "subscribe": { "channel": "keep:a" } }));
    let present = result(&server, "presence", json!({ "channel": "keep:a" }))["presence"].clone();
    assert_eq!(present[&id]["conn_info"], json!({ "n": 1 }));
    result(&server, "refresh", json!({ "user": "42", "expired": true }));
    assert_eq!(client.closed(), 3005);
    assert_eq!(refused(&server, "refresh", json!({ "expired": true })), 107);
}

#[test]
fn presence_tells_who_is_there() {
    let server = start();
    let (mut one, id) = client(&server, "42");
    let (mut two, _) = client(&server, "42");
    let (mut other, _) = client(&server, "7");
    let stats = |clients: u64, users: u64| {
        let expected = json!({ "num_clients": clients, "num_users": users });
        let is_so = || (result(&server, "presence_stats", json!({ "channel": "keep:a" })) == expected).then_some(());
        until("the numbers", is_so);
    };
    stats(0, 0);
    assert_eq!(result(&server, "presence", json!({ "channel": "keep:a" })), json!({ "presence": {} }));
    for client in [&mut one, &mut two, &mut other] {
        client.ask(json!({ "subscribe": { "channel": "keep:a" } }));
    }
    stats(3, 2);
    let present = result(&server, "presence", json!({ "channel": "keep:a" }))["presence"].clone();
    assert_eq!(present.as_object().expect("clients").len(), 3);
    assert_eq!(present[&id], json!({ "client": &id, "user": "42" }));
    drop((one, two));
    stats(1, 1);
    for method in ["presence", "presence_stats"] {
        assert_eq!(refused(&server, method, json!({ "channel": "plain:a" })), 108);
        assert_eq!(refused(&server, method, json!({ "channel": "nowhere:a" })), 102);
        assert_eq!(refused(&server, method, json!({})), 107);
    }
}

#[test]
fn history_is_read_from_either_end_and_removed() {
    let server = start();
    let epoch = (1..=7)
        .map(|n| result(&server, "publish", json!({ "channel": "keep:a", "data": n }))["epoch"].clone())
        .last()
        .expect("an epoch");
    let read = |mut body: Value| {
        body["channel"] = "keep:a".into();
        let history = result(&server, "history", body);
        assert_eq!((&history["offset"], &history["epoch"]), (&json!(7), &epoch));
        let publications = history["publications"].as_array().expect("publications");
        publications.iter().map(|one| one["data"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(read(json!({})), [0_u64; 0]);
    assert_eq!(read(json!({ "limit": -1 })), [3, 4, 5, 6, 7]);
    assert_eq!(read(json!({ "limit": 2 })), [3, 4]);
    assert_eq!(read(json!({ "limit": 2, "reverse": true })), [7, 6]);
    assert_eq!(read(json!({ "limit": 2, "since": { "offset": 4, "epoch": epoch } })), [5, 6]);
    assert_eq!(read(json!({ "limit": 2, "reverse": true, "since": { "offset": 5, "epoch": epoch } })), [4, 3]);
    assert_eq!(read(json!({ "limit": 9, "since": { "offset": 7, "epoch": epoch } })), [0_u64; 0]);
    let lost = json!({ "channel": "keep:a", "limit": 1, "since": { "offset": 1, "epoch": "another" } });
    assert_eq!(refused(&server, "history", lost), 112);
    assert_eq!(refused(&server, "history", json!({ "channel": "keep:a", "reverse": true, "since": {} })), 107);
    assert_eq!(result(&server, "history_remove", json!({ "channel": "keep:a" })), json!({}));
    assert_eq!(read(json!({ "limit": -1 })), [0_u64; 0]);
    for method in ["history", "history_remove"] {
        assert_eq!(refused(&server, method, json!({ "channel": "plain:a" })), 108);
        assert_eq!(refused(&server, method, json!({ "channel": "nowhere:a" })), 102);
        assert_eq!(refused(&server, method, json!({})), 107);
    }
}

#[test]
fn a_batch_answers_each_command_in_its_place() {
    let server = start();
    for parallel in [false, true] {
        let channel = format!("keep:{parallel}");
        let publish = |data: u64| json!({ "publish": { "channel": &channel, "data": data } });
        let commands = json!([
            publish(1), publish(2),
            { "presence": { "channel": "plain:a" } },
            { "nothing_known": {} },
            { "info": {} },
            {},
            { "unsubscribe": { "user": "1", "channel": &channel } },
        ]);
        let answer = server.call("batch", json!({ "commands": commands, "parallel": parallel }));
        assert!(answer.get("result").is_none(), "{answer}");
        let replies = answer["replies"].as_array().expect("replies");
        assert_eq!(replies.len(), 7);
        assert_eq!((&replies[0]["publish"]["offset"], &replies[1]["publish"]["offset"]), (&json!(1), &json!(2)));
        assert_eq!(replies[2], json!({ "error": { "code": 108, "message": "not available" } }));
        assert_eq!((&replies[3]["error"]["code"], &replies[5]["error"]["code"]), (&json!(104), &json!(104)));
        assert_eq!(replies[4]["info"]["nodes"][0]["num_clients"], 0);
        assert_eq!(replies[6], json!({ "unsubscribe": {} }));
    }
    assert_eq!(server.call("batch", json!({})), json!({ "replies": [] }));
    let counted = "gannet_api_command_duration_seconds_count{protocol=\"http\",method=\"publish\"}";
    assert_eq!(server.metric(counted), 4);
}

#[test]
fn a_batch_may_be_long() {
    let server = start();
    let publish = |n: u64| json!({ "publish": { "channel": format!("keep:{}", n % 7), "data": n } });
    for parallel in [false, true] {
        let commands: Vec<Value> = (0..3000).map(publish).collect();
        let answer = server.call("batch", json!({ "commands": commands, "parallel": parallel }));
        let replies = answer["replies"].as_array().expect("replies");
        assert_eq!(replies.len(), 3000);
        assert!(replies.iter().all(|reply| reply["publish"]["offset"].is_u64()), "each was published");
    }
    assert_eq!(kept(&server, "keep:0").1, 2 * 429);
}

#[test]
fn the_old_form_takes_commands_on_lines() {
    let server = start();
    let ask = |body: &str| {
        let headers = [("X-API-Key", KEY)];
        Peer::open(server.address).request("POST", "/api", &headers, body).expect("an answer")
    };
    let body = r#"{"method": "publish", "params": {"channel": "keep:a", "data": {"n": 1}}}
        {"id": 7, "method": "presence_stats", "params": {"channel": "keep:a"}}
        {"id": 8, "method": "presence", "params": {"channel": "plain:a"}}
        {"method": "nothing_known", "params": {}}
        {"method": "publish", "params": {"channel": 5}}
        {"method": "info"}"#;
    let answer = ask(body);
    assert_eq!(answer.status, 200);
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 6, "{}", answer.body);
    assert_eq!(lines[0]["result"]["offset"], 1);
    assert_eq!(lines[1], json!({ "id": 7, "result": { "num_clients": 0, "num_users": 0 } }));
    assert_eq!((&lines[0]["id"], &lines[2]["id"]), (&Value::Null, &json!(8)));
    let codes: Vec<_> = lines[2..5].iter().map(|line| line["error"]["code"].as_u64()).collect();
    assert_eq!(codes, [Some(108), Some(104), Some(107)]);
    assert!(lines[5]["result"]["nodes"].is_array());
    for bad in ["", " \n", "[1]", "{\"method\":", "{\"method\": 5}"] {
        assert_eq!(ask(bad).status, 400, "{bad:?}");
    }
    assert_eq!(Peer::open(server.address).request("POST", "/api", &[], body).expect("an answer").status, 401);
}

#[test]
fn errors_may_be_told_by_the_status() {
    let cases = [
        ("publish", r#"{"channel":"nowhere:a","data":1}"#, 404),
        ("rpc", r#"{"method":"nothing_known"}"#, 404),
        ("publish", "{}", 400),
        ("history", r#"{"channel":"plain:a"}"#, 400),
        ("history", r#"{"channel":"keep:a","since":{"offset":1,"epoch":"x"}}"#, 416),
        ("broadcast", "{}", 400),
        ("batch", r#"{"commands":[{"publish":{}}]}"#, 200),
        ("publish", r#"{"channel":"plain:a","data":1}"#, 200),
    ];
    let (asked, always) = (start(), start_with(&["--http_api.error_mode", "transport"]));
    let mode = ("X-Centrifugo-Error-Mode", "transport");
    for (method, body, status) in cases {
        let path = format!("/api/{method}");
        let post = |server: &Server, headers: &[(&str, &str)]| {
            let answer = Peer::open(server.address).request("POST", &path, headers, body).expect("an answer");
            let body = serde_json::from_str::<Value>(&answer.body).expect("JSON");
            (answer.status, body["code"].is_u64(), body["error"]["code"].is_u64())
        };
        // With its own status an error is the whole body.
        let is_error = status != 200;
        assert_eq!(post(&asked, &[("X-API-Key", KEY), mode]), (status, is_error, false), "{method} {body}");
        assert_eq!(post(&asked, &[("X-API-Key", KEY)]), (200, false, is_error), "{method} {body}");
        assert_eq!(post(&always, &[("X-API-Key", KEY)]), (status, is_error, false), "{method} {body}");
    }
}

#[test]
fn nulls_and_unknown_fields_do_no_harm() {
    let server = start();
    let body = json!({
        "channel": "keep:a", "data": 1, "tags": null, "idempotency_key": null, "version": null, "from_tomorrow": [1],
    });
    assert_eq!(result(&server, "publish", body)["offset"], 1);
    let body = json!({ "channel": "keep:a", "limit": null, "since": null, "reverse": null });
    assert_eq!(result(&server, "history", body)["offset"], 1);
    let body = json!({ "user": "1", "client": null, "disconnect": null, "whitelist": null });
    assert_eq!(result(&server, "disconnect", body), json!({}));
    assert_eq!(refused(&server, "disconnect", json!({ "user": null })), 107);
    assert_eq!(refused(&server, "rpc", json!({ "method": null })), 107);
}
