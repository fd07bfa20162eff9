//! Commands where none may be, and more of them than there should be.

use super::Outcome::{self, *};
use super::schema::{good, methods};
use super::{ID, Trial, encoded};
use gannet::protocol::Encoding;
use serde_json::json;

/// What is said twice, or together with something else, is said of a connected client.
fn after_connect(method: &str, outcome: Outcome) -> Outcome {
    if method == "connect" { Closed(3501) } else { outcome }
}

#[test]
fn commands_before_connect_and_after_a_refused_one() {
    for encoding in Encoding::ALL {
        let mut trial = Trial::begin(encoding);
        for method in methods().iter().filter(|method| method.name != "connect") {
            let command = json!({ "id": ID, method.name: good(method.name) });
            let mut tested = trial.open();
            tested.say(&command);
            assert_eq!(tested.outcome(ID, method.name), Closed(3501), "{command}");
            trial.counts(Closed(3501));

            let mut tested = trial.open();
            let old = crate::client::token(&json!({ "sub": "1", "exp": 1 }));
            tested.say(&json!({ "id": 1, "connect": { "token": old } }));
            assert_eq!(tested.outcome(1, "connect"), Error(109));
            trial.counts(Error(109));
            tested.say(&command);
            assert_eq!(tested.outcome(ID, method.name), Closed(3501), "{command}");
            trial.counts(Closed(3501));
        }
        let mut tested = trial.ready_for("subscribe");
        tested.say(&json!({ "id": ID, "connect": good("connect") }));
        assert_eq!(tested.outcome(ID, "connect"), Closed(3501));
        trial.counts(Closed(3501));
        trial.end();
    }
}

#[test]
fn two_commands_in_one_object_are_the_first_of_them() {
    // In which order they are looked for: send and ping come late.
    let rank = |name: &str| match name {
        "send" => 7,
        "rpc" => 8,
        "refresh" => 9,
        "sub_refresh" => 10,
        "ping" => 11,
        other => methods().iter().position(|method| method.name == other).expect("a method"),
    };
    for encoding in Encoding::ALL {
        let mut trial = Trial::begin(encoding);
        for one in methods() {
            for other in methods().iter().filter(|other| other.name != one.name) {
                let first = if rank(one.name) < rank(other.name) { one } else { other };
                let command = json!({ "id": ID, one.name: good(one.name), other.name: good(other.name) });
                let mut tested = trial.ready_for(if first.name == "connect" { "subscribe" } else { first.name });
                tested.say(&command);
                let expected = after_connect(first.name, first.outcome);
                assert_eq!(tested.outcome(ID, first.name), expected, "{command}");
                trial.counts(expected);
            }
        }
        trial.end();
    }
}

#[test]
fn two_commands_of_one_id_are_two_commands() {
    for encoding in Encoding::ALL {
        let mut trial = Trial::begin(encoding);
        for method in methods().iter().filter(|method| method.name != "connect") {
            let command = json!({ "id": ID, method.name: good(method.name) });
            let mut tested = trial.ready_for(method.name);
            let one = encoded(encoding, &command);
            let separator = if encoding == Encoding::Json { &b"\n"[..] } else { b"" };
            tested.peer.send_frame(crate::peer::BINARY, &[&one[..], separator, &one].concat());
            assert_eq!(tested.outcome(ID, method.name), method.outcome, "{command}");
            trial.counts(method.outcome);
            if matches!(method.outcome, Closed(_)) {
                continue;
            }
            let again = if method.name == "subscribe" { Error(105) } else { method.outcome };
            assert_eq!(tested.outcome(ID, method.name), again, "again: {command}");
            trial.counts(again);
        }
        trial.end();
    }
}

#[test]
fn a_command_without_an_id_is_a_pong_or_a_message() {
    for encoding in Encoding::ALL {
        let mut trial = Trial::begin(encoding);
        for method in methods() {
            // Nobody awaits a pong yet; a message cannot be delivered.
            let mut alone = trial.ready_for("subscribe");
            alone.say(&json!({ method.name: good(method.name) }));
            let expected = Closed(if method.name == "send" { 3508 } else { 3501 });
            assert_eq!(alone.outcome(0, method.name), expected, "{}", method.name);
            trial.counts(expected);

            // With a message beside it: no reply can be given to a command that has no id.
            let mut beside = trial.ready_for("subscribe");
            beside.say(&json!({ "send": {}, method.name: good(method.name) }));
            assert_eq!(beside.outcome(0, method.name), Closed(3508), "send and {}", method.name);
            trial.counts(Closed(3508));

            let mut unknown = trial.open();
            unknown.say(&json!({ "send": {}, method.name: good(method.name) }));
            assert_eq!(unknown.outcome(0, method.name), Closed(3501), "send and {} before connect", method.name);
            trial.counts(Closed(3501));
        }
        trial.end();
    }
}

#[test]
fn a_line_end_behind_a_connect_command_that_waits_is_no_command() {
    let mut trial = Trial::begin(Encoding::Json);
    // It waits for the owners of its server-side subscriptions.
    let connect = json!({ "id": ID, "connect": good("connect") }).to_string();
    for tail in ["\n", "\r\n", "\n \n"] {
        trial.try_one("connect", (connect.clone() + tail).as_bytes(), Answered, "a line end");
    }
    trial.end();
}
