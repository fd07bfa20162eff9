//! Tokens that are dear to check and wrong.

use super::FEW;
use crate::abuse::attack::{Plan, Site};
use crate::abuse::crowd::Crowd;
use crate::abuse::forged::{Algorithm, ES256, ES384, ES512, RS256};
use crate::abuse::script::{Payload, Script, Step};
use crate::abuse::speech::batch;

const CHANNEL: &str = "$signed";

pub fn es256(_: &Site) -> Plan {
    forged(ES256)
}

pub fn es384(_: &Site) -> Plan {
    forged(ES384)
}

pub fn es512(_: &Site) -> Plan {
    forged(ES512)
}

pub fn rs256(_: &Site) -> Plan {
    forged(RS256)
}

/// Messages as full of tokens as they may be, each another one.
fn forged(algorithm: Algorithm) -> Plan {
    let payload = Payload::made(move |turn| {
        let base = (turn.connection << 40) + (turn.round << 16);
        batch(|id| {
            let token = algorithm.token(CHANNEL, base + id);
            format!(r#"{{"subscribe":{{"channel":"{CHANNEL}","token":"{token}"}},"id":{}}}"#, id + 2)
        })
    });
    Plan::new(vec![Crowd::of(FEW, Script::client().then(Step::Flood(payload)).again())])
        .flag(algorithm.option, algorithm.key)
}
