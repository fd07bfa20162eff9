//! The configuration loaded again by SIGHUP: what holds afterwards, for whom, and what is told.

use crate::backend::{Backend, ok};
use crate::client::{Client, signed};
use crate::file::File;
use crate::peer::{PATH, Peer};
use crate::server::{KEY, Server, until};
use crate::stream::Stream;
use rustix::process::Signal;
use serde_json::json;

const DONE: &str = "the configuration was loaded again";

/// `text`, with the key of the API.
fn keyed(text: &str) -> String {
    if text.contains("[http_api]") { text.to_owned() } else { format!("{text}\n[http_api]\nkey = \"{KEY}\"\n") }
}

/// A server with a file, which is written again and again.
struct Reloaded {
    file: File,
    server: Server,
}

impl Reloaded {
    fn start(name: &str, text: &str, options: &[&str]) -> Reloaded {
        let file = File::new(name, &keyed(text));
        let server = Server::start(&[&["--config", file.path(), "--reactors", "2"], options].concat());
        Reloaded { file, server }
    }

    fn hang_up(&self, text: &str, line: &str) {
        let before = self.server.lines_with(line);
        self.file.write(&keyed(text));
        self.server.signal(Signal::HUP);
        until(line, || (self.server.lines_with(line) > before).then_some(()));
    }

    /// Loads `text`; when this is over, all reactors serve by it.
    fn load(&self, text: &str) {
        self.hang_up(text, DONE);
        // The question for the numbers comes to the reactors behind the new settings.
        self.server.metrics();
    }

    fn refuse(&self, text: &str) {
        self.hang_up(text, "the configuration is refused as a whole");
    }
}

fn names(options: &[&str]) -> String {
    format!("\"options\":\"{}\"", options.join(", "))
}

#[test]
fn options_of_channels_change_and_no_client_is_lost() {
    let open = "[client]\ninsecure = true\n[channel.without_namespace]\nallow_subscribe_for_client = true\n";
    let chat = "[[channel.namespaces]]\nname = \"chat\"\nallow_subscribe_for_client = true\n";
    let it = Reloaded::start("namespaces.toml", &format!("{open}{chat}"), &[]);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::subscribed(&it.server, "chat:1")).collect();
    let history = |client: &mut Client| client.refused(json!({ "history": { "channel": "chat:1" } }));
    assert_eq!(history(&mut clients[0]), 108);
    it.load(&format!("{open}{chat}history_size = 5\nhistory_ttl = \"1m\"\n"));
    assert!(it.server.logged(&names(&["channel.namespaces"])));
    it.server.call("publish", json!({ "channel": "chat:1", "data": 1 }));
    for client in &mut clients {
        assert_eq!(client.publication().1, 1);
        let reply = client.ask(json!({ "history": { "channel": "chat:1", "limit": 9 } }));
        assert_eq!(reply["history"]["publications"][0]["data"], 1, "{reply}");
    }
    // The namespace goes: who is in its channels stays, and nobody does anything there.
    it.load(open);
    for client in &mut clients {
        assert_eq!(history(client), 102);
        assert_eq!(client.refused(json!({ "subscribe": { "channel": "chat:2" } })), 102);
        client.subscribe("news");
    }
    assert_eq!(it.server.call("publish", json!({ "channel": "chat:1", "data": 1 }))["error"]["code"], 102);
    it.server.publish("news", json!("all"));
    clients.iter_mut().for_each(|client| assert_eq!(client.publication().1, "all"));
    assert_eq!(it.server.metric("gannet_node_num_clients"), 20);
}

fn with_key(key: &str) -> String {
    format!("[client.token]\nhmac_secret_key = \"{key}\"\n")
}

#[test]
fn a_new_key_takes_the_place_of_the_old_one() {
    let (old, new) = ("the-old-key-of-thirty-two-bytes-", "the-new-key-of-thirty-two-bytes-");
    let it = Reloaded::start("keys.toml", &with_key(old), &[]);
    let tokens = [old, new].map(|key| signed(&json!({ "sub": "42" }), key));
    let refused = |token: &str| {
        let mut client = Client::open(&it.server);
        client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
        client.closed() == 3500
    };
    let _stays = Client::connected_with(&it.server, &tokens[0]);
    assert!(refused(&tokens[1]));
    it.load(&with_key(new));
    // What was found of both before is not believed any more.
    assert!(refused(&tokens[0]));
    Client::connected_with(&it.server, &tokens[1]);
    assert!(it.server.logged(&names(&["client.token.hmac_secret_key"])));
    assert_eq!((it.server.lines_with(old), it.server.lines_with(new)), (0, 0), "a secret is in the log");
    until("the one that was there before", || (it.server.metric("gannet_node_num_clients") == 1).then_some(()));
}

