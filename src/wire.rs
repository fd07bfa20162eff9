//! F4 · How replies and pushes become the bytes of each transport.
//!
//! Owns the list of wires: an encoding, and what is put around a message of it. Knows nothing of who is at the other
//! end. A subscriber's wire is one byte, so that a publication is made into bytes once for all who share it.

use crate::protocol::code::Disconnect;
use crate::protocol::{DisconnectPush, Encoding, NotJson, Push, Reply};
use crate::ws::{self, Deflater};
use bytes::Bytes;
use prost::Message as _;

/// What a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Wire {
    WebSocketJson = 0,
    WebSocketProtobuf = 1,
    /// Server-sent events; what the client says comes by other requests.
    SseJson = 2,
    /// A response that does not end: JSON lines, or Protobuf with lengths.
    StreamJson = 3,
    StreamProtobuf = 4,
    /// To clients that say nothing: pushes only.
    UniWebSocket = 5,
    UniSse = 6,
    UniStream = 7,
    /// A WebSocket that may be sent compressed messages, those that many share with them.
    DeflatedJson = 8,
    DeflatedProtobuf = 9,
    /// Lines in both directions on a port without HTTP.
    LineJson = 10,
    /// To clients that say nothing, by a call of gRPC: its messages, each with its head.
    UniGrpc = 11,
}

/// Bytes around an event of one line.
const SSE_AROUND: usize = b"data: \n\n".len();

/// Where a client's commands come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commands {
    /// The connection that its replies leave by.
    SameConnection,
    /// Requests beside it.
    OtherRequests,
    /// It only listens.
    None,
}

impl Wire {
    /// How many there are.
    pub const COUNT: usize = 12;

    /// The bidirectional WebSocket of an encoding.
    pub fn websocket(encoding: Encoding) -> Wire {
        match encoding {
            Encoding::Json => Wire::WebSocketJson,
            Encoding::Protobuf => Wire::WebSocketProtobuf,
        }
    }

    /// The same for a client that takes what was compressed for others, if there is such a wire.
    pub fn deflated(self) -> Wire {
        match self {
            Wire::WebSocketJson => Wire::DeflatedJson,
            Wire::WebSocketProtobuf => Wire::DeflatedProtobuf,
            Wire::SseJson | Wire::StreamJson | Wire::StreamProtobuf | Wire::LineJson => self,
            Wire::UniWebSocket | Wire::UniSse | Wire::UniStream | Wire::UniGrpc => self,
            Wire::DeflatedJson | Wire::DeflatedProtobuf => self,
        }
    }

    pub fn from_index(index: usize) -> Wire {
        use Wire::*;
        const ALL: [Wire; Wire::COUNT] = [
            WebSocketJson,
            WebSocketProtobuf,
            SseJson,
            StreamJson,
            StreamProtobuf,
            UniWebSocket,
            UniSse,
            UniStream,
            DeflatedJson,
            DeflatedProtobuf,
            LineJson,
            UniGrpc,
        ];
        ALL[index % Wire::COUNT]
    }

    pub fn encoding(self) -> Encoding {
        match self {
            Wire::WebSocketProtobuf | Wire::StreamProtobuf | Wire::DeflatedProtobuf => Encoding::Protobuf,
            Wire::UniGrpc => Encoding::Protobuf,
            Wire::WebSocketJson | Wire::DeflatedJson | Wire::SseJson | Wire::StreamJson => Encoding::Json,
            Wire::UniWebSocket | Wire::UniSse | Wire::UniStream | Wire::LineJson => Encoding::Json,
        }
    }

    /// How the client says its commands.
    fn commands(self) -> Commands {
        match self {
            Wire::WebSocketJson | Wire::WebSocketProtobuf => Commands::SameConnection,
            Wire::DeflatedJson | Wire::DeflatedProtobuf | Wire::LineJson => Commands::SameConnection,
            Wire::SseJson | Wire::StreamJson | Wire::StreamProtobuf => Commands::OtherRequests,
            Wire::UniWebSocket | Wire::UniSse | Wire::UniStream | Wire::UniGrpc => Commands::None,
        }
    }

