//! F7 · What an operator watches as it comes: what is told in a channel, or what a user's clients command.
//!
//! Owns the traces of one reactor. Each keeps so many messages a second, the first bytes of each, and no more than a
//! few seconds of them; what is beyond is counted. A trace that nobody fetches ends. Without one nothing is looked at.
//! Tokens are never kept.

use super::Shard;
use crate::broker::Event;
use crate::protocol::{Command, Publication};
use crate::session::Now;
use bytes::Bytes;
use std::sync::Arc;

/// A trace that was not fetched for so long ends.
const UNFETCHED_MS: u64 = 10_000;
/// Seconds of messages that are kept until they are fetched.
const KEPT_SECONDS: usize = 5;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traced {
    Channel(String),
    User(String),
}

/// What a trace may cost in one reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceLimits {
    /// At once.
    pub traces: usize,
    /// Messages a second.
    pub rate: usize,
    /// Bytes of a message's data.
    pub data: usize,
}

/// Asks for what came since the last time; the first time, the trace begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRequest {
    /// Its watcher's.
    pub id: u64,
    pub what: Traced,
    pub limits: TraceLimits,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceMessage {
    pub unix_ms: u64,
    /// A publication, a join, or the name of a command.
    pub kind: &'static str,
    pub channel: String,
    pub user: String,
    pub client: String,
    pub offset: u64,
    /// With which a connection ended.
    pub code: u16,
    /// Bytes of the data; those that are kept follow.
    pub size: usize,
    pub data: Bytes,
}

/// What came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceFound {
    pub messages: Vec<TraceMessage>,
    /// Beyond the limits.
    pub skipped: u64,
}

struct Trace {
    id: u64,
    what: Traced,
    limits: TraceLimits,
    until_ms: u64,
    second: u64,
    in_second: usize,
    found: TraceFound,
    /// It is told to each reactor with subscribers, and shown once.
    last: Option<Arc<Publication>>,
}

/// Those of one reactor.
#[derive(Default)]
pub struct Traces {
    all: Vec<Trace>,
    now: Now,
}

/// Who commanded.
pub struct Commander {
    pub user: String,
    pub client: String,
}

impl Trace {
    fn add(&mut self, now: Now, message: impl FnOnce() -> TraceMessage, data: &[u8]) {
        let second = now.ms / 1000;
        if self.second != second {
            (self.second, self.in_second) = (second, 0);
        }
        let TraceLimits { rate, data: most, .. } = self.limits;
        if self.in_second >= rate || self.found.messages.len() >= rate * KEPT_SECONDS {
            self.found.skipped += 1;
            return;
        }
        self.in_second += 1;
        let (unix_ms, kept) = (now.unix_ms, Bytes::copy_from_slice(&data[..data.len().min(most)]));
        self.found.messages.push(TraceMessage { unix_ms, size: data.len(), data: kept, ..message() });
    }
}

impl Traces {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The time of what is heard next; traces that nobody fetches end.
    pub fn at(&mut self, now: Now) {
        if self.all.is_empty() {
            return;
        }
        self.now = now;
        self.all.retain(|trace| now.ms < trace.until_ms);
    }

    /// `None`: there are as many as may be.
    pub fn fetch(&mut self, now: Now, request: TraceRequest) -> Option<TraceFound> {
        self.at(now);
        self.now = now;
        let TraceRequest { id, what, limits } = request;
        let until_ms = now.ms + UNFETCHED_MS;
        if let Some(trace) = self.all.iter_mut().find(|trace| trace.id == id && trace.what == what) {
            (trace.until_ms, trace.limits) = (until_ms, limits);
            return Some(std::mem::take(&mut trace.found));
        }
        // A watcher has one.
        self.all.retain(|trace| trace.id != id);
        if self.all.len() >= limits.traces {
            return None;
        }
        let (second, in_second, found, last) = (0, 0, TraceFound::default(), None);
        self.all.push(Trace { id, what, limits, until_ms, second, in_second, found, last });
        Some(TraceFound::default())
    }