/// Keys of another kind: workers check them, by the options that hold now.
#[test]
fn a_public_key_takes_the_place_of_a_secret() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use p256::elliptic_curve::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
    let secret = "the-old-key-of-thirty-two-bytes-";
    let it = Reloaded::start("public.toml", &with_key(secret), &[]);
    for seed in [7, 8] {
        let key = p256::SecretKey::from_slice(&[seed; 32]).expect("a key");
        let pem = key.public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
        it.load(&format!("[client.token]\necdsa_public_key = \"\"\"\n{pem}\"\"\"\n"));
        let der = key.to_pkcs8_der().expect("DER");
        let key = EncodingKey::from_ec_der(der.as_bytes());
        let token = encode(&Header::new(Algorithm::ES256), &json!({ "sub": "42" }), &key).expect("a token");
        Client::connected_with(&it.server, &token);
        let mut client = Client::open(&it.server);
        let by_secret = signed(&json!({ "sub": "42" }), secret);
        client.send(&json!({ "id": 1, "connect": { "token": by_secret } }).to_string());
        assert_eq!(client.closed(), 3500);
    }
}

#[test]
fn origins_api_keys_and_limits_change() {
    let text = |origin: &str, key: &str, more: &str| {
        format!("[client]\ninsecure = true\nallowed_origins = [\"{origin}\"]\n{more}\n[http_api]\nkey = \"{key}\"\n")
    };
    let it = Reloaded::start("origins.toml", &text("https://a.example", "one", ""), &[]);
    // On a connection that is kept, and on a new one.
    let mut kept = Peer::open(it.server.address);
    let mut info = |key: &str| {
        let answered =
            |peer: &mut Peer| peer.request("POST", "/api/info", &[("X-API-Key", key)], "{}").expect("an answer");
        let (old, new) = (answered(&mut kept), answered(&mut Peer::open(it.server.address)));
        assert_eq!(old.status, new.status);
        new.status
    };
    assert_eq!((info("one"), info("two")), (200, 401));
    it.load(&text("https://b.example", "two", "channel_limit = 1\nqueue_max_size = 65536"));
    assert!(it.server.logged("client.allowed_origins"));
    until("the new key", || (info("two") == 200).then_some(()));
    assert_eq!(info("one"), 401);
    let status = |origin: &str| {
        let mut peer = Peer::open(it.server.address);
        let head = format!(
            "GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {origin}\r\n\r\n"
        );
        peer.send(head.as_bytes());
        peer.response().status
    };
    assert_eq!((status("https://a.example"), status("https://b.example")), (403, 101));
    let mut client = Client::connected(&it.server);
    client.subscribe("one");
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "two" } })), 106);
}

/// A lower limit of what is kept waits for nothing: nobody publishes after it.
#[test]
fn a_lower_limit_of_memory_takes_effect_at_once() {
    let text = |limit: usize| {
        format!(
            "[client]\ninsecure = true\n[http_api]\ninsecure = true\n[channel]\nhistory_memory_limit = {limit}\n\
             [channel.without_namespace]\nhistory_size = 5\nhistory_ttl = \"1h\"\n"
        )
    };
    let it = Reloaded::start("memory.toml", &text(0), &[]);
    for n in 0..40 {
        it.server.publish_kept(&format!("c{n}"), json!("x".repeat(1000)));
    }
    let kept =
        || [0, 1].map(|reactor| it.server.metric(&format!("gannet_reactor_history_bytes{{reactor=\"{reactor}\"}}")));
    assert!(kept().iter().sum::<u64>() > 40_000);
    it.load(&text(5000));
    until("less", || kept().iter().all(|bytes| *bytes <= 5000).then_some(()));
    let gone = it.server.metric("gannet_node_history_streams_evicted_total");
    assert!((30..40).contains(&gone), "{gone}");
}

#[test]
fn a_configuration_with_an_error_changes_nothing() {
    let good = "[client]\ninsecure = true\nchannel_limit = 1\n";
    let it = Reloaded::start("bad.toml", good, &[]);
    let mut client = Client::subscribed(&it.server, "one");
    for (bad, told) in [
        ("[client]\ninsecure = true\nchannel_limit = 5\ncolour = 1\n", "unknown option client.colour"),
        ("[client\n", "not TOML"),
        ("[client]\nchannel_limit = 5\n[channel.without_namespace]\nhistory_size = 5\n", "expected more than 0"),
        // Each alone is sound; what stays until a restart does not go with what would be taken.
        (
            "[client]\nping_interval = \"5s\"\npong_timeout = \"1s\"\n[echo]\nenabled = true\nhandler_prefix = \"/api\"\n",
            "expected another path",
        ),
    ] {
        it.refuse(bad);
        assert!(it.server.logged(told), "{told}");
        it.server.metrics();
        assert_eq!(client.refused(json!({ "subscribe": { "channel": "two" } })), 106, "{bad}");
    }
    it.load(&good.replace("= 1", "= 5"));
    client.subscribe("two");
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let it = Reloaded::start("restart.toml", "[client]\ninsecure = true\n", &[]);
    it.load("[client]\ninsecure = true\nping_interval = \"60s\"\n[workers]\nthreads = 3\n");
    for option in ["client.ping_interval", "workers.threads"] {
        assert!(it.server.logged(&format!("{option} has changed and needs a restart")), "{option}");
    }
    let mut client = Client::open(&it.server);
    assert_eq!(client.connect("")["ping"], 25);
    it.load("[client]\ninsecure = true\n");
    assert!(it.server.logged("nothing else holds now"));
}

