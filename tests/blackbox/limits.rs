//! How often clients may ask for something, who they are by the word of a proxy, and what waits to leave together.
//! Buckets fill within an hour, so that none fills during a test.

use crate::client::{Client, Witness, token};
use crate::server::{OPEN, SECRET, Server};
use serde_json::{Value, json};

/// Options from lines `path value`, below client.rate_limit.
fn limits(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| format!("--client.rate_limit.{}", line.replacen(' ', "=", 1))).collect()
}

fn started(preset: &[&str], more: &[&str], lines: &[&str]) -> Server {
    let limits = limits(lines);
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    Server::start(&[preset, more, &limits].concat())
}

fn publish(client: &mut Client, channel: &str, data: Value) -> Value {
    client.ask(json!({ "publish": { "channel": channel, "data": data } }))
}

/// How many of `count` publications were taken; the others must have been refused with 111.
fn taken(client: &mut Client, channel: &str, count: usize) -> usize {
    let replies = (0..count).map(|_| publish(client, channel, json!(1)));
    let is_taken = |reply: &Value| match reply["error"].is_null() {
        true => true,
        false => {
            assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(111), &json!(true)), "{reply}");
            false
        }
    };
    replies.filter(is_taken).count()
}

fn beyond(server: &Server, layer: &str, command: &str, dry_run: bool) -> u64 {
    let labels = format!("layer=\"{layer}\",command=\"{command}\",dry_run=\"{dry_run}\"");
    server.metric(&format!("gannet_rate_limit_client_over_limit_total{{{labels}}}"))
}

#[test]
fn a_client_beyond_its_limit_gets_111_and_nobody_else_does() {
    let server = started(
        OPEN,
        &[],
        &[
            "client_command.enabled true",
            "client_command.publish.enabled true",
            r#"client_command.publish.buckets [{"interval":"1h","rate":100},{"interval":"1h","rate":3}]"#,
        ],
    );
    let mut witness = Witness::join(&server);
    let mut listener = Client::subscribed(&server, "c");
    let mut crowd: Vec<Client> = (0..3).map(|_| Client::connected(&server)).collect();
    for client in &mut crowd {
        assert_eq!(taken(client, "c", 5), 3);
        client.subscribe("other");
        witness.hears(&server);
    }
    server.publish("c", json!("last"));
    let heard: Vec<Value> = (0..10).map(|_| listener.publication().1).collect();
    assert_eq!((heard[8].clone(), heard[9].clone()), (json!(1), json!("last")), "what is refused has no effect");
    assert_eq!((server.errors(111), beyond(&server, "client_command", "publish", false)), (6, 6));
}

#[test]
fn the_total_binds_all_commands_and_unsubscribing_is_never_refused() {
    let server = started(
        OPEN,
        &[],
        &[
            "client_command.enabled true",
            "client_command.total.enabled true",
            r#"client_command.total.buckets [{"interval":"1h","rate":6}]"#,
            "client_command.default.enabled true",
            r#"client_command.default.buckets [{"interval":"1h","rate":3}]"#,
        ],
    );
    let mut client = Client::connected(&server);
    // Two are beyond the default limit and leave the total as it is.
    assert_eq!(taken(&mut client, "c", 5), 3);
    client.subscribe("a");
    client.subscribe("b");
    assert_eq!(client.ask(json!({ "unsubscribe": { "channel": "a" } }))["unsubscribe"], json!({}));
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "d" } })), 111);
    assert_eq!(client.refused(json!({ "presence": { "channel": "b" } })), 111);
    assert_eq!(client.ask(json!({ "unsubscribe": { "channel": "b" } }))["unsubscribe"], json!({}));
    assert_eq!(beyond(&server, "client_command", "unsubscribe", false), 1);
    Client::connected(&server).subscribe("d");
}

