//! The compose files of deploy/: with their configurations and what they put into the environment, nodes are one fleet.

use crate::client::{Client, token};
use crate::nats::NatsProcess;
use crate::redis::RedisProcess;
use crate::server::{KEY, SECRET, Server, gannet, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose")
}

/// The services of compose.yaml with what they share.
fn services() -> Value {
    let text = std::fs::read_to_string(folder().join("compose.yaml")).expect("the file");
    let mut file: serde_norway::Value = serde_norway::from_str(&text).expect("YAML");
    file.apply_merge().expect("merged");
    serde_json::to_value(&file["services"]).expect("services")
}

/// A node as a service is: its environment and its file, but here.
fn node(service: &Value, file: &str, store: &[&str]) -> Server {
    let file = folder().join(file);
    let mut command = gannet();
    for (name, value) in service["environment"].as_object().expect("an environment") {
        let value = match value.as_str().expect("a text") {
            text if text.starts_with("${GANNET_API_KEY") => KEY,
            text if text.starts_with("${GANNET_TOKEN_KEY") => SECRET,
            text => text,
        };
        command.env(name, value);
    }
    let here = ["--config", file.to_str().expect("a path"), "--http_server.internal_port=0", "--reactors=2"];
    Server::start_by(command, &[&here[..], store].concat())
}

fn is_one_fleet(file: &str, store: &[&str]) {
    let services = services();
    let nodes = ["one", "two"].map(|name| node(&services[name], file, store));
    let names = |node: &Server| {
        let info = node.call("info", json!({}));
        let nodes = info["result"]["nodes"].as_array().expect("nodes").iter();
        nodes.filter_map(|node| node["name"].as_str().map(str::to_owned)).collect::<std::collections::BTreeSet<_>>()
    };
    let known = std::collections::BTreeSet::from(["one".to_owned(), "two".to_owned()]);
    until("the nodes to know each other", || nodes.iter().all(|node| names(node) == known).then_some(()));
    let mut client = Client::connected_with(&nodes[0], &token(&json!({ "sub": "1" })));
    let reply = client.ask(json!({ "subscribe": { "channel": "chat:1" } }));
    assert!(reply["subscribe"].is_object(), "{reply}");
    let answer = nodes[1].call("publish", json!({ "channel": "chat:1", "data": "hello" }));
    assert!(answer["error"].is_null(), "{answer}");
    assert_eq!(client.publication().1, "hello");
}

#[test]
fn nodes_over_redis_are_one_fleet() {
    let redis = RedisProcess::start(&[]);
    is_one_fleet("redis.toml", &["--engine.redis.address", &redis.address()]);
}

#[test]
fn nodes_over_nats_are_one_fleet() {
    let nats = NatsProcess::start("");
    is_one_fleet("nats.toml", &["--engine.nats.url", &nats.url()]);
}

#[test]
fn services_mount_files_that_are_there() {
    let services = services();
    for name in ["one", "two", "three"] {
        let mounted =
            services[name]["volumes"][0].as_str().and_then(|volume| volume.split_once(':')).expect("a volume");
        assert!(folder().join(mounted.0).is_file(), "{name}: {mounted:?}");
        let inside = mounted.1.trim_end_matches(":ro");
        assert_eq!(services[name]["command"], json!(["--config", inside]), "{name}");
        assert_eq!(services[name]["environment"]["GANNET_NODE_NAME"], name);
    }
}

/// What nats.yaml puts in the place of what compose.yaml says fits the rest of it.
#[test]
fn services_over_nats_mount_files_that_are_there() {
    let text = std::fs::read_to_string(folder().join("nats.yaml")).expect("the file");
    let file: serde_norway::Value = serde_norway::from_str(&text).expect("YAML");
    let (before, after) = (services(), &file["services"]);
    for name in ["one", "two", "three"] {
        let volumes = after[name]["volumes"].as_sequence().expect("volumes");
        let [from, to] = volumes[0].as_str().expect("a volume").split(':').collect::<Vec<_>>()[..2] else {
            panic!("{volumes:?}")
        };
        assert!(volumes.len() == 1 && folder().join(from).is_file(), "{name}: {from}");
        // One file takes the place of another only at the same path.
        assert_eq!(before[name]["command"], json!(["--config", to]), "{name}");
        let there = before[name]["volumes"][0].as_str().and_then(|volume| volume.split(':').nth(1));
        assert_eq!(there, Some(to), "{name}");
    }
    let names = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let known = names(before.as_object().expect("services").keys().map(String::as_str).collect());
    let named = after.as_mapping().expect("services").keys().filter_map(serde_norway::Value::as_str);
    assert!(names(named.collect()).is_subset(&known), "no service that compose.yaml does not know");
    let store = &after["store"];
    assert!(store["image"].as_str().is_some_and(|image| image.contains("/nats:")), "{store:?}");
    // The volume of Redis is nobody's then.
    assert!(matches!(&store["volumes"], serde_norway::Value::Tagged(it) if it.tag == "reset"), "{store:?}");
    let node = std::fs::read_to_string(folder().join("nats.toml")).expect("a file");
    assert!(node.contains("url = [\"nats://store:4222\"]"), "the service's name, and the port of NATS");
}

/// What stands around the nodes in watched.yaml finds its files, and asks each node.
#[test]
fn who_watches_the_nodes_has_its_files_and_their_names() {
    let read = |name: &str| std::fs::read_to_string(folder().join(name)).expect("a file");
    let yaml = |name: &str| serde_norway::from_str::<Value>(&read(name)).expect("YAML");
    let around = &yaml("watched.yaml")["services"];
    let volumes = around.as_object().expect("services").values().filter_map(|service| service["volumes"].as_array());
    let mounted: Vec<&str> =
        volumes.flatten().filter_map(|volume| volume.as_str()?.split_once(':')).map(|it| it.0).collect();
    let files: Vec<&&str> = mounted.iter().filter(|path| path.starts_with('.')).collect();
    assert!(files.len() == 6 && files.iter().all(|path| folder().join(path).is_file()), "{mounted:?}");
    let targets = &yaml("prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(targets, &json!(["one:9000", "two:9000", "three:9000"]));
    let balancer = read("nginx.conf");
    assert!(["one", "two", "three"].iter().all(|name| balancer.contains(&format!("server {name}:8000 "))));
}
