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

#[derive(Default)]
pub struct Ledger {
    /// All that were sent, by the number in their data.
    sent: Vec<Sent>,
    /// The owner's order.
    order: BTreeMap<String, Vec<u64>>,
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

    /// The owner of its channel has taken a publication.
    pub fn accept(&mut self, channel: &str, data: &[u8]) {
        let id = Ledger::id(data).expect("a publication of this simulation");
        assert_eq!(self.sent(id).channel, channel, "publication {id} reached another channel");
        self.order.entry(channel.to_owned()).or_default().push(id);
    }

    /// The owner of `channel` has taken a subscription.
    pub fn begin(&mut self, channel: &str, key: ConnKey) {
        let at = self.order.get(channel).map_or(0, Vec::len);
        self.begun.entry((key, channel.to_owned())).or_default().push(at);
    }

    /// Where the `nth` subscription of a connection to a channel began.
    pub fn begun(&self, channel: &str, key: ConnKey, nth: usize) -> Option<usize> {
        self.begun.get(&(key, channel.to_owned()))?.get(nth).copied()
    }

    pub fn drop(&mut self, reactor: u16, data: &[u8]) {
        let id = Ledger::id(data).expect("a publication of this simulation");
        self.dropped.insert((reactor, id));
    }

    /// The place and number of the next publication at or after `at` that a subscriber on `reactor` is to hear.
    pub fn next(&self, channel: &str, reactor: u16, at: usize) -> Option<(usize, u64)> {
        let order = self.order.get(channel)?;
        (at..order.len()).map(|at| (at, order[at])).find(|(_, id)| !self.dropped.contains(&(reactor, *id)))
    }

    /// The server gave a connection its client id.
    pub fn name_client(&mut self, key: ConnKey, client: String) {
        self.clients.insert(key, client);
    }

    /// A client said who it is.
    pub fn name_user(&mut self, key: ConnKey, user: &str) {
        self.users.insert(key, user.to_owned());
    }

    pub fn who(&self, key: ConnKey) -> (String, String) {
        (self.clients[&key].clone(), self.users[&key].clone())
    }

    pub fn client(&self, key: ConnKey) -> Option<&String> {
        self.clients.get(&key)
    }

    /// Has anything been published that no JSON client can be given?
    pub fn has_binary(&self) -> bool {
        self.sent.iter().any(|sent| !sent.is_json)
    }

    pub fn accepted(&self) -> usize {
        self.order.values().map(Vec::len).sum()
    }
}
