//! F1 · Which of a client's extension offers is taken: RFC 6455 section 9.1, RFC 7692 sections 5 and 7.1.
//!
//! Pure: header values in, what was agreed out. Only permessage-deflate is known. Neither side may keep its window
//! from message to message: the answer always says so, for a server may ask it whatever was offered.

use super::WINDOW_BITS_MAX;

const NAME: &str = "permessage-deflate";

/// Parameters of an offer, in the order of their bits in [`offer`].
const PARAMETERS: [&str; 4] =
    ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"];

/// The extension as it will be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The bound that the client set to the server's window: 8 to 15.
    server_max_window_bits: Option<u8>,
}

impl Agreed {
    /// What [`Deflate`](super::Deflate) must keep to.
    pub fn window_bits(self) -> u8 {
        self.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX)
    }

    /// May it be sent what was compressed for others?
    pub fn shares(self) -> bool {
        self.window_bits() == WINDOW_BITS_MAX
    }

    /// Appends the answer's header value.
    pub fn push(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.server_max_window_bits {
            out.extend_from_slice(b"; server_max_window_bits=");
            out.extend_from_slice(bits.to_string().as_bytes());
        }
    }
}

/// The first offer that can be taken, out of all `Sec-WebSocket-Extensions` header values. One that is malformed is
/// passed over like one that is unknown.
pub fn negotiate<'a>(values: impl Iterator<Item = &'a str>) -> Option<Agreed> {
    values.flat_map(|value| split(value, ',')).find_map(offer)
}

/// Takes an offer, or declines it: for a parameter that is unknown, is there twice, or has a value it may not have.
fn offer(text: &str) -> Option<Agreed> {
    let mut parts = split(text, ';').map(str::trim);
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut agreed = Agreed { server_max_window_bits: None };
    let mut seen = 0u8;
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (part, None),
        };
        let bit = 1 << PARAMETERS.iter().position(|known| *known == name)?;
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        match (name, value) {
            ("server_max_window_bits", Some(value)) => agreed.server_max_window_bits = Some(bits(value)?),
            // Whatever window the client keeps to, up to the largest, is fine.
            ("client_max_window_bits", Some(value)) => _ = bits(value)?,
            ("client_max_window_bits" | "server_no_context_takeover" | "client_no_context_takeover", None) => {}
            _ => return None,
        }
    }
    Some(agreed)
}

/// 8 to 15 in decimal, bare or quoted.
fn bits(value: &str) -> Option<u8> {
    let quoted = value.strip_prefix('"').map(|rest| rest.strip_suffix('"'));
    let digits: String = match quoted {
        Some(inner) => inner?.chars().filter(|c| *c != '\\').collect(),
        None => value.into(),
    };
    (8..=15).find(|bits| bits.to_string() == digits)
}

/// Cuts at `separator` where it does not stand in quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(values: &[&str]) -> Option<String> {
        let mut out = Vec::new();
        negotiate(values.iter().copied())?.push(&mut out);
        Some(String::from_utf8(out).expect("ASCII"))
    }

    #[test]
    fn offers_that_are_taken() {
        for offered in [
            "permessage-deflate",
            " permessage-deflate ",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=\"15\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=16, permessage-deflate",
            "permessage-deflate; mode=\"a, permessage-deflate; b\", permessage-deflate",
            "a; b=\"\\\", permessage-deflate; server_max_window_bits=9\" , permessage-deflate",
        ] {
            assert_eq!(answer(&[offered]).as_deref(), Some(BOTH), "{offered}");
        }
        assert_eq!(answer(&["bbf-usp-protocol", "permessage-deflate"]).as_deref(), Some(BOTH), "two headers");
    }

    #[test]
    fn a_window_that_the_client_bounds_is_agreed_to() {
        for (offered, bits) in [
            ("permessage-deflate; server_max_window_bits=8", 8),
            ("permessage-deflate; server_max_window_bits = 9; client_max_window_bits", 9),
            ("permessage-deflate; client_max_window_bits=9; server_max_window_bits=\"1\\0\"", 10),
            ("permessage-deflate; server_max_window_bits=15, permessage-deflate", 15),
        ] {
            let expected = format!("{BOTH}; server_max_window_bits={bits}");
            assert_eq!(answer(&[offered]), Some(expected), "{offered}");
            assert_eq!(negotiate([offered].into_iter()).map(Agreed::window_bits), Some(bits), "{offered}");
        }
    }

    #[test]
    fn offers_that_are_declined() {
        for offered in [
            "",
            ",",
            "permessage-bzip2",
            "permessage-deflate2",
            "Permessage-Deflate",
            "permessage-deflate;",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "\"permessage-deflate\"",
            "\", permessage-deflate",
        ] {
            assert_eq!(answer(&[offered]), None, "{offered}");
        }
    }

    proptest::proptest! {
        /// Whatever is offered, the answer is one that section 7.1 allows.
        #[test]
        fn any_value_is_answered_or_not(value in "[a-z_=;,\" \\\\0-9]{0,60}|(permessage-deflate[;, a-z_=0-9\"]{0,40})") {
            if let Some(agreed) = negotiate([value.as_str()].into_iter()) {
                proptest::prop_assert!((8..=15).contains(&agreed.window_bits()));
            }
        }
    }
}
