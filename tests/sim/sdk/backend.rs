//! The application's backend: it answers questions late, with errors, or with what was not asked, publishes by the
//! server API and orders clients about.

use super::acts::{self, seconds};
use super::tokens;
use super::truth::Truth;
use crate::node::World;
use crate::options::USERS;
use gannet::broker::{self, Asker, Position, Query, Request, Treatment};
use gannet::protocol::code::{ClientError, Disconnect};
use gannet::protocol::{Error, Publication, SubscribeRequest};
use gannet::session::backend::{Ask, Call, ConnectGrant, PublishGrant, RefreshGrant, Said, SubscribeGrant};
use gannet::shard::{Chosen, Control, ControlAnswer, Mail};
use std::collections::BTreeMap;

/// The one channel to which the backend subscribes clients.
pub const ORDERED: &str = "n1:1";

/// A publication of the backend's that is under way.
struct Published {
    id: usize,
    channel: String,
    key: String,
    version: u64,
}

#[derive(Default)]
pub struct Backend {
    tickets: u64,
    /// Not yet answered; `None` for what is no publication.
    waits: BTreeMap<u64, Option<Published>>,
    /// Where the first publication with a key is.
    keys: BTreeMap<(String, String), Option<Position>>,
    versions: BTreeMap<String, u64>,
    pub repeated: usize,
}

impl Backend {
    // --- questions ---

    /// Answers what is due; all of it with `now`.
    pub fn answer(&mut self, world: &mut World, truth: &mut Truth, now: bool) {
        let step = world.step;
        let due: Vec<Call> = world.asks.extract_if(.., |(due, _)| now || *due <= step).map(|(_, call)| call).collect();
        for call in due {
            if !now && world.rng.chance(3) {
                // Never, or when all else is done.
                world.asks.push((u64::MAX, call));
                continue;
            }
            let Call { conn, ticket, ask, .. } = call;
            let said = say(world, truth, conn, &ask);
            let mail = Mail::Backend { conn, ticket, ask, said };
            world.post.deliver(usize::from(conn.reactor), step, mail, &mut world.rng);
        }
    }

    // --- the server API ---

    pub fn act(&mut self, world: &mut World, truth: &mut Truth) {
        let channel = acts::channel(world);
        let chosen = Chosen { user: (*world.rng.pick(&USERS)).to_owned(), ..Chosen::default() };
        let control = match world.rng.below(100) {
            0..88 => return self.publish(world, truth, channel),
            88 => {
                truth.removed.insert(channel.clone());
                let owner = usize::from(world.owner(&channel));
                self.ask(world, owner, None, |ticket| {
                    Mail::Ask(Request::RemoveHistory { channel: channel.into(), asker: Asker::Backend(ticket) })
                });
                return;
            }
            89 => {
                let disconnect = Disconnect { code: 4000, reason: "go".into() };
                Control::Disconnect { chosen, keep: Vec::new(), disconnect }
            }
            90..93 => {
                truth.unsubscribed.insert(chosen.user.clone());
                let channel = if world.rng.chance(20) { String::new() } else { channel };
                Control::Unsubscribe { chosen, channel }
            }
            93..97 => {
                let request = SubscribeRequest { channel: ORDERED.to_owned(), ..SubscribeRequest::default() };
                let data = "{\"from\":\"api\"}".into();
                Control::Subscribe { chosen, request, grant: SubscribeGrant { data, ..SubscribeGrant::default() } }
            }
            97..99 => {
                let expire_at = if world.rng.chance(50) { 0 } else { seconds(world) + 3 };
                Control::Refresh { chosen, grant: RefreshGrant { expire_at, ..RefreshGrant::default() } }
            }
            _ => Control::Stats,
        };
        for reactor in 0..usize::from(world.options.reactors) {
            let control = Box::new(control.clone());
            self.ask(world, reactor, None, |ticket| Mail::Control { ticket, control });
        }
    }

    fn ask(
        &mut self,
        world: &mut World,
        reactor: usize,
        published: Option<Published>,
        mail: impl FnOnce(u64) -> Mail,
    ) -> bool {
        self.tickets += 1;
        let taken = world.post.offer(reactor, world.step, mail(self.tickets), &mut world.rng);
        if taken {
            self.waits.insert(self.tickets, published);
        }
        taken
    }

    fn publish(&mut self, world: &mut World, truth: &mut Truth, channel: String) {
        let rules = world.options.rules.clone();
        let keep = rules.namespace(&channel).expect("a namespace").keep.filter(|_| !world.rng.chance(5));
        let id = acts::payload(world, truth, &channel, None, true);
        let tag = acts::tag(world);
        let mut treatment = Treatment { keep, delta: world.rng.chance(60), ..Treatment::default() };
        if world.rng.chance(20) {
            let key = world.rng.below(4).to_string();
            let place = (channel.clone(), key.clone());
            let waits = self.waits.values().flatten().any(|p| (&p.channel, &p.key) == (&place.0, &place.1));
            treatment.idempotency_key = if waits { "".into() } else { key.into() };
            truth.sent_mut(id).dud |= !waits && self.keys.contains_key(&place);
        }
        let long = rules.channel(&channel).is_some_and(|options| options.history_ttl == super::options::LONG);
        if keep.is_some() && long && treatment.idempotency_key.is_empty() && world.rng.chance(20) {
            let latest = self.versions.get(&channel).copied().unwrap_or(0);
            treatment.version = (latest + world.rng.below(3) as u64).max(1);
            truth.sent_mut(id).dud = treatment.version <= latest;
        }
        truth.sent_mut(id).tag = tag.clone();
        self.repeated += usize::from(truth.sent(id).dud);
        let data = truth.sent(id).data.clone().into();
        let publication = Publication { data, tags: acts::tags(&tag), ..Publication::default() }.into();
        let (key, version) = (treatment.idempotency_key.to_string(), treatment.version);
        let published = Published { id, channel: channel.clone(), key, version };
        let name = channel.as_str().into();
        let taken = self.ask(world, usize::from(world.owner(&channel)), Some(published), |ticket| {
            let (asker, treatment) = (Asker::Backend(ticket), Some(Box::new(treatment)));
            Mail::Ask(Request::Publish { channel: name, publication, asker, treatment })
        });
        if taken && version > 0 {
            let latest = self.versions.entry(channel).or_default();
            *latest = version.max(*latest);
        }
    }

