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

/// A frame of the server's off the front of `input`; `None` while it is cut.
pub fn parse(input: &mut Vec<u8>) -> Option<(OpCode, Vec<u8>)> {
    let mut cursor = Cursor::new(&input[..]);
    let (header, len) = FrameHeader::parse(&mut cursor).expect("a sound frame header")?;
    let start = cursor.position() as usize;
    if input.len() < start + len as usize {
        return None;
    }
    assert!(header.is_final && header.mask.is_none(), "a server's frame is whole and not masked");
    let payload = input[start..start + len as usize].to_vec();
    input.drain(..start + len as usize);
    Some((header.opcode, payload))
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
