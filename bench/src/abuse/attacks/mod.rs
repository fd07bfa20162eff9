//! All attacks, in the order in which they are run: one a function, by what they are made of.

mod again;
mod arrivals;
mod channels;
mod frames;
mod http;
mod many;
mod readers;
mod replies;
mod signatures;

use super::attack::{Attack, Plan, Site};

/// Attackers that are few, and still enough to keep a reactor busy.
const FEW: usize = 4;

const fn attack(name: &'static str, about: &'static str, plan: fn(&Site) -> Plan) -> Attack {
    Attack { name, about, plan }
}

pub const ATTACKS: &[Attack] = &[
    attack("history-bomb", "messages of 1,200 commands, each for a history of 1.6 MB", replies::history_bomb),
    attack("recover-bomb", "messages of subscriptions that recover 1.6 MB each", replies::recover_bomb),
    attack("presence-bomb", "messages of questions who is in a channel of thousands", replies::presence_bomb),
    attack("behind-a-hole", "publications without end behind an rpc that is not answered", replies::behind_a_hole),
    attack("inflated-commands", "compressed messages of 17,000 commands each", replies::inflated_commands),
    attack("continuations", "empty continuation frames without a pause, no token", frames::continuations),
    attack("ping-flood", "ping frames without a pause", frames::ping_flood),
    attack(
        "endless-messages",
        "messages begun and never ended, by clients that answer pings",
        frames::endless_messages,
    ),
    attack("deflate-bomb", "50 KB that inflate to 50 MB", frames::deflate_bomb),
    attack("lying-lengths", "frames and commands that are shorter than they say", frames::lying_lengths),
    attack("bad-es256", "subscriptions with wrong ES256 signatures", signatures::es256),
    attack("bad-es384", "subscriptions with wrong ES384 signatures", signatures::es384),
    attack("bad-es512", "subscriptions with wrong ES512 signatures", signatures::es512),
    attack("bad-rs256", "subscriptions with wrong RS256 signatures", signatures::rs256),
    attack("made-up-channels", "subscriptions to made-up channels with history", channels::made_up),
    attack("join-storm", "subscribing and leaving without a pause, where all are told", channels::join_storm),
    attack("tiny-publications", "the smallest publications without a pause", channels::tiny_publications),
    attack("full-hub", "publications that wait for a batch until the hub is full", channels::full_hub),
    attack("full-mailbox", "publications from one reactor to the small mailbox of another", channels::full_mailbox),
    attack("never-reading", "subscribers of a busy channel that read nothing", readers::never_reading),
    attack("steady-readers", "readers that take 1 MB/s of publications of 6 MB, as they may", readers::steady),
    attack("half-frames", "2,500 clients with 65,000 bytes of a frame, under a limit of memory", arrivals::half_frames),
    attack("slow-heads", "1,000 request heads that come a byte at a time", arrivals::slow_heads),
    attack("half-open", "2,000 connections that say nothing, or half of a head", arrivals::half_open),
    attack("resets", "clients that connect and leave with a reset, 64 at a time", arrivals::resets),
    attack("connect-flood", "connections that are closed at once, 64 at a time", arrivals::connect_flood),
    attack("idle-http", "1,400 idle HTTP connections on the public port", http::idle),
    attack("rapid-reset", "HTTP/2 streams that are reset at once, with a wrong key", http::rapid_reset),
    attack("long-keys", "publications by the API with idempotency keys of 16 KB", http::long_keys),
    attack("foreign-page", "calls of an insecure API by pages of other sites", http::foreign_page),
    attack("upgrade-with-body", "handshakes whose body is frames", http::upgrade_with_body),
    attack("two-origins", "handshakes with two origins, one of them allowed", http::two_origins),
    attack("acknowledgements", "acknowledgements for a hundred channels each, of nothing", again::acknowledgements),
    attack("deltas", "large publications to which deltas are dear to find and of no use", again::deltas),
    attack("streams-left", "HTTP streams begun and left, commands for streams that are not there", again::streams_left),
    attack("one-byte-chunks", "requests for HTTP streams in chunks of a byte", again::chunks),
    attack(
        "endless-calls",
        "requests to connect by gRPC that are never whole, settings without an end; no token",
        again::endless_calls,
    ),
    attack("disconnect-many", "calls that unsubscribe and disconnect thousands at once", many::disconnect),
    attack("ask-about-many", "calls for all of thousands of channels and members", many::ask),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::attack::MANY;
    use crate::abuse::node::Ports;
    use crate::abuse::script::{Payload, Step, Turn};

    fn plans() -> impl Iterator<Item = (&'static str, Plan)> {
        let site = |short| Site { ports: Ports { public: 1, internal: 2, grpc: 3, backend: 4 }, short };
        [false, true]
            .into_iter()
            .flat_map(move |short| ATTACKS.iter().map(move |attack| (attack.name, (attack.plan)(&site(short)))))
    }

    #[test]
    fn names_are_unique_and_every_attack_has_attackers() {
        let mut names: Vec<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ATTACKS.len());
        for (name, plan) in plans() {
            assert!(plan.attackers() > 0 && plan.attackers() <= 4 * MANY, "{name}");
            assert!(plan.crowds.iter().all(|crowd| !crowd.script.steps.is_empty()), "{name}");
        }
    }

    #[test]
    fn what_is_allowed_says_why() {
        for (name, plan) in plans() {
            let allowed = plan.allowed;
            let free = allowed.buffers + allowed.kept == 0 && allowed.total.is_none();
            let none = free && !allowed.refusals && !allowed.losses;
            assert_eq!(none, allowed.because.is_empty(), "{name}");
        }
    }

    #[test]
    fn every_payload_can_be_made() {
        for (name, plan) in plans() {
            for step in plan.crowds.iter().flat_map(|crowd| &crowd.script.steps) {
                let (Step::Send(payload) | Step::Flood(payload) | Step::Every(_, payload)) = step else { continue };
                let [one, other] = [0, 1].map(|round| payload.bytes(Turn { connection: 7, round }));
                assert!(!one.is_empty(), "{name}");
                assert!(matches!(payload, Payload::Made(_)) || one == other, "{name}");
            }
        }
    }
}
