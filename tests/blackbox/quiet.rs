//! What anyone may do as often as they like does not fill the log.

use crate::peer::Peer;
use crate::server::{KEY, OPEN, Server};
use std::net::SocketAddr;

const GRPC: &[&str] =
    &["--grpc_api.enabled", "--grpc_api.address", "127.0.0.1", "--grpc_api.port", "0", "--grpc_api.key", KEY];
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call without a key: POST, http, the path, the type; nothing indexed, nothing compressed.
fn head() -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let path = text("/centrifugal.centrifugo.api.CentrifugoApi/Publish");
    [&[0x83, 0x86, 0x04], &*path, &[0x01], &*text("gannet.example"), &[0x0f, 0x10], &*text("application/grpc")].concat()
}

/// A connection on which `calls` have been sent; each begins a stream, and `behind` comes after it.
fn calls(address: SocketAddr, count: u32, flags: u8, behind: fn(u32) -> Vec<u8>) -> Peer {
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (0..count).map(|at| 2 * at + 1) {
        bytes.extend(frame(HEADERS, END_HEADERS | flags, stream, &head()));
        bytes.extend(behind(stream));
    }
    let mut peer = Peer::open(address);
    peer.send(&bytes);
    peer
}

#[test]
fn streams_reset_at_once_end_their_connection_and_write_no_line() {
    let server = Server::start(&[OPEN, GRPC].concat());
    let address = server.grpc.expect("grpc_api is on");
    let before = server.lines().len();
    const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
    for _ in 0..20 {
        calls(address, 1000, 0, |stream| frame(RESET, 0, stream, &CANCEL)).ended();
    }
    assert_eq!(server.lines().len(), before, "{:?}", server.lines());
    assert_eq!(Peer::open(server.address).request("GET", "/health", &[], "").expect("an answer").status, 200);
}

#[test]
fn wrong_keys_end_their_connection_and_write_no_line() {
    let server = Server::start(&[OPEN, GRPC].concat());
    let address = server.grpc.expect("grpc_api is on");
    let before = server.lines().len();
    for _ in 0..5 {
        calls(address, 40, END_STREAM, |_| Vec::new()).ended();
    }
    // Fewer are a mistake, and their connection stays.
    let mut few = calls(address, 10, END_STREAM, |_| Vec::new());
    let refused = "gannet_api_command_errors_total{protocol=\"grpc\",method=\"publish\",code=\"16\"}";
    server.counts(refused, 5 * 32 + 10);
    assert!(!few.is_ended());
    assert_eq!(server.lines().len(), before, "{:?}", server.lines());
}

/// At debug, too, it is our own lines that are written.
#[test]
fn other_crates_write_nothing_at_any_level() {
    let server = Server::start(&[OPEN, GRPC, &["--log.level", "trace"]].concat());
    let before = server.lines().len();
    calls(server.grpc.expect("grpc_api is on"), 1000, 0, |stream| frame(RESET, 0, stream, &[0; 4])).ended();
    let lines = server.lines();
    let strange = lines[before..].iter().filter(|line| !line.contains("gRPC connection ended"));
    assert_eq!(strange.collect::<Vec<_>>(), Vec::<&String>::new());
}