    /// What the owner of a channel tells.
    pub fn hear(&mut self, event: &Event) {
        let now = self.now;
        for trace in &mut self.all {
            let Traced::Channel(wanted) = &trace.what else { continue };
            match event {
                Event::Publication { channel, publication, .. } if **channel == **wanted => {
                    if trace.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, publication)) {
                        continue;
                    }
                    trace.last = Some(publication.clone());
                    let info = publication.info.clone().unwrap_or_default();
                    let (channel, offset) = (channel.to_string(), publication.offset);
                    let (user, client, kind) = (info.user, info.client, "publication");
                    let message = TraceMessage { kind, channel, user, client, offset, ..TraceMessage::default() };
                    trace.add(now, || message, &publication.data);
                }
                Event::Gap { channel } if **channel == **wanted => {
                    let channel = channel.to_string();
                    trace.add(now, || TraceMessage { kind: "gap", channel, ..TraceMessage::default() }, b"");
                }
                _ => {}
            }
        }
    }

    /// Is somebody watched who may be this user?
    pub fn wants(&self, user: &str) -> bool {
        self.all.iter().any(|trace| matches!(&trace.what, Traced::User(wanted) if wanted == user))
    }

    /// A command of a client.
    pub fn command(&mut self, who: &Commander, command: &Command) {
        let (kind, channel, data) = outline(command);
        self.of_user(who, TraceMessage { kind, channel: channel.to_owned(), ..TraceMessage::default() }, data);
    }

    /// A client's connection ended.
    pub fn end(&mut self, who: &Commander, code: u16) {
        self.of_user(who, TraceMessage { kind: "end", code, ..TraceMessage::default() }, b"");
    }

    fn of_user(&mut self, who: &Commander, message: TraceMessage, data: &[u8]) {
        let now = self.now;
        for trace in &mut self.all {
            if matches!(&trace.what, Traced::User(wanted) if *wanted == who.user) {
                let (user, client) = (who.user.clone(), who.client.clone());
                trace.add(now, || TraceMessage { user, client, ..message.clone() }, data);
            }
        }
    }
}

/// A command's name, its channel or method, and its data.
fn outline(command: &Command) -> (&'static str, &str, &[u8]) {
    match command {
        Command { connect: Some(it), .. } => ("connect", &it.name, &it.data),
        Command { subscribe: Some(it), .. } => ("subscribe", &it.channel, &it.data),
        Command { unsubscribe: Some(it), .. } => ("unsubscribe", &it.channel, b""),
        Command { publish: Some(it), .. } => ("publish", &it.channel, &it.data),
        Command { presence: Some(it), .. } => ("presence", &it.channel, b""),
        Command { presence_stats: Some(it), .. } => ("presence_stats", &it.channel, b""),
        Command { history: Some(it), .. } => ("history", &it.channel, b""),
        Command { send: Some(it), .. } => ("send", "", &it.data),
        Command { rpc: Some(it), .. } => ("rpc", &it.method, &it.data),
        Command { refresh: Some(_), .. } => ("refresh", "", b""),
        Command { sub_refresh: Some(it), .. } => ("sub_refresh", &it.channel, b""),
        Command { ping: Some(_), .. } => ("ping", "", b""),
        _ => ("unknown", "", b""),
    }
}

impl Shard {
    /// Who `conn` is, if somebody may watch.
    pub(super) fn commander(&self, table: &mut impl super::Table, conn: u32) -> Option<Commander> {
        let session = table.session(conn)?;
        self.traces
            .wants(session.user())
            .then(|| Commander { user: session.user().to_owned(), client: session.client() })
    }

    /// The same, with the time of what follows.
    pub(super) fn watched(&mut self, now: Now, table: &mut impl super::Table, conn: u32) -> Option<Commander> {
        if self.traces.is_empty() {
            return None;
        }
        self.traces.at(now);
        self.commander(table, conn)
    }

