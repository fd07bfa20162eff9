//! The vocabulary: commands out of messages and publications into them, in both encodings.

use super::{Body, Operation, json_string};
use gannet::protocol::{Command, Encoding, Publication};
use gannet_bench::centrifugal;
use prost::Message;
use std::hint::black_box;

pub const BODIES: &[Body] = &[
    Body { name: "json/decode_connect", prepare: || decode(Encoding::Json, &connect()) },
    Body { name: "json/decode_subscribe", prepare: || decode(Encoding::Json, SUBSCRIBE) },
    Body { name: "json/decode_publish", prepare: || decode(Encoding::Json, &publish()) },
    Body { name: "json/encode_publication", prepare: || encode(Encoding::Json) },
    Body { name: "protobuf/decode_connect", prepare: || decode(Encoding::Protobuf, &connect()) },
    Body { name: "protobuf/decode_subscribe", prepare: || decode(Encoding::Protobuf, SUBSCRIBE) },
    Body { name: "protobuf/decode_publish", prepare: || decode(Encoding::Protobuf, &publish()) },
    Body { name: "protobuf/encode_publication", prepare: || encode(Encoding::Protobuf) },
];

const CHANNEL: &str = "news:football";
/// As the official JavaScript client sends it.
const SUBSCRIBE: &str = r#"{"subscribe":{"channel":"news:football","flag":1},"id":2}"#;

/// With a token of a usual length.
fn connect() -> String {
    centrifugal::connect(Some(&"t".repeat(160)))
}

fn publish() -> String {
    centrifugal::publish(3, CHANNEL, super::MESSAGE)
}

/// The message of one command, given as JSON, in `encoding`.
pub(super) fn message(encoding: Encoding, json: &str) -> Vec<u8> {
    let mut rest = json.as_bytes();
    let commands = std::iter::from_fn(|| Encoding::Json.decode(&mut rest));
    let commands: Vec<Command> = commands.map(|command| command.expect("a command")).collect();
    match encoding {
        Encoding::Json => json.as_bytes().to_vec(),
        Encoding::Protobuf => commands.iter().flat_map(Message::encode_length_delimited_to_vec).collect(),
    }
}

fn decode(encoding: Encoding, json: &str) -> Operation {
    let message = message(encoding, json);
    Box::new(move || {
        let mut rest = black_box(&message[..]);
        let command = encoding.decode(&mut rest).expect("a command").expect("a good one");
        black_box(command);
    })
}

fn encode(encoding: Encoding) -> Operation {
    let publication = Publication { data: json_string().into(), ..Publication::default() };
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        encoding.encode_publication(CHANNEL, black_box(&publication), &mut out).expect("JSON");
        black_box(&out);
    })
}
