//! Requests that are no WebSocket, or that must not become one.

use std::time::Duration;

use super::FEW;
use crate::abuse::attack::{Demand, Plan, Site};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Door, Payload, Script, Step};
use crate::abuse::speech::{message, upgrade};
use crate::calls;
use crate::centrifugal;

pub fn idle(_: &Site) -> Plan {
    let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let script = Script::raw(Door::Public).send(&request[..]).then(Step::Head).then(Step::Hold).again();
    let mut plan = Plan::new(vec![Crowd::of(1400, script)]);
    // Long enough that those for whom there is room come, stay idle and are closed several times.
    plan.least = Duration::from_secs(6);
    plan
}

/// One frame of HTTP/2.
pub fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that the table of HPACK has no value for: `name` is its index there, as it is written.
pub fn literal(name: &[u8], value: &str) -> Vec<u8> {
    [name, &[value.len() as u8], value.as_bytes()].concat()
}

pub fn rapid_reset(site: &Site) -> Plan {
    const PAIRS: u64 = 500;
    let head = [
        vec![0x83, 0x86],
        literal(&[0x04], "/centrifugal.centrifugo.api.CentrifugoApi/Info"),
        literal(&[0x01], "127.0.0.1"),
        literal(&[0x0f, 0x10], "application/grpc"),
        literal(&[0x0f, 0x08], "apikey wrong"),
    ]
    .concat();
    let flood = Payload::made(move |turn| {
        let pair = |number: u64| {
            let stream = ((turn.round * PAIRS + number) * 2 + 1) as u32 & 0x7fff_ffff;
            [h2(1, 4, stream, &head), h2(3, 0, stream, &8u32.to_be_bytes())].concat()
        };
        (0..PAIRS).flat_map(pair).collect()
    });
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2(4, 0, 0, b"")].concat();
    let script = Script::raw(Door::Grpc).send(preface).then(Step::Flood(flood)).again();
    Plan::new(vec![Crowd::of(FEW, script)])
        .on("--grpc_api.enabled")
        .flag("--grpc_api.address", "127.0.0.1")
        .flag("--grpc_api.port", &site.ports.grpc.to_string())
        .flag("--grpc_api.key", "right")
}

pub fn long_keys(_: &Site) -> Plan {
    let payload = Payload::made(|turn| {
        let key = format!("{:032x}{:032x}{}", turn.connection, turn.round, "k".repeat(16_000));
        let mut request = Vec::new();
        let body = format!(r#"{{"channel":"noise","data":1,"idempotency_key":"{key}"}}"#);
        calls::request(&mut request, "publish", &body);
        request
    });
    Plan::new(vec![Crowd::of(FEW, Script::raw(Door::Internal).then(Step::Flood(payload)).again())])
}

/// One request a connection, until the attack ends.
fn request(door: Door, bytes: Vec<u8>) -> Crowd {
    Crowd::of(2, Script::raw(door).send(bytes).then(Step::Head).then(Step::Leave).again())
}

pub fn foreign_page(site: &Site) -> Plan {
    let call = |host: &str, kind: &str| {
        let body = r#"{"channel":"control","data":"from a foreign page"}"#;
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n");
        let rest = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        request(Door::Internal, (head + &rest).into_bytes())
    };
    let own = format!("127.0.0.1:{}", site.ports.internal);
    Plan::new(vec![call(&own, "text/plain"), call("evil.example", "application/json")])
        .on("--http_api.insecure")
        .demand(Demand::Never(200))
}

pub fn upgrade_with_body(_: &Site) -> Plan {
    let body = message(r#"{"connect":{},"id":1}"#);
    let length = format!("Content-Length: {}", body.len());
    let whole = [upgrade(centrifugal::PATH, &[&length]), body.clone()].concat();
    let chunk = [format!("{:x}\r\n", body.len()).into_bytes(), body, b"\r\n0\r\n\r\n".to_vec()].concat();
    let chunked = [upgrade(centrifugal::PATH, &["Transfer-Encoding: chunked"]), chunk].concat();
    Plan::new(vec![request(Door::Public, whole), request(Door::Public, chunked)]).demand(Demand::Never(101))
}

pub fn two_origins(_: &Site) -> Plan {
    let [good, evil] = ["Origin: http://good.example", "Origin: http://evil.example"];
    let crowd = |lines: &[&str]| request(Door::Public, upgrade(centrifugal::PATH, lines));
    let mut plan = Plan::new(vec![crowd(&[good, evil]), crowd(&[evil, good])])
        .flag("--client.allowed_origins", "http://good.example")
        .demand(Demand::Never(101));
    plan.least = Duration::from_millis(500);
    plan
}
