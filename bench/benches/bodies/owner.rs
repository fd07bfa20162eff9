//! The broker's share of a channel: publications kept, what was missed, and how many are there.

use super::{Body, Operation, json_string};
use gannet::broker::{
    Answer, Asker, ConnKey, Event, Gone, Keep, Limits, Member, Memory, Recover, Request, Treatment, Want,
};
use gannet::protocol::{ClientInfo, Publication};
use std::hint::black_box;
use std::sync::Arc;

pub const BODIES: &[Body] = &[
    Body { name: "broker/publish", prepare: || publish(None) },
    Body { name: "broker/publish_with_history", prepare: || publish(Some(KEEP)) },
    Body { name: "broker/subscribe_and_recover_100", prepare: recover },
    Body { name: "broker/presence_stats_of_100000", prepare: count_present },
];

const NOW_MS: u64 = 1_700_000_000_000;
const KEEP: Keep = Keep { size: KEPT, ttl_ms: 600_000, meta_ttl_ms: 86_400_000 };
const KEPT: u32 = 100;
const PRESENT: u32 = 100_000;
const FROM: ConnKey = ConnKey { reactor: 0, index: 7, generation: 1 };
const ASKER: Asker = Asker::Backend(1);

fn owner() -> Memory {
    Memory::new(7, Limits { history_bytes: 0, recent: 1000 })
}

fn name() -> Arc<str> {
    "news:football".into()
}

fn publication(channel: &Arc<str>, keep: Option<Keep>) -> Request {
    let publication = Publication { data: json_string().into(), ..Publication::default() };
    let treatment = keep.map(|keep| Box::new(Treatment { keep: Some(keep), ..Treatment::default() }));
    Request::Publish { channel: channel.clone(), publication: Arc::new(publication), asker: ASKER, treatment }
}

/// To one reactor with subscribers; what is kept beyond its size is dropped for it.
fn publish(keep: Option<Keep>) -> Operation {
    let (mut owner, channel, mut out) = (owner(), name(), Vec::new());
    let subscribe = Request::Subscribe { channel: channel.clone(), from: FROM, ticket: 0, want: None };
    owner.handle(NOW_MS, subscribe, &mut out);
    for _ in 0..KEPT {
        owner.handle(NOW_MS, publication(&channel, keep), &mut out);
    }
    out.clear();
    Box::new(move || {
        owner.handle(NOW_MS, black_box(publication(&channel, keep)), &mut out);
        assert_eq!(out.len(), 2, "to the reactor, and the answer");
        out.clear();
    })
}

/// All that is kept, and gone again.
fn recover() -> Operation {
    let (mut owner, channel, mut out) = (owner(), name(), Vec::new());
    for _ in 0..KEPT {
        owner.handle(NOW_MS, publication(&channel, Some(KEEP)), &mut out);
    }
    out.clear();
    Box::new(move || {
        let ask = Recover { offset: 0, epoch: "".into(), limit: 300, most: 300, cache: false };
        let want = Want { position: Some(KEEP), recover: Some(ask), ..Want::default() };
        let want = Some(Box::new(want));
        let subscribe = Request::Subscribe { channel: channel.clone(), from: FROM, ticket: 1, want };
        owner.handle(NOW_MS, black_box(subscribe), &mut out);
        let [(_, Event::Subscribed { found: Some(found), .. })] = &out[..] else { panic!("no answer: {out:?}") };
        let missed = found.recovery.as_ref().map(|recovery| recovery.publications.len());
        assert_eq!(missed, Some(KEPT as usize));
        out.clear();
        let gone = Some(Box::new(Gone { member: None, delta: false, asker: None }));
        owner.handle(NOW_MS, Request::Leave { channel: channel.clone(), reactor: FROM.reactor, gone }, &mut out);
        out.clear();
    })
}

fn count_present() -> Operation {
    let (mut owner, channel, mut out) = (owner(), name(), Vec::new());
    for number in 0..PRESENT {
        let client = u128::from(number).to_be_bytes();
        let info = ClientInfo { user: format!("user-{}", number / 2), ..ClientInfo::default() };
        let member = Member { client, info: Arc::new(info), presence: true, announce: false };
        let want = Some(Box::new(Want { member: Some(member), ..Want::default() }));
        let from = ConnKey { index: number, ..FROM };
        owner.handle(NOW_MS, Request::Subscribe { channel: channel.clone(), from, ticket: 0, want }, &mut out);
        out.clear();
    }
    Box::new(move || {
        let ask = Request::PresenceStats { channel: channel.clone(), asker: ASKER };
        owner.handle(NOW_MS, black_box(ask), &mut out);
        let told = Answer::PresenceStats { clients: PRESENT, users: PRESENT / 2 };
        assert!(matches!(&out[..], [(_, Event::Answer { answer, .. })] if *answer == told), "{out:?}");
        out.clear();
    })
}