#[test]
fn namespaces_and_methods_have_limits_in_place_of_the_common_ones() {
    let server = started(
        OPEN,
        &["--channel.namespaces", r#"[{"name":"chat"},{"name":"news"}]"#, "--rpc.ping.enabled"],
        &[
            "client_command.enabled true",
            "client_command.publish.enabled true",
            r#"client_command.publish.buckets [{"interval":"1h","rate":2}]"#,
            r#"client_command.publish.namespace_overrides [{"namespace_name":"chat","enabled":true,"buckets":[{"interval":"1h","rate":4}]},{"namespace_name":"news","buckets":[{"interval":"1h","rate":1}]}]"#,
            r#"client_command.rpc.method_overrides [{"method":"ping","enabled":true,"buckets":[{"interval":"1h","rate":1}]}]"#,
        ],
    );
    let mut client = Client::connected(&server);
    assert_eq!(taken(&mut client, "chat:a", 3) + taken(&mut client, "$chat:b", 3), 4);
    assert_eq!(taken(&mut client, "news:a", 1) + taken(&mut client, "c", 3), 2, "news has the common one");
    assert!(client.ask(json!({ "rpc": { "method": "ping" } }))["rpc"].is_object());
    assert_eq!(client.refused(json!({ "rpc": { "method": "ping" } })), 111);
    assert_ne!(client.refused(json!({ "rpc": { "method": "other" } })), 111);
}

#[test]
fn the_clients_of_a_user_share_its_limit_on_all_reactors() {
    let server = started(
        &["--client.insecure", "--reactors", "4", "--client.token.hmac_secret_key", SECRET],
        &[],
        &[
            "user_command.enabled true",
            "user_command.publish.enabled true",
            r#"user_command.publish.buckets [{"interval":"1h","rate":5}]"#,
        ],
    );
    let mut witness = Witness::join(&server);
    for user in ["ann", "bob"] {
        let mut crowd: Vec<Client> = (0..16).map(|_| Client::connected_as(&server, user)).collect();
        assert_eq!(crowd.iter_mut().map(|client| taken(client, "c", 2)).sum::<usize>(), 5);
        witness.hears(&server);
    }
    assert_eq!(taken(&mut Client::connected(&server), "c", 20), 20, "nobody is no user");
    assert_eq!(beyond(&server, "user_command", "publish", false), 54);
}

#[test]
fn a_user_that_connects_too_often_is_told_to_wait() {
    let server = started(
        &["--client.token.hmac_secret_key", SECRET],
        &[],
        &[
            "user_command.enabled true",
            "user_command.connect.enabled true",
            r#"user_command.connect.buckets [{"interval":"1h","rate":2}]"#,
        ],
    );
    let ann = token(&json!({ "sub": "ann" }));
    let mut kept: Vec<Client> = (0..2).map(|_| Client::connected_with(&server, &ann)).collect();
    assert_eq!(Client::open(&server).refused(json!({ "connect": { "token": ann } })), 111);
    Client::connected_as(&server, "bob");
    // Those that are in stay in.
    assert_eq!(kept[0].refused(json!({ "subscribe": { "channel": "c" } })), 103);
    assert_eq!(beyond(&server, "user_command", "connect", false), 1);
}

#[test]
fn who_causes_too_many_errors_is_closed() {
    let lines = [
        "client_command.enabled true",
        "client_command.publish.enabled true",
        r#"client_command.publish.buckets [{"interval":"1h","rate":1}]"#,
        "client_error.enabled true",
        "client_error.total.enabled true",
        r#"client_error.total.buckets [{"interval":"1h","rate":3}]"#,
    ];
    let server = started(OPEN, &[], &lines);
    let mut witness = Witness::join(&server);
    let mut client = Client::connected(&server);
    // An unknown namespace, and what the other limit refuses.
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "x:y" } })), 102);
    assert_eq!(taken(&mut client, "c", 4), 1);
    assert_eq!((client.closed(), server.disconnects(3509)), (3509, 1));
    assert_eq!(beyond(&server, "client_error", "error", false), 1);
    witness.hears(&server);
    let tried = started(OPEN, &[], &[&lines[..], &["client_error.dry_run true"]].concat());
    let mut client = Client::connected(&tried);
    assert_eq!(taken(&mut client, "c", 6), 1);
    assert_eq!((beyond(&tried, "client_error", "error", true), tried.disconnects(3509)), (2, 0));
}

