//! F1 · WebSocket, RFC 6455: upgrade, frames, UTF-8 and close codes, for the server's side of a connection; and its
//! compression, RFC 7692.
//!
//! Pure: bytes in, items out. Knows nothing of sockets, of channels or of what a message means.

mod decoder;
mod deflate;
mod deflater;
mod encoder;
mod extension;
mod upgrade;
mod utf8;

pub use decoder::{Decoder, Fault, Item, Kind, Step};
pub use deflate::{Deflate, Inflate};
pub use deflater::{Deflater, Tally, WINDOW_BITS_MAX};
pub use encoder::{
    CONTROL_PAYLOAD_MAX, HEADER_MAX, close_frame, control_frame, deflated_frame, frame, push_deflated_frame,
    push_frame, push_header,
};
pub use extension::Agreed;
pub use upgrade::{Refusal, Upgrade, respond};

/// Opcodes, RFC 6455 section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Close codes the server itself sends, RFC 6455 section 7.4.1.
pub mod close {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const INVALID_PAYLOAD: u16 = 1007;
    pub const POLICY_VIOLATION: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    /// Not in the RFC: in the IANA registry that it set up.
    pub const TRY_AGAIN_LATER: u16 = 1013;

    /// What breaks off a connection.
    pub const FAULTS: [u16; 4] = [PROTOCOL_ERROR, INVALID_PAYLOAD, POLICY_VIOLATION, TOO_BIG];

    /// May a peer put `code` in a close frame? (Section 7.4.2; 1004 to 1006 and 1015 never go on the wire.)
    pub fn is_valid(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}