    /// Takes the answers that came back.
    pub fn hear(&mut self, world: &mut World, truth: &mut Truth) {
        for (ticket, answer) in std::mem::take(&mut world.answers) {
            let waits = self.waits.remove(&ticket).unwrap_or_else(|| panic!("an answer to nothing: {answer:?}"));
            let Some(Published { id, channel, key, version }) = waits else { continue };
            let ControlAnswer::Owner(broker::Answer::Published(position)) = answer else {
                panic!("no place: {answer:?}")
            };
            let place = (channel.clone(), key.clone());
            match self.keys.get(&place).filter(|_| !key.is_empty()) {
                Some(first) => assert_eq!(*first, position, "{channel}: a key that came again"),
                None if truth.sent(id).dud => assert!(version > 0),
                None => {
                    if let Some(Position { offset, epoch }) = &position {
                        truth.place(&channel, epoch.as_str(), *offset, id);
                    }
                    if !key.is_empty() {
                        self.keys.insert(place, position);
                    }
                }
            }
        }
    }

    pub fn check_rest(&self) {
        assert!(self.waits.is_empty(), "the backend waits for {} answers", self.waits.len());
    }
}

fn say(world: &mut World, truth: &mut Truth, conn: broker::ConnKey, ask: &Ask) -> Said {
    // What is no application's to say.
    match ask {
        Ask::Keys { .. } | Ask::Check(_) if world.rng.chance(10) => return Said::Error(ClientError::Internal.into()),
        Ask::Keys { .. } => return Said::Keys(tokens::keys(seconds(world))),
        Ask::Check(check) => return Said::Checked(check.judge(&world.options.rules).into()),
        _ => {}
    }
    match world.rng.below(20) {
        0 => return Said::Error(ClientError::Internal.into()),
        1 => return Said::Error(Error { code: 500, message: "no".into(), temporary: false }),
        2 if world.rng.chance(30) => return Said::Disconnect(Disconnect { code: 4001, reason: "not you".into() }),
        // What was not asked.
        3 if matches!(ask, Ask::Rpc(_)) => return Said::Refresh(RefreshGrant::default()),
        3 => return Said::Rpc("{}".into()),
        _ => {}
    }
    let expire_at = if world.rng.chance(40) { seconds(world) + world.rng.within(1, 3) as u64 } else { 0 };
    match ask {
        Ask::Connect(_) if world.rng.chance(15) => Said::NoCredentials,
        Ask::Connect(_) => {
            let user = *world.rng.pick(&USERS);
            truth.users.insert(conn, user.to_owned());
            let subs = world.rng.chance(30).then(|| (acts::channel(world), SubscribeGrant::default()));
            let subs = subs.into_iter().collect();
            Said::Connect(Box::new(ConnectGrant { user: user.into(), expire_at, subs, ..ConnectGrant::default() }))
        }
        Ask::Refresh | Ask::SubRefresh { .. } => {
            // An answer without a time ends what it was asked about, as one that says so.
            let expire_at = expire_at.max(seconds(world) + 2);
            Said::Refresh(RefreshGrant { expire_at, expired: world.rng.chance(10), ..RefreshGrant::default() })
        }
        Ask::Subscribe(_) => {
            let info = "{\"by\":\"backend\"}".into();
            Said::Subscribe(Box::new(SubscribeGrant { expire_at, info, ..SubscribeGrant::default() }))
        }
        Ask::Publish(request) => {
            let id = Truth::id(&request.data);
            let tag = acts::tag(world);
            truth.sent_mut(id).tag = tag.clone();
            let data = world.rng.chance(50).then(|| format!("[{id},\"as the backend wants it\"]").into_bytes());
            if let Some(data) = &data {
                truth.sent_mut(id).data = data.clone();
            }
            let (data, tags) = (data.map(Into::into), acts::tags(&tag));
            Said::Publish(Box::new(PublishGrant { data, skip_history: world.rng.chance(20), tags }))
        }
        Ask::Rpc(request) => Said::Rpc(request.data.clone()),
        // No namespace of this world has streams.
        Ask::SubscribeStream(_) | Ask::Keys { .. } | Ask::Check(_) => unreachable!("answered above"),
    }
}

/// The whole of a channel's position, as its owner knows it.
pub fn position_query(world: &World, channel: &str) -> Option<Request> {
    let keep = world.options.rules.namespace(channel)?.keep?;
    let query = Box::new(Query { keep, since: None, limit: 0, reverse: false });
    Some(Request::History { channel: channel.into(), asker: Asker::Backend(0), query })
}
