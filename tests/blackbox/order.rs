//! Over several reactors: an even share of the connections, and one order of publications for everyone.

use crate::client::Client;
use crate::peer::Peer;
use crate::server::{KEY, Server};
use serde_json::{Value, json};

const REACTORS: &[&str] = &["--client.insecure", "--reactors", "4"];

/// Room for the sockets of a test in this process.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("more descriptors");
}

#[test]
fn connections_are_spread_over_the_reactors() {
    raise_descriptors();
    let server = Server::start(REACTORS);
    let mut peers: Vec<Peer> = (0..10_000).map(|_| Peer::upgraded(&server)).collect();
    let shares: Vec<u64> =
        (0..4).map(|at| server.metric(&format!("gannet_reactor_connections{{reactor=\"{at}\"}}"))).collect();
    assert_eq!(shares.iter().sum::<u64>(), 10_000, "{shares:?}");
    // The kernel spreads them by a hash: 2,500 each, give or take 40 or so.
    assert!(shares.iter().all(|share| (2_200..2_800).contains(share)), "{shares:?}");
    assert!(!peers.iter_mut().any(Peer::is_ended));
}

/// 250 publications of one publisher, each on the heels of the one before.
fn publish_all(mut publish: impl FnMut(Value), name: &str) {
    (0..250).for_each(|n| publish(json!([name, n])));
}

fn by_api(server: &std::net::SocketAddr) {
    let mut peer = Peer::open(*server);
    publish_all(
        |data| {
            let body = json!({ "channel": "order", "data": data }).to_string();
            let answer = peer.request("POST", "/api/publish", &[("X-API-Key", KEY)], &body);
            assert_eq!(answer.expect("an answer").body, r#"{"result":{}}"#);
        },
        "api",
    );
}

#[test]
fn everyone_hears_everything_in_one_order() {
    let server = Server::start(REACTORS);
    let mut listeners: Vec<Client> = (0..50).map(|_| Client::subscribed(&server, "order")).collect();
    let mut publisher = Client::connected(&server);
    let address = server.address;
    std::thread::scope(|scope| {
        scope.spawn(move || by_api(&address));
        let ask = |data| {
            assert_eq!(publisher.ask(json!({ "publish": { "channel": "order", "data": data } }))["publish"], json!({}))
        };
        publish_all(ask, "client");
    });
    let mut heard = listeners.iter_mut().map(|it| (0..500).map(|_| it.publication().1).collect::<Vec<Value>>());
    let first = heard.next().expect("a listener");
    assert!(heard.all(|other| other == first), "the same order for everyone");
    for name in ["api", "client"] {
        let own = first.iter().filter(|data| data[0] == name);
        assert!(own.map(|data| data[1].clone()).eq((0..250).map(Value::from)), "{name} in its order, none lost");
    }
    let busy = (0..4).filter(|at| server.metric(&format!("gannet_reactor_clients{{reactor=\"{at}\"}}")) > 0).count();
    assert!(busy > 1, "the listeners are spread");
    assert_eq!(server.metric("gannet_node_publications_dropped_total"), 0);
}
