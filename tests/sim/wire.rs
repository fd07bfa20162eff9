//! The client's side of WebSocket and of the two encodings: frame headers by tungstenite, an independent witness.

use gannet::protocol::{Command, Encoding, Reply};
use prost::Message as _;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

pub const TEXT: OpCode = OpCode::Data(Data::Text);
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
pub const CONTINUE: OpCode = OpCode::Data(Data::Continue);
pub const PING: OpCode = OpCode::Control(Control::Ping);
pub const PONG: OpCode = OpCode::Control(Control::Pong);
pub const CLOSE: OpCode = OpCode::Control(Control::Close);

/// A masked frame, as a client sends it.
pub fn frame(out: &mut Vec<u8>, opcode: OpCode, last: bool, payload: &[u8], mask: [u8; 4]) {
    let header = FrameHeader { is_final: last, opcode, mask: Some(mask), ..FrameHeader::default() };
    header.format(payload.len() as u64, out).expect("a vector takes all");
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

pub fn close(out: &mut Vec<u8>, code: u16, mask: [u8; 4]) {
    frame(out, CLOSE, true, &code.to_be_bytes(), mask);
}

/// A frame of the server's off the front of `input`, which is not compressed; `None` while it is cut.
pub fn parse(input: &mut Vec<u8>) -> Option<(OpCode, Vec<u8>)> {
    let (opcode, deflated, payload) = parse_any(input)?;
    assert!(!deflated, "compression was not negotiated");
    Some((opcode, payload))
}

/// The same with frames that may be compressed, and whether it is.
pub fn parse_any(input: &mut Vec<u8>) -> Option<(OpCode, bool, Vec<u8>)> {
    let mut cursor = Cursor::new(&input[..]);
    let (header, len) = FrameHeader::parse(&mut cursor).expect("a sound frame header")?;
    let start = cursor.position() as usize;
    if input.len() < start + len as usize {
        return None;
    }
    assert!(header.is_final && header.mask.is_none(), "a server's frame is whole and not masked");
    let payload = input[start..start + len as usize].to_vec();
    input.drain(..start + len as usize);
    Some((header.opcode, header.rsv1, payload))
}

/// Several commands in one message.
pub fn commands(encoding: Encoding, list: &[Command]) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let lines = list.iter().map(|command| serde_json::to_vec(command).expect("JSON"));
            lines.collect::<Vec<_>>().join(&b'\n')
        }
        Encoding::Protobuf => list.iter().flat_map(|command| command.encode_length_delimited_to_vec()).collect(),
    }
}

/// All replies of a message.
pub fn replies(encoding: Encoding, message: &[u8]) -> Vec<Reply> {
    match encoding {
        Encoding::Json => {
            let lines = message.split(|&byte| byte == b'\n');
            lines.map(|line| serde_json::from_slice(line).expect("a reply in JSON")).collect()
        }
        Encoding::Protobuf => {
            let mut rest = message;
            let mut out = Vec::new();
            while !rest.is_empty() {
                out.push(Reply::decode_length_delimited(&mut rest).expect("a reply in Protobuf"));
            }
            out
        }
    }
}

/// The pushes of a message to who only listens.
pub fn pushes(message: &[u8]) -> Vec<Reply> {
    let lines = message.split(|&byte| byte == b'\n');
    let push = |line| Some(serde_json::from_slice(line).expect("a push in JSON"));
    lines.map(|line| Reply { push: push(line), ..Reply::default() }).collect()
}

/// Bytes of the first reply of a stream with lengths, if it is whole.
pub fn reply_size(input: &[u8]) -> Option<usize> {
    let mut rest = input;
    let len = prost::decode_length_delimiter(&mut rest).ok()?;
    let size = input.len() - rest.len() + len;
    (input.len() >= size).then_some(size)
}

/// A request for a stream, which connects with what its query says.
pub fn get(path: &str, connect: &[u8]) -> Vec<u8> {
    let query: String = connect.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("GET {path}?cf_connect={query} HTTP/1.1\r\nHost: node\r\nAccept: text/event-stream\r\n\r\n").into_bytes()
}

/// The same with a body.
pub fn post(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Where a response head ends.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Bytes of the first frame of the server's, if it is whole.
pub fn frame_size(input: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(input);
    let (_, len) = FrameHeader::parse(&mut cursor).expect("a sound frame header")?;
    let size = cursor.position() as usize + len as usize;
    (input.len() >= size).then_some(size)
}

/// The request of a client's WebSocket.
pub fn upgrade(encoding: Encoding, frame_pings: bool) -> Vec<u8> {
    upgrade_with(encoding, frame_pings, "")
}

/// The same with more lines.
pub fn upgrade_with(encoding: Encoding, frame_pings: bool, lines: &str) -> Vec<u8> {
    let query = if frame_pings { "?cf_ws_frame_ping_pong=true" } else { "" };
    let subprotocol = match encoding {
        Encoding::Json => "",
        Encoding::Protobuf => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
    };
    upgrade_at(&format!("/connection/websocket{query}"), &format!("{subprotocol}{lines}"))
}

/// The request of a WebSocket at `target`.
pub fn upgrade_at(target: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
    .into_bytes()
}
