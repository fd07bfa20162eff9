//! What is true of streams: each publication has one place in one life of its channel, whoever tells of it.

use gannet::broker::ConnKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A publication, sent or about to be.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub channel: String,
    pub data: Vec<u8>,
    pub tag: String,
    /// None = the backend.
    pub by: Option<ConnKey>,
    /// Nobody may ever hear it.
    pub dud: bool,
    pub place: Option<(String, u64)>,
}

#[derive(Default)]
pub struct Truth {
    sent: Vec<Sent>,
    places: BTreeMap<(String, String, u64), usize>,
    /// Who is behind each connection: its client id, and its user once that is known.
    pub clients: BTreeMap<String, ConnKey>,
    pub users: HashMap<ConnKey, String>,
    /// Channels whose history was removed.
    pub removed: BTreeSet<String>,
    /// Users from whom the backend took subscriptions.
    pub unsubscribed: BTreeSet<String>,
    /// When a client's unsubscribe reply was read, by channel and client.
    gone: BTreeMap<(String, String), u64>,
    clock: u64,
}

impl Truth {
    pub fn send(&mut self, sent: Sent) -> usize {
        self.sent.push(sent);
        self.sent.len() - 1
    }

    /// The number that the next publication will have.
    pub fn next(&self) -> usize {
        self.sent.len()
    }

    pub fn sent(&self, id: usize) -> &Sent {
        &self.sent[id]
    }

    pub fn sent_mut(&mut self, id: usize) -> &mut Sent {
        &mut self.sent[id]
    }

    /// The number in a publication's data.
    pub fn id(data: &[u8]) -> usize {
        let digits = data.iter().skip(1).copied().take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok().and_then(|text| text.parse().ok()).expect("a publication of this simulation")
    }

    /// Somebody says that a publication stands there.
    pub fn place(&mut self, channel: &str, epoch: &str, offset: u64, id: usize) {
        let before = self.places.insert((channel.to_owned(), epoch.to_owned(), offset), id);
        assert!(before.is_none_or(|before| before == id), "{channel}: {before:?} and {id} at {offset} of {epoch}");
        let place = (epoch.to_owned(), offset);
        let known = self.sent[id].place.get_or_insert_with(|| place.clone());
        assert_eq!(*known, place, "{channel}: publication {id} has two places");
    }

    pub fn at(&self, channel: &str, epoch: &str, offset: u64) -> Option<&Sent> {
        self.places.get(&(channel.to_owned(), epoch.to_owned(), offset)).map(|&id| &self.sent[id])
    }

    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The client has read that it is no longer in the channel.
    pub fn leave(&mut self, channel: &str, client: &str) {
        let now = self.now();
        self.gone.insert((channel.to_owned(), client.to_owned()), now);
    }

    /// It may be there again.
    pub fn come(&mut self, channel: &str, client: &str) {
        self.gone.remove(&(channel.to_owned(), client.to_owned()));
    }

    /// Was the client gone for good when somebody asked at `asked`?
    pub fn was_gone(&self, channel: &str, client: &str, asked: u64) -> bool {
        self.gone.get(&(channel.to_owned(), client.to_owned())).is_some_and(|gone| *gone < asked)
    }
}
