//! F7 · The names by which clients are found whose commands come by other requests.
//!
//! Owns making and reading them: where the client is, and a mark that only this node can make, so that a name can be
//! neither guessed nor made from the client's id, which others know.

use super::{Shard, Table};
use crate::base::hex::hex;
use crate::broker::ConnKey;
use ring::hmac;

/// 32 random bytes, drawn at start.
pub type Secret = [u8; 32];

/// Bytes of the mark: as many as a client id has.
const MARK_LEN: usize = 16;

impl Shard {
    /// The session's name, as its client was told it.
    pub fn session_name(&self, table: &mut impl Table, conn: u32) -> Option<String> {
        Some(name_of(&self.secret, table.key(conn)?, table.session(conn)?.id()))
    }
}

/// The name of the session of `client` at `key`.
pub fn name_of(secret: &Secret, key: ConnKey, client: [u8; 16]) -> String {
    let mut bytes = Vec::with_capacity(10 + MARK_LEN);
    bytes.extend_from_slice(&key.reactor.to_be_bytes());
    bytes.extend_from_slice(&key.index.to_be_bytes());
    bytes.extend_from_slice(&key.generation.to_be_bytes());
    let mark = mark(secret, &bytes, client);
    bytes.extend_from_slice(&mark);
    hex(bytes)
}

/// Where the session of that name is, if there is one. Whether it is its name is for its reactor to say.
pub fn place_of(name: &str) -> Option<ConnKey> {
    let digits = name.as_bytes();
    if digits.len() != 2 * (10 + MARK_LEN) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let number = |from: usize, to: usize| u32::from_str_radix(name.get(from..to)?, 16).ok();
    let reactor = u16::try_from(number(0, 4)?).ok()?;
    Some(ConnKey { reactor, index: number(4, 12)?, generation: number(12, 20)? })
}

fn mark(secret: &Secret, place: &[u8], client: [u8; 16]) -> [u8; MARK_LEN] {
    let mut making = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    making.update(place);
    making.update(&client);
    let mut mark = [0; MARK_LEN];
    mark.copy_from_slice(&making.sign().as_ref()[..MARK_LEN]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_and_cannot_be_made_without_the_secret() {
        let key = ConnKey { reactor: 3, index: 70_000, generation: 9 };
        let name = name_of(&[1; 32], key, [7; 16]);
        assert_eq!(place_of(&name), Some(key));
        assert_ne!(name, name_of(&[2; 32], key, [7; 16]));
        assert_ne!(name, name_of(&[1; 32], key, [8; 16]));
        for bad in ["", "zz", &name[1..], &name.replace('0', "é"), &name.replace('0', "+")] {
            assert_eq!(place_of(bad), None, "{bad}");
        }
    }
}
