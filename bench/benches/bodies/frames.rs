//! The byte protocols: frames in, unmasking, frames out, the opening handshake.

use super::{Body, MESSAGE, Operation};
use gannet::http::Head;
use gannet::ws::{self, Decoder, Item, Kind, Opcode, Step, Upgrade};
use gannet_bench::wire::client_frame;
use std::hint::black_box;

/// The default of `websocket.message_size_limit`.
const SIZE_LIMIT: usize = 65_536;
const LARGE: usize = 16 * 1024;

pub const BODIES: &[Body] = &[
    Body { name: "decoder/text_128", prepare: decode_whole },
    Body { name: "decoder/text_128_in_two_reads", prepare: decode_halves },
    Body { name: "unmask/binary_16384", prepare: unmask },
    Body { name: "encoder/shared_frame_128", prepare: encode_shared },
    Body { name: "encoder/append_frame_128", prepare: encode_append },
    Body { name: "upgrade/request_to_answer", prepare: upgrade },
];

fn masked(size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    client_frame(&mut wire, &vec![b'x'; size]);
    wire
}

/// Unmasking is done in place, so each operation begins with a fresh copy, as after a read.
fn decode_whole() -> Operation {
    let wire = masked(MESSAGE);
    let mut buffer = wire.clone();
    let mut decoder = Decoder::default();
    assert!(matches!(decoder.next(&mut buffer, SIZE_LIMIT), Step::Item(_, Item::Message(Kind::Text, _))));
    Box::new(move || {
        buffer.copy_from_slice(&wire);
        black_box(decoder.next(black_box(&mut buffer), SIZE_LIMIT));
    })
}

fn decode_halves() -> Operation {
    let wire = masked(MESSAGE);
    let mut buffer = wire.clone();
    let mut decoder = Decoder::default();
    Box::new(move || {
        buffer.copy_from_slice(&wire);
        let (front, back) = buffer.split_at_mut(MESSAGE / 2);
        black_box(decoder.next(black_box(front), SIZE_LIMIT));
        black_box(decoder.next(black_box(back), SIZE_LIMIT));
    })
}

/// A binary message is not read, only unmasked: what it holds does not matter, masked or not.
fn unmask() -> Operation {
    let mut wire = masked(LARGE);
    wire[0] = 0x80 | Opcode::Binary as u8;
    let mut decoder = Decoder::default();
    assert!(matches!(decoder.next(&mut wire, SIZE_LIMIT), Step::Item(_, Item::Message(Kind::Binary, _))));
    Box::new(move || {
        black_box(decoder.next(black_box(&mut wire), SIZE_LIMIT));
    })
}

fn encode_shared() -> Operation {
    let payload = vec![b'x'; MESSAGE];
    Box::new(move || {
        black_box(ws::frame(Opcode::Text, black_box(&payload)));
    })
}

fn encode_append() -> Operation {
    let payload = vec![b'x'; MESSAGE];
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        ws::push_frame(&mut out, Opcode::Text, black_box(&payload));
        black_box(&out);
    })
}

/// A request as a browser sends it.
fn upgrade() -> Operation {
    let request = "GET /connection/websocket HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\n\
        Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\nOrigin: https://example.org\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n\
        Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        let head = Head::parse(black_box(request.as_bytes())).ok().flatten().expect("a whole head");
        let upgrade = Upgrade::check(&head).expect("a request to upgrade");
        ws::respond(&upgrade, None, &mut out);
        black_box(&out);
    })
}