    /// One command that was carried out; `before` is who its client was, for it may be gone.
    pub(super) fn trace_command(
        &mut self,
        table: &mut impl super::Table,
        (conn, wire): (u32, crate::wire::Wire),
        before: Option<Commander>,
        mut message: &[u8],
    ) {
        let Some(who) = self.commander(table, conn).or(before) else { return };
        if let Some(Ok(command)) = wire.encoding().decode(&mut message) {
            self.traces.command(&who, &command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(ms: u64) -> Now {
        Now { ms, unix_ms: 1_000_000 + ms, ..Now::default() }
    }

    fn request(id: u64, what: Traced) -> TraceRequest {
        TraceRequest { id, what, limits: TraceLimits { traces: 2, rate: 3, data: 4 } }
    }

    fn news() -> Traced {
        Traced::Channel("news".into())
    }

    fn told(channel: &str, data: &str) -> Event {
        let publication = Publication { data: data.to_owned().into(), offset: 7, ..Publication::default() };
        Event::Publication { channel: channel.into(), publication: Arc::new(publication), extras: None }
    }

    #[test]
    fn a_trace_keeps_what_its_limits_say_and_counts_the_rest() {
        let mut traces = Traces::default();
        assert_eq!(traces.fetch(now(0), request(1, news())), Some(TraceFound::default()));
        let first = told("news", "abcdef");
        // It goes to two reactors.
        traces.hear(&first);
        traces.hear(&first);
        traces.hear(&told("other", "x"));
        (0..5).for_each(|_| traces.hear(&told("news", "x")));
        let found = traces.fetch(now(100), request(1, news())).expect("a trace");
        assert_eq!((found.messages.len(), found.skipped), (3, 3));
        let TraceMessage { unix_ms, kind, channel, offset, size, data, .. } = &found.messages[0];
        assert_eq!(
            (*unix_ms, *kind, channel.as_str(), *offset, *size, &data[..]),
            (1_000_000, "publication", "news", 7, 6, &b"abcd"[..])
        );
        // The next second has room of its own; what nobody fetches is bounded, too.
        for second in 1..10 {
            traces.at(now(second * 1000));
            (0..3).for_each(|_| traces.hear(&told("news", "x")));
        }
        let found = traces.fetch(now(9_900), request(1, news())).expect("a trace");
        assert_eq!((found.messages.len(), found.skipped), (15, 12));
    }

    #[test]
    fn traces_are_few_and_end_when_nobody_fetches_them() {
        let mut traces = Traces::default();
        for id in [1, 2] {
            assert!(traces.fetch(now(0), request(id, news())).is_some());
        }
        assert_eq!(traces.fetch(now(0), request(3, news())), None);
        // Who watches something else lets go of the old.
        assert!(traces.fetch(now(0), request(2, Traced::User("anna".into()))).is_some());
        assert!(traces.wants("anna") && !traces.wants("") && !traces.wants("news"));
        traces.fetch(now(9_000), request(1, news()));
        traces.at(now(10_000));
        assert!(!traces.wants("anna") && !traces.is_empty());
        traces.at(now(19_000));
        assert!(traces.is_empty());
    }

    #[test]
    fn commands_are_outlined_without_their_tokens() {
        let mut traces = Traces::default();
        traces.fetch(now(0), request(1, Traced::User("anna".into())));
        let anna = Commander { user: "anna".into(), client: "c".into() };
        let said = [
            r#"{"id":1,"connect":{"token":"secret","name":"js","data":{}}}"#,
            r#"{"id":2,"subscribe":{"channel":"news","token":"secret"}}"#,
            r#"{"id":3,"refresh":{"token":"secret"}}"#,
        ];
        for text in said {
            traces.command(&anna, &serde_json::from_str(text).expect("a command"));
        }
        traces.end(&Commander { user: "other".into(), client: "d".into() }, 3000);
        let found = traces.fetch(now(0), request(1, Traced::User("anna".into()))).expect("a trace");
        assert!(!format!("{found:?}").contains("secret"));
        let short: Vec<_> = found.messages.iter().map(|it| (it.kind, it.channel.as_str())).collect();
        assert_eq!(short, [("connect", "js"), ("subscribe", "news"), ("refresh", "")]);
        traces.at(now(1000));
        traces.end(&anna, 3000);
        let found = traces.fetch(now(1000), request(1, Traced::User("anna".into()))).expect("a trace");
        assert_eq!((found.messages[0].kind, found.messages[0].code), ("end", 3000));
    }
}
