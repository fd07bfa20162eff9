//! What is true: each channel's publications in the order in which its owner took them, and where each subscription
//! began in that order. Clients check what they hear against it.

use gannet::broker::ConnKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A publication that somebody sent, accepted or not.
#[derive(Clone)]
pub struct Sent {
    pub channel: String,
    pub data: Vec<u8>,
    /// Who published; None = the backend.
    pub by: Option<ConnKey>,
    pub is_json: bool,
}

/// What is known of whether the owner took a publication whose command it has carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Its reply has not been read yet.
    Maybe,
    Yes,
    No,
}

/// A place in a channel's order.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: u64,
    taken: Taken,
    /// A subscriber heard it, and one heard the next without it.
    heard: bool,
    skipped: bool,
}

#[derive(Default)]
pub struct Ledger {
    /// All that were sent, by the number in their data.
    sent: Vec<Sent>,
    /// The owner's order.
    order: BTreeMap<String, Vec<Place>>,
    /// For each connection and channel, where its first, second, ... subscription began.
    begun: HashMap<(ConnKey, String), Vec<usize>>,
    /// Lost on the way to a reactor because its mailbox was full: told by the counter.
    dropped: BTreeSet<(u16, u64)>,
    /// Client id and user of each connection.
    clients: HashMap<ConnKey, String>,
    users: HashMap<ConnKey, String>,
    /// Users that the backend disconnected.
    pub disconnected: BTreeSet<String>,
    pub shutting_down: bool,
}

impl Ledger {
    /// A number for a publication that is about to be sent; its data begins with one byte and this number.
    pub fn send(&mut self, make: impl FnOnce(u64) -> Sent) -> u64 {
        let id = self.sent.len() as u64;
        self.sent.push(make(id));
        id
    }

    pub fn sent(&self, id: u64) -> &Sent {
        &self.sent[id as usize]
    }

    /// The number in a publication's data.
    pub fn id(data: &[u8]) -> Option<u64> {
        let digits: Vec<u8> = data.iter().skip(1).copied().take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok()?.parse().ok()
    }

    /// The owner of its channel has taken a publication, or maybe: then its reply tells.
    pub fn accept(&mut self, channel: &str, id: u64, surely: bool) {
        assert_eq!(self.sent(id).channel, channel, "publication {id} reached another channel");
        let taken = if surely { Taken::Yes } else { Taken::Maybe };
        let place = Place { id, taken, heard: false, skipped: false };
        self.order.entry(channel.to_owned()).or_default().push(place);
    }

    /// The reply to a publication that stands at `at` of its channel's order.
    pub fn settle(&mut self, channel: &str, at: usize, taken: bool) {
        let place = &mut self.order.get_mut(channel).expect("it was carried out")[at];
        place.taken = if taken { Taken::Yes } else { Taken::No };
        assert!(taken || !place.heard, "{channel}: {} was refused, and heard", place.id);
        assert!(!taken || !place.skipped, "{channel}: {} was accepted, and somebody never heard it", place.id);
    }

    /// The length of a channel's order: where a subscription that begins now stands in it.
    pub fn end(&self, channel: &str) -> usize {
        self.order.get(channel).map_or(0, Vec::len)
    }

    /// The owner of `channel` has taken a subscription.
    pub fn begin(&mut self, channel: &str, key: ConnKey) {
        let at = self.end(channel);
        self.begun.entry((key, channel.to_owned())).or_default().push(at);
    }

    /// Where the `nth` subscription of a connection to a channel that another reactor owns began.
    pub fn begun(&self, channel: &str, key: ConnKey, nth: usize) -> Option<usize> {
        self.begun.get(&(key, channel.to_owned()))?.get(nth).copied()
    }

    pub fn drop(&mut self, reactor: u16, id: u64) {
        self.dropped.insert((reactor, id));
    }

    /// A subscriber on `reactor`, which is to hear what stands at `at` or later, heard `id`: its place. What it passes
    /// over was dropped, or never taken.
    pub fn hear(&mut self, channel: &str, reactor: u16, at: usize, id: Option<u64>) -> Result<usize, String> {
        let next = self.next(channel, reactor, at);
        let order = self.order.get_mut(channel).map_or(&mut [][..], |order| &mut order[..]);
        for (at, place) in order.iter_mut().enumerate().skip(at) {
            if Some(place.id) == id {
                let kept = place.taken != Taken::No && !place.skipped;
                place.heard = true;
                return if kept { Ok(at) } else { Err(format!("{id:?} at {at}, which others never heard")) };
            }
            if self.dropped.contains(&(reactor, place.id)) || place.taken == Taken::No {
                continue;
            }
            if place.taken == Taken::Yes || place.heard {
                break;
            }
            place.skipped = true;
        }
        Err(format!("{id:?}, where {next:?} is next"))
    }

    /// Where a publication stands.
    pub fn place(&self, channel: &str, id: Option<u64>) -> Option<usize> {
        self.order.get(channel)?.iter().position(|place| Some(place.id) == id)
    }

    /// The place and number of the next publication at or after `at` that a subscriber on `reactor` must hear.
    pub fn next(&self, channel: &str, reactor: u16, at: usize) -> Option<(usize, u64)> {
        let order = self.order.get(channel)?;
        let mut places = order.iter().enumerate().skip(at).map(|(at, place)| (at, *place));
        let must = |(_, place): &(usize, Place)| {
            let known = place.taken == Taken::Yes || place.heard;
            known && !self.dropped.contains(&(reactor, place.id))
        };
        places.find(must).map(|(at, place)| (at, place.id))
    }

    /// The server gave a connection its client id.
    pub fn name_client(&mut self, key: ConnKey, client: String) {
        self.clients.insert(key, client);
    }

    /// A client said who it is.
    pub fn name_user(&mut self, key: ConnKey, user: &str) {
        self.users.insert(key, user.to_owned());
    }

    /// Client id and user; None if it came and went in one turn.
    pub fn who(&self, key: ConnKey) -> Option<(String, String)> {
        Some((self.clients.get(&key)?.clone(), self.users[&key].clone()))
    }

    pub fn client(&self, key: ConnKey) -> Option<&String> {
        self.clients.get(&key)
    }

    /// Has anything been published that no JSON client can be given?
    pub fn has_binary(&self) -> bool {
        self.sent.iter().any(|sent| !sent.is_json)
    }

    pub fn accepted(&self) -> usize {
        self.order.values().flatten().filter(|place| place.taken == Taken::Yes).count()
    }
}
