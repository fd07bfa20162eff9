//! NATS servers that know users by NKey or by JWT, each in an account of its own: who a node is stands in a file.

use crate::client::Client;
use crate::file::File;
use crate::nats::NatsProcess;
use crate::server::{Server, acquainted, gannet, until};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::process::Output;

fn options<'a>(nats: &'a NatsProcess, url: &'a str, file: &'a File) -> [String; 5] {
    assert!(url.ends_with(&nats.port.to_string()));
    [
        "--engine.type=nats".into(),
        format!("--engine.nats.url={url}"),
        format!("--engine.nats.credentials_file={}", file.path()),
        "--engine.nats.dial_timeout=20s".into(),
        "--engine.nats.write_timeout=20s".into(),
    ]
}

fn node(nats: &NatsProcess, name: &str, file: &File) -> Server {
    let (url, named) = (nats.url(), format!("--node.name={name}"));
    let engine = options(nats, &url, file);
    let more = ["--client.insecure", "--channel.without_namespace.allow_subscribe_for_client", "--health.enabled"];
    let all: Vec<&str> = engine.iter().map(String::as_str).chain(more).chain([&*named, "--reactors=2"]).collect();
    let node = Server::start(&all);
    node.ready();
    node
}

fn doctor(nats: &NatsProcess, file: &File) -> Output {
    let url = nats.url();
    gannet().args(["doctor", "--engine"]).args(options(nats, &url, file)).output().expect("an end")
}

/// The doctor's complaint.
fn complaint(nats: &NatsProcess, file: &File) -> String {
    let output = doctor(nats, file);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn subscriber(node: &Server) -> Client {
    let mut client = Client::open(node);
    assert!(client.ask(json!({ "connect": {} }))["connect"].is_object());
    // Its first connection to the engine may be one that is made right now.
    let ask = json!({ "subscribe": { "channel": "news" } });
    until("a subscription", || client.ask(ask.clone())["subscribe"].is_object().then_some(()));
    client
}

fn seed(key: &KeyPair) -> String {
    key.seed().expect("a seed")
}

/// As `nsc` signs it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let (sub, iss) = (subject.public_key(), issuer.public_key());
    let claims = json!({ "jti": sub, "iat": 1_700_000_000, "iss": iss, "name": "it", "sub": sub, "nats": nats });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_node_is_who_its_nkey_says() {
    let [one, two, nobody] = [(); 3].map(|()| KeyPair::new_user());
    let accounts = |first: &KeyPair| {
        let user = |key: &KeyPair| format!("{{ users: [ {{ nkey: {} }} ] }}", key.public_key());
        format!("accounts {{ A {}\n B {} }}", user(first), user(&two))
    };
    let mut nats = NatsProcess::start(&accounts(&one));
    let [mine, theirs, strange] = [("one", &one), ("two", &two), ("nobody", &nobody)]
        .map(|(name, key)| File::new(&format!("nkey-{name}.seed"), &format!("{}\n", seed(key))));
    let [a, b] = acquainted(["a", "b"], |name| node(&nats, name, &mine));
    let c = node(&nats, "c", &theirs);
    let (mut here, mut there) = (subscriber(&b), subscriber(&c));
    a.publish("news", json!("to account A"));
    assert_eq!(here.publication().1, "to account A");
    c.publish("news", json!("to account B"));
    assert_eq!(there.publication().1, "to account B", "and nothing of the other account");
    assert_eq!(c.fleet(), ["c"]);

    let output = doctor(&nats, &mine);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("NATS 2."), "{text}");
    let text = complaint(&nats, &strange);
    assert!(text.contains("Authorization Violation") && text.contains("credentials_file"), "{text}");
    let garbage = File::new("nkey-garbage.seed", "SUAPASSWORD\n");
    let text = complaint(&nats, &garbage);
    assert!(text.contains("engine.nats.credentials_file: ") && text.contains("the NKey seed"), "{text}");
    assert!(!text.contains("SUAPASSWORD"), "{text}");

    // Another key takes its place: the file is read again.
    nats.kill();
    mine.write(&seed(&nobody));
    nats.restart_with(&accounts(&nobody));
    let answer = || a.call("publish", json!({ "channel": "news", "data": "again" }));
    until("it to be published", || answer()["error"].is_null().then_some(()));
}

#[test]
fn a_node_is_who_its_jwt_says() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({ "subs": -1, "data": -1, "payload": -1 });
    let account_limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_operator = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
    let of_account = jwt(&operator, &account, json!({ "limits": account_limits, "type": "account", "version": 2 }));
    let nats = NatsProcess::start(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    ));
    let credentials = |name: &str, issuer: &KeyPair| {
        let claims = json!({
            "pub": {}, "sub": {}, "subs": limits["subs"], "data": limits["data"], "payload": limits["payload"],
            "type": "user", "version": 2,
        });
        let jwt = jwt(issuer, &user, claims);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            seed(&user)
        );
        File::new(&format!("jwt-{name}.creds"), &text)
    };
    let good = credentials("good", &account);
    let [a, b] = acquainted(["a", "b"], |name| node(&nats, name, &good));
    let mut client = subscriber(&b);
    a.publish("news", json!(1));
    assert_eq!(client.publication().1, 1);
    let text = complaint(&nats, &credentials("strange", &KeyPair::new_account()));
    assert!(text.contains("Authorization Violation"), "{text}");
    let text = complaint(&nats, &File::new("jwt-seed.creds", &seed(&user)));
    assert!(text.contains("Authorization Violation"), "a key alone says nothing here: {text}");
}

#[test]
fn a_server_that_asks_for_no_key_is_told_of() {
    let nats = NatsProcess::start("");
    let text = complaint(&nats, &File::new("nkey-unasked.seed", &seed(&KeyPair::new_user())));
    assert!(text.contains("the server knows users neither by key nor by JWT"), "{text}");
}
