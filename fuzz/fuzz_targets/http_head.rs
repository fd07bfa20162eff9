//! A request head and the WebSocket upgrade in it: any bytes are taken, waited on or refused.
#![no_main]

use gannet::http::Head;
use gannet::ws::{self, Upgrade};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(head)) = Head::parse(data) else { return };
    assert!(head.size <= data.len());
    let again = Head::parse(&data[..head.size]).expect("sound still").expect("whole still");
    assert_eq!((again.method, again.path, again.query, again.size), (head.method, head.path, head.query, head.size));
    // One byte less is no whole head: nothing before the blank line was taken for it.
    assert!(!matches!(Head::parse(&data[..head.size - 1]), Ok(Some(_))));
    let _ = (head.lists("connection", "upgrade"), head.asks("format", "protobuf"), head.items("origin").count());
    if let Ok(upgrade) = Upgrade::check(&head) {
        let mut out = Vec::new();
        ws::respond(&upgrade, None, &mut out);
        assert!(out.starts_with(b"HTTP/1.1 101 ") && out.ends_with(b"\r\n\r\n"));
    }
});