#[test]
fn a_dry_run_counts_and_refuses_nobody() {
    let server = started(
        OPEN,
        &["--client.token.hmac_secret_key", SECRET],
        &[
            "client_command.enabled true",
            "client_command.dry_run true",
            "client_command.default.enabled true",
            r#"client_command.default.buckets [{"interval":"1h","rate":3}]"#,
            "user_command.enabled true",
            "user_command.dry_run true",
            "user_command.total.enabled true",
            r#"user_command.total.buckets [{"interval":"1h","rate":2}]"#,
        ],
    );
    assert_eq!(taken(&mut Client::connected_as(&server, "ann"), "c", 10), 10);
    assert_eq!(beyond(&server, "client_command", "publish", true), 7);
    // The connect was one of the two.
    assert_eq!((beyond(&server, "user_command", "publish", true), server.errors(111)), (9, 0));
}

#[test]
fn what_waits_leaves_in_fewer_writes_and_in_order() {
    let heard = |options: &[&str], wait: bool| {
        let server = Server::with(OPEN, options);
        let mut listener = Client::subscribed(&server, "c");
        let before = server.metric("gannet_reactor_writes_total");
        let mut hear = |n: usize| assert_eq!(listener.publication().1, json!(n));
        for n in 0..10 {
            server.publish("c", json!(n));
            if wait {
                hear(n);
            }
        }
        if !wait {
            (0..10).for_each(&mut hear);
        }
        server.metric("gannet_reactor_writes_total") - before
    };
    assert_eq!(heard(&[], true), 10);
    let held = heard(&["--client.write_delay", "1s"], false);
    assert!((1..10).contains(&held), "{held} writes");
}

#[test]
fn a_close_comes_after_what_waited() {
    let server = Server::with(OPEN, &["--client.write_delay", "1s"]);
    let mut client = Client::subscribed(&server, "c");
    server.publish("c", json!(1));
    assert_eq!(server.call("disconnect", json!({ "user": "" })), json!({ "result": {} }));
    assert_eq!((client.publication().1, client.closed()), (json!(1), 3503));
}

const BY_PROXY: &[&str] = &[
    "--client.user_id_http_header",
    "X-User-Id",
    "--client.token.hmac_secret_key",
    SECRET,
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_publish_for_client",
];

/// Who a client is to others.
fn user_of(mut client: Client) -> String {
    client.subscribe("c");
    client.send(&json!({ "id": 99, "publish": { "channel": "c", "data": 1 } }).to_string());
    loop {
        let next = client.next();
        if let Some(user) = next["push"]["pub"]["info"]["user"].as_str() {
            return user.to_owned();
        }
    }
}

#[test]
fn a_proxy_names_the_user_by_a_header() {
    let server = Server::start(BY_PROXY);
    let open = |headers: &[(&'static str, &str)]| Client::open_with_headers(&server, headers);
    let mut ann = open(&[("x-user-id", "ann")]);
    ann.connect("");
    assert_eq!(user_of(ann), "ann");
    let mut bob = open(&[("x-user-id", "ann")]);
    bob.connect(&token(&json!({ "sub": "bob" })));
    assert_eq!(user_of(bob), "bob", "a token counts for more");
    assert!(server.logged("client.user_id_http_header"), "it is warned about");
}

#[test]
fn no_header_is_believed_that_a_client_could_have_set() {
    let server = Server::start(BY_PROXY);
    let refused = |server: &Server, headers: &[(&'static str, &str)], connect: Value| {
        let mut client = Client::open_with_headers(server, headers);
        client.send(&json!({ "id": 1, "connect": connect }).to_string());
        client.closed()
    };
    assert_eq!(refused(&server, &[("x-user-id", "ann"), ("x-user-id", "eve")], json!({})), 3501);
    assert_eq!(refused(&server, &[("x-user-id", "")], json!({})), 3501);
    assert_eq!(refused(&server, &[], json!({ "headers": { "x-user-id": "eve" } })), 3501);
    assert_eq!(refused(&server, &[("x-user-id", "ann")], json!({ "token": "nonsense" })), 3500);
    let plain = Server::start(&BY_PROXY[2..]);
    assert_eq!(refused(&plain, &[("x-user-id", "ann")], json!({})), 3501);
}
