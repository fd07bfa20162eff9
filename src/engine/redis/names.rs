//! F10 · What keys and channels are called in Redis, as Centrifugo calls them.
//!
//! Owns the names, and which of several servers a channel belongs to: both must be the same on every node of a fleet,
//! whatever it runs. Never speaks to a server.

/// Where a PUB/SUB channel or a key belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: Box<str>,
    /// Keys of one channel must be in one slot of a Redis Cluster.
    cluster: bool,
    /// Partitions of sharded PUB/SUB; 0 = PUB/SUB is not sharded.
    partitions: u32,
    /// What each client channel of PUB/SUB begins with.
    client: Box<str>,
}

impl Names {
    pub fn new(prefix: &str, cluster: bool, partitions: u32) -> Names {
        let client = format!("{prefix}.client.").into();
        Names { prefix: prefix.into(), cluster, partitions, client }
    }

    /// `P.kind.channel`, with what a cluster hashes in braces.
    fn key(&self, kind: &str, channel: &str) -> String {
        let prefix = &self.prefix;
        match (self.partitions, self.cluster) {
            (0, false) => format!("{prefix}.{kind}.{channel}"),
            (0, true) => format!("{prefix}.{kind}.{{{channel}}}"),
            (many, _) => format!("{prefix}.{kind}.{{{}}}.{channel}", jump(channel, many)),
        }
    }

    /// Of presence, which is never partitioned.
    fn presence(&self, kind: &str, channel: &str) -> String {
        let prefix = &self.prefix;
        match self.cluster {
            false => format!("{prefix}.presence.{kind}.{channel}"),
            true => format!("{prefix}.presence.{kind}.{{{channel}}}"),
        }
    }

    /// The PUB/SUB channel of a channel.
    pub fn message(&self, channel: &str) -> String {
        self.key("client", channel)
    }

    pub fn stream(&self, channel: &str) -> String {
        self.key("stream", channel)
    }

    pub fn stream_meta(&self, channel: &str) -> String {
        self.key("stream.meta", channel)
    }

    pub fn list(&self, channel: &str) -> String {
        self.key("list", channel)
    }

    pub fn list_meta(&self, channel: &str) -> String {
        self.key("list.meta", channel)
    }

    /// Cursors of the inboxes in a channel: Gannet's own.
    pub fn cursors(&self, channel: &str) -> String {
        self.key("inbox", channel)
    }

    /// What became of the publication with that idempotency key.
    pub fn result(&self, channel: &str, idempotency_key: &str) -> String {
        format!("{}.{idempotency_key}", self.key("result", channel))
    }

    pub fn presence_clients(&self, channel: &str) -> String {
        self.presence("data", channel)
    }

    pub fn presence_expiry(&self, channel: &str) -> String {
        self.presence("expire", channel)
    }

    pub fn presence_users(&self, channel: &str) -> String {
        self.presence("user.clients", channel)
    }

    pub fn presence_user_expiry(&self, channel: &str) -> String {
        self.presence("user.expire", channel)
    }

    /// The PUB/SUB channel of control that all nodes hear.
    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// That of one node.
    pub fn node(&self, uid: &str) -> String {
        format!("{}.node.{uid}", self.prefix)
    }

    /// By which a connection proves to be alive: what is published there comes back by it.
    pub fn probe(&self, uid: &str) -> String {
        format!("{}.node.{uid}.probe", self.prefix)
    }

    /// The same of one partition's connection.
    pub fn partition_probe(&self, uid: &str, partition: u32) -> String {
        format!("{}.node.{uid}.probe.{{{partition}}}", self.prefix)
    }

    /// Which partition a channel is in; `None` if there are none.
    pub fn partition(&self, channel: &str) -> Option<u32> {
        (self.partitions > 0).then(|| jump(channel, self.partitions))
    }

    /// The channel of a PUB/SUB channel of clients; `None` if it is another's.
    pub fn channel_of<'a>(&self, message: &'a str) -> Option<&'a str> {
        let rest = message.strip_prefix(&*self.client)?;
        match (self.partitions, self.cluster) {
            (0, false) => Some(rest),
            (0, true) => rest.strip_prefix('{')?.strip_suffix('}'),
            _ => rest.strip_prefix('{')?.split_once("}.").map(|(_, channel)| channel),
        }
    }
}

/// Which of `count` buckets `text` belongs to: the jump consistent hash over FNV-1a.
pub fn jump(text: &str, count: u32) -> u32 {
    let mut key = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let (mut bucket, mut next) = (0i64, 0i64);
    while next < i64::from(count) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * (f64::from(1u32 << 31) / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

/// The slot of a key in a Redis Cluster: CRC-16 of what stands in its first braces, or of all of it.
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let len = rest.iter().position(|byte| *byte == b'}').filter(|len| *len > 0)?;
        Some(&rest[..len])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % SLOTS
}

/// Of a Redis Cluster.
pub const SLOTS: u16 = 16384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_fleet() {
        let plain = Names::new("centrifugo", false, 0);
        let cluster = Names::new("centrifugo", true, 0);
        let sharded = Names::new("centrifugo", true, 4);
        assert_eq!(plain.message("hi:a"), "centrifugo.client.hi:a");
        assert_eq!(plain.stream_meta("hi:a"), "centrifugo.stream.meta.hi:a");
        assert_eq!(plain.result("plain", "K2"), "centrifugo.result.plain.K2");
        assert_eq!(plain.result("hi:a", ""), "centrifugo.result.hi:a.");
        assert_eq!(plain.list_meta("a"), "centrifugo.list.meta.a");
        assert_eq!(plain.presence_user_expiry("pr:a"), "centrifugo.presence.user.expire.pr:a");
        assert_eq!(cluster.message("hi:a"), "centrifugo.client.{hi:a}");
        assert_eq!(cluster.result("a", "k"), "centrifugo.result.{a}.k");
        assert_eq!(cluster.presence_users("a"), "centrifugo.presence.user.clients.{a}");
        let tag = jump("hi:a", 4);
        assert_eq!(sharded.message("hi:a"), format!("centrifugo.client.{{{tag}}}.hi:a"));
        assert_eq!(sharded.presence_clients("a"), "centrifugo.presence.data.{a}");
        assert_eq!(plain.probe("u"), "centrifugo.node.u.probe");
        for names in [plain, cluster, sharded] {
            for channel in ["a", "hi:a", "x}.{y", "{a}", "ü"] {
                assert_eq!(names.channel_of(&names.message(channel)), Some(channel));
            }
            assert_eq!(names.channel_of("centrifugo.control"), None);
            assert_eq!(names.channel_of("other.client.a"), None);
        }
    }

    /// The published test values of the jump hash over numbers do not fit names; what holds for it is checked instead.
    #[test]
    fn a_channel_moves_only_to_a_new_server() {
        let mut counts = [0; 5];
        for at in 0..10_000 {
            let name = format!("channel:{at}");
            assert_eq!(jump(&name, 1), 0);
            let (four, five) = (jump(&name, 4), jump(&name, 5));
            assert!(four < 4 && (five == four || five == 4), "{name}");
            counts[five as usize] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
    }

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{foo}.bar"), 12182);
        assert_eq!(slot(b"foo{}bar"), slot(b"foo{}bar"));
        assert_ne!(slot(b"foo{}bar"), slot(b""));
        assert_eq!(slot(b"a{foo}{bar}"), 12182);
    }
}
