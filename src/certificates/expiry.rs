//! F9 · The end of a certificate's validity, read from its DER (RFC 5280 section 4.1).

use pkcs1::der::Decode;
use pkcs1::der::asn1::{GeneralizedTime, UtcTime};

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The tag of the version, which may be left out.
const VERSION: u8 = 0xa0;

/// The last second of it, since 1970.
pub fn not_after(certificate: &[u8]) -> Option<u64> {
    validity(certificate).map(|(_, to)| to)
}

/// Its first and its last second.
pub fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut signed, _) = element(certificate)?;
    if signed.first() == Some(&VERSION) {
        signed = element(signed)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        signed = element(signed)?.2;
    }
    let (_, validity, _) = element(signed)?;
    Some((time(validity)?, time(element(validity)?.2)?))
}

/// The time that `bytes` begin with, since 1970.
fn time(bytes: &[u8]) -> Option<u64> {
    let (tag, _, rest) = element(bytes)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    let since_1970 = match tag {
        UTC_TIME => UtcTime::from_der(whole).ok()?.to_unix_duration(),
        GENERALIZED_TIME => GeneralizedTime::from_der(whole).ok()?.to_unix_duration(),
        _ => return None,
    };
    Some(since_1970.as_secs())
}

/// The first element: its tag, what it holds, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..0x80 => (usize::from(*first), rest),
        _ => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if len.len() > 4 {
                return None;
            }
            (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (held, behind) = rest.split_at_checked(len)?;
    Some((*tag, held, behind))
}