    /// Is it a unidirectional client?
    pub fn is_uni(self) -> bool {
        self.commands() == Commands::None
    }

    /// Does it end with a close frame, and not with a push?
    pub fn is_websocket(self) -> bool {
        self.opcode().is_some()
    }

    /// Of its frames; `None` where there are none.
    fn opcode(self) -> Option<ws::Opcode> {
        match self {
            Wire::WebSocketJson | Wire::UniWebSocket | Wire::DeflatedJson => Some(ws::Opcode::Text),
            Wire::WebSocketProtobuf | Wire::DeflatedProtobuf => Some(ws::Opcode::Binary),
            Wire::SseJson | Wire::StreamJson | Wire::StreamProtobuf | Wire::LineJson => None,
            Wire::UniSse | Wire::UniStream | Wire::UniGrpc => None,
        }
    }

    /// The window that its messages are compressed for; 0 = they are not.
    fn window_bits(self) -> u8 {
        match self {
            Wire::DeflatedJson | Wire::DeflatedProtobuf => ws::WINDOW_BITS_MAX,
            Wire::WebSocketJson | Wire::WebSocketProtobuf | Wire::UniWebSocket => 0,
            Wire::SseJson | Wire::StreamJson | Wire::StreamProtobuf | Wire::LineJson => 0,
            Wire::UniSse | Wire::UniStream | Wire::UniGrpc => 0,
        }
    }

    /// Does the client send its commands by other requests?
    pub fn is_emulated(self) -> bool {
        self.commands() == Commands::OtherRequests
    }

