//! F1 · TLS between the handshake and the end, in the caller's buffers and without sockets (RFC 8446, RFC 5246).
//!
//! Owns the record layer: `records` that of TLS 1.3 on plain data, with `keys` behind it; `tunnel` what a connection
//! is to whoever reads and writes, whichever layer it has. Handshakes are rustls's and happen elsewhere. Knows nothing
//! of certificates, nor of what is said inside.

mod keys;
mod records;
#[cfg(test)]
mod tests;
mod tunnel;

pub use keys::{Flow, HotKeys, Suite};
pub use records::{Alert, BODY_MAX, Content, HEAD, Opened, PLAIN_MAX, Records, body_len};
pub use tunnel::{Kit, Layer, Tunnel};
