//! F4 · How replies and pushes become the bytes of each transport.
//!
//! Owns the list of wires: an encoding, and what is put around a message of it. Knows nothing of who is at the other
//! end. A subscriber's wire is one byte, so that a publication is made into bytes once for all who share it.

use crate::protocol::code::Disconnect;
use crate::protocol::{DisconnectPush, Encoding, NotJson, Push, Reply};
use crate::ws;
use bytes::Bytes;

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
}

impl Wire {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// The bidirectional WebSocket of an encoding.
    pub fn websocket(encoding: Encoding) -> Wire {
        match encoding {
            Encoding::Json => Wire::WebSocketJson,
            Encoding::Protobuf => Wire::WebSocketProtobuf,
        }
    }

    pub fn from_index(index: usize) -> Wire {
        use Wire::*;
        [WebSocketJson, WebSocketProtobuf, SseJson, StreamJson, StreamProtobuf, UniWebSocket, UniSse, UniStream]
            [index % Wire::COUNT]
    }

    pub fn encoding(self) -> Encoding {
        match self {
            Wire::WebSocketProtobuf | Wire::StreamProtobuf => Encoding::Protobuf,
            _ => Encoding::Json,
        }
    }

    /// Does the client only listen?
    pub fn is_uni(self) -> bool {
        matches!(self, Wire::UniWebSocket | Wire::UniSse | Wire::UniStream)
    }

    /// Does it end with a close frame, and not with a push?
    pub fn is_websocket(self) -> bool {
        matches!(self, Wire::WebSocketJson | Wire::WebSocketProtobuf | Wire::UniWebSocket)
    }

    /// Does the client send its commands by other requests?
    pub fn is_emulated(self) -> bool {
        matches!(self, Wire::SseJson | Wire::StreamJson | Wire::StreamProtobuf)
    }

    /// As backends are told.
    pub fn transport(self) -> &'static str {
        match self {
            Wire::WebSocketJson | Wire::WebSocketProtobuf => "websocket",
            Wire::SseJson => "sse",
            Wire::StreamJson | Wire::StreamProtobuf => "http_stream",
            Wire::UniWebSocket => "uni_websocket",
            Wire::UniSse => "uni_sse",
            Wire::UniStream => "uni_http_stream",
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
        let connected =
            reply.connect.as_ref().map(|connect| Push { connect: Some(connect.clone()), ..Push::default() });
        let Some(push) = reply.push.as_ref().or(connected.as_ref()) else { return Ok(()) };
        self.encoding().encode_alone(push, out)
    }

    /// Appends a whole message with what this transport puts around it.
    pub fn pack(self, message: &[u8], out: &mut Vec<u8>) {
        match self {
            Wire::WebSocketJson | Wire::UniWebSocket => ws::push_frame(out, ws::Opcode::Text, message),
            Wire::WebSocketProtobuf => ws::push_frame(out, ws::Opcode::Binary, message),
            Wire::SseJson | Wire::UniSse => {
                // A line end inside an event's data begins another data line; the client joins them again.
                for line in message.split(|&byte| byte == b'\n') {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(line);
                    out.push(b'\n');
                }
                out.push(b'\n');
            }
            Wire::StreamJson | Wire::UniStream => {
                out.extend_from_slice(message);
                out.push(b'\n');
            }
            Wire::StreamProtobuf => out.extend_from_slice(message),
        }
    }

    /// The same, to be shared.
    pub fn packed(self, message: &[u8]) -> Bytes {
        match self {
            Wire::WebSocketJson | Wire::UniWebSocket => ws::frame(ws::Opcode::Text, message),
            Wire::WebSocketProtobuf => ws::frame(ws::Opcode::Binary, message),
            _ => {
                let mut out = Vec::with_capacity(message.len() + 8);
                self.pack(message, &mut out);
                out.into()
            }
        }
    }

    /// A whole ping.
    pub fn ping(self) -> Bytes {
        Bytes::from_static(match self {
            Wire::WebSocketJson | Wire::UniWebSocket => b"\x81\x02{}",
            Wire::WebSocketProtobuf => b"\x82\x01\0",
            Wire::SseJson | Wire::UniSse => b"data: {}\n\n",
            Wire::StreamJson | Wire::UniStream => b"{}\n",
            Wire::StreamProtobuf => b"\0",
        })
    }

    /// The last bytes: why the client must go.
    pub fn close(self, disconnect: &Disconnect) -> Bytes {
        let frame = self.is_websocket().then(|| ws::close_frame(disconnect.code, &disconnect.reason));
        match frame {
            Some(frame) if !self.is_uni() => frame,
            // All who only listen get the push.
            frame => [self.disconnect_push(disconnect), frame.unwrap_or_default()].concat().into(),
        }
    }

    fn disconnect_push(self, disconnect: &Disconnect) -> Bytes {
        let reconnect = matches!(disconnect.code, 3000..3500 | 4000..4500);
        let (code, reason) = (u32::from(disconnect.code), disconnect.reason.to_string());
        let push = Push { disconnect: Some(DisconnectPush { code, reason, reconnect }), ..Push::default() };
        let mut message = Vec::new();
        match self.say(&Reply { push: Some(push), ..Reply::default() }, &mut message) {
            Ok(()) => self.packed(&message),
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
        String::from_utf8(wire.packed(&message).to_vec()).expect("UTF-8")
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
        let told = r#"{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}"#;
        assert_eq!(ended(Wire::StreamJson), format!("{{\"push\":{told}}}\n"));
        assert_eq!(ended(Wire::UniSse), format!("data: {told}\n\n"));
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
}