#[test]
fn the_level_of_the_log_changes() {
    let it = Reloaded::start("level.toml", "[client]\ninsecure = true\n", &[]);
    let debug = "\"level\":\"DEBUG\"";
    Client::connected(&it.server);
    it.load("[client]\ninsecure = true\n[log]\nlevel = \"debug\"\n");
    until("a line for a client that is closed", || {
        let mut client = Client::open(&it.server);
        client.send("nonsense");
        client.closed();
        (it.server.lines_with(debug) > 0).then_some(())
    });
}

#[test]
fn endpoints_move_for_connections_that_are_kept_too() {
    let text = |path: &str| {
        format!(
            "[client]\ninsecure = true\n[uni_sse]\nenabled = true\nhandler_prefix = \"{path}\"\n[health]\nenabled = true\n"
        )
    };
    let it = Reloaded::start("paths.toml", &text("/old"), &[]);
    // Two connections that the service thread has, and keeps.
    let mut kept = [0, 1].map(|_| Peer::open(it.server.address));
    for peer in &mut kept {
        assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
    }
    it.load(&text("/new"));
    let [mut old, new] = kept;
    assert_eq!(old.request("GET", "/old", &[], "").expect("an answer").status, 404);
    let stream = &mut Stream::over(new, "GET /new HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(stream.next()["connect"].is_object());
}

#[test]
fn a_key_set_that_no_token_can_name_any_more_is_not_fetched() {
    let backend = Backend::start(|_| ok(json!({ "keys": [] })));
    let text = |path: &str| {
        format!(
            "[client.token]\njwks_public_endpoint = \"{}\"\n[jwks]\nttl = \"1s\"\nrefetch_interval = \"1s\"\n",
            backend.url(path)
        )
    };
    let it = Reloaded::start("sets.toml", &text("/old"), &[]);
    let ask = |kid: &str| {
        use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
        let key = p256::elliptic_curve::pkcs8::EncodePrivateKey::to_pkcs8_der(
            &p256::SecretKey::from_slice(&[7; 32]).expect("a key"),
        );
        let key = EncodingKey::from_ec_der(key.expect("DER").as_bytes());
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        let token = encode(&header, &json!({ "sub": "42" }), &key).expect("a token");
        let mut client = Client::open(&it.server);
        client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
        client.closed();
    };
    ask("a");
    backend.hears("/old", 2);
    it.load(&text("/new"));
    ask("b");
    // One may have been under way.
    let before = backend.asked("/old").len() + 1;
    backend.hears("/new", 4);
    assert!(backend.asked("/old").len() <= before, "it goes on being renewed");
    until("one set", || (it.server.metric("gannet_jwks_sets") == 1).then_some(()));
}

#[test]
fn the_numbers_of_a_proxy_go_on_and_so_does_its_breaker() {
    let backend =
        Backend::start(|asked| if asked.text("method") == "good" { ok(json!({})) } else { (500, String::new()) });
    let text = |timeout: u32, calls: u32, path: &str| {
        format!(
            "[client]\ninsecure = true\n[rpc.proxy]\nendpoint = \"{}\"\ntimeout = \"{timeout}s\"\n\
             [rpc.without_namespace]\nproxy_enabled = true\n[backend]\nbreaker_calls = {calls}\nbreaker_delay = \"1h\"\n",
            backend.url(path)
        )
    };
    let it = Reloaded::start("numbers.toml", &text(9, 2, "/one"), &[]);
    let mut client = Client::connected(&it.server);
    let mut call =
        |method: &str| client.ask(json!({ "rpc": { "method": method, "data": 1 } }))["error"]["code"].clone();
    let counted = || it.server.metric("gannet_proxy_duration_seconds_count{proxy=\"rpc.proxy\",type=\"rpc\"}");
    let open = || it.server.metric("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"}") == 2;
    (0..2).for_each(|_| assert_eq!(call("bad"), 100));
    assert_eq!((counted(), open()), (2, true));
    it.load(&text(8, 2, "/one"));
    assert_eq!((counted(), open(), call("good")), (2, true, json!(100)), "the same backend, which fails");
    // Another backend, of which nothing is known.
    it.load(&text(8, 2, "/two"));
    assert_eq!((open(), call("good"), counted()), (false, json!(null), 3));
}
