//! What clients say again and again, and requests that come in the smallest pieces or never end.

use std::time::Duration;

use serde_json::json;

use super::FEW;
use super::http::{h2, literal};
use crate::abuse::attack::{Plan, Site, namespace};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Door, Payload, Script, Step};
use crate::abuse::speech::{MESSAGE, batch, connect_attacker, lines, message, repeated, subscribe};

/// Each acknowledges what was sent in a hundred channels, where nothing was.
pub fn acknowledgements(_: &Site) -> Plan {
    let channels = Payload::made(|turn| {
        let each: Vec<String> = (2..102).map(|id| subscribe(id, &format!("box:{:x}-{id}", turn.connection))).collect();
        message(&each.join("\n"))
    });
    let acks = batch(|id| format!(r#"{{"rpc":{{"method":"inbox.ack","data":{{}}}},"id":{}}}"#, id + 102));
    let script = Script::client().send(channels).then(Step::Frames(2)).flood(acks).again();
    let options = json!({"history_size": 10, "history_ttl": "60s", "inbox": {"enabled": true}});
    Plan::with_namespaces(vec![Crowd::of(FEW, script)], vec![namespace("box", options)])
}

/// A JSON string as large as may be, of small numbers that are the same nowhere.
fn numbers(mut seed: u64) -> String {
    let text = lines(MESSAGE - 200, |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:05}", (seed >> 33) % 1000)
    });
    text.replace('\n', " ")
}

/// Publications that have much in common with those before them, in other places.
pub fn deltas(_: &Site) -> Plan {
    let publish = Payload::made(|turn| {
        let data = numbers(turn.connection << 32 | turn.round);
        message(&format!(r#"{{"publish":{{"channel":"scores:a","data":"{data}"}},"id":{}}}"#, turn.round + 2))
    });
    let member = message(r#"{"subscribe":{"channel":"scores:a","recoverable":true,"delta":"fossil"},"id":2}"#);
    let member = Script::client().send(member).then(Step::Frames(2)).then(Step::Hold).again();
    let crowds =
        vec![Crowd::resident(FEW, member), Crowd::of(FEW, Script::client().then(Step::Flood(publish)).again())];
    let options = json!({
        "history_size": 10, "history_ttl": "60s", "allow_recovery": true, "allowed_delta_types": ["fossil"],
        "delta_publish": true,
    });
    Plan::with_namespaces(crowds, vec![namespace("scores", options)])
}

/// Sessions that are begun and left, and commands for sessions that there are not.
pub fn streams_left(_: &Site) -> Plan {
    let said: String = connect_attacker().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let get = format!("GET /connection/sse?cf_connect={said} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let commands = lines(30_000, |id| subscribe(id + 2, "a"));
    let body = json!({"session": "00000000000000000000000000000000", "node": "", "data": commands}).to_string();
    let post = format!("POST /emulation HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let crowd = |request: String| {
        let script = Script::raw(Door::Public).send(request.into_bytes()).then(Step::Head).then(Step::Leave).again();
        Crowd { at_once: 32, ..Crowd::of(500, script) }
    };
    Plan::new(vec![crowd(get), crowd(post)]).on("--sse.enabled")
}

/// A body as large as may be, in chunks of a byte.
pub fn chunks(_: &Site) -> Plan {
    let body = format!("{}{}", " ".repeat(60_000), connect_attacker());
    let head = "POST /connection/http_stream HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = body.bytes().flat_map(|byte| [b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    let request: Vec<u8> = head.bytes().chain(chunks).chain(*b"0\r\n\r\n").collect();
    let script = Script::raw(Door::Public).send(request).then(Step::Head).then(Step::Leave).again();
    Plan::new(vec![Crowd::of(FEW, script)]).on("--http_stream.enabled")
}

/// Requests to connect by gRPC that say they have 4 MiB, and are never whole; and settings of HTTP/2, of which each is
/// to be acknowledged, on the thread that has health and the API. None has a token.
pub fn endless_calls(site: &Site) -> Plan {
    const PIECE: usize = 16_000;
    /// Pieces that go together, and such rounds of one request.
    const PIECES: usize = 3;
    const ROUNDS: u64 = 80;
    let path = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume";
    let kind = literal(&[0x0f, 0x10], "application/grpc");
    let head = [vec![0x83, 0x86], literal(&[0x04], path), literal(&[0x01], "127.0.0.1"), kind].concat();
    let pieces = Payload::made(move |turn| {
        let stream = (turn.round / ROUNDS * 2 + 1) as u32;
        let pieces = h2(0, 0, stream, &[0; PIECE]).repeat(PIECES);
        match turn.round % ROUNDS {
            0 => {
                let announced = [&[0][..], &(4_u32 << 20).to_be_bytes()].concat();
                [h2(1, 4, stream, &head), h2(0, 0, stream, &announced), pieces].concat()
            }
            _ => pieces,
        }
    });
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2(4, 0, 0, b"")].concat();
    let script =
        Script::raw(Door::Grpc).send(preface.clone()).then(Step::Every(Duration::from_millis(1), pieces)).again();
    let settings = Script::raw(Door::Grpc).send(preface).flood(repeated(&h2(4, 0, 0, b""))).again();
    let mut plan = Plan::new(vec![Crowd::of(32, script), Crowd::of(FEW, settings)])
        .on("--uni_grpc.enabled")
        .flag("--uni_grpc.address", "127.0.0.1")
        .flag("--uni_grpc.port", &site.ports.grpc.to_string());
    // Long enough to send more than may be held.
    plan.least = Duration::from_secs(3);
    plan
}
