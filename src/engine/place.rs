//! F10 · What servers' addresses have in common.
//!
//! Owns reading of hosts, ports and percent signs. What cannot be read is never quoted with a password. Never connects.

/// `host`, `host:port`, `[::1]:port`
pub fn host_and_port(authority: &str, port: u16) -> Result<(String, u16), String> {
    let (host, given) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("expected ] behind the address")?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match given {
        Some(text) => text.parse().map_err(|_| format!("expected a port; got {text:?}"))?,
        None => port,
    };
    match host {
        "" => Ok(("127.0.0.1".into(), port)),
        host => Ok((host.into(), port)),
    }
}

/// Percent signs taken for what they stand for.
pub fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("expected two digits behind each %")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "expected UTF-8".into())
}