    /// As backends are told.
    pub fn transport(self) -> &'static str {
        match self {
            Wire::WebSocketJson | Wire::WebSocketProtobuf | Wire::DeflatedJson | Wire::DeflatedProtobuf => "websocket",
            Wire::SseJson => "sse",
            Wire::StreamJson | Wire::StreamProtobuf => "http_stream",
            Wire::UniWebSocket => "uni_websocket",
            Wire::UniSse => "uni_sse",
            Wire::UniStream => "uni_http_stream",
            Wire::LineJson => "tcp_line",
            Wire::UniGrpc => "uni_grpc",
        }
    }

    /// May a message hold several replies?
    pub fn joins(self) -> bool {
        !self.is_uni()
    }

    /// Appends `reply` to a message. Who only listens gets what is a push, or would be one: the rest is left out.
    pub fn say(self, reply: &Reply, out: &mut Vec<u8>) -> Result<(), NotJson> {
        if !self.is_uni() {
            return self.encoding().encode(reply, out);
        }
        let connected = reply.connect.as_ref().map(|connect| Push { connect: Some(connect.into()), ..Push::default() });
        let Some(push) = reply.push.as_ref().or(connected.as_ref()) else { return Ok(()) };
        match self {
            // The head of a message has its length.
            Wire::UniGrpc => {
                push.encode_raw(out);
                Ok(())
            }
            _ => self.encoding().encode_alone(push, out),
        }
    }

    /// Appends a whole message with what this transport puts around it, compressed if that is this wire's way and makes
    /// it smaller.
    pub fn pack(self, message: &[u8], deflater: &mut Deflater, out: &mut Vec<u8>) {
        let Some(opcode) = self.opcode() else { return self.wrap(message, out) };
        match deflater.payload(message, self.window_bits()) {
            Some(payload) => ws::push_deflated_frame(out, opcode, payload),
            None => ws::push_frame(out, opcode, message),
        }
    }

    /// The same, to be shared.
    pub fn packed(self, message: &[u8], deflater: &mut Deflater) -> Bytes {
        let Some(opcode) = self.opcode() else { return self.wrapped(message) };
        match deflater.payload(message, self.window_bits()) {
            Some(payload) => ws::deflated_frame(opcode, payload),
            None => ws::frame(opcode, message),
        }
    }

    /// What goes around a message that is no frame.
    fn wrap(self, message: &[u8], out: &mut Vec<u8>) {
        match self {
            Wire::SseJson | Wire::UniSse => {
                // A line end inside an event's data begins another data line; the client joins them again.
                for line in message.split(|&byte| byte == b'\n') {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(line);
                    out.push(b'\n');
                }
                out.push(b'\n');
            }
            Wire::StreamJson | Wire::UniStream | Wire::LineJson => {
                out.extend_from_slice(message);
                out.push(b'\n');
            }
            Wire::UniGrpc => {
                // Not compressed, and so many bytes.
                out.push(0);
                out.extend_from_slice(&(message.len() as u32).to_be_bytes());
                out.extend_from_slice(message);
            }
            // A Protobuf reply begins with its length, and a frame with its own.
            Wire::StreamProtobuf => out.extend_from_slice(message),
            Wire::WebSocketJson | Wire::WebSocketProtobuf | Wire::UniWebSocket => out.extend_from_slice(message),
            Wire::DeflatedJson | Wire::DeflatedProtobuf => out.extend_from_slice(message),
        }
    }

    fn wrapped(self, message: &[u8]) -> Bytes {
        // Exactly as long as it gets, mostly: more room would take another allocation to share.
        let around = match self {
            Wire::SseJson | Wire::UniSse => SSE_AROUND,
            Wire::StreamJson | Wire::UniStream | Wire::LineJson => 1,
            _ => 0,
        };
        let mut out = Vec::with_capacity(message.len() + around);
        self.wrap(message, &mut out);
        out.into()
    }

    /// A whole ping, never compressed: it is as short as can be.
    pub fn ping(self) -> Bytes {
        Bytes::from_static(match self {
            Wire::WebSocketJson | Wire::UniWebSocket | Wire::DeflatedJson => b"\x81\x02{}",
            Wire::WebSocketProtobuf | Wire::DeflatedProtobuf => b"\x82\x01\0",
            Wire::SseJson | Wire::UniSse => b"data: {}\n\n",
            Wire::StreamJson | Wire::UniStream | Wire::LineJson => b"{}\n",
            Wire::StreamProtobuf => b"\0",
            // A push with nothing in it.
            Wire::UniGrpc => b"\0\0\0\0\0",
        })
    }

    /// The last bytes: why the client must go. None if it is not told.
    pub fn close(self, disconnect: &Disconnect) -> Bytes {
        if disconnect.is_silent() {
            return Bytes::new();
        }
        let frame = self.is_websocket().then(|| ws::close_frame(disconnect.code, &disconnect.reason));
        match frame {
            Some(frame) if !self.is_uni() => frame,
            // All who only listen get the push.
            frame => [self.disconnect_push(disconnect), frame.unwrap_or_default()].concat().into(),
        }
    }

    fn disconnect_push(self, disconnect: &Disconnect) -> Bytes {
        let (code, reason) = (u32::from(disconnect.code), disconnect.reason.to_string());
        let push = Push { disconnect: Some(DisconnectPush { code, reason }), ..Push::default() };
        let mut message = Vec::new();
        match self.say(&Reply { push: Some(push), ..Reply::default() }, &mut message) {
            // Last words go as they are: this compressor is off.
            Ok(()) => self.packed(&message, &mut Deflater::default()),
            Err(NotJson) => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Publication;

    fn packed(wire: Wire, replies: &[Reply]) -> String {
        let mut message = Vec::new();
        replies.iter().for_each(|reply| wire.say(reply, &mut message).expect("JSON"));
        String::from_utf8(wire.packed(&message, &mut Deflater::default()).to_vec()).expect("UTF-8")
    }

    #[test]
    fn each_transport_has_its_own_wrapping() {
        let push = Push {
            channel: "c".into(),
            publication: Some(Publication { data: "1".into(), ..Publication::default() }),
            ..Push::default()
        };
        let one = Reply { push: Some(push), ..Reply::default() };
        let two = [one.clone(), one.clone()];
        let reply = r#"{"push":{"channel":"c","pub":{"data":1}}}"#;
        assert_eq!(packed(Wire::SseJson, &two), format!("data: {reply}\ndata: {reply}\n\n"));
        assert_eq!(packed(Wire::StreamJson, &two), format!("{reply}\n{reply}\n"));
        assert_eq!(packed(Wire::StreamProtobuf, &two[..1]), "\n\"\u{8}\u{12}\u{1}c\"\u{3}\"\u{1}1");
        assert_eq!(packed(Wire::UniSse, &two[..1]), "data: {\"channel\":\"c\",\"pub\":{\"data\":1}}\n\n");
        assert_eq!(
            packed(Wire::UniStream, &[Reply { id: 1, ..Reply::default() }]),
            "\n",
            "a plain reply is not for it"
        );
    }

    #[test]
    fn an_end_is_a_push_where_there_is_no_close_frame() {
        let ended = |wire: Wire| String::from_utf8_lossy(&wire.close(&Disconnect::SHUTDOWN)).into_owned();
        let told = r#"{"disconnect":{"code":3001,"reason":"shutdown"}}"#;
        for wire in [Wire::StreamJson, Wire::LineJson] {
            assert_eq!(ended(wire), format!("{{\"push\":{told}}}\n"));
        }
        assert_eq!(ended(Wire::UniSse), format!("data: {told}\n\n"));
        // Code 3001 in field 1, the reason in field 2, in field 11 of a push.
        assert_eq!(ended(Wire::UniGrpc), "\0\0\0\0\u{f}Z\r\u{8}\u{fffd}\u{17}\u{12}\u{8}shutdown");
        let both = Wire::UniWebSocket.close(&Disconnect::SHUTDOWN);
        assert_eq!(both[..2], [0x81, told.len() as u8]);
        assert_eq!(both[2..2 + told.len()], *told.as_bytes());
        assert_eq!(both[2 + told.len()..], *b"\x88\x0a\x0b\xb9shutdown");
        assert_eq!(Wire::WebSocketJson.close(&Disconnect::SHUTDOWN)[..], *b"\x88\x0a\x0b\xb9shutdown");
    }

    #[test]
    fn wires_have_their_numbers() {
        for index in 0..Wire::COUNT {
            assert_eq!(Wire::from_index(index) as usize, index);
        }
    }

    #[test]
    fn a_compressed_wire_is_a_websocket_whose_pings_and_closes_are_plain() {
        let config = crate::config::WebSocket { compression: true, ..Default::default() };
        let (mut deflater, long) = (Deflater::new(&config), [b'a'; 500]);
        for (encoding, first) in [(Encoding::Json, 0x81), (Encoding::Protobuf, 0x82)] {
            let plain = Wire::websocket(encoding);
            let deflated = plain.deflated();
            for wire in [plain, deflated] {
                assert!(wire.is_websocket() && wire.joins() && !wire.is_uni() && !wire.is_emulated());
                assert_eq!((wire.transport(), wire.encoding()), ("websocket", encoding));
            }
            assert_eq!((plain.ping(), plain.ping()[0]), (deflated.ping(), first));
            assert_eq!(plain.close(&Disconnect::SHUTDOWN), deflated.close(&Disconnect::SHUTDOWN));
            assert_eq!(plain.packed(&long, &mut deflater)[0], first);
            let packed = deflated.packed(&long, &mut deflater);
            assert_eq!((packed[0], packed.len() < 20), (first | 0x40, true));
            let mut appended = Vec::new();
            deflated.pack(&long, &mut deflater, &mut appended);
            assert_eq!(packed, appended);
            assert_eq!(deflated.packed(b"ab", &mut deflater), plain.packed(b"ab", &mut deflater));
        }
        assert_eq!(Wire::UniWebSocket.deflated().packed(&long, &mut deflater)[0], 0x81);
    }
}
